"""What the parts of the objective may know of a step besides its rollout."""

from typing import NamedTuple

from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.shapes import Float, Shaped


class FixedLogProbs(NamedTuple):
    """Log-probs of the sampled tokens that no gradient reaches; None where nothing asked for them.

    Attributes:
        old: [N, R] of the policy that the update starts from; None for a first and only optimizer step, where they are
            those of the step itself.
        reference: [N, R] of the frozen policy of before training.
        teacher: [N, R] of the teacher.
        old_reading: [N, R, ...] what the policy loss asked to be read off the distributions of the policy that the
            update starts from.
        teacher_reading: [N, R, ...] the same of the teacher's.
        old_reward_tokens: [N, K] beside ``old``, of the tokens that scores are made of, behind each response's last.
    """

    old: Float[Tensor, "N R"] | None = None
    reference: Float[Tensor, "N R"] | None = None
    teacher: Float[Tensor, "N R"] | None = None
    old_reading: Shaped[Tensor, "N R ..."] | None = None
    teacher_reading: Shaped[Tensor, "N R ..."] | None = None
    old_reward_tokens: Float[Tensor, "N K"] | None = None

    def rows(self, rows: slice) -> "FixedLogProbs":
        """Those of some solutions alone."""
        return FixedLogProbs(*(None if values is None else values[rows] for values in self))

    def as_targets(self) -> dict[str, Shaped[Tensor, "N ..."] | None]:
        """The same as fields of ``Targets``."""
        return {
            "old_log_probs": self.old,
            "reference_log_probs": self.reference,
            "teacher_log_probs": self.teacher,
            "old_reading": self.old_reading,
            "teacher_reading": self.teacher_reading,
        }


class StepContext(NamedTuple):
    """A training step, as its parts see it.

    Attributes:
        step: its number, counted from 0 in optimizer steps.
        max_response_tokens: the length at which responses are cut.
        ranks: the processes of the run; what a part does with them, all ranks do together.
        log_probs: of the solutions that the step trains on.
    """

    step: int = 0
    max_response_tokens: int = 1
    ranks: Ranks = Ranks()
    log_probs: FixedLogProbs = FixedLogProbs()

    def rows(self, rows: slice) -> "StepContext":
        """The step as the parts see it that are asked about some of its solutions.

        Args:
            rows: of these.
        """
        return self._replace(log_probs=self.log_probs.rows(rows))
