"""A response whose middle others wrote (a tool's answer, say): no loss, divergence or hold looks at these tokens."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning import losses
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.losses import (
    CISPOPolicyLoss,
    ClippedPolicyLoss,
    GOPDPolicyLoss,
    GSPOPolicyLoss,
    KLDivergence,
    KLEstimate,
    LpRegPolicyLoss,
    MaskedImportance,
    MirrorDescentPolicyLoss,
    NoImportance,
    PolicyLoss,
    ROVERPolicyLoss,
    SSPOPolicyLoss,
    TopKDistillation,
    TruncatedImportance,
    solution_weights,
)
from laser_lightning.modules.training_log import Mismatch
from laser_lightning.objective.judging import hold as holds
from laser_lightning.objective.judging.held_round import HeldRound
from laser_lightning.objective.judging.hold import KLHold, PolicyHold, SampledCrossEntropy
from laser_lightning.objective.losses.importance import ImportanceCorrection
from laser_lightning.objective.objective import Objective
from laser_lightning.objective.router import RouterAuxLoss
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.objective.term import LossTerm
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch, Rollouts, concat_solutions, micro_batches
from laser_lightning.records.rollout import Rollout

PLAIN = LastTokenSelfReward("<|reward|>", beta=0.5, loss_weight=0.0, reference=-4.0)
MASK = torch.tensor([[True, True, False, False, True], [True, False, True, True, True]])
LENGTHS = torch.tensor([5, 4])
Share = Callable[[PolicyOutputs, MicroBatch, Targets], Tensor]

POLICY_LOSSES: list[PolicyLoss] = [
    ClippedPolicyLoss(),
    CISPOPolicyLoss(),
    GSPOPolicyLoss(),
    MirrorDescentPolicyLoss(),
    GOPDPolicyLoss(),
]
OF_READINGS = {LpRegPolicyLoss, ROVERPolicyLoss, TopKDistillation, SSPOPolicyLoss}
"""Losses that read more than log-probs and entropies, which the outputs here do not have."""
CORRECTIONS: list[ImportanceCorrection] = [
    TruncatedImportance("token"),
    TruncatedImportance("sequence"),
    MaskedImportance("token"),
    NoImportance(),
]
DIVERGENCES: list[KLDivergence] = [KLEstimate(estimator) for estimator in ("k1", "k2", "k3")]  # type: ignore[arg-type]
HOLDS: list[PolicyHold] = [SampledCrossEntropy(), KLHold(estimator="k2"), KLHold(estimator="k3")]
TERMS: list[LossTerm] = [RouterAuxLoss()]


PLAIN_LOSS = ClippedPolicyLoss()


def loss_of(policy_loss: PolicyLoss = PLAIN_LOSS, **settings: Any) -> Share:
    objective = Objective(policy_loss, PLAIN, UpdateSettings(**settings))

    def share(outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Tensor:
        if objective.settings.importance is None:  # targets then have none of the engine's
            targets = replace(targets, sampling_log_probs=None)
        return objective(outputs, batch, targets).loss

    return share


def shares() -> Iterator[Any]:
    """Everything that makes a loss of a micro-batch, by name."""
    for policy_loss in POLICY_LOSSES:
        yield pytest.param(loss_of(policy_loss), id=type(policy_loss).__name__)
        for correction in CORRECTIONS:
            name = f"{type(policy_loss).__name__} with {vars(correction).get('level', 'no')} weights"
            yield pytest.param(loss_of(policy_loss, importance=correction), id=name)
    for divergence in DIVERGENCES:
        yield pytest.param(loss_of(kl_coef=0.3, kl=divergence), id=f"KL {vars(divergence)['estimator']}")
    yield pytest.param(loss_of(entropy_coef=0.2), id="entropy")
    for term in TERMS:
        yield pytest.param(term, id=type(term).__name__)
    for hold in HOLDS:
        yield pytest.param(hold, id=f"{type(hold).__name__} {vars(hold).get('_divergence', '')}".split(" <")[0])


def rollouts_of(mask: Tensor | None) -> Rollouts:
    torch.manual_seed(0)
    return Rollouts(
        prompt_ids=torch.tensor([[5, 4]]),
        prompt_lengths=torch.tensor([2]),
        response_ids=torch.randint(9, 90, (2, 5)),
        response_lengths=LENGTHS,
        finished=torch.tensor([True, True]),
        sampling_log_probs=-2 * torch.rand(2, 5),
        reward_token_log_probs=torch.tensor([[-3.0], [-2.0]]),
        loss_mask=mask,
    )


def targets_of(rollouts: Rollouts, aggregation: Any = "token_mean") -> Targets:
    torch.manual_seed(1)
    lengths = rollouts.trained_mask.sum(dim=1)
    weights = solution_weights(lengths, aggregation, lengths.sum(), torch.tensor(2), 5)
    drawn = [rollouts.sampling_log_probs + 0.3 * torch.randn(2, 5) for _ in range(3)]
    nothing = torch.zeros(2)
    return Targets(
        torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]), weights, nothing, nothing, None, drawn[0], drawn[1],
        rollouts.sampling_log_probs, drawn[2],
    )  # fmt: skip


def differentiate(share: Share, rollouts: Rollouts, targets: Targets, spoil: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients by log-probs and entropies [2, 5], where ``spoil`` [2, 5] is added to what the update
    knows of each token."""
    torch.manual_seed(2)
    log_probs = (rollouts.sampling_log_probs.nan_to_num() + 0.2 * torch.randn(2, 5)).requires_grad_()
    entropy = torch.rand(2, 5).requires_grad_()
    (batch,) = micro_batches(rollouts, torch.arange(2), 100, 0)
    order = batch.rows
    outputs = PolicyOutputs(
        log_probs[order] + spoil[order].clamp(-9, 9),
        entropy[order] + spoil[order].clamp(-9, 9),
        torch.zeros(2, 1),
        router_balance=torch.ones(2),
    )
    known = {
        name: getattr(targets, name) + spoil
        for name in ("old_log_probs", "reference_log_probs", "sampling_log_probs", "teacher_log_probs")
    }
    loss = share(outputs, batch, replace(targets, **known))
    loss.sum().backward() if loss.requires_grad else None
    zeros = torch.zeros(2, 5)
    return loss.detach(), *(zeros if leaf.grad is None else leaf.grad for leaf in (log_probs, entropy))


