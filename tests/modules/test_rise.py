"""RISE: solutions and their verifications train the policy in one step, and verdicts judge in evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from whole_runs import PlusVerifier, quiet_trainer, tiny_policy, written

from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.evaluation.training_votes import gather_groups
from laser_lightning.modules.export import write_export
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.outcome_rewards import OutcomeRewards
from laser_lightning.modules.rise import RISEModule
from laser_lightning.modules.training_log import TrainingLog
from laser_lightning.modules.verification_prompts import VerificationPrompts
from laser_lightning.modules.verified_step import VerifiedStep
from laser_lightning.objective.advantages import AdvantageSettings, EMABaseline
from laser_lightning.objective.losses import GOPDPolicyLoss
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.self_reward.settings import SETTINGS_FILE
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.shaping import DropLowSpread
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import EMBEDDED, PolicySettings
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import RolloutEngine, Sampling
from laser_lightning.verifiers.settings import VerificationSettings

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}
EOS = 1
RATE = 1e-2
PROMPTS = VerificationPrompts("{problem}|{response}?", "^([yn])", "y", "n", max_response_tokens=5)

# Two problems with four solutions each; "+" is right, and "~" is a solution cut at the limit.
SOLUTIONS = ["+aa", "-b", "+c", "-ddd", "+e", "+f", "+gg", "~hhhhh"]
VERDICTS = ["y", "?", "no", "n", "yes", "y!", "n", "y"]
REWARDS = [1.0, 0, 1, 0, 1, 1, 1, 0]
# Right are: y of a right one, n of a wrong one. "?" is no verdict, which is never right.
RIGHT = [1.0, 0, 0, 1, 1, 1, 0, 0]

# The same with two verifications of each solution, whose verdicts do not always agree.
PAIRS = ["y", "n", "?", "n", "y", "yes", "y", "n", "y!", "y", "n", "no", "y", "n", "y", "y"]
PAIRS_RIGHT = [1.0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0]
TWICE = replace(PROMPTS, samples=2)


class ScriptedEngine(RolloutEngine):
    """Writes the solutions and verifications of above, and keeps what it was asked."""

    def __init__(self, verdicts: Sequence[str] = VERDICTS) -> None:
        self.tokenizer: Any = None
        self.verdicts = verdicts
        self.calls: list[tuple[list[str], int, Sampling]] = []

    def generate(
        self,
        policy: Any,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        self.calls.append(([self.tokenizer.decode(prompt) for prompt in prompts], group_size, sampling))
        texts = SOLUTIONS[: len(prompts) * group_size]
        if prompts and "|" in self.calls[-1][0][0]:  # each prompt says which solution is to be verified
            asked = [SOLUTIONS.index(prompt.split("|")[1].removesuffix("?")) for prompt in self.calls[-1][0]]
            texts = [self.verdicts[solution * group_size + i] for solution in asked for i in range(group_size)]
        return written(self.tokenizer, prompts, texts)


class Watched(RISEModule):
    """Keeps what each optimizer step was made of."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.steps: list[tuple[Rollout, Tensor, Targets]] = []

    def sample_groups(self, problems: list[Problem]) -> VerifiedStep:
        self.step = super().sample_groups(problems)
        return self.step

    def update_policy(self, rollouts: Rollouts, rows: Tensor, targets: Targets, log: TrainingLog) -> None:
        self.steps.append((self.step.trained, rows, targets))
        self.before = {name: value.detach().clone() for name, value in self.policy.lm.state_dict().items()}
        super().update_policy(rollouts, rows, targets, log)


def rise(**options: Any) -> Watched:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "verification_prompts": PROMPTS,
        "policy": tiny_policy(),
        "self_reward": LastTokenSelfReward("<|reward|>", loss_weight=0.0, reference=-20.0),
        "verifier": PlusVerifier(),
        "group_size": 4,
        "sampling": Sampling(max_response_tokens=6),
        "engine": ScriptedEngine(),
        "verification": VerificationSettings(workers=0),
        "evaluation": EvaluationSettings(samples=4, at_start=False),
        "optimizer": OptimizerSettings(RATE, algorithm="sgd", weight_decay=0.0, max_grad_norm=None),
    }
    model = Watched(**{**settings, **options})
    if isinstance(model.engine, ScriptedEngine):
        model.engine.tokenizer = model.tokenizer
    return model


