"""What one process cannot write ends the run on all of them, at once and in the same words."""

import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from torch.distributed import TCPStore

from laser_lightning.distributed.ddp import LaSeRDDPStrategy
from laser_lightning.distributed.files import finish_together, write_on_first, write_together
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.runs.background import BackgroundFiles
from laser_lightning.runs.checkpoints import WholeFiles

RANKS = 2


class Keeping(WholeFiles):
    """Files that nobody may remove."""

    def remove_checkpoint(self, path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))


def write_everything(rank: int, port: int, directory: Path) -> None:
    """The run of a rank, which saves what it is told, and how soon."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ |= {"WORLD_SIZE": str(RANKS), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    strategy = LaSeRDDPStrategy(
        parallel_devices=[torch.device("cpu")] * RANKS,
        cluster_environment=TorchElasticEnvironment(),
        process_group_backend="gloo",
    )
    strategy.setup_distributed()
    assert strategy.watchdog is not None
    strategy.watchdog.close()  # it asks a module for the step, and there is none
    strategy.watchdog, strategy.checkpoint_io = None, WholeFiles()
    ranks, told, seconds = Ranks(strategy), {}, {}

    def attempt(name: str, work: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            work()
        except (UserError, KeyError) as error:
            told[name] = f"{type(error).__name__}: {error}"
        seconds[name] = time.monotonic() - began

    def fail() -> None:
        raise KeyError("row")

    export, kept, own = directory / "file/export", directory / "file/kept", directory / f"file/{rank}"
    attempt("first", lambda: write_on_first(ranks, "The export", export, export.mkdir))
    attempt("second", lambda: write_together(ranks, "Kept solutions in", kept, kept.mkdir if rank else bool))
    attempt("both", lambda: write_together(ranks, "Solutions in", own, own.mkdir))
    attempt("checkpoint", lambda: strategy.save_checkpoint({"step": 1}, directory / "file/step=1.ckpt"))
    strategy.checkpoint_io = Keeping()
    attempt("removal", lambda: strategy.remove_checkpoint(directory / "step=0.ckpt"))
    strategy.checkpoint_io = BackgroundFiles()
    strategy.save_checkpoint({"step": 1}, directory / "file/step=2.ckpt")  # the thread fails, and nobody knows yet
    attempt("background", lambda: finish_together(strategy, directory))
    attempt("defect", lambda: write_on_first(ranks, "The report", directory / "report", fail))
    write_on_first(ranks, "The report", directory, lambda: (directory / "report").write_text(f"of rank {rank}"))
    found = {"told": told, "seconds": seconds, "report": (directory / "report").read_text()}
    torch.save(found | {"sum": int(ranks.sum(torch.tensor(rank + 1)))}, directory / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_rank_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the place of a directory")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = get_context("fork")  # nothing is imported anew
    processes = [context.Process(target=write_everything, args=(rank, store.port, tmp_path)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS))
    names = ["first", "second", "both", "checkpoint", "removal", "background"]
    for name in names:
        assert first["told"][name] == second["told"][name], name
    assert all(seconds < 30 for found in (first, second) for seconds in found["seconds"].values())
    told = second["told"]
    assert told["first"].startswith(f"UserError: The export {tmp_path}/file/export could not be written: [Errno 20]")
    assert "GiB are free there). See to the cause (make room, if the disk is full)" in told["first"]
    assert told["second"].startswith(f"UserError: Kept solutions in {tmp_path}/file/kept could not be written: ")
    assert told["both"].startswith(f"UserError: Solutions in {tmp_path}/file/0 could not"), "of two the first"
    assert told["checkpoint"].startswith(f"UserError: The checkpoint {tmp_path}/file/step=1.ckpt could not be saved: ")
    assert told["removal"].startswith(
        f"UserError: The checkpoint {tmp_path}/step=0.ckpt could not be removed: [Errno 13] Permission denied"
    )
    assert told["background"].startswith(f"UserError: The checkpoint {tmp_path}/file/step=2.ckpt could not be saved: ")
    # A defect keeps its own error, and with it the traceback, where it happened.
    assert first["told"]["defect"] == "KeyError: 'row'"
    assert told["defect"] == (
        f"UserError: The report {tmp_path}/report could not be written by another process: KeyError: 'row'"
    )
    # What can be written is, by the first alone; and behind all that both are in step.
    assert first["report"] == second["report"] == "of rank 0"
    assert first["sum"] == second["sum"] == 3
