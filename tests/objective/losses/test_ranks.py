"""An optimizer step of each loss on two ranks with unequal rounds, in small micro-batches: that of one rank."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields
from typing import NamedTuple

import pytest
import torch
from thread_ranks import ThreadRanks, on_ranks
from torch import Tensor

from laser_lightning.distributed.balancing import balance_ranks
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.losses import (
    ClippedPolicyLoss,
    GOPDPolicyLoss,
    ImportanceCorrection,
    LpRegPolicyLoss,
    MaskedImportance,
    MirrorDescentPolicyLoss,
    PolicyLoss,
    ROVERPolicyLoss,
    SSPOPolicyLoss,
    TopKDistillation,
    solution_weights,
)
from laser_lightning.objective.objective import LossTerms, Objective
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.distributions import AskedReading, DistributionReading
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, concat_solutions

REWARD_TOKEN = 3
WHOLE = 10_000  # tokens that hold a whole step
SMALL = 18  # one solution or two; the longest has 15 tokens

Part = tuple[Rollouts, Targets, Tensor]  # solutions, what is known of them, and which of them have a gradient


class Method(NamedTuple):
    """What is tried."""

    loss: PolicyLoss
    importance: ImportanceCorrection | None = None


METHODS = {
    "lp_reg": Method(LpRegPolicyLoss(share=0.3, noise_threshold=0.001)),
    "rover": Method(ROVERPolicyLoss(1.3)),
    "top_k": Method(TopKDistillation(5)),
    "sspo": Method(SSPOPolicyLoss(0.05, 0.06)),
    "mirror_descent": Method(MirrorDescentPolicyLoss(0.3)),
    "g_opd": Method(GOPDPolicyLoss(1.25)),
    "masked_tokens": Method(ClippedPolicyLoss(), MaskedImportance("token", 0.9, 1.1)),
    "masked_sequences": Method(ClippedPolicyLoss(), MaskedImportance("sequence", 0.5, 1.1)),
    "masked_means": Method(ClippedPolicyLoss(), MaskedImportance("geometric", 0.97, 1.03)),
}


def nudged(policy: Policy, seed: int) -> Policy:
    """A policy close to another one."""
    other = deepcopy(policy)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return other


class Step:
    """The rounds of two ranks, of 6 and 4 solutions and different widths, and their optimizer step."""

    def __init__(self, method: Method, policies: tuple[Policy, Policy], make_rollouts: Callable[..., Rollouts]) -> None:
        self.now, self.teacher = policies
        self.old, self.reference = nudged(self.now, 1), nudged(self.now, 2)
        self.rounds = [make_rollouts(3, 2, seed=2, limit=9), make_rollouts(2, 2, seed=3, limit=6)]
        first, second = self.rounds
        second.response_lengths[0], second.finished[0] = 1, True
        first.loss_mask = torch.ones_like(first.response_ids, dtype=torch.bool)  # the other rank has none
        first.loss_mask[2, 1] = False
        assert first.response_ids.shape[1] > second.response_ids.shape[1]
        assert all(0 < int(r.finished.sum()) < len(r) for r in self.rounds), "some responses are truncated"
        ends = torch.arange(100) % 4 == 0 if method.loss.needs_sentences else None
        settings = UpdateSettings(importance=method.importance)
        head = LastTokenSelfReward("<|reward|>", loss_weight=0.0, reference=-20.0)
        self.objective = Objective(method.loss, head, settings, ends)
        lengths = torch.cat([r.trained_mask.sum(dim=1) for r in self.rounds])
        weights = solution_weights(lengths, "sequence_mean", lengths.sum(), torch.tensor(10), 9).split((6, 4))
        advantages = torch.randn(10, generator=torch.Generator().manual_seed(1))
        advantages[:2] = 0.0  # solutions without a signal, of which some losses see nothing
        known = zip(self.rounds, advantages.split((6, 4)), weights, strict=True)
        self.targets = [self.targets_of(*one) for one in known]

    def targets_of(self, rollouts: Rollouts, advantages: Tensor, weights: Tensor) -> Targets:
        """What is known of a rank's solutions."""
        readings, nothing = self.objective.token_readings, torch.zeros(len(rollouts))
        old, top = self.read(self.old, rollouts, readings.old, None)
        teacher, of_teacher = self.read(self.teacher, rollouts, readings.teacher, top)
        noise = torch.randn(old.shape, generator=torch.Generator().manual_seed(len(rollouts)))
        return Targets(
            advantages,
            nothing,
            weights,
            nothing,
            nothing,
            old_log_probs=old,
            reference_log_probs=self.read(self.reference, rollouts, None, None)[0],
            sampling_log_probs=old + 0.1 * noise,
            teacher_log_probs=teacher,
            old_reading=top,
            teacher_reading=of_teacher,
        )

    @torch.no_grad()
    def read(
        self, policy: Policy, rollouts: Rollouts, reading: DistributionReading | None, given: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """[N, R] log-probs, and what is read off the distributions."""
        (batch,) = policy.micro_batches(rollouts, torch.arange(len(rollouts)), WHOLE)
        width, order = batch.loss_mask.shape[1], batch.rows.argsort()
        asked = None if reading is None else AskedReading(reading, given).of(batch.rows, width)
        outputs = policy(batch, (REWARD_TOKEN,), asked=asked)

        def placed(values: Tensor) -> Tensor:
            wide = values.new_zeros(*rollouts.response_ids.shape, *values.shape[2:])
            wide[:, :width] = values[order]
            return wide

        return placed(outputs.log_probs), None if outputs.reading is None else placed(outputs.reading)

    def alone(self) -> Part:
        """The step of one rank that has all solutions."""
        rollouts = concat_solutions([r.ungrouped() for r in self.rounds])

        def joined(name: str) -> Tensor | None:
            values = [getattr(targets, name) for targets in self.targets]
            if values[0] is None or values[0].ndim == 1:
                return None if values[0] is None else torch.cat(values)
            wide = values[0].new_zeros(10, *values[0].shape[1:])
            wide[:6], wide[6:, : values[1].shape[1]] = values
            return wide

        return self.part(rollouts, Targets(**{f.name: joined(f.name) for f in fields(Targets)}), Ranks())

    def together(self) -> list[Part]:
        """The steps of both ranks, their solutions dealt out anew."""

        def share(ranks: ThreadRanks) -> Part:
            part = self.part(self.rounds[ranks.index], self.targets[ranks.index], ranks)
            return balance_ranks(*part, ranks, self.now.sharing)

        return on_ranks(2, share)

    def part(self, rollouts: Rollouts, targets: Targets, ranks: Ranks) -> Part:
        """A rank's own solutions, with what the loss chooses among all of the step."""
        rows = torch.arange(len(rollouts))
        targets = self.objective.mark_tokens(targets, rollouts.trained_mask, rows, ranks)
        return rollouts, targets, rows[self.objective.has_gradient(targets)]

    def taken(self, parts: list[Part], budget: int) -> tuple[LossTerms, Tensor]:
        """The terms and the gradient of a step."""
        self.now.zero_grad()
        shares = []
        for rollouts, targets, rows in parts:
            for batch in self.now.micro_batches(rollouts, rows, budget):
                batch, *asked = self.objective.inputs(batch, targets)
                outputs = self.now(batch, (REWARD_TOKEN,), 1.0, *self.objective.needs, *asked)
                shares.append(self.objective(outputs, batch, targets))
                shares[-1].loss.backward()
        assert len(shares) == 1 if budget == WHOLE else len(shares) > 3
        terms = shares[0].detach()
        for share in shares[1:]:
            terms = terms + share.detach()
        return terms, torch.cat([p.grad.flatten() for p in self.now.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", METHODS)
def test_neither_ranks_nor_micro_batches_change_a_step(
    name: str, double_policies: tuple[Policy, Policy], make_rollouts: Callable[..., Rollouts]
) -> None:
    step = Step(METHODS[name], double_policies, make_rollouts)
    whole, gradient = step.taken([step.alone()], WHOLE)
    assert gradient.norm() > 1e-3
    if METHODS[name].importance is not None:
        assert 0 < whole.capped_tokens < whole.weighted_tokens
    for parts in ([step.alone()], step.together()):
        terms, found = step.taken(parts, SMALL)
        assert (found - gradient).norm() < 1e-12 * gradient.norm()
        for field in ("loss", "clip_fraction", "passed_weight", "importance_weights", "capped_tokens", "extra"):
            torch.testing.assert_close(getattr(terms, field), getattr(whole, field), rtol=1e-6, atol=1e-9)
