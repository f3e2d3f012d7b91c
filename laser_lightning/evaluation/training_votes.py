"""The solutions of a training round as vote rules learn from them."""

import torch

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.evaluation.metrics import solution_columns
from laser_lightning.metrics import SampleGroups
from laser_lightning.metrics.answers import Compare
from laser_lightning.records.rollout import Rollout


def gather_groups(rollout: Rollout, compare: Compare | None, ranks: Ranks) -> SampleGroups:
    """The solutions of a training round of all ranks, sorted by problem, so that their number changes nothing.

    A problem that came twice in the round counts once. Solutions whose judgement was not asked for (RISE's
    ``verification_prompts.share``) have no score, and are left out.

    Args:
        rollout: of this rank; all ranks have the same number of solutions.
        compare: the verifier's equivalence of answers; None where canonical texts decide.
        ranks: whose solutions are gathered.
    """
    own = solution_columns(rollout, compare)
    own["finished"] = own["finished"].to(torch.uint8)  # not every backend gathers booleans
    columns = {name: ranks.stack(column).flatten(end_dim=1) for name, column in own.items()}
    judged = ~columns["self_rewards"].isnan()
    return SampleGroups.regroup(**{name: column[judged] for name, column in columns.items()})
