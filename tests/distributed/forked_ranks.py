"""The ranks of a job as forks of one process that has imported what is not ours: seconds less for each of them.

Lightning and the package are imported by each rank itself: they look at its environment already then.
"""

import atexit
import os
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from runpy import run_module, run_path
from unittest.mock import patch

from torch.distributed import TCPStore

LIBRARIES = ["torch._dynamo", "torchmetrics", "transformers", "datasets", "deepspeed", "sympy", "matplotlib.pyplot"]


def run_ranks(
    arguments: list[str], processes: int, timeout: float, cwd: Path | None, environment: dict[str, str]
) -> tuple[list[int | None], str]:
    """Run ``python ARGUMENTS`` on one node as torchrun would, until all ranks end or one fails.

    Returns:
        The exit status of each rank, None where it had to be killed, and what they printed.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun, it outlives the ranks
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    group |= {"TORCHELASTIC_RUN_ID": "forked", "TORCHELASTIC_RESTART_COUNT": "0", "GROUP_RANK": "0"}
    group |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks: list[BaseProcess] = []
    with tempfile.TemporaryDirectory() as printed, patch.dict(os.environ, environment):
        for number in range(processes):
            own = environment | (group | {"RANK": str(number), "LOCAL_RANK": str(number)} if processes > 1 else {})
            rank = context.Process(target=_rank, args=(arguments, cwd, own, f"{printed}/{number}"))
            rank.start()
            ranks.append(rank)
        try:
            _wait(ranks, timeout)
        finally:
            codes = [rank.exitcode for rank in ranks]
            for rank in ranks:
                rank.kill()
                rank.join()
        return codes, "".join(path.read_text() for path in sorted(Path(printed).iterdir()))


def _wait(ranks: list[BaseProcess], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and any(rank.is_alive() for rank in ranks):
        if any(rank.exitcode for rank in ranks):
            deadline = min(deadline, time.monotonic() + 5)  # for the others to say what they have to
        time.sleep(0.02)


def _rank(arguments: list[str], cwd: Path | None, environment: dict[str, str], printed: str) -> None:
    os.environ.update(environment)
    os.chdir(cwd or ".")
    for stream in (1, 2):
        os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[:0] = arguments[1:], [os.getcwd()]
            run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[:0] = arguments, [str(Path(arguments[0]).parent)]
            run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a forked process of multiprocessing leaves them out
