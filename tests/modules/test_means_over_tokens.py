"""Diagnostics of a policy loss are means over the tokens that go through the policy, by hand."""

import pytest
import torch
from torch import Tensor

from laser_lightning.distributed.parts import StepParts
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.modules.training_log import TrainingLog, UpdateSums
from laser_lightning.objective.losses import ClippedPolicyLoss, solution_weights
from laser_lightning.objective.losses.policy_loss import PolicyTokens, TokenLosses
from laser_lightning.objective.objective import LossTerms, Objective
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import Rollouts, micro_batches

LENGTHS = torch.tensor([3, 2, 5])
ADVANTAGES = torch.tensor([1.5, -0.5, 0.0])  # the third solution has no gradient
# Ratios 1.221403, 0.606531, 1.284025 and 0.606531, 1.284025. Within 0.2 of 1 the first and the third of the first
# solution are cut, whose advantage is positive, and the first of the second: 3 tokens of 5.
LOG_RATIOS = torch.tensor([[0.2, -0.5, 0.25, 0.0, 0.0], [-0.5, 0.25, 0.0, 0.0, 0.0], [9.0] * 5])
MEAN_RATIO = (1.221403 + 0.606531 + 1.284025 + 0.606531 + 1.284025) / 5


class Telling(ClippedPolicyLoss):
    """Tells the ratios."""

    diagnostic_names = ("ratio",)

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        ratios = (tokens.log_probs - tokens.old_log_probs).detach().exp()
        return super().__call__(tokens)._replace(diagnostics=(ratios,))


def three_solutions() -> Rollouts:
    """Solutions of 3, 2 and 5 tokens to one problem."""
    return Rollouts(
        prompt_ids=torch.tensor([[5, 4]]),
        prompt_lengths=torch.tensor([2]),
        response_ids=torch.full((3, 5), 6),
        response_lengths=LENGTHS,
        finished=torch.tensor([True] * 3),
        sampling_log_probs=torch.zeros(3, 5),
        reward_token_log_probs=torch.full((3, 1), -3.0),
    )


def targets_of(aggregation: str) -> Targets:
    weights = solution_weights(LENGTHS, aggregation, LENGTHS.sum(), torch.tensor(3), 10)  # type: ignore[arg-type]
    zeros = torch.zeros(3)
    return Targets(
        advantages=ADVANTAGES,
        rewards=zeros,
        policy_weights=weights,
        self_reward_weights=zeros,
        self_reward_targets=zeros,
        old_log_probs=-LOG_RATIOS,  # the policy's are 0
    )


def logged(objective: Objective, targets: Targets, shares: list[Tensor], budget: int) -> dict[str, float]:
    """What a step logs whose solutions lie on so many ranks, in micro-batches of a token budget."""
    of_ranks = []
    for rows in shares:
        parts = []
        for batch in micro_batches(three_solutions(), rows, budget, 0):
            zeros = torch.zeros(len(batch.rows), batch.loss_mask.shape[1])
            parts.append(objective(PolicyOutputs(zeros, zeros, torch.zeros(len(zeros), 1)), batch, targets))
        # A pass that only keeps others company, as ranks with fewer micro-batches have, changes nothing.
        of_ranks.append(sum(parts[1:], start=parts[0]) + parts[0].weighted(0.0))
    log = TrainingLog(AllOf(of_ranks), StepParts())
    log.add_update(UpdateSums(of_ranks[0], None), 1.0, objective)
    return log.update_values()


class AllOf(Ranks):
    """The first of several processes, whose terms are given."""

    def __init__(self, terms: list[LossTerms]) -> None:
        super().__init__()
        self.terms = terms

    def stack(self, values: Tensor) -> Tensor:
        rows = [torch.cat([value.double().flatten() for value in one.values()]) for one in self.terms]
        assert torch.equal(rows[0], values)
        return torch.stack(rows)


@pytest.mark.parametrize("budget", [100, 6])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("aggregation", "clipped"),
    [
        ("token_mean", 3 / 5),
        # Tokens weigh 1/9 and 1/6: (2/9 + 1/6) / (3/9 + 2/6)
        ("sequence_mean", 7 / 12),
        ("fixed_length", 3 / 5),
    ],
)
def test_what_an_update_leaves_out_is_in_no_mean(aggregation: str, clipped: float, ranks: int, budget: int) -> None:
    objective = Objective(Telling(), LastTokenSelfReward("<|reward|>", loss_weight=0.0), UpdateSettings())
    targets = targets_of(aggregation)
    needed = objective.has_gradient(targets).nonzero().flatten()
    assert needed.tolist() == [0, 1]
    values = logged(objective, targets, list(needed.chunk(ranks)), budget)
    assert values["train/clip_fraction"] == pytest.approx(clipped, abs=1e-6)
    if aggregation != "sequence_mean":
        assert values["train/ratio"] == pytest.approx(MEAN_RATIO, abs=1e-6)
    if aggregation == "token_mean":
        # The loss itself is a mean over all 10 tokens: -(1.5 * (1.2 + 0.606531 + 1.2) - 0.5 * (0.8 + 1.284025)) / 10
        assert values["train/policy_loss"] == pytest.approx(-0.3467784, abs=1e-6)


def test_a_solution_that_is_seen_for_another_reason_counts() -> None:
    objective = Objective(Telling(), LastTokenSelfReward("<|reward|>", loss_weight=0.0), UpdateSettings())
    values = logged(objective, targets_of("token_mean"), [torch.arange(3)], 100)
    assert values["train/clip_fraction"] == pytest.approx(3 / 10, abs=1e-6)
