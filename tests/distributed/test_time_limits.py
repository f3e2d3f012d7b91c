"""A rank that hangs ends the run within the time limit of a collective operation, and the log says where it was."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.distributed

LIMIT_SECONDS = 20

HANGS = """
import signal
import time
from pathlib import Path

from lightning.pytorch import Callback


class Hang(Callback):
    '''A rank never comes back from what it does in step 2.'''

    def __init__(self, moment: str, rank: int):
        self.moment, self.rank = moment, rank

    def on_train_batch_start(self, trainer, pl_module, *args):
        if trainer.global_rank != self.rank or trainer.global_step != 2:
            return
        owner, name = {
            "rollout": (pl_module.engine, "generate"),
            "verification": (pl_module.verifier_pool, "verify"),
            "update": (pl_module, "differentiable"),
        }[self.moment]
        setattr(owner, name, self.hang)

    def hang(self, *args, **options):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # or torchrun would wait for this process for 30 s more
        Path("hung").touch()
        time.sleep(1000)
"""


def run_until_it_hangs(command: Callable[..., str], experiment: Path, strategy: str, moment: str, rank: int) -> str:
    """What a run prints that ends by the time limit."""
    (experiment / "hangs.py").write_text(HANGS)
    config = yaml.safe_load((experiment / "run.yaml").read_text())
    config["trainer"]["strategy"]["init_args"] = {"collective_timeout_seconds": LIMIT_SECONDS}
    (experiment / "run.yaml").write_text(yaml.safe_dump(config))
    callback = f"{{class_path: hangs.Hang, init_args: {{moment: {moment}, rank: {rank}}}}}"
    (experiment / "hang.yaml").write_text(f"trainer: {{callbacks: [{callback}]}}")
    configs = ["--config", f"strategy/{strategy}", "--config", "run.yaml", "--config", "hang.yaml"]
    output = command(experiment, "fit", *configs, "--run_dir", "run", succeeds=False)
    assert (experiment / "hung").exists(), output[-10000:]
    assert time.time() - (experiment / "hung").stat().st_mtime < LIMIT_SECONDS + 20
    assert f"The time limit of a collective operation is {LIMIT_SECONDS} s" in output, output[-10000:]
    return output


@pytest.mark.parametrize(("moment", "rank", "strategy"), [("verification", 1, "zero2"), ("rollout", 0, "ddp")])
def test_a_rank_that_hangs(
    moment: str, rank: int, strategy: str, command: Callable[..., str], experiment: Path
) -> None:
    output = run_until_it_hangs(command, experiment, strategy, moment, rank)
    told = f"Rank {rank} has been in {moment} of step 2 for"
    assert output.count(told) == 2, output[-10000:]  # a warning before the limit, and below the error
    # Behind its own rollout and verification, where the ranks agree whether to go on or to leave.
    assert f"while rank {1 - rank} waited in step 2 for" in output


def test_the_limit_holds_in_the_group_that_deepspeed_makes(command: Callable[..., str], experiment: Path) -> None:
    output = run_until_it_hangs(command, experiment, "zero2", "update", 1)
    assert "All 2 ranks were in the same part: rank 0 was in update of step 2 for" in output, output[-10000:]
