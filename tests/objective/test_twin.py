"""The objective of an optimizer step against a slow twin, and its invariance to how the step is split.

The twin below is written from ALGORITHM.md, steps 2 to 6, and shares nothing with the library: it loops over single
unpadded sequences, takes all logits from transformers' own forward, and does the rest in plain Python arithmetic.

Invariance is tested in float64, where a real dependence cannot hide behind rounding (in float32 the gradients of
these tiny models are rounded to about 3e-6 of their norm).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from laser_lightning.data.problem import Problem
from laser_lightning.losses import (
    Aggregation,
    CISPOPolicyLoss,
    ClippedPolicyLoss,
    GSPOPolicyLoss,
    KLEstimate,
    KLEstimator,
    TruncatedImportance,
    solution_weights,
)
from laser_lightning.objective.advantages import BatchNormalized, GroupRelative, LeaveOneOut, SelfRewardMixing
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.objective import Objective
from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision, zero_if_truncated
from laser_lightning.objective.self_reward.target import SelfRewardTarget
from laser_lightning.objective.self_reward.weights import SelfRewardWeights
from laser_lightning.objective.self_reward.yes_no import YesNoSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.records.rollout import Rollout

Z = 3  # <|reward|>, and z_yes
NO = 50  # z_no
GROUP = 4
TERMS = ("loss", "policy_loss", "self_reward_loss", "kl", "entropy", "clip_fraction")


@dataclass(frozen=True)
class Case:
    """One configuration of the objective."""

    name: str
    policy_loss: Literal["clipped", "gspo", "cispo"] = "clipped"
    estimator: Literal["group_relative", "leave_one_out", "batch_normalized", "batch_normalized_with_baseline"] = (
        "group_relative"
    )
    aggregation: Aggregation = "token_mean"
    divide_by_std: bool = True
    loss_weight: float = 0.0
    class_weights: bool = True
    exact: bool = False
    yes_no: bool = False  # cross-entropy on z_yes and z_no
    pair: bool = False  # squared error of sigmoid(z_yes - z_no) to a hybrid target, in mixed groups alone
    mix: float = 0.0
    min_std: float = 0.32
    kl: KLEstimator | None = None
    entropy_coef: float = 0.0
    temperature: float = 1.0
    off_policy: bool = False
    importance: Literal["none", "token", "sequence"] = "none"
    policy_weight: float = 1.0  # 0: all advantages are 0, which leaves the other terms alone


CASES = [
    Case("grpo"),
    Case("grpo-sequence-mean", aggregation="sequence_mean"),
    Case("dr-grpo-off-policy", divide_by_std=False, off_policy=True, temperature=0.8, aggregation="fixed_length"),
    Case("gspo", policy_loss="gspo", aggregation="sequence_mean"),
    Case("gspo-off-policy", policy_loss="gspo", aggregation="sequence_mean", off_policy=True),
    Case("gspo-token-mean-importance", policy_loss="gspo", off_policy=True, importance="token"),
    Case("cispo", policy_loss="cispo"),
    Case("cispo-off-policy", policy_loss="cispo", off_policy=True, temperature=0.8),
    Case("rloo", estimator="leave_one_out", aggregation="fixed_length"),
    Case("reinforce-pp", estimator="batch_normalized", off_policy=True),
    Case("reinforce-pp-baseline", estimator="batch_normalized_with_baseline", off_policy=True),
    Case("laser-on-reinforce-pp", estimator="batch_normalized", loss_weight=0.5, mix=0.3),
    Case("off-policy-sequence-mean", aggregation="sequence_mean", off_policy=True),
    Case("token-importance", importance="token"),
    Case("sequence-importance-off-policy", importance="sequence", off_policy=True, aggregation="sequence_mean"),
    Case("self-reward-alone", loss_weight=0.7, policy_weight=0.0),
    Case("self-reward-without-class-weights", loss_weight=0.7, class_weights=False, policy_weight=0.0),
    Case("self-reward-exact", loss_weight=0.7, exact=True, policy_weight=0.0, temperature=1.4),
    Case("yes-no-alone", loss_weight=0.7, yes_no=True, policy_weight=0.0, temperature=1.4),
    Case("yes-no-without-class-weights", loss_weight=0.7, yes_no=True, class_weights=False, policy_weight=0.0),
    Case("yes-no-mixed", loss_weight=0.5, yes_no=True, mix=0.3, min_std=1e-3, temperature=0.8, off_policy=True),
    Case("pair-alone", loss_weight=0.7, pair=True, policy_weight=0.0, temperature=1.4),
    Case("pair-mixed", loss_weight=0.5, pair=True, mix=0.3, min_std=1e-3, off_policy=True),
    Case("kl-k1", kl="k1", policy_weight=0.0),
    Case("kl-k2", kl="k2", policy_weight=0.0, temperature=0.8),
    Case("kl-k3", kl="k3", policy_weight=0.0, aggregation="sequence_mean"),
    Case("entropy", entropy_coef=0.3, policy_weight=0.0, temperature=0.8),
    Case("laser", loss_weight=0.5),
    Case("laser-mixed", loss_weight=0.5, mix=0.3, temperature=0.8),
    Case(
        "everything",
        loss_weight=0.5,
        exact=True,
        mix=0.3,
        kl="k3",
        entropy_coef=0.1,
        temperature=0.8,
        off_policy=True,
    ),
    Case(
        "everything-sequence-mean",
        aggregation="sequence_mean",
        loss_weight=0.5,
        mix=0.3,
        kl="k2",
        entropy_coef=0.1,
        temperature=1.2,
        off_policy=True,
        importance="token",
    ),
]
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
BETA, CONSTANT, KL_COEF, CLIP_LOW, CLIP_HIGH = 0.3, -6.0, 0.2, 0.2, 0.28
CAP = 1.3
LIMIT = 20  # of response tokens


class Solution(NamedTuple):
    """One solution as the twin sees it."""

    group: int
    prompt: list[int]
    response: list[int]
    finished: bool
    reward: float
    old: list[float]  # log-probs of the response's tokens under the policy that the update started from
    sampled: list[float]  # and those that the engine reported


# --------------------------------------------------------------- the slow twin


def twin_std(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def twin_normalised(values: list[float], everyone: list[float], case: Case) -> list[float]:
    """Step 2: distances from the group's mean, in sample standard deviations, or what another estimator says.

    ``everyone`` are the values of all groups of the step, or for a baseline their distances from their group's mean.
    """
    if case.estimator == "leave_one_out":
        return [value - (sum(values) - value) / (len(values) - 1) for value in values]
    if case.estimator == "batch_normalized":
        return [(value - sum(everyone) / len(everyone)) / (twin_std(everyone) + 1e-6) for value in values]
    mean = sum(values) / len(values)
    if all(value == values[0] for value in values):
        return [0.0 for _ in values]
    if case.estimator == "batch_normalized_with_baseline":
        return [(value - mean) / (twin_std(everyone) + 1e-6) for value in values]
    if not case.divide_by_std:
        return [value - mean for value in values]
    return [(value - mean) / (twin_std(values) + 1e-6) for value in values]


def twin_everyone(values: list[float], case: Case) -> list[float]:
    if case.estimator != "batch_normalized_with_baseline":
        return values
    groups = [values[start : start + GROUP] for start in range(0, len(values), GROUP)]
    return [value - sum(group) / GROUP for group in groups for value in group]


def twin_objective(
    lm: PreTrainedModel, reference: PreTrainedModel, solutions: list[Solution], case: Case, plain_pass: Callable
) -> dict[str, Tensor]:
    """Steps 2 to 6 for all solutions of an optimizer step, one sequence at a time."""
    passes = [plain_pass(lm, s.prompt, s.response, case.temperature) for s in solutions]
    with torch.no_grad():
        reference_passes = [plain_pass(reference, s.prompt, s.response, case.temperature) for s in solutions]
    scores = []
    for this, of_reference in zip(passes, reference_passes, strict=True):
        c_ref = float(of_reference.after_last[Z]) if case.exact else CONSTANT
        if case.pair:
            scores.append(1 / (1 + torch.exp(this.after_last[NO] - this.after_last[Z])))
        else:
            scores.append(torch.exp(this.after_last[Z]) if case.yes_no else BETA * (this.after_last[Z] - c_ref))

    clamped_scores = [
        min(1.0, max(0.0, float(z))) if s.finished else 0.0 for z, s in zip(scores, solutions, strict=True)
    ]
    everyone = twin_everyone([solution.reward for solution in solutions], case)
    every_score = twin_everyone(clamped_scores, case)
    advantages: list[float] = []
    for group in range(solutions[-1].group + 1):
        members = [i for i, solution in enumerate(solutions) if solution.group == group]
        by_verifier = twin_normalised([solutions[i].reward for i in members], everyone, case)
        clamped = [clamped_scores[i] for i in members]
        by_self = twin_normalised(clamped, every_score, case)
        if case.mix > 0 and twin_std(clamped) > case.min_std:
            advantages += [(1 - case.mix) * v + case.mix * s for v, s in zip(by_verifier, by_self, strict=True)]
        else:
            advantages += by_verifier
    advantages = [case.policy_weight * advantage for advantage in advantages]

    policy_loss = kl = entropy = torch.zeros(())
    clip_fraction, tokens = 0.0, sum(len(solution.response) for solution in solutions)
    for solution, advantage, this, of_reference in zip(solutions, advantages, passes, reference_passes, strict=True):
        length = len(solution.response)
        share = {
            "token_mean": 1 / tokens,
            "sequence_mean": 1 / (length * len(solutions)),
            "fixed_length": 1 / (LIMIT * len(solutions)),
        }[case.aggregation]
        olds = solution.old if case.off_policy else this.log_probs.tolist()
        differences = [old - sampled for old, sampled in zip(olds, solution.sampled, strict=True)]
        for t in range(length):
            old = olds[t]
            ratio = torch.exp(this.log_probs[t] - old)
            if case.policy_loss == "gspo":  # the geometric mean of the solution's ratios
                ratio = torch.exp((this.log_probs.sum() - sum(olds)) / length)
            bounded = min(max(float(ratio), 1 - CLIP_LOW), 1 + CLIP_HIGH)
            weight = {"none": 1.0, "token": math.exp(differences[t]), "sequence": math.exp(sum(differences))}
            importance = min(weight[case.importance], CAP if case.importance != "none" else 1.0)
            if case.policy_loss == "cispo":
                policy_loss = policy_loss - share * importance * bounded * advantage * this.log_probs[t]
                clip_fraction += share * (bounded != float(ratio))
            elif bounded * advantage < float(ratio) * advantage:
                policy_loss = policy_loss - share * importance * bounded * advantage
                clip_fraction += share
            else:
                policy_loss = policy_loss - share * importance * ratio * advantage
            log_ratio = this.log_probs[t] - float(of_reference.log_probs[t])
            if case.kl == "k1":
                kl = kl + share * log_ratio
            elif case.kl == "k2":
                kl = kl + share * log_ratio**2 / 2
            elif case.kl == "k3":
                kl = kl + share * (torch.exp(-log_ratio) - 1 + log_ratio)
            if case.entropy_coef:
                entropy = entropy + share * this.entropies[t]

    self_reward_loss = torch.zeros(())
    if case.loss_weight:
        groups = [[s.reward for s in solutions[start : start + GROUP]] for start in range(0, len(solutions), GROUP)]
        finished = [i for i, solution in enumerate(solutions) if solution.finished]
        if case.pair:
            finished = [i for i in finished if len(set(groups[solutions[i].group])) > 1]
        correct = sum(solutions[i].reward > 0.5 for i in finished)
        for i in finished:
            own_class = correct if solutions[i].reward > 0.5 else len(finished) - correct
            weight = len(finished) / (2 * own_class) if case.class_weights and not case.pair else 1.0
            error = (scores[i] - solutions[i].reward) ** 2
            if case.pair:
                mean = sum(groups[solutions[i].group]) / GROUP
                error = (scores[i] - 0.25 * solutions[i].reward - 0.75 * mean) ** 2
            if case.yes_no:
                error = -passes[i].after_last[Z if solutions[i].reward > 0.5 else NO]
            self_reward_loss = self_reward_loss + weight * error / len(finished)

    loss = policy_loss + case.loss_weight * self_reward_loss + KL_COEF * kl - case.entropy_coef * entropy
    values = (loss, policy_loss, self_reward_loss, kl, entropy, torch.tensor(clip_fraction))
    return dict(zip(TERMS, values, strict=True))


# ---------------------------------------------------------- the library's step


class PairSelfReward(SelfRewardHead):
    """The confidence of two tokens, and its squared error."""

    def score(self, readings: Readings) -> Tensor:
        return (readings.log_probs[:, 0] - readings.log_probs[:, 1]).sigmoid()

    def loss(self, readings: Readings, supervision: Supervision) -> Tensor:
        return (supervision.weights * (self.score(readings) - supervision.targets).square()).sum()


class Hybrid(SelfRewardTarget):
    """A quarter of the solution's reward, and three of its group's mean."""

    def aim(self, solutions: StepSolutions) -> Tensor:
        return 0.25 * solutions.rewards + 0.75 * solutions.rewards.mean(dim=1, keepdim=True)


class MixedGroups(SelfRewardWeights):
    """Equal weights in groups whose rewards differ."""

    def weigh(self, solutions: StepSolutions) -> Tensor:
        kept = solutions.finished & (solutions.rewards != solutions.rewards[:, :1]).any(dim=1, keepdim=True)
        return kept / solutions.context.ranks.sum(kept.sum())


class Step:
    """A rollout round of 5 groups of 4, and its optimizer step composed from the library's parts."""

    def __init__(self, case: Case, policy: Policy, reference: Policy, rollouts: Rollouts) -> None:
        self.case, self.policy, self.reference, self.rollouts = case, policy, reference, rollouts
        generator = torch.Generator().manual_seed(5)
        self.rewards = torch.randint(0, 2, (len(rollouts),), generator=generator).float()
        self.rewards[:GROUP] = 0.0  # one group without a correct solution, and one without an incorrect one
        self.rewards[GROUP : 2 * GROUP] = 1.0
        self.rewards[-1] = 0.7  # rewards may be any real number
        self.all = torch.arange(len(rollouts))
        log_probs, scores = self.no_grad_pass(policy)
        rollouts.reward_token_log_probs = scores.where(rollouts.finished[:, None], torch.nan)
        # An older policy: most ratios differ from 1, and many leave the bounds.
        self.old = log_probs + 0.4 * torch.randn(log_probs.shape, generator=generator)
        rollouts.sampling_log_probs = log_probs + 0.2 * torch.randn(log_probs.shape, generator=generator)
        self.reference_log_probs, self.reference_scores = self.no_grad_pass(reference)
        self.settings = UpdateSettings(
            aggregation=case.aggregation,
            kl_coef=0.0 if case.kl is None else KL_COEF,
            kl=KLEstimate(case.kl or "k3"),
            entropy_coef=case.entropy_coef,
            importance=None if case.importance == "none" else TruncatedImportance(case.importance, CAP),
        )
        self.self_reward: SelfRewardHead = LastTokenSelfReward(
            "<|reward|>", BETA, case.loss_weight, "exact" if case.exact else CONSTANT, case.class_weights
        )
        self.self_reward.token_ids = (Z,)
        if case.yes_no:
            self.self_reward = YesNoSelfReward("<|reward|>", "O", case.loss_weight, case.class_weights)
            self.self_reward.token_ids = (Z, NO)
        if case.pair:
            self.self_reward = PairSelfReward(
                {"yes": "<|reward|>", "no": "O"}, case.loss_weight, weights=MixedGroups(), target=Hybrid()
            )
            self.self_reward.token_ids = (Z, NO)
        losses = {"clipped": ClippedPolicyLoss, "gspo": GSPOPolicyLoss, "cispo": CISPOPolicyLoss}
        policy_loss = losses[case.policy_loss](CLIP_LOW, CLIP_HIGH)
        self.objective = Objective(policy_loss, self.self_reward, self.settings)

    @torch.no_grad()
    def no_grad_pass(self, model: Policy) -> tuple[Tensor, Tensor]:
        (batch,) = micro_batches(self.rollouts, self.all, 10_000, 0)
        outputs = model(batch, (Z, NO) if self.case.pair else (Z,), self.case.temperature)
        order = batch.rows.argsort()
        return outputs.log_probs[order], outputs.reward_token_log_probs[order]

    def targets(self) -> tuple[Targets, Tensor]:
        """What LaSeRModule fixes before the first backward pass; and which groups are mixed."""
        rollouts, case = self.rollouts, self.case
        references = self.reference_scores if case.exact else None
        scores = self.self_reward.score(Readings(rollouts.reward_token_log_probs, references=references))
        self_rewards = zero_if_truncated(scores, rollouts.finished).view(-1, GROUP)
        problems = [Problem("train", 0, "", "", [], "")] * (len(rollouts) // GROUP)
        rollout = Rollout(problems, rollouts, [], [], self.rewards, references, self_rewards.flatten())
        estimator = {
            "group_relative": GroupRelative(case.divide_by_std),
            "leave_one_out": LeaveOneOut(),
            "batch_normalized": BatchNormalized(),
            "batch_normalized_with_baseline": BatchNormalized(baseline=True),
        }[case.estimator]
        advantages, is_mixed = SelfRewardMixing(case.mix, case.min_std)(
            self.rewards.view(-1, GROUP),
            self_rewards,
            lambda values: estimator(values, rollout, StepContext()),
            rollout,
            StepContext(),
        )
        supervision = self.self_reward.supervise(StepSolutions.of(rollout, self.all, StepContext()))
        lengths = rollouts.response_lengths
        targets = Targets(
            advantages=case.policy_weight * advantages,
            rewards=self.rewards,
            policy_weights=solution_weights(
                lengths, case.aggregation, lengths.sum(), torch.tensor(len(lengths)), LIMIT
            ),
            self_reward_weights=supervision.weights,
            self_reward_targets=supervision.targets,
            references=references,
            old_log_probs=self.old if case.off_policy else None,
            reference_log_probs=self.reference_log_probs if case.kl else None,
            sampling_log_probs=None if case.importance == "none" else rollouts.sampling_log_probs,
        )
        return targets, is_mixed

    def run(
        self, token_budget: int = 10_000, rows: Tensor | None = None, pad: int = 0
    ) -> tuple[dict[str, float], Tensor]:
        """Terms and gradient of the rows' share of the step, summed over micro-batches."""
        targets, _ = self.targets()
        self.policy.zero_grad()
        terms = dict.fromkeys(TERMS, 0.0)
        batches = micro_batches(self.rollouts, self.all if rows is None else rows, token_budget, pad)
        self.batches = len(batches)
        for batch in batches:
            token_ids = self.self_reward.token_ids
            outputs = self.policy(batch, token_ids, self.case.temperature, self.settings.entropy_coef > 0)
            parts = self.objective(outputs, batch, targets)
            parts.loss.backward()
            for name in TERMS:
                terms[name] += getattr(parts, name).item()
        return terms, flat_gradient(self.policy)

    def solutions(self) -> list[Solution]:
        """The same round for the twin."""
        rollouts, solutions = self.rollouts, []
        for i, response in enumerate(rollouts.responses()):
            prompt = rollouts.prompt_ids[i // GROUP, : int(rollouts.prompt_lengths[i // GROUP])].tolist()
            old = self.old[i, : len(response)].tolist()
            finished, reward = bool(rollouts.finished[i]), float(self.rewards[i])
            sampled = rollouts.sampling_log_probs[i, : len(response)].tolist()
            solutions.append(Solution(i // GROUP, prompt, response, finished, reward, old, sampled))
        return solutions


def one_rank(values: Tensor) -> Tensor:
    """The sum over the ranks of a single process."""
    return values


def flat_gradient(policy: Policy) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in policy.lm.parameters()]
    ).clone()


def difference(gradient: Tensor, expected: Tensor) -> float:
    """Distance of two gradients relative to the norm of the second."""
    return float((gradient - expected).norm() / expected.norm())


@pytest.fixture
def make_step(
    make_policy: Callable[..., Policy], make_rollouts: Callable[..., Rollouts], reference_dir: Path
) -> Callable[[Case], Step]:
    """Steps of a Qwen2 in float32."""

    def make(case: Case) -> Step:
        rollouts = make_rollouts(prompts=5, group_size=GROUP, seed=2)
        return Step(case, make_policy(), make_policy(reference_dir), rollouts)

    return make


@pytest.fixture
def make_double_step(
    make_rollouts: Callable[..., Rollouts], double_policies: tuple[Policy, Policy]
) -> Callable[[Case], Step]:
    """Steps of a GPT-2 in float64."""
    return lambda case: Step(case, *double_policies, make_rollouts(prompts=5, group_size=GROUP, seed=2))


def check_terms(terms: dict[str, float], expected: dict[str, float], tolerance: float) -> None:
    for name in TERMS:
        close = 1e-6 if name == "clip_fraction" else tolerance  # a sum in float32
        assert terms[name] == pytest.approx(expected[name], rel=close, abs=close), name


def check_against_twin(step: Step, plain_pass: Callable, tolerance: float) -> None:
    solutions = step.solutions()
    assert {solution.finished for solution in solutions} == {True, False}
    assert {solution.finished for solution in solutions if solution.reward > 0.5} == {True, False}
    terms, gradient = step.run(token_budget=40)
    assert step.batches > 5
    step.policy.zero_grad()
    expected = twin_objective(step.policy.lm, step.reference.lm, solutions, step.case, plain_pass)
    expected["loss"].backward()
    assert difference(gradient, flat_gradient(step.policy)) < tolerance
    check_terms(terms, {name: float(value.detach()) for name, value in expected.items()}, tolerance)


@EACH_CASE
def test_the_step_equals_its_slow_twin(case: Case, make_step: Callable[[Case], Step], plain_pass: Callable) -> None:
    check_against_twin(make_step(case), plain_pass, tolerance=1e-5)


@EACH_CASE
def test_the_step_equals_its_slow_twin_in_float64(
    case: Case, make_double_step: Callable[[Case], Step], plain_pass: Callable
) -> None:
    # Advantages, weights and scores are float32 in the library, whatever the model.
    check_against_twin(make_double_step(case), plain_pass, tolerance=5e-7)


@EACH_CASE
def test_the_step_does_not_depend_on_its_micro_batches(case: Case, make_double_step: Callable[[Case], Step]) -> None:
    step = make_double_step(case)
    whole_terms, whole = step.run()
    assert step.batches == 1
    assert whole.norm() > 1e-3
    counts = []
    for token_budget, pad in ((15, 0), (45, 77), (130, 1)):
        terms, gradient = step.run(token_budget, pad=pad)
        counts.append(step.batches)
        assert difference(gradient, whole) < 1e-12
        check_terms(terms, whole_terms, 1e-12)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] > 1


@EACH_CASE
@pytest.mark.parametrize("first", [3, 10])
def test_the_shares_of_two_ranks_add_up(case: Case, first: int, make_double_step: Callable[[Case], Step]) -> None:
    step = make_double_step(case)
    whole_terms, whole = step.run()
    terms, gradient = step.run(rows=step.all[:first])
    other_terms, other = step.run(token_budget=60, rows=step.all[first:])
    assert difference(gradient + other, whole) < 1e-12
    check_terms({name: terms[name] + other_terms[name] for name in TERMS}, whole_terms, 1e-12)


@EACH_CASE
def test_rows_that_do_not_contribute_have_no_gradient(case: Case, make_double_step: Callable[[Case], Step]) -> None:
    step = make_double_step(case)
    targets, _ = step.targets()
    contributing = step.objective.has_gradient(targets)
    _, whole = step.run()
    _, gradient = step.run(rows=step.all[contributing])
    assert difference(gradient, whole) < 1e-12
    if not contributing.all():
        _, nothing = step.run(rows=step.all[~contributing])
        assert not nothing.any()


def test_which_rows_contribute(make_step: Callable[[Case], Step]) -> None:
    def contributing(case: Case) -> tuple[list[bool], Step]:
        step = make_step(case)
        targets, _ = step.targets()
        return step.objective.has_gradient(targets).tolist(), step

    # The first two groups are unanimous; the others have a reward of each kind.
    rows, step = contributing(Case("grpo"))
    assert rows == [False] * 8 + [True] * 12
    rows, step = contributing(Case("laser", loss_weight=0.5))
    assert rows[:8] == step.rollouts.finished[:8].tolist()
    assert rows[8:] == [True] * 12
    assert contributing(Case("kl", kl="k3"))[0] == [True] * 20
    assert contributing(Case("entropy", entropy_coef=0.1))[0] == [True] * 20


def test_the_round_has_groups_of_every_kind(make_step: Callable[[Case], Step]) -> None:
    """What the cases above rest on: mixed and unmixed groups, and clipped tokens on both sides."""
    step = make_step(next(case for case in CASES if case.name == "everything"))
    _, is_mixed = step.targets()
    assert {True, False} == set(is_mixed.tolist())
    assert 0.05 < step.run()[0]["clip_fraction"] < 0.9