@pytest.mark.parametrize("share", list(shares()))
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "fixed_length"])
def test_what_others_wrote_is_in_no_loss(share: Share, aggregation: str) -> None:
    rollouts = rollouts_of(MASK)
    targets = targets_of(rollouts, aggregation)
    others = ~rollouts.trained_mask
    nothing = torch.zeros(2, 5)
    loss, by_log_probs, by_entropy = differentiate(share, rollouts, targets, nothing)
    for gradient in (by_log_probs, by_entropy):
        assert not gradient[others].any()
    # Whatever is known of these tokens, the loss and its gradient are the same.
    for size in (1.0, -3.0, 50.0):
        again = differentiate(share, rollouts, targets, nothing.masked_fill(others, size))
        assert torch.equal(again[0], loss)
        assert torch.equal(again[1], by_log_probs)
        assert torch.equal(again[2], by_entropy)
    # With these tokens trained on, it is another one: the mask is what makes the difference.
    whole = rollouts_of(None)
    assert not torch.equal(differentiate(share, whole, targets_of(whole, aggregation), nothing)[0], loss) or (
        isinstance(share, RouterAuxLoss)
    )


@pytest.mark.parametrize("share", list(shares()))
def test_it_is_the_loss_of_the_other_tokens_alone(share: Share) -> None:
    """The same record without the places that others wrote, which are cut out of every tensor."""
    rollouts = rollouts_of(MASK)
    targets = targets_of(rollouts)
    width = 4

    def cut(values: Tensor) -> Tensor:
        rows = [row[kept] for row, kept in zip(values, rollouts.trained_mask, strict=True)]
        return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])

    short = replace(
        rollouts,
        response_ids=cut(rollouts.response_ids),
        response_lengths=rollouts.trained_mask.sum(dim=1),
        sampling_log_probs=cut(rollouts.sampling_log_probs),
        loss_mask=None,
    )
    names = ("old_log_probs", "reference_log_probs", "sampling_log_probs", "teacher_log_probs")
    of_short = replace(targets, **{name: cut(getattr(targets, name)) for name in names})
    found = []
    for record, known, prepare in ((rollouts, targets, lambda values: values), (short, of_short, cut)):
        torch.manual_seed(3)
        log_probs, entropy = (torch.rand(2, 5) - 2 for _ in range(2))
        (batch,) = micro_batches(record, torch.arange(2), 100, 0)
        size = batch.loss_mask.shape[1]
        of_batch = [prepare(values)[batch.rows, :size] for values in (log_probs, entropy)]
        outputs = PolicyOutputs(*of_batch, torch.zeros(2, 1), router_balance=torch.ones(2))
        found.append(share(outputs, batch, known))
    torch.testing.assert_close(*found)


