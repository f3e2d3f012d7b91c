"""What a training step asks of the curriculum, and what of the step, on all ranks, the curriculum learns from."""

from dataclasses import replace

import torch
from torch import Tensor

from laser_lightning.data.curriculum.curriculum import StepOutcome
from laser_lightning.data.loader import PromptLoader
from laser_lightning.data.module import PromptDataModule
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.records.rollout import Rollout, SampledStep
from laser_lightning.rollout import Sampling


def sampling_at(sampling: Sampling, data: PromptDataModule, step: int) -> Sampling:
    """How a training step draws its solutions: as configured, with the length limit of the curriculum's stage.

    Args:
        sampling: as configured.
        data: has the curriculum.
        step: optimizer steps taken so far.
    """
    limit = data.train_curriculum.max_response_tokens(step)
    return sampling if limit is None else replace(sampling, max_response_tokens=limit)


def keeps(data: PromptDataModule, sampled: Rollout) -> Tensor:
    """[P] bool: the groups that a step is filled with, by the curriculum and the bounds of their accuracy.

    Args:
        data: has both.
        sampled: P groups of this rank.
    """
    kept = data.train_curriculum.keeps(sampled.grouped(sampled.policy_rewards))
    return kept & data.accuracy_bounds.contain(sampled.grouped(sampled.rewards))


def teach_curriculum(data: PromptDataModule, step: SampledStep, advantages: Tensor, number: int, ranks: Ranks) -> None:
    """Let the curriculum learn from a step, if it learns at all; all ranks call together.

    Args:
        data: has the curriculum.
        step: what was sampled.
        advantages: [N'] or [N', R], of the solutions of ``step.trained``.
        number: optimizer steps taken, those of this step included.
        ranks: whose outcomes are gathered.

    Raises:
        UserError: the ranks' curricula chose different problems.
    """
    if data.curriculum.learns:
        loader = data.train_dataloader()
        loader.curriculum.learn(gather_outcome(loader, step, advantages, number, ranks))


def gather_outcome(
    loader: PromptLoader, step: SampledStep, advantages: Tensor, number: int, ranks: Ranks
) -> StepOutcome:
    """What a step made of the problems of all ranks: see ``teach_curriculum``."""
    rollout = step.sampled
    rewards, self_rewards = rollout.grouped(rollout.rewards), rollout.grouped(rollout.self_rewards)
    problems, group = rewards.shape
    own = torch.arange(problems, device=rewards.device) * ranks.count + ranks.index
    chosen = own if step.chosen is None else step.chosen
    # As float64, which holds every float32 and every row number exactly, one collective operation is enough.
    table = rewards.new_full((problems, 3 + 3 * group), torch.nan, dtype=torch.float64)
    table[:, 0] = torch.tensor([problem.index for problem in rollout.problems])
    table[:, 1] = loader.choices_checksum
    table[: len(chosen), 2] = chosen.double()
    table[:, 3 : 3 + 2 * group] = torch.cat((rewards, self_rewards), dim=1)
    known = _of_solutions(advantages, step.trained)[: len(chosen) * group]
    table[: len(chosen), 3 + 2 * group :] = known.view(-1, group).double()
    # A draw was dealt out one by one: the first of every rank, then the second of every rank, ...
    table = ranks.stack(table).transpose(0, 1).flatten(end_dim=1).cpu()
    if (table[:, 1] != table[0, 1]).any():
        raise UserError(
            f"data.curriculum ({type(loader.curriculum).__name__}) chose other problems on one process than on another."
            " Let it take all randomness from draw.generator, and go through no set, whose order is another "
            "one in each process."
        )
    places = loader.places_of(table[:, 0].long().tolist())
    kinds = [loader.problems[place].kind for place in places]
    all_rewards, scores, trained = table[:, 3:].float().chunk(3, dim=1)
    of_groups, is_trained = torch.full_like(trained, torch.nan), ~table[:, 2].isnan()
    of_groups[table[is_trained, 2].long()] = trained[is_trained]  # another rank's groups can be among these
    return StepOutcome(number, places, kinds, all_rewards, scores, of_groups)


def _of_solutions(advantages: Tensor, trained: Rollout) -> Tensor:
    """[N] advantages; of token-level ones [N, R] the means over each solution's tokens."""
    if advantages.ndim == 1:
        return advantages
    mask = trained.rollouts.trained_mask
    return (advantages * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
