"""How problems are evaluated."""

from dataclasses import dataclass, field

from laser_lightning.metrics.votes import FIXED_RULES, VoteRule, check_names
from laser_lightning.rollout import Sampling


@dataclass(frozen=True)
class EvaluationSettings:
    """How problems are evaluated in ``validate`` and ``test``, and during ``fit``.

    Args:
        samples: solutions per problem, k.
        samples_per_set: k of single sets, by name, where it differs.
        sampling: how solutions are drawn; null for the training's own.
        at_start: evaluate before the first step, so that every run shows where it started.
        at_end: evaluate behind the last step, unless that was just done.
        keep: keep the solutions of stand-alone evaluations (``validate``, ``test`` and ``predict``) in
            ``<run>/kept/<stage>/<set>``. The same evaluation in the same run directory then takes them from there and
            samples only the batches that are missing. A run without a directory of its own (no logger, and
            ``trainer.default_root_dir`` is the working directory) keeps nothing.
        votes: vote rules beside majority, weighted majority and best of k; each is reported as ``<its name>@<k>``.
    """

    samples: int = 8
    samples_per_set: dict[str, int] = field(default_factory=dict)
    sampling: Sampling | None = None
    at_start: bool = True
    at_end: bool = True
    keep: bool = True
    votes: list[VoteRule] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_names(self.votes, FIXED_RULES)