def test_every_loss_is_here() -> None:
    def public(module: Any, kind: type) -> set[type]:
        values = (value for value in vars(module).values() if isinstance(value, type))
        return {value for value in values if issubclass(value, kind) and value is not kind}

    for module, kind, here in (
        (losses, ImportanceCorrection, CORRECTIONS),
        (losses, KLDivergence, DIVERGENCES),
        (holds, PolicyHold, HOLDS),
    ):
        assert public(module, kind) == {type(one) for one in here}
    assert public(losses, PolicyLoss) == {type(one) for one in POLICY_LOSSES} | OF_READINGS


# ------------------------------------------------------- the mask on its way there


def test_the_mismatch_is_that_of_the_tokens_that_the_engine_sampled() -> None:
    rollouts = rollouts_of(MASK)
    (batch,) = micro_batches(rollouts, torch.arange(2), 100, 0)
    outputs = PolicyOutputs(rollouts.sampling_log_probs[batch.rows] - 0.5, torch.zeros(2, 5), torch.zeros(2, 1))
    outputs.log_probs[~rollouts.trained_mask[batch.rows]] = 99.0
    found = Mismatch.between(outputs, batch, rollouts)
    # Three tokens of each: of the second one the fifth place is padding.
    assert float(found.tokens) == pytest.approx(6 * 0.5, abs=1e-5)
    assert int(found.compared_tokens) == 6


def test_rounds_with_and_without_a_mask_are_joined() -> None:
    both = concat_solutions([rollouts_of(MASK), rollouts_of(None)])
    assert both.trained_mask.sum(dim=1).tolist() == [3, 3, 5, 4]


def test_the_replay_buffer_keeps_the_mask() -> None:
    rollouts = rollouts_of(MASK)
    nothing: list[Any] = []
    rollout = Rollout(nothing, rollouts, ["", ""], nothing, torch.zeros(2), None, torch.zeros(2))
    rollout = replace(rollout, problems=[None], verifications=[None, None])  # type: ignore[list-item]
    held = HeldRound.of(0, rollout)
    again = held.groups(torch.tensor([0]), torch.device("cpu")).rollouts
    assert torch.equal(again.trained_mask, rollouts.trained_mask)


def test_one_rank_has_a_mask_and_another_has_none() -> None:
    from laser_lightning.distributed.balancing import balance_ranks

    class OtherHasOne(Ranks):
        """A process alone, that is told of a mask elsewhere."""

        def max(self, number: int) -> int:
            return max(number, 1)

    rollouts = rollouts_of(None)
    balanced, _, rows = balance_ranks(rollouts, targets_of(rollouts), torch.arange(2), OtherHasOne())
    assert rows.tolist() == [0, 1]
    assert balanced.loss_mask is not None  # so that all exchange the same tensors
    assert torch.equal(balanced.trained_mask, rollouts.trained_mask)
