"""Baselines that follow the rewards of each kind, by hand, and what a run remembers of them."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning import EMABaseline, StepContext
from laser_lightning.cli.command_line import main
from laser_lightning.data.problem import Problem
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import Verification


def rollout(kinds: list[str | None], rewards: list[list[float]]) -> Any:
    problems = [Problem("train", number, "", "", [1], "", kind) for number, kind in enumerate(kinds)]
    flat = torch.tensor(rewards, dtype=torch.float32).flatten()
    drawn: Any = SimpleNamespace(group_size=len(rewards[0]))
    return Rollout(problems, drawn, [], [Verification(r, None) for r in flat.tolist()], flat, None, flat)


def advantages(estimator: EMABaseline, step: Rollout, rewards: Tensor | None = None) -> list[list[float]]:
    given = step.grouped(step.rewards) if rewards is None else rewards
    return estimator(given, step, StepContext()).tolist()


FIRST = rollout(["add", "mul", "add", None], [[1, 0], [0, 0], [1, 1], [1, 0]])


def test_by_hand() -> None:
    estimator = EMABaseline(decay=0.5)
    assert advantages(estimator, FIRST) == FIRST.grouped(FIRST.rewards).tolist(), "the baselines are 0 at first"
    assert estimator.state_dict() == {"baselines": {}}, "they are read before they are updated"
    estimator.learn(FIRST, StepContext())
    # Means of 3/4, 0 and 1/2, half of each.
    assert estimator.state_dict() == {"baselines": {"add": 0.375, "mul": 0.0, "": 0.25}}
    second = rollout(["mul", "add", "sub"], [[1, 1], [1, 0], [0, 1]])
    assert advantages(estimator, second) == [[1, 1], [0.625, -0.375], [0, 1]]
    estimator.learn(second, StepContext())
    # 0.375 / 2 + 1/4, 0 + 1/2, and as it was where there were none.
    assert estimator.state_dict() == {"baselines": {"add": 0.4375, "mul": 0.5, "": 0.25, "sub": 0.25}}
    # Shaped rewards and self-rewards have the same baseline.
    assert advantages(estimator, FIRST, torch.full((4, 2), 0.5))[0] == [0.0625, 0.0625]


def test_groups_of_several_problems() -> None:
    # As RISE has them: the verifications of all solutions of a problem are one group.
    estimator = EMABaseline(decay=0.5)
    estimator.learn(FIRST, StepContext())
    made = rollout(["add", "add", "mul", "mul"], [[1, 0]] * 4)
    assert advantages(estimator, made, torch.ones(2, 4)) == [[0.625] * 4, [1.0] * 4]


class OneOfTwo(Ranks):
    """A rank that knows what the other one has to say."""

    def __init__(self, before: list[Any], behind: list[Any]) -> None:
        super().__init__()
        self.before, self.behind = before, behind

    def gather(self, value: Any) -> list[Any]:
        return [*self.before, value, *self.behind]


def test_two_ranks_are_one() -> None:
    halves = rollout(["add", "mul"], [[1, 0], [0, 0]]), rollout(["add", None], [[1, 1], [1, 0]])
    said: list[Any] = []
    for half in halves:
        ranks = Ranks()
        ranks.gather = lambda value: said.append(value) or [value]  # type: ignore[method-assign, func-returns-value]
        EMABaseline().learn(half, StepContext(ranks=ranks))
    whole = EMABaseline(0.9)
    whole.learn(FIRST, StepContext())
    for index, half in enumerate(halves):
        estimator = EMABaseline(0.9)
        estimator.learn(half, StepContext(ranks=OneOfTwo(said[:index], said[index + 1 :])))
        assert estimator.state_dict() == whole.state_dict()
        assert list(estimator.state_dict()["baselines"]) == list(whole.state_dict()["baselines"])


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=r"advantage\.estimator\.decay is"):
        EMABaseline(decay)


def test_a_run_and_its_resumption(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--config=run.yaml", "--config=methods/ema_baseline", "--model.verification.workers=0"]
    options += ["--model.self_reward.init_args.reference=-5", "--calibration=null", "--export=null"]
    options += ["--trainer.limit_val_batches=0", "--model.evaluation.at_start=false", "--model.evaluation.at_end=false"]
    assert main(["fit", *options, "--run_dir=whole"]) == 0
    assert main(["fit", *options, "--run_dir=resumed", "--ckpt_path=whole/checkpoints/step=4.ckpt"]) == 0
    four, eight, resumed = (
        torch.load(Path(name).with_suffix(".ckpt"), weights_only=False)
        for name in ("whole/checkpoints/step=4", "whole/checkpoints/step=8", "resumed/checkpoints/step=8")
    )
    of_kinds = eight["laser_objective_parts"]["advantage.estimator"]["baselines"]
    assert of_kinds
    assert of_kinds != four["laser_objective_parts"]["advantage.estimator"]["baselines"]
    assert resumed["laser_objective_parts"] == eight["laser_objective_parts"]
    assert all(torch.equal(value, eight["state_dict"][name]) for name, value in resumed["state_dict"].items())
