"""Judging updates: behind each round the self-reward learns from replayed solutions, and the policy is held."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from laser_lightning.distributed.balancing import balance_ranks
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.metrics import pair_counts
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.judging.replay import ReplayBuffer
from laser_lightning.objective.judging.settings import JudgingSettings
from laser_lightning.objective.phases import Phase
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD, StepSolutions
from laser_lightning.objective.sums import Sums
from laser_lightning.objective.targets import Targets
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float, Int

if TYPE_CHECKING:
    from laser_lightning.modules.laser import LaSeRModule


@dataclass
class ReplayTargets(Targets):
    """Targets of replayed solutions.

    Attributes:
        groups: [N] the number of each solution's group, of which no two ranks have the same.
    """

    groups: Int[Tensor, " N"] | None = None


@dataclass(frozen=True)
class JudgingTerms(Sums):
    """Shares of the terms of a judging update's loss; those of all micro-batches and ranks add up to the terms.

    Attributes:
        loss: scalar, the sum of both terms, with gradient.
        self_reward_loss: scalar.
        hold: scalar, with its weight.
    """

    loss: Float[Tensor, ""]
    self_reward_loss: Float[Tensor, ""]
    hold: Float[Tensor, ""]


class Judging:
    """Takes the judging updates of a run.

    Args:
        settings: how many, and on what.
        module: whose policy and self-reward are trained.
    """

    def __init__(self, settings: JudgingSettings, module: "LaSeRModule") -> None:
        if module.self_reward.loss_weight == 0:
            raise UserError(
                "update.judging trains the self-reward, and self_reward.loss_weight is 0, which trains none: set it "
                "above 0, or leave update.judging out."
            )
        self.settings = settings
        self.buffer = ReplayBuffer(settings.buffer_rounds)

    def replay(self, module: "LaSeRModule", rollout: Rollout, phase: Phase) -> dict[str, float]:
        """Keep a round's solutions, and update on those of the last rounds; all ranks call it together.

        Args:
            module: whose policy and self-reward are trained.
            rollout: the round's solutions.
            phase: of the round's step.

        Returns:
            The metrics ``train/judging/...``, means over the updates.
        """
        module.interruption.hold()  # the buffer has changed
        step = module.trainer.global_step
        self.buffer.keep(step, rollout)
        if phase < Phase.SELF_REWARDING:
            return {}
        with module.parts("judging"):
            prepared = [
                self._prepare(module, f"{module.seed} {step} {k}", rollout) for k in range(self.settings.updates)
            ]
            values = [value for one in prepared if (value := self._update(module, *one)) is not None]
        if values:
            module.engine.weights_changed()
        names = values[0] if values else ()
        means = {f"train/judging/{name}": sum(value[name] for value in values) / len(values) for name in names}
        return {"train/judging/updates": float(len(values)), **means}

    def _prepare(self, module: "LaSeRModule", seed: str, latest: Rollout) -> tuple[Rollouts, ReplayTargets]:
        """Draw the solutions of an update, and fix all denominators over all ranks."""
        settings, ranks = self.settings, module.ranks
        number = module.data.prompts_per_step if settings.groups_per_update is None else settings.groups_per_update
        replay = self.buffer.draw(number, seed, latest, ranks, truncated=settings.hold is not None)
        rollout, drawn = replay.rollout, replay.drawn
        length = module.sampling.max_response_tokens
        context = StepContext(module.trainer.global_step, length, ranks)
        rows = torch.arange(len(drawn), device=drawn.device)
        solutions = StepSolutions.of(rollout, rows, context)
        judged = replace(solutions, finished=solutions.finished & rollout.grouped(drawn > 0))
        targets, weights = module.self_reward.supervise(judged, settings.weights)
        lengths = rollout.rollouts.trained_mask.sum(dim=1)
        of_drawn = rollout.grouped(drawn > 0).any(dim=1)
        tokens = ranks.sum(rollout.grouped(lengths)[of_drawn].sum())
        hold_weights = drawn / tokens.clamp(min=1) * (settings.hold is not None)
        groups = (rows // rollout.rollouts.group_size) * ranks.count + ranks.index
        # A rank without a drawn solution has one to fill its passes.
        chosen = drawn.nonzero().flatten() if bool(drawn.any()) else rows[:1]
        asked = rollout.ungrouped().select(chosen)
        hold = settings.hold
        fixed = module.sampler.fixed_log_probs(
            asked,
            module.sampling.temperature,
            hold is not None and hold.needs_old,
            hold is not None and hold.needs_reference,
        )
        return asked.rollouts, ReplayTargets(
            advantages=torch.zeros_like(asked.rewards),
            rewards=asked.rewards,
            policy_weights=hold_weights[chosen],
            self_reward_weights=weights[chosen],
            self_reward_targets=targets[chosen],
            references=asked.references,
            old_log_probs=fixed.old,
            reference_log_probs=fixed.reference,
            sampling_log_probs=asked.rollouts.sampling_log_probs,
            teacher_log_probs=fixed.teacher,
            groups=groups[chosen],
        )

    def _update(self, module: "LaSeRModule", rollouts: Rollouts, targets: ReplayTargets) -> dict[str, float] | None:
        """Take one update; None where there is nothing to learn from, or the gradient is not finite."""
        ranks = module.ranks
        needed = ((targets.self_reward_weights > 0) | (targets.policy_weights > 0)).nonzero().flatten()
        if ranks.sum((targets.self_reward_weights > 0).sum()) == 0:
            return None
        if ranks.count > 1:
            rollouts, targets, needed = balance_ranks(rollouts, targets, needed, ranks)
        batches = module.aligned_batches(rollouts, needed)
        total: JudgingTerms | None = None
        scores = torch.full_like(targets.rewards, torch.nan)
        for number, (batch, weight) in enumerate(batches):
            module.parts.progress.advance(number, len(batches))
            with module.micro_step(last=number + 1 == len(batches)):
                outputs = module.differentiable(batch)
                error = module.objective.self_reward_loss(outputs, batch, targets)
                hold = (
                    torch.zeros_like(error)
                    if self.settings.hold is None
                    else self.settings.hold(outputs, batch, targets)
                )
                terms = JudgingTerms(error + hold, error.detach(), hold.detach()).weighted(weight)
                module.backward_share(terms.loss)
            if weight:
                with torch.no_grad():
                    scores[batch.rows] = module.self_reward.score(module.objective.readings(outputs, batch, targets))
            total = terms.detach() if total is None else total + terms.detach()
        assert total is not None
        rate = self.settings.learning_rate
        factor = 1.0 if rate is None else rate / module.optimizer_settings.learning_rate
        norm = module.apply_uncounted(total.loss, factor)
        if norm is None:
            return None
        sums = total.over(ranks)
        judged = torch.zeros_like(targets.rewards, dtype=torch.bool)
        judged[needed] = targets.self_reward_weights[needed] > 0
        assert targets.groups is not None
        return {
            "loss": float(sums.loss),
            "self_reward_loss": float(sums.self_reward_loss),
            "hold": float(sums.hold),
            "gradient_norm": norm,
            "auroc_within": _auroc_within(targets.groups[judged], scores[judged], targets.rewards[judged], ranks),
        }


def _auroc_within(groups: Tensor, scores: Tensor, rewards: Tensor, ranks: Ranks) -> float:
    """The AUROC over pairs of solutions of the same group, which may lie on several ranks."""
    rows = torch.stack((groups.double(), scores.double(), rewards.double()), dim=1)
    most = ranks.max(len(rows))
    padded = nn.functional.pad(rows, (0, 0, 0, most - len(rows)), value=torch.nan)
    groups, scores, rewards = (every := ranks.stack(padded).flatten(0, 1))[~every[:, 0].isnan()].unbind(dim=1)
    distinct, number = groups.unique(return_inverse=True)
    return float(pair_counts(number, scores, rewards > CORRECT_THRESHOLD, len(distinct)).auroc())
