"""What goes wrong on one process ends the run on all of them in time, and the log says why."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

FAULTS = """
import os
import resource
import signal

from lightning.pytorch import Callback
from length_verifier import LengthVerifier


class Fault(Callback):
    '''Something goes wrong on rank 1, behind step 6.'''

    def __init__(self, kind: str):
        self.kind = kind

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_rank != 1 or trainer.global_step < 6:
            return
        if self.kind == "raises":
            raise KeyError("a defect in the user's callback")
        if self.kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        # The kernel refuses to let a file grow, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))


class RaisingVerifier(LengthVerifier):
    def reward(self, response, gold):
        if os.environ["RANK"] == "1" and len(response) % 4 == 0:
            raise ValueError("a defect in the user's verifier")
        return super().reward(response, gold)
"""


@pytest.mark.parametrize(
    ("kind", "strategy", "causes"),
    [
        ("dies", "zero2", ["Signal 9 (SIGKILL) received by PID", "in the same part: rank 0 was in step 6 for"]),
        (
            "raises",
            "ddp",
            ['KeyError: "a defect in the user\'s callback"', "Rank 1 has ended in step 6 (KeyError: ", "while rank 0 "],
        ),
        (
            "full",
            "zero2",
            ["step=8.ckpt could not be saved: a write failed", "Rank 1 has ended in checkpoint of step 8 (UserError: "],
        ),
    ],
)
def test_a_fault_on_one_rank(
    kind: str, strategy: str, causes: list[str], command: Callable[..., str], experiment: Path
) -> None:
    (experiment / "faults.py").write_text(FAULTS)
    (experiment / "fault.yaml").write_text(
        f"trainer: {{callbacks: [{{class_path: faults.Fault, init_args: {{kind: {kind}}}}}]}}"
    )
    started = time.monotonic()
    fit = ["fit", "--config", f"strategy/{strategy}", "--config", "run.yaml", "--config", "fault.yaml"]
    if strategy == "ddp":
        fit += ["--config", "ddp.yaml"]
        (experiment / "ddp.yaml").write_text("trainer: {strategy: laser_ddp}")
    output = command(experiment, *fit, "--run_dir", "run", succeeds=False)
    assert time.monotonic() - started < 100
    for cause in causes:
        assert cause in output, (cause, output[-10000:])
    assert [path.name for path in (experiment / "run/checkpoints").glob("*.ckpt")] == ["step=4.ckpt"]


def test_a_verifier_that_fails_on_one_rank_costs_its_solutions(command: Callable[..., str], experiment: Path) -> None:
    (experiment / "faults.py").write_text(FAULTS)
    (experiment / "fault.yaml").write_text(
        "trainer: {strategy: laser_ddp, max_steps: 4}\nmodel: {verifier: {class_path: faults.RaisingVerifier}}"
    )
    output = command(experiment, "fit", "--config", "run.yaml", "--config", "fault.yaml", "--run_dir", "run")
    assert "The verifier failed on" in output
    assert "which get reward 0" in output
    assert (experiment / "run/checkpoints/step=4.ckpt").is_file()