def trained(tmp_path: Path, **options: Any) -> tuple[Watched, dict[str, float]]:
    model = rise(**options)
    torch.manual_seed(0)
    run = quiet_trainer(tmp_path, model.update.mini_batches)
    val = {"sums": ArithmeticSource("val", size=2)}
    data = PromptDataModule(train=ArithmeticSource("train", size=16), val=val, prompts_per_step=2)
    run.fit(model, datamodule=data)
    return model, {name: float(value) for name, value in run.callback_metrics.items()}


def weights(model: RISEModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


def advantages() -> list[float]:
    """By hand, of groups of four: (r - mean) / sample std."""
    # 1 0 1 0: mean 1/2, std sqrt(4 * 1/4 / 3) = 1/sqrt(3), so +-sqrt(3)/2.
    # 1 1 1 0: mean 3/4, std sqrt((3 * 1/16 + 9/16) / 3) = 0.5, so 0.5 and -1.5.
    half = 3**0.5 / 2
    solutions = [half, -half, half, -half, 0.5, 0.5, 0.5, -1.5]
    # 1 0 0 1 and 1 1 0 0: +-sqrt(3)/2 again.
    verifications = [half, -half, -half, half, half, half, -half, -half]
    return solutions + verifications


def test_rewards_and_advantages_of_a_step(tmp_path: Path) -> None:
    model, values = trained(tmp_path)
    ((rollout, rows, targets),) = model.steps
    assert rollout.texts == SOLUTIONS + VERDICTS
    assert rows.tolist() == list(range(16))
    assert rollout.rewards.tolist() == REWARDS + RIGHT
    assert targets.advantages.tolist() == pytest.approx(advantages(), abs=1e-5)
    # Each solution is asked about behind its own problem, in the words of its text, up to the shorter limit.
    assert isinstance(model.engine, ScriptedEngine)
    (_, group_size, sampling), (questions, one, shorter) = model.engine.calls[:2]
    assert (group_size, one) == (4, 1)
    assert (sampling.max_response_tokens, shorter.max_response_tokens) == (6, 5)
    problems = [problem.problem for problem in rollout.problems[:8]]
    assert problems[0] == problems[3] != problems[4]
    assert questions == [f"{problem}|{text}?" for problem, text in zip(problems, SOLUTIONS, strict=True)]
    # Solutions: 4 3 3 5 and 3 3 4 6 tokens, the last without <eos>; verifications: 2 2 3 2 and 4 3 2 2.
    assert values["train/response_tokens"] == 31
    assert values["train/verification/response_tokens"] == 20
    assert values["train/generated_tokens"] == 51
    assert values["train/verification/accuracy"] == pytest.approx(4 / 8)
    assert values["train/verification/verdict_rate"] == pytest.approx(7 / 8)
    # Verdicts on the 5 right solutions: y no yes y n. On the wrong ones: none, n, and y of a truncated one count as n.
    assert values["train/self_reward/accuracy_on_correct"] == pytest.approx(3 / 5)
    assert values["train/self_reward/accuracy_on_incorrect"] == 1.0
    assert values["train/reward"] == pytest.approx(5 / 8)
    assert values["train/groups_with_signal"] == 1.0


def test_the_step_is_that_of_single_sequences(tmp_path: Path, plain_pass: Callable[..., Any]) -> None:
    model, _ = trained(tmp_path)
    after = weights(model)
    ((rollout, _, _),) = model.steps
    lm = model.policy.lm
    lm.load_state_dict(model.before)
    lm.zero_grad()
    # The mean over the 51 tokens of solutions and verifications alike; at the first step ratios are 1.
    loss = torch.zeros(())
    for row, (advantage, text) in enumerate(zip(advantages(), rollout.texts, strict=True)):
        problem = rollout.problems[row].problem
        prompt = problem if row < 8 else f"{problem}|{SOLUTIONS[row - 8]}?"
        response = model.tokenizer.encode(text) + [EOS] * (text != "~hhhhh")
        log_probs = plain_pass(lm, model.tokenizer.encode(prompt), response).log_probs
        loss = loss - advantage * log_probs.sum() / 51
    loss.backward()
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter -= RATE * parameter.grad
    twin = weights(model)
    lm.load_state_dict(model.before)
    change, expected = after - weights(model), twin - weights(model)
    # Float32 weights and gradients are rounded to some 1e-6 of the change.
    assert (change - expected).norm() < 2e-5 * expected.norm()


def test_a_step_with_two_verifications_of_each_solution(tmp_path: Path) -> None:
    model, values = trained(tmp_path, verification_prompts=TWICE, engine=ScriptedEngine(PAIRS))
    ((rollout, rows, targets),) = model.steps
    assert rollout.texts == SOLUTIONS + PAIRS
    assert rows.tolist() == list(range(24))
    assert rollout.rewards.tolist() == REWARDS + PAIRS_RIGHT
    # Among the eight verifications of a problem. 1 0 0 1 1 1 0 1: mean 5/8; 1 1 0 0 1 0 0 0: mean 3/8. The squared
    # distances of both sum up to 5 * (3/8)^2 + 3 * (5/8)^2 = 120/64, so that std = sqrt(120 / 64 / 7).
    std = (120 / 64 / 7) ** 0.5
    expected = [(right - mean) / std for right, mean in zip(PAIRS_RIGHT, [5 / 8] * 8 + [3 / 8] * 8, strict=True)]
    assert targets.advantages.tolist() == pytest.approx(advantages()[:8] + expected, abs=1e-5)
    # Each question is asked once, for a group of two, and stands in front of both in the update.
    assert isinstance(model.engine, ScriptedEngine)
    questions, group_size, _ = model.engine.calls[1]
    assert (len(questions), group_size) == (8, 2)
    prompts, lengths = rollout.rollouts.prompt_ids[8:], rollout.rollouts.prompt_lengths[8:]
    found = [model.tokenizer.decode(ids[:length]) for ids, length in zip(prompts, lengths, strict=True)]
    assert found == [question for question in questions for _ in range(2)]
    # The mean verdict is the score; a truncated solution is not found correct whatever is said.
    assert model.step.sampled.self_rewards.tolist() == [0.5, 0, 1, 0.5, 1, 0, 0.5, 0]
    assert values["train/self_reward/mean"] == pytest.approx(3.5 / 8)
    # More than half of its verifications find a solution correct: of the 5 right ones the third and the fifth.
    assert values["train/self_reward/accuracy_on_correct"] == pytest.approx(2 / 5)
    assert values["train/self_reward/accuracy_on_incorrect"] == 1.0
    assert values["train/verification/accuracy"] == pytest.approx(8 / 16)
    assert values["train/verification/verdict_rate"] == pytest.approx(15 / 16)
    # With <eos>: 2 2 2 2 2 4 2 2 and 3 2 2 3 2 2 2 2.
    assert values["train/verification/response_tokens"] == 36
    assert values["train/generated_tokens"] == 31 + 36
    # The evaluation behind the step has the same.
    assert model.last_rollout is not None
    assert model.last_rollout.self_rewards.tolist() == [0.5, 0, 1, 0.5, 1, 0, 0.5, 0]
    assert model.last_verifications.texts == PAIRS
    assert model.last_verifications.grouped(model.last_verifications.rewards).shape == (8, 2)


def test_parts_learn_from_solutions_alone(tmp_path: Path) -> None:
    shaping = [DropLowSpread(first_steps=1)]
    model, _ = trained(tmp_path, advantage=AdvantageSettings(EMABaseline(0.5), shaping=shaping))
    assert [problem.kind for problem in model.step.sampled.problems] == ["add3", "add5"]
    # Solutions of the first problem 1 0 1 0, of the second 1 1 1 0; verifications have rewards of another kind.
    # Baselines: half of the means 1/2 and 3/4. Spreads: 1/sqrt(3) and 1/2.
    state = model.objective_parts.state_dict()
    assert state["advantage.estimator"]["baselines"] == pytest.approx({"add3": 0.25, "add5": 0.375})
    assert state["advantage.shaping.0"] == {"steps": 1, "average": pytest.approx((3**-0.5 + 0.5) / 2)}


def test_votes_see_in_training_as_many_verdicts_as_in_evaluation(tmp_path: Path) -> None:
    model, _ = trained(tmp_path, verification_prompts=TWICE, engine=ScriptedEngine(PAIRS))
    step, evaluated = model.step.sampled, model.last_rollout
    assert evaluated is not None
    assert step.scores is not None
    # Verdicts "correct" of PAIRS: y n, ? n, y yes, y n, y! y, n no, y n; those on a truncated solution do not count.
    assert step.scores.tolist() == [[1, 0], [0, 0], [1, 1], [1, 0], [1, 1], [0, 0], [1, 0], [0, 0]]
    assert evaluated.scores is not None
    assert torch.equal(step.scores, evaluated.scores)
    # With <eos>: 2 2, 2 2, 2 4, 2 2, and 3 2, 2 3, 2 2, 2 2.
    assert step.judging_tokens is not None
    assert step.judging_tokens.tolist() == [4, 4, 6, 4, 5, 5, 4, 4]
    assert gather_groups(step, None, Ranks()).scores.shape == (8, 2)


def test_what_is_not_verified_has_no_verdicts_and_costs_none(tmp_path: Path) -> None:
    prompts = replace(TWICE, share=0.5)
    model, _ = trained(tmp_path, verification_prompts=prompts, engine=ScriptedEngine(PAIRS), seed=2)
    assert model.step.verified.tolist() == [1], "the seed is one that draws the second problem"
    step = model.step.sampled
    assert step.scores is not None
    assert step.scores[:4].isnan().all()
    assert step.scores[4:].tolist() == [[1, 1], [0, 0], [1, 0], [0, 0]]
    assert step.judging_tokens is not None
    assert step.judging_tokens.tolist() == [0, 0, 0, 0, 5, 5, 4, 4]
    assert gather_groups(step, None, Ranks()).scores.tolist() == step.scores[4:].tolist()


def test_a_mini_batch_holds_both_verifications_of_a_share(tmp_path: Path) -> None:
    prompts, update = replace(TWICE, share=0.5), UpdateSettings(mini_batches=2)
    model, _ = trained(tmp_path, verification_prompts=prompts, update=update, engine=ScriptedEngine(PAIRS), seed=2)
    assert model.step.verified.tolist() == [1], "the seed is one that draws the second problem"
    parts = sorted(rows.tolist() for _, rows, _ in model.steps)
    assert parts == [[0, 1, 2, 3], list(range(4, 16))]
    assert model.step.trained.texts[8:] == PAIRS[8:]
    assert model.step.sampled.self_rewards[4:].tolist() == [1, 0, 0.5, 0]
    assert model.step.sampled.self_rewards[:4].isnan().all()


def test_rewards_of_its_own(tmp_path: Path) -> None:
    model, values = trained(tmp_path, rewards=OutcomeRewards())
    ((rollout, _, targets),) = model.steps
    # Solutions: 1 or -0.5. Of the verifications the second has no verdict, and the third a wrong one.
    assert rollout.policy_rewards.tolist() == [1, -0.5, 1, -0.5, 1, 1, 1, -0.5, 1, -1, -0.5, 1, 1, 1, -0.5, -0.5]
    assert rollout.rewards.tolist() == REWARDS + RIGHT
    # Advantages do not see a scale, so that only those of the first problem's verifications change: mean 1/8,
    # deviations 7/8, -9/8, -5/8, 7/8, whose squares add up to 204/64.
    std = (204 / 64 / 3) ** 0.5
    expected = advantages()
    expected[8:12] = [0.875 / std, -1.125 / std, -0.625 / std, 0.875 / std]
    assert targets.advantages.tolist() == pytest.approx(expected, abs=1e-5)
    assert values["train/policy_reward"] == pytest.approx(3.5 / 8)
    assert values["train/reward"] == pytest.approx(5 / 8)
    assert values["train/verification/accuracy"] == pytest.approx(4 / 8)


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"rewards\.missing is nan"):
        OutcomeRewards(missing=float("nan"))


