"""Judging updates: behind each round the self-reward learns from replayed solutions, and the policy is held."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from laser_lightning.distributed.balancing import balance_ranks
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.metrics import pair_counts
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.judging.replay import Replay, ReplayBuffer
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
        settings: how many, and on what; None for none.
        module: whose policy and self-reward are trained.

    Attributes:
        takes_updates: whether there are any.
        buffer: the solutions of the last rounds.
    """

    def __init__(self, settings: JudgingSettings | None, module: "LaSeRModule") -> None:
        self.takes_updates = settings is not None
        self.settings = JudgingSettings() if settings is None else settings
        if self.takes_updates:
            _check(self.settings, module)
        self.buffer = ReplayBuffer(self.settings.buffer_rounds)
        self._module = module
        self._saved: list[dict[str, Any]] | None = None  # of a checkpoint, until the training problems are there

    # ---------------------------------------------------------------- a round

    def replay(self, latest: Rollout, phase: Phase) -> dict[str, float]:
        """Keep a round's solutions, and update on those of the last rounds; all ranks call it together.

        Args:
            latest: the round's solutions.
            phase: of the round's step.

        Returns:
            The metrics ``train/judging/...``: the number of updates, and means over them.
        """
        if not self.takes_updates:
            return {}
        module = self._module
        module.interruption.hold()  # the buffer changes
        self._restore()
        self.buffer.keep(latest)
        if phase < Phase.SELF_REWARDING:
            return {}
        with module.parts("judging"):
            # All are drawn before the first, so that what holds the policy is the policy of before them.
            drawn = [self._targets(self._draw(number), latest) for number in range(self.settings.updates)]
            found = [values for one in drawn if (values := self._update(*one)) is not None]
        if found:
            module.engine.weights_changed()
        means = {name: sum(values[name] for values in found) / len(found) for name in (found[0] if found else ())}
        return {f"train/judging/{name}": value for name, value in {"updates": float(len(found)), **means}.items()}

    def _draw(self, number: int) -> Replay | None:
        settings, module = self.settings, self._module
        groups = settings.groups_per_update or module.data.prompts_per_step
        seed = f"{module.seed} {self.buffer.round} {number}"
        return self.buffer.draw(groups, seed, module.ranks, module.device, truncated=settings.hold is not None)

    def _targets(self, replay: Replay | None, latest: Rollout) -> tuple[Rollouts, ReplayTargets]:
        """Fix what an update knows of the solutions that it sees, with every denominator over all ranks."""
        hold, ranks, module = self.settings.hold, self._module.ranks, self._module
        if replay is None:  # solutions that are not drawn fill the passes, in which ranks meet
            spare = latest.select(torch.zeros(1, dtype=torch.long, device=module.device))
            replay = Replay(spare, torch.zeros_like(spare.rewards))
        rollout, stands_for = replay.rollout, replay.stands_for
        seen, rows = stands_for > 0, torch.arange(len(stands_for), device=stands_for.device)
        context = StepContext(module.trainer.global_step, module.sampling.max_response_tokens, ranks)
        solutions = StepSolutions.of(rollout, rows, context)
        judged = replace(solutions, finished=solutions.finished & rollout.grouped(seen))
        supervision = module.self_reward.supervise(judged, self.settings.weights)
        held = rollout.grouped(seen).any(dim=1).repeat_interleave(rollout.rollouts.group_size)
        if hold is not None and hold.leaves_out_deciding:
            held = held & ~replay.is_deciding
        tokens = ranks.sum(rollout.rollouts.trained_mask[held].sum())
        weights = (stands_for / tokens.clamp(min=1)).where(held, 0.0)
        chosen = seen.nonzero().flatten() if bool(seen.any()) else rows[:1]
        asked = rollout.ungrouped().select(chosen)
        fixed = module.sampler.fixed_log_probs(
            asked,
            module.sampling.temperature,
            old=hold is not None and hold.needs_old,
            reference=hold is not None and hold.needs_reference,
        )
        return asked.rollouts, ReplayTargets(
            advantages=torch.zeros_like(asked.rewards),
            rewards=asked.rewards,
            policy_weights=weights[chosen],
            self_reward_weights=supervision.weights[chosen],
            self_reward_targets=supervision.targets[chosen],
            references=asked.references,
            sampling_log_probs=asked.rollouts.finite_log_probs,
            **fixed.as_targets(),
            groups=(chosen // rollout.rollouts.group_size) * ranks.count + ranks.index,
        )

    # --------------------------------------------------------------- an update

    def _update(self, rollouts: Rollouts, targets: ReplayTargets) -> dict[str, float] | None:
        """Take one update; None where there is nothing to judge, or the gradient is not finite."""
        module, ranks = self._module, self._module.ranks
        if ranks.sum((targets.self_reward_weights > 0).sum()) == 0:
            return None
        needed = ((targets.self_reward_weights > 0) | (targets.policy_weights > 0)).nonzero().flatten()
        if ranks.count > 1:
            rollouts, targets, needed = balance_ranks(rollouts, targets, needed, ranks, module.policy.sharing)
        terms, scores = self._accumulate_gradients(rollouts, targets, needed)
        rate = self.settings.learning_rate
        norm = module.apply_uncounted(
            terms.loss, rate_factor=1.0 if rate is None else rate / module.optimizer_settings.learning_rate
        )
        if norm is None:
            return None
        totals = terms.over(ranks)
        judged = needed[targets.self_reward_weights[needed] > 0]
        assert targets.groups is not None
        return {
            "loss": float(totals.loss),
            "self_reward_loss": float(totals.self_reward_loss),
            "hold": float(totals.hold),
            "gradient_norm": norm,
            "auroc_within": auroc_within(targets.groups[judged], scores[judged], targets.rewards[judged], ranks),
        }

    def _accumulate_gradients(
        self, rollouts: Rollouts, targets: ReplayTargets, needed: Tensor
    ) -> tuple[JudgingTerms, Tensor]:
        """Differentiate every micro-batch's share of the loss; what they add up to on this rank, and scores [N]."""
        module, hold = self._module, self.settings.hold
        scores = torch.zeros_like(targets.rewards)
        batches = module.aligned_batches(rollouts, needed)
        shares = []
        for number, (batch, weight) in enumerate(batches):
            module.parts.progress.advance(number, len(batches))
            with module.micro_step(last=number + 1 == len(batches)):
                outputs = module.differentiable(batch)
                error = module.objective.self_reward_loss(outputs, batch, targets)
                held = torch.zeros_like(error) if hold is None else hold(outputs, batch, targets)
                share = JudgingTerms(error + held, error, held).weighted(weight)
                module.backward_share(share.loss)
            with torch.no_grad():
                scores[batch.rows] = module.self_reward.score(module.objective.readings(outputs, batch, targets))
            shares.append(share.detach())
        return sum(shares[1:], start=shares[0]), scores

    # ------------------------------------------------------------- checkpoints

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the solutions of every rank to a checkpoint; all ranks call it together."""
        if self.takes_updates:
            own = self.buffer.state_dict()
            checkpoint["laser_judging"] = self._module.ranks.gather(own) if self._saved is None else self._saved

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Go on from what ``save`` added, once the training problems are there."""
        # Without a trainer it is `load_from_checkpoint`, behind which a run begins anew.
        if self.takes_updates and self._module.strategy is not None:
            self._saved = checkpoint.get("laser_judging")

    def _restore(self) -> None:
        if self._saved is not None:
            problems = {problem.index: problem for problem in self._module.data.train_problems}
            self.buffer.load_state_dicts(self._saved, self._module.ranks, problems)
            self._saved = None


def _check(settings: JudgingSettings, module: "LaSeRModule") -> None:
    if module.self_reward.loss_weight == 0:
        raise UserError(
            "update.judging trains the self-reward, and self_reward.loss_weight is 0, which trains none: set it above "
            "0, or leave update.judging out."
        )
    if module.self_reward.target.moves_with_scores:
        raise UserError(
            f"self_reward.target is {type(module.self_reward.target).__name__}, which needs scores of the policy as it "
            "is, and update.judging replays solutions with those of earlier rounds: leave one of the two out."
        )
    if settings.hold is not None and settings.hold.leaves_out_deciding and module.group_size == 2:
        raise UserError(
            "update.judging.hold leaves out the only correct, or only incorrect, solution of a group, and with "
            "group_size = 2 that is all of them: set update.judging.hold.unbiased to false, or sample more."
        )


def auroc_within(groups: Tensor, scores: Tensor, rewards: Tensor, ranks: Ranks) -> float:
    """The AUROC over pairs of solutions of the same group, which may lie on several ranks."""
    rows = torch.stack((groups.float(), scores, rewards), dim=1)
    padded = nn.functional.pad(rows, (0, 0, 0, ranks.max(len(rows)) - len(rows)), value=torch.nan)
    every = ranks.stack(padded).flatten(0, 1)
    groups, scores, rewards = every[~every[:, 0].isnan()].unbind(dim=1)
    distinct, number = groups.unique(return_inverse=True)
    return float(pair_counts(number, scores, rewards > CORRECT_THRESHOLD, len(distinct)).auroc())
