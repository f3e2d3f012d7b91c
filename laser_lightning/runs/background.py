"""Checkpoint files that are written while the training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from laser_lightning.runs.checkpoints import WholeFiles, write_whole


class BackgroundFiles(WholeFiles):
    """Writes checkpoint files in a thread, one after the other, each as whole as ``WholeFiles`` does.

    What a file holds is laid down in host memory before ``save_checkpoint`` returns, in the very bytes that are
    written, so that nothing that happens later is in them:

        training   step 50 | bytes of 50 | step 51 ... step 99 | step 100 | wait, bytes of 100 | step 101 ...
        thread                           | write, fsync, rename, remove the former |           | write ...

    A removal, or whatever else is to follow a file (``follow``), waits in the same queue: the former checkpoint stays
    until the new one is in place, and for good if that fails. At most one checkpoint is in memory, since the next waits
    for it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Lay down the bytes of a checkpoint, and let them be written.

        Raises:
            UserError: if the file before could not be written.
        """
        self.finish()
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        content = BytesIO()
        torch.save(checkpoint, content)
        self.follow(partial(write_whole, Path(path), lambda file: file.write(content.getbuffer())))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file behind all that is to be written."""
        self.follow(partial(super().remove_checkpoint, path))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file, once everything is written."""
        self.finish()
        return super().load_checkpoint(path, *args, **kwargs)

    def follow(self, action: Callable[[], Any]) -> None:
        """Do something in the thread behind everything that it has to do, unless any of that fails."""
        self._last = self._thread.submit(_behind, self._last, action)

    def finish(self) -> None:
        """Wait until everything is done.

        Raises:
            UserError: if a file could not be written.
        """
        if self._last is None:
            return
        wait([self._last])  # a signal that ends this leaves it to the next one
        last, self._last = self._last, None
        last.result()

    def teardown(self) -> None:
        """The same, at the end of a run."""
        self.finish()


def _behind(former: Future[None] | None, action: Callable[[], Any]) -> None:
    if former is not None:
        former.result()  # whose error is this one's, too
    action()


def finish_writing(files: object) -> None:
    """Wait until a checkpoint is on the disk, where files are written in the background.

    Args:
        files: of a strategy (``checkpoint_io``).

    Raises:
        UserError: if one could not be written.
    """
    if isinstance(files, BackgroundFiles):
        files.finish()