def test_what_was_kept_says_how_often_solutions_were_verified(tmp_path: Path) -> None:
    model, _ = trained(tmp_path)
    # Files of before there were several verifications have no such key, and are still good.
    assert "samples" not in model.judgement_settings()["verification_prompts"]
    model.verification_prompts = TWICE
    assert model.judgement_settings()["verification_prompts"]["samples"] == 2


def test_micro_batches_do_not_matter(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path)
    single, _ = trained(tmp_path, update=UpdateSettings(micro_batch_tokens=24))
    torch.testing.assert_close(weights(single), weights(whole), rtol=0, atol=2e-7)


def test_a_mini_batch_holds_problems_with_their_verifications(tmp_path: Path) -> None:
    model, _ = trained(tmp_path, update=UpdateSettings(mini_batches=2))
    parts = sorted(rows.tolist() for _, rows, _ in model.steps)
    assert parts == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]


def test_a_share_of_the_problems_is_verified(tmp_path: Path) -> None:
    model, values = trained(tmp_path, verification_prompts=replace(PROMPTS, share=0.5))
    ((rollout, _, targets),) = model.steps
    first = 4 * int(model.step.verified)
    assert rollout.texts == SOLUTIONS + VERDICTS[first : first + 4]
    expected = advantages()
    expected = expected[:8] + expected[8 + first : 12 + first]
    assert targets.advantages.tolist() == pytest.approx(expected, abs=1e-5)
    assert values["train/verification/accuracy"] == pytest.approx(sum(RIGHT[first : first + 4]) / 4)
    # What was not verified is not judged.
    judged = ~model.step.sampled.self_rewards.isnan()
    assert judged.nonzero().flatten().tolist() == list(range(first, first + 4))
    assert values["train/self_reward/mean"] == pytest.approx(0.25 if first == 0 else 0.5)


