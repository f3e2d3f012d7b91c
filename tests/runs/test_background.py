"""Checkpoints that are written in the background hold what was then, and replace nothing before they are whole."""

import errno
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.runs import background
from laser_lightning.runs.background import BackgroundFiles
from laser_lightning.runs.checkpoints import WholeFiles, newest_complete, write_whole


def state() -> dict[str, Any]:
    """Weights, two of them tied, the moments of an optimizer, and a list that a callback goes on to fill."""
    weight = torch.arange(6.0).reshape(2, 3)
    return {"weight": weight, "tied": weight.T, "moments": {0: {"step": torch.tensor(3.0)}}, "seen": [1, 2]}


def test_a_file_holds_what_was_when_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WholeFiles().save_checkpoint(state(), tmp_path / "foreground.ckpt")
    files, gate, now = BackgroundFiles(), threading.Event(), state()

    def late(*args: Any) -> None:
        assert gate.wait(60)
        write_whole(*args)

    monkeypatch.setattr(background, "write_whole", late)
    files.save_checkpoint(now, tmp_path / "background.ckpt")
    now["weight"].add_(1)
    now["seen"].append(3)
    assert not (tmp_path / "background.ckpt").exists()
    gate.set()
    files.finish()
    assert (tmp_path / "background.ckpt").read_bytes() == (tmp_path / "foreground.ckpt").read_bytes()
    assert files.load_checkpoint(tmp_path / "background.ckpt")["seen"] == [1, 2]


def test_a_file_is_loaded_behind_its_end(tmp_path: Path) -> None:
    files = BackgroundFiles()
    files.save_checkpoint({"step": 1}, tmp_path / "a.ckpt")
    assert files.load_checkpoint(tmp_path / "a.ckpt") == {"step": 1}


def test_a_kill_during_the_writing_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()

    def never_done(file: int) -> None:
        os.write(writes, b"!")
        time.sleep(60)

    child = os.fork()
    if child == 0:
        files = BackgroundFiles()
        files.save_checkpoint(state(), tmp_path / "step=1.ckpt")
        files.finish()
        monkeypatch.setattr(os, "fsync", never_done)
        files.save_checkpoint({"step": 2}, tmp_path / "step=2.ckpt")
        files.remove_checkpoint(tmp_path / "step=1.ckpt")  # as the callback does at once
        time.sleep(60)
    os.close(writes)
    assert os.read(reads, 1) == b"!"
    os.close(reads)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert newest_complete(tmp_path) == tmp_path / "step=1.ckpt"
    former = torch.load(tmp_path / "step=1.ckpt", weights_only=True)
    assert torch.equal(former["tied"], state()["tied"])
    assert former["seen"] == [1, 2]


def test_an_error_is_raised_by_the_next_one_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = BackgroundFiles()
    files.save_checkpoint({"step": 1}, tmp_path / "step=1.ckpt")
    files.finish()

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        files.save_checkpoint({"step": 2}, tmp_path / "step=2.ckpt")
        files.remove_checkpoint(tmp_path / "step=1.ckpt")
        with pytest.raises(UserError, match=r"step=2\.ckpt could not be saved: .*No space left on device"):
            files.save_checkpoint({"step": 3}, tmp_path / "step=3.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["step=1.ckpt"]
    files.save_checkpoint({"step": 3}, tmp_path / "step=3.ckpt")  # there is room again
    files.remove_checkpoint(tmp_path / "step=1.ckpt")
    files.teardown()
    assert [path.name for path in tmp_path.iterdir()] == ["step=3.ckpt"]
