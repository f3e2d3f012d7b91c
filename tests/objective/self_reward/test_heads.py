"""Heads, weights and targets of one's own: what they are given, what is refused, and whole runs."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laser_lightning.cli.command_line import main
from laser_lightning.errors import UserError
from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision
from laser_lightning.objective.self_reward.target import SelfRewardTarget
from laser_lightning.objective.self_reward.weights import ClassBalancedWeights, EqualWeights, SelfRewardWeights
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.engine import RolloutEngine

MakeStep = Callable[..., StepSolutions]


class Given(SelfRewardWeights, SelfRewardTarget):
    """Weights, or targets, that are given."""

    def __init__(self, values: list[list[float]]) -> None:
        self.values = values

    def weigh(self, solutions: StepSolutions) -> Tensor:
        return torch.tensor(self.values)

    aim = weigh


def head(**parts: Given) -> LastTokenSelfReward:
    return LastTokenSelfReward("<|reward|>", reference=-20.0, **parts)


def test_parts_are_given_groups_and_answer_for_each_solution(step_solutions: MakeStep) -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    finished = torch.tensor([[True, True], [False, True], [True, True]])
    whole = step_solutions(rewards, finished, scores=torch.arange(6.0))
    # A step of the third and the first problem alone, as one of several mini-batches has them.
    step = StepSolutions.of(whole.rollout, torch.tensor([4, 5, 0, 1]), whole.context)
    assert step.rewards.tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert step.self_rewards.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert step.rows.tolist() == [[4, 5], [0, 1]]
    weights, target = Given([[0.1, 0.2], [0.3, 0.4]]), Given([[1.0, 2.0], [3.0, 4.0]])
    supervision = head(weights=weights, target=target).supervise(step)
    torch.testing.assert_close(supervision.targets, torch.tensor([3.0, 4.0, 0.0, 0.0, 1.0, 2.0]))
    torch.testing.assert_close(supervision.weights, torch.tensor([0.3, 0.4, 0.0, 0.0, 0.1, 0.2]))


def test_truncated_solutions_weigh_nothing_whatever_a_part_says(step_solutions: MakeStep) -> None:
    step = step_solutions(torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    supervision = head(weights=Given([[0.5, torch.nan]])).supervise(step)
    assert supervision.weights.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"weights": Given([[0.5], [0.5]])}, r"self_reward\.weights, a Given, returned values of shape \[2, 1\]"),
        ({"target": Given([[0.5]])}, r"self_reward\.target, a Given, returned values of shape \[1, 1\]"),
        ({"weights": Given([[0.5, -0.5]])}, r"self_reward\.weights, a Given, returned a weight that is below 0"),
        ({"weights": Given([[0.5, torch.nan]])}, r"returned a weight that is below 0 or no number"),
    ],
)
def test_what_parts_may_not_return(parts: dict[str, Given], sentence: str, step_solutions: MakeStep) -> None:
    with pytest.raises(UserError, match=sentence):
        head(**parts).supervise(step_solutions(torch.tensor([[1.0, 0.0]])))


def test_the_word_of_version_0_1_for_equal_weights() -> None:
    def weights(**given: object) -> SelfRewardWeights:
        return LastTokenSelfReward("<|reward|>", **given).weights  # type: ignore[arg-type]

    assert type(weights()) is type(weights(class_weights=True)) is ClassBalancedWeights
    assert type(weights(class_weights=False)) is type(weights(weights=EqualWeights())) is EqualWeights
    with pytest.raises(UserError, match=r"class_weights is false.* and self_reward.weights is Given: leave the first"):
        weights(class_weights=False, weights=Given([[1.0]]))


def test_the_settings_of_scores_name_several_tokens() -> None:
    pair = TwoTokens({"yes": "Y", "no": "N"}, 0.1)
    pair.token_ids = (60, 49)
    assert pair.score_settings() == {
        "score": "TwoTokens",
        "reward_token": "Y",
        "reward_token_id": 60,
        "reward_token_ids": [60, 49],
    }


class TwoTokens(SelfRewardHead):
    def score(self, readings: Readings) -> Tensor:
        return (readings.log_probs[:, 0] - readings.log_probs[:, 1]).sigmoid()

    def loss(self, readings: Readings, supervision: Supervision) -> Tensor:
        return (supervision.weights * (self.score(readings) - supervision.targets).square()).sum()


# --------------------------------------------------------------------- whole runs


@pytest.fixture
def run(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``run(command, *options)`` in a folder with the tiny run and a file ``pair.py`` beside it."""
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "pair.py").write_text(PAIR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--config=run.yaml", "--model.verification.workers=0"]
    return lambda command, *more, export="null": main([command, *options, f"--export={export}", *more])


PAIR = '''
from laser_lightning import SelfRewardHead, SelfRewardTarget


class Hybrid(SelfRewardTarget):
    """A share of the solution's reward, and the rest of its group's mean.

    Args:
        gamma: the share.
    """

    def __init__(self, gamma: float = 0.5) -> None:
        self.gamma = gamma
        self.steps = 0

    def aim(self, solutions):
        means = solutions.rewards.mean(dim=1, keepdim=True)
        return self.gamma * solutions.rewards + (1 - self.gamma) * means

    def learn(self, rollout, context):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state.get("steps", 0)
        print("steps", self.steps)


class Pair(SelfRewardHead):
    def __init__(self, loss_weight: float = 0.5, target: SelfRewardTarget = Hybrid()) -> None:
        super().__init__({"yes": "Y", "no": "N"}, loss_weight, target=target)

    def score(self, readings):
        return (readings.log_probs[:, 0] - readings.log_probs[:, 1]).sigmoid()

    def loss(self, readings, supervision):
        return (supervision.weights * (self.score(readings) - supervision.targets).square()).sum()
'''


def rows_of(path: str) -> list[dict[str, str]]:
    lines = Path(path, "metrics.csv").read_text().splitlines()
    return [row for row in csv.DictReader(lines) if row["train/loss"]]


def state_of(path: str) -> dict[str, Tensor]:
    return torch.load(path, weights_only=False)["state_dict"]


def test_a_head_with_parameters_is_trained_saved_and_resumed_bit_for_bit(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    probe = ["--model.self_reward=probe.Probe", "--trainer.limit_val_batches=0"]
    assert run("fit", *probe, "--run_dir=whole") == 0
    first, last = state_of("whole/checkpoints/step=4.ckpt"), state_of("whole/checkpoints/step=8.ckpt")
    assert not torch.equal(first["self_reward.linear.weight"], last["self_reward.linear.weight"])
    assert run("fit", *probe, "--run_dir=resumed", "--ckpt_path=whole/checkpoints/step=4.ckpt") == 0
    resumed = state_of("resumed/checkpoints/step=8.ckpt")
    assert resumed.keys() == last.keys()
    assert all(torch.equal(resumed[name], value) for name, value in last.items())
    rows = rows_of("whole")
    assert float(rows[-1]["train/self_reward_loss"]) > 0
    assert float(rows[-1]["train/hidden_states_pass_seconds"]) > 0
    capsys.readouterr()
    # What has no form for an export is refused in a sentence.
    assert run("fit", *probe, "--run_dir=other", export="laser_lightning.callbacks.HuggingFaceExport") == 2
    assert "has no form for a self-reward of the class Probe" in capsys.readouterr().err


def test_several_tokens_and_a_target_with_a_memory(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["--model.self_reward=pair.Pair", "--model.self_reward.target=pair.Hybrid"]
    pair.append("--model.self_reward.target.gamma=0.25")
    assert run("fit", *pair, "--run_dir=whole", "--trainer.limit_val_batches=0") == 0
    assert run("validate", *pair, "--run_dir=judged", "--ckpt_path=whole/checkpoints/step=8.ckpt") == 0
    assert "steps 4\n" in capsys.readouterr().out  # rounds of two optimizer steps
    replay = ["--model.engine=laser_lightning.rollout.RecordedSolutions", "--model.engine.path=judged/kept"]
    again = ["--ckpt_path=whole/checkpoints/step=8.ckpt", *replay]
    assert run("validate", *pair, "--run_dir=again", *again) == 0
    assert run("validate", *pair, "--run_dir=rescored", *again, "--model.engine.rescore=true") == 0
    names = ("judged", "again", "rescored")
    values = [next(csv.DictReader(Path(name, "metrics.csv").read_text().splitlines())) for name in names]
    ece = [float(row["val/sums/self_verification/ece"]) for row in values]
    assert 0 < ece[0] == ece[1] == pytest.approx(ece[2], abs=1e-5)
    capsys.readouterr()
    assert run("validate", "--run_dir=of_one", *again, "--allow_changes=model.self_reward") == 2


class OldEngine(RolloutEngine):
    """Returns one number for each response, as engines of version 0.1 did."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts
        self.rollouts.reward_token_log_probs = rollouts.reward_token_log_probs[:, 0]

    def generate(self, *args: object) -> Rollouts:
        return self.rollouts


def test_an_engine_that_returns_another_shape_is_refused(
    make_policy: Callable[..., Policy], make_rollouts: Callable[..., Rollouts]
) -> None:
    from laser_lightning.distributed.parts import StepParts
    from laser_lightning.rollout.sampler import Sampler

    policy, engine = make_policy(), OldEngine(make_rollouts())
    sampler = Sampler(policy, None, engine, None, head(), None, lambda *_: StepParts()("x"), StepParts(), 100)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"OldEngine, returned reward_token_log_probs of shape \[12\] for 12 responses"):
        sampler.draw([[1]], 4, Sampling(), torch.Generator())