def test_a_mini_batch_holds_the_verifications_of_a_share(tmp_path: Path) -> None:
    update = UpdateSettings(mini_batches=2)
    model, _ = trained(tmp_path, verification_prompts=replace(PROMPTS, share=0.5), update=update, seed=2)
    assert model.step.verified.tolist() == [1], "the seed is one that draws the second problem"
    parts = sorted(rows.tolist() for _, rows, _ in model.steps)
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]]


def test_evaluation_takes_the_verdicts(tmp_path: Path) -> None:
    model, values = trained(tmp_path)
    assert model.last_rollout is not None
    # "?" is no verdict, and the last solution, truncated, is not found correct whatever is said.
    assert model.last_rollout.self_rewards.tolist() == [1, 0, 0, 0, 1, 1, 0, 0]
    assert model.last_verifications.texts == VERDICTS
    assert model.last_verifications.rewards.tolist() == RIGHT
    prefix = "val/sums/self_verification"
    assert values[f"{prefix}/accuracy_on_correct"] == pytest.approx(3 / 5)
    assert values[f"{prefix}/accuracy_on_incorrect"] == 1.0
    # What the verdicts cost is measured: each has its tokens, <eos> included.
    lengths = model.last_verifications.rollouts.response_lengths
    assert model.last_rollout.judging_tokens is not None
    assert torch.equal(model.last_rollout.judging_tokens, lengths)
    assert values["val/sums/response/judging_tokens"] == pytest.approx(float(lengths.float().mean()))
    # The best of 4 by the verdict is +aa, and +e or +f.
    assert values["val/sums/best_of@4"] == 1.0


