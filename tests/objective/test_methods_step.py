"""Steps of methods beside LaSeR: neither micro-batches nor ranks change their gradients, in float64."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from laser_lightning import (
    NGRPO,
    AdvantageMixing,
    BetweenWithinTarget,
    DiscrepancyWeighting,
    EMABaseline,
    EqualWeights,
    GroupBalancedWeights,
    HybridTarget,
    LastTokenSelfReward,
    LitePPO,
    MixedGroupWeights,
    ProbeSelfReward,
    Readings,
    RepresentedGroupWeights,
    SelfRewardHead,
    SelfRewardMixing,
    StepContext,
    StepSolutions,
    TwoTokenSelfReward,
)
from laser_lightning.data.problem import Problem
from laser_lightning.losses import ClippedPolicyLoss, solution_weights
from laser_lightning.objective.advantages import AdvantageEstimator, AdvantageSettings, GroupRelative
from laser_lightning.objective.objective import Objective
from laser_lightning.objective.self_reward.solutions import zero_if_truncated
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import Verification

GROUP = 4


class Method(NamedTuple):
    """A combination of parts."""

    estimator: AdvantageEstimator = GroupRelative()
    mixing: AdvantageMixing = SelfRewardMixing(tau=0.3, min_std=1e-3)
    head: Callable[[], SelfRewardHead] = lambda: last_token()


def last_token(**parts: object) -> SelfRewardHead:
    return LastTokenSelfReward("<|reward|>", 0.3, 0.5, -6.0, **parts)  # type: ignore[arg-type]


def credo() -> SelfRewardHead:
    return TwoTokenSelfReward("<|reward|>", "O", 0.5, weights=EqualWeights(), target=HybridTarget())


METHODS = {
    "ngrpo": Method(NGRPO()),
    "lite_ppo": Method(LitePPO()),
    "ema_baseline": Method(EMABaseline()),
    "discrepancy_weighting": Method(mixing=DiscrepancyWeighting(mixing=SelfRewardMixing(tau=0.3, min_std=1e-3))),
    "credo": Method(mixing=DiscrepancyWeighting(mean_over="round"), head=credo),
    "hybrid_target": Method(head=lambda: last_token(target=HybridTarget())),
    "between_within": Method(head=lambda: last_token(weights=EqualWeights(), target=BetweenWithinTarget())),
    "mixed_groups": Method(head=lambda: last_token(weights=MixedGroupWeights())),
    "represented_groups": Method(head=lambda: last_token(weights=RepresentedGroupWeights())),
    "group_balanced": Method(head=lambda: last_token(weights=GroupBalancedWeights())),
    "probe": Method(head=lambda: ProbeSelfReward("<|reward|>", 8, loss_weight=0.5)),
    "probe_into_policy": Method(head=lambda: ProbeSelfReward("<|reward|>", 8, True, 0.5)),
}


class Step:
    """A round of 5 groups of 4, and its optimizer step."""

    def __init__(self, method: Method, policy: Policy, rollouts: Rollouts) -> None:
        self.policy, self.rollouts, self.head = policy, rollouts, method.head()
        self.head.token_ids = (3, 50)[: len(self.head.tokens)]
        self.head.build(policy.hidden_size)
        for parameter in self.head.parameters():
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
        self.all = torch.arange(len(rollouts))
        rewards = torch.randint(0, 2, (len(rollouts),), generator=torch.Generator().manual_seed(5)).float()
        rewards[:GROUP], rewards[GROUP : 2 * GROUP] = 0.0, 1.0
        (batch,) = micro_batches(rollouts, self.all, 10_000, 0)
        with torch.no_grad():
            outputs = policy(batch, self.head.token_ids)
            order = batch.rows.argsort()
            scores = self.head.score(Readings(outputs.reward_token_log_probs[order], outputs.hidden[order]))
        problems = [Problem("train", number, "", "", [1], "", "ab"[number % 2]) for number in range(5)]
        verifications = [Verification(reward, None) for reward in rewards.tolist()]
        self_rewards = zero_if_truncated(scores, rollouts.finished)
        rollout = Rollout(problems, rollouts, [""] * 20, verifications, rewards, None, self_rewards)
        settings, context = AdvantageSettings(method.estimator, method.mixing), StepContext()
        self.advantages = settings.compute_advantages(rollout, context, mixes=True)
        supervision = self.head.supervise(StepSolutions.of(rollout, self.all, context))
        lengths = rollouts.response_lengths
        self.targets = Targets(
            advantages=self.advantages.values,
            rewards=rewards,
            policy_weights=solution_weights(lengths, "token_mean", lengths.sum(), torch.tensor(len(lengths)), 20),
            self_reward_weights=supervision.weights,
            self_reward_targets=supervision.targets,
        )
        self.objective = Objective(ClippedPolicyLoss(), self.head, UpdateSettings())

    def gradient(self, token_budget: int, rows: Tensor | None = None) -> Tensor:
        """The gradient of policy and head, summed over micro-batches."""
        parameters = [*self.policy.lm.parameters(), *self.head.parameters()]
        for parameter in parameters:
            parameter.grad = None
        batches = micro_batches(self.rollouts, self.all if rows is None else rows, token_budget, 0)
        self.batches = len(batches)
        for batch in batches:
            self.objective(self.policy(batch, self.head.token_ids), batch, self.targets).loss.backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        return torch.cat([grad.flatten() for grad in grads]).clone()


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_and_ranks_change_nothing(
    name: str, double_policies: tuple[Policy, Policy], make_rollouts: Callable[..., Rollouts]
) -> None:
    step = Step(METHODS[name], double_policies[0], make_rollouts(prompts=5, group_size=GROUP, seed=2))
    whole = step.gradient(10_000)
    assert step.batches == 1
    assert whole.norm() > 1e-3
    assert step.advantages.values.any()
    for token_budget in (15, 45):
        assert (step.gradient(token_budget) - whole).norm() < 1e-12 * whole.norm()
        assert step.batches > 3
    shares = step.gradient(45, step.all[:7]) + step.gradient(60, step.all[7:])
    assert (shares - whole).norm() < 1e-12 * whole.norm()
