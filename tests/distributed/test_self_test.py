"""The self-test on two processes: both come to the same finding, sharded weights or not."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

WRONG = """
import os

from laser_lightning import LaSeRModule
from laser_lightning.errors import UserError


class WrongOnOne(LaSeRModule):
    # Its second process computes something else in training mode.
    def configure_model(self):
        super().configure_model()
        if os.environ["RANK"] == "1":
            mlp = self.policy.lm.get_decoder().layers[0].mlp
            mlp.register_forward_hook(lambda module, args, output: output * (1.5 if module.training else 1.0))


class Telling(LaSeRModule):
    # Ends with what was found.
    def check_policy(self):
        found = super().check_policy()
        raise UserError(f"found {[one.way for one in found]} {max(one.error_nats for one in found) < 1e-4}")
"""

STRATEGY = {
    "zero3": ["--config", "strategy/zero3", "--config", "run.yaml"],
    # Another class of strategies leaves the options of the one before behind.
    "ddp": ["--config", "strategy/zero3", "--config", "run.yaml", "--config", "strategy/ddp"],
}


@pytest.fixture
def overlays(experiment: Path) -> Path:
    (experiment / "own.py").write_text(WRONG)
    for name in ("WrongOnOne", "Telling"):
        (experiment / f"{name}.yaml").write_text(f"model: {{class_path: own.{name}}}\n")
    return experiment


@pytest.mark.parametrize("strategy", STRATEGY)
def test_what_is_wrong_in_one_process_refuses_the_run_in_all(
    overlays: Path, command: Callable[..., str], strategy: str
) -> None:
    output = command(overlays, "fit", *STRATEGY[strategy], "--config", "WrongOnOne.yaml", succeeds=False)
    assert output.count("laser-lightning: error: In the pass of the update Qwen2ForCausalLM has other log-probs") == 2


@pytest.mark.parametrize("strategy", STRATEGY)
def test_both_processes_find_the_same(overlays: Path, command: Callable[..., str], strategy: str) -> None:
    output = command(overlays, "fit", *STRATEGY[strategy], "--config", "Telling.yaml", succeeds=False)
    ways = "['evaluation mode', 'causality', 'head', 'training mode', 'decode', 'refill', 'update', 'shared prompts']"
    assert output.count(f"found {ways} True") == 2