def test_several_verdicts_are_several_scores(tmp_path: Path) -> None:
    model, _ = trained(tmp_path, verification_prompts=TWICE, engine=ScriptedEngine(PAIRS))
    rollout = model.last_rollout
    assert rollout is not None
    assert rollout.scores is not None
    assert rollout.scores.shape == (8, 2)
    assert torch.equal(rollout.scores.mean(dim=1), rollout.self_rewards)
    lengths = model.last_verifications.rollouts.response_lengths
    assert rollout.judging_tokens is not None
    assert torch.equal(rollout.judging_tokens, lengths[0::2] + lengths[1::2])


def test_what_was_kept_without_its_cost_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = trained(tmp_path, verification_prompts=TWICE, engine=ScriptedEngine(PAIRS))
    rollout = model.last_rollout
    assert rollout is not None
    kept = replace(rollout, judging_tokens=None, scores=None)
    monkeypatch.setattr(model.evaluator, "load_or_rollout", lambda *args: kept)
    found = model._solutions_of(list(kept.problems), 0, 0)
    assert found is not None
    assert found.judging_tokens is not None
    assert found.judging_tokens.tolist() == [-1] * 8
    assert found.scores is not None  # as often as was asked
    assert torch.equal(found.scores, kept.self_rewards[:, None].expand(8, 2))


