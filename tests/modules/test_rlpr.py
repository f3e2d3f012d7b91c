"""RLPR: the probability of the reference answer behind each solution's reasoning, and what it is worth."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import quiet_trainer, tiny_policy, written

from laser_lightning.data import ArithmeticSource, PromptDataModule, Schedule, Stage
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.reference_answer import ReferenceAnswer
from laser_lightning.modules.rlpr import ReferenceStep, RLPRModule
from laser_lightning.objective.advantages import AdvantageSettings
from laser_lightning.objective.losses import TopKDistillation
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.shaping import DropLowSpread
from laser_lightning.policy.text_places import tokens_before
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import RolloutEngine, Sampling
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings

ANSWER = ReferenceAnswer(r"#(\d+)$", r"[^#]*#\d+", direct="#")
TEXTS = ["12#7", "3#45", "no", "#", "5;#1", "1#2#3", "#88", "4+4=8;#8"]


class ScriptedEngine(RolloutEngine):
    """Writes these solutions."""

    def __init__(self) -> None:
        self.tokenizer: Any = None

    def generate(
        self,
        policy: Any,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        return written(self.tokenizer, prompts, TEXTS[: len(prompts) * group_size])


class Watched(RLPRModule):
    """Keeps the step."""

    def sample_groups(self, problems: Any) -> ReferenceStep:
        self.step = super().sample_groups(problems)
        return self.step


def trained(tmp_path: Path, **options: Any) -> tuple[Watched, dict[str, float]]:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "reference_answer": ANSWER,
        "policy": tiny_policy(),
        "self_reward": LastTokenSelfReward("<|reward|>", loss_weight=0.0, reference=-20.0),
        "verifier": ExactVerifier(r"#(\d+)$"),
        "group_size": 4,
        "sampling": Sampling(max_response_tokens=12),
        "engine": ScriptedEngine(),
        "verification": VerificationSettings(workers=0),
        "evaluation": EvaluationSettings(samples=4, at_start=False, at_end=False),
        "optimizer": OptimizerSettings(1e-2, algorithm="sgd", weight_decay=0.0, max_grad_norm=None),
    }
    model = Watched(**{**settings, **options})
    assert isinstance(model.engine, ScriptedEngine)
    model.engine.tokenizer = model.tokenizer
    run = quiet_trainer(tmp_path, 1)
    data = PromptDataModule(train=ArithmeticSource("train", size=16, seed=0), prompts_per_step=2)
    run.fit(model, datamodule=data)
    return model, {name: float(value) for name, value in run.callback_metrics.items()}


def test_probabilities_are_those_of_plain_passes(tmp_path: Path, plain_pass: Callable[..., Any]) -> None:
    model, values = trained(tmp_path)
    step, lm, encode = model.step, model.policy.lm, model.tokenizer.encode
    rollout = step.sampled
    found = model.reference_probabilities(rollout)  # of the weights behind the step, as the twin's
    for row, text in enumerate([*TEXTS[:4], "#", *TEXTS[4:], "#"]):
        problem = rollout.problems[row // 5]
        reasoning, sign, answer = text.rpartition("#")
        expected = 0.0  # "no" and a sign without an answer have no place for one
        if (sign and answer) or row % 5 == 4:
            lead = encode(reasoning + sign)
            twin = plain_pass(lm, problem.prompt_ids, lead + encode(problem.answer)).log_probs
            expected = float(twin[len(lead) :].exp().mean())
        assert float(found[row // 5, row % 5]) == pytest.approx(expected, rel=1e-4, abs=1e-9), text
    # What was trained on: 0.9 of what reasoning gains, and 0.1 for the format, which all but three have.
    formats = torch.tensor([1.0, 1, 0, 0, 1, 0, 1, 1])
    gains = (step.probabilities.view(2, 4) - step.direct[:, None]).clamp(min=0).flatten()
    torch.testing.assert_close(rollout.policy_rewards, 0.9 * gains + 0.1 * formats)
    assert values["train/reference_answer/format_rate"] == pytest.approx(5 / 8)
    assert values["train/reference_answer/probability"] == pytest.approx(float(step.probabilities.mean()))
    assert values["train/reference_answer/direct_probability"] == pytest.approx(float(step.direct.mean()))
    assert values["train/policy_reward"] == pytest.approx(float(rollout.policy_rewards.mean()))
    assert values["train/groups_with_signal"] == 1


def test_rewards_by_hand() -> None:
    class Groups:
        def grouped(self, values: torch.Tensor) -> torch.Tensor:
            return values.view(1, 3)

    probabilities, formats = torch.tensor([0.5, 0.1, 0.0]), torch.tensor([1.0, 1.0, 0.0])
    groups: Any = Groups()
    step = ReferenceStep(groups, groups, probabilities, torch.tensor([0.2]), formats)
    # 0.9 * 0.3 + 0.1; below the direct one nothing but the format; nothing.
    assert step.rewards(0.1).tolist() == pytest.approx([0.37, 0.1, 0.0])


def test_micro_batches_do_not_matter(tmp_path: Path) -> None:
    found = []
    for tokens in (2048, 40):
        model, _ = trained(tmp_path, update=UpdateSettings(micro_batch_tokens=tokens))
        found.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
        found.append(model.step.probabilities)
    torch.testing.assert_close(found[1], found[3], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-6)


def test_the_filter_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    model, _ = trained(tmp_path, advantage=AdvantageSettings(shaping=[DropLowSpread(first_steps=1)]))
    state = model.objective_parts.state_dict()["advantage.shaping.0"]
    spreads = model.step.sampled.policy_rewards.view(2, 4).std(dim=1)
    assert state == {"steps": 1, "average": pytest.approx(float(spreads.mean()))}


def test_tokens_in_front_of_a_place() -> None:
    class Words:
        """Tokens are pieces of text; the last one is special, and has none."""

        pieces = ("ab", "c", " d", "")

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return "".join(self.pieces[token] for token in ids)

    words: Any = Words()
    # Ends at 2, 3, 5 and 5: a token that reaches over a place is behind it, a special one at its place in front.
    assert [tokens_before(words, [0, 1, 2, 3], place) for place in range(6)] == [0, 0, 1, 2, 2, 4]
    assert tokens_before(words, [], 0) == 0


def test_the_authors_form() -> None:
    form = ReferenceAnswer()
    text = "<think>2 + 2</think> So: <answer> 4 </answer>"
    assert form.place(text) == text.index("4")
    assert form.has_format(text)
    assert form.has_format(text + "\n")
    assert not form.has_format("So: <answer>4</answer>")
    assert form.place("So: <answer>4</answer>") == 12
    assert form.place(text + text) is None
    assert not form.has_format(text + text)
    assert form.place("<think>4") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answer_pattern": "a"}, "has 0 groups"),
        ({"answer_pattern": "("}, "answer_pattern .* is no regular expression"),
        ({"format_pattern": "("}, "format_pattern .* is no regular expression"),
        ({"format_weight": 2.0}, "format_weight is 2.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReferenceAnswer(**settings)


def made(**options: Any) -> RLPRModule:
    settings: dict[str, Any] = {
        "reference_answer": ANSWER,
        "policy": tiny_policy(),
        "self_reward": LastTokenSelfReward("<|reward|>", loss_weight=0.0, reference=-20.0),
        "verifier": ExactVerifier(r"#(\d+)$"),
        "sampling": Sampling(max_response_tokens=12),
    }
    return RLPRModule(**{**settings, **options})


@pytest.mark.parametrize(("places", "fits"), [(23, True), (22, False)])
@pytest.mark.parametrize("of", ["positions", "micro_batch_tokens"])
def test_a_reference_answer_that_does_not_fit_is_refused_before_the_first_step(
    places: int, fits: bool, of: str
) -> None:
    """A prompt of 4 tokens, reasoning of up to 12, and "#" with 6 letters: 23 places."""
    shapes = {**tiny_policy().config_overrides, "max_position_embeddings": places if of == "positions" else 64}
    update = UpdateSettings(micro_batch_tokens=places if of == "micro_batch_tokens" else 2048)
    model = made(policy=replace(tiny_policy(), config_overrides=shapes), update=update)
    model.configure_model()
    data = PromptDataModule()
    data.set_tokenizer(model.tokenizer)
    prompt = model.tokenizer.encode("1+1=")
    data.train_problems = [
        Problem("train", row, "1+1=", "1+1=", prompt, gold) for row, gold in ((3, "2"), (7, "twenty"))
    ]
    if fits:
        model.check_data(data)
        data.curriculum = Schedule([Stage(), Stage(from_step=9, max_response_tokens=13)])
        with pytest.raises(UserError, match=r"up to 13 \(sampling\.max_response_tokens, or that of a stage"):
            model.check_data(data)
        return
    data.curriculum = Schedule([Stage(max_response_tokens=5), Stage(from_step=9)])
    room = "the 22 positions of the model" if of == "positions" else r"update\.micro_batch_tokens = 22: raise it"
    with pytest.raises(UserError, match=rf"reference answer of row 7 of the set 'train' has 7 tokens, .* into {room}"):
        model.check_data(data)


def test_a_loss_in_which_rewards_have_no_say_is_refused() -> None:
    with pytest.raises(UserError, match=r"TopKDistillation, in which rewards have no say, and RLPR trains"):
        made(policy_loss=TopKDistillation(), teacher=tiny_policy())


def test_several_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sampling_rounds is 2, and RLPR rewards the solutions of one round"):
        trained(tmp_path, sampling_rounds=2)