def test_a_rank_without_problems_takes_part_in_both_generations(tmp_path: Path) -> None:
    model, _ = trained(tmp_path)
    engine = model.engine
    assert isinstance(engine, ScriptedEngine)
    engine.collective, engine.calls = True, []
    assert model.solve([], 4, model.sampling, torch.Generator()) is None
    assert [(call[0], call[1]) for call in engine.calls] == [([], 4), ([], 1)]
    model.sampler.verification_prompts = TWICE
    model.solve([], 4, model.sampling, torch.Generator())
    assert [(call[0], call[1]) for call in engine.calls[2:]] == [([], 4), ([], 2)]


def test_a_question_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    shapes = {**TINY, "num_hidden_layers": 1, "max_position_embeddings": 17}
    policy = PolicySettings(EMBEDDED, random_init=True, config_overrides=shapes)
    with pytest.raises(UserError, match=r"A verification prompt of \d+ tokens .* the 17 positions"):
        trained(tmp_path, policy=policy)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UserError, match=r"loss_weight is 0\.1, and RISE trains no self-rewards"):
        rise(self_reward=LastTokenSelfReward("<|reward|>", loss_weight=0.1, reference=-20.0))
    with pytest.raises(UserError, match="sampling_rounds is 2"):
        rise(sampling_rounds=2)
    with pytest.raises(UserError, match=r"GOPDPolicyLoss, in which rewards have no say, and RISE trains"):
        rise(policy_loss=GOPDPolicyLoss(), teacher=tiny_policy())


def test_an_export_does_not_claim_a_score_that_was_not_trained(tmp_path: Path) -> None:
    model, _ = trained(tmp_path)
    write_export(model, dict(model.policy.lm.state_dict()), tmp_path / "export", step=1)
    assert (tmp_path / "export" / "config.json").is_file()
    assert not (tmp_path / "export" / SETTINGS_FILE).exists()


def test_tokens_that_only_verifications_bring_are_refused_before_the_first_step() -> None:
    model = rise(verification_prompts=replace(PROMPTS, template="<new>{problem}|{response}?"))
    model.tokenizer.add_tokens(["<new>"])
    model.configure_model()
    data = PromptDataModule()
    data.set_tokenizer(model.tokenizer)
    data.evaluation_problems = {"sums": [Problem("sums", 3, "1+1=", "1+1=", model.tokenizer.encode("1+1="), "2")]}
    with pytest.raises(UserError, match="verification prompt of row 3 of the set 'sums' contains the token '<new>'"):
        model.check_data(data)
