"""When the engine's log-probs are not the trainer's: a warning first, and then the end of the run."""

from collections.abc import Mapping

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

MOST_STEPS = 10
METRIC = "train/mismatch/token_log_prob"


class MismatchLimit:
    """Warns of steps whose mismatch is above a limit, and notices when many are in a row.

    Args:
        limit: mean difference (nats) of the engine's log-probs from the trainer's; None for no limit.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._in_a_row = 0

    def count(self, values: Mapping[str, float | Tensor], step: int) -> str | None:
        """Count a step.

        Args:
            values: its metrics, the same on all ranks. One without a mismatch (a rollout that is used for several
                updates) keeps the count.
            step: its number.

        Returns:
            Why the run must stop, as a part of a sentence; None if it need not.
        """
        if self.limit is None or METRIC not in values:
            return None
        mismatch = float(values[METRIC])
        if mismatch <= self.limit:
            self._in_a_row = 0
            return None
        self._in_a_row += 1
        what = f"the engine's log-probs differ from the trainer's by {mismatch:.3g} nats on average"
        if self._in_a_row >= MOST_STEPS:
            return f"in {MOST_STEPS} steps in a row {what}, more than update.max_mismatch = {self.limit:g}"
        rank_zero_warn(
            f"In step {step} {what}, more than update.max_mismatch = {self.limit:g}: solutions are trained under "
            f"another policy than the one that wrote them. The run stops after {MOST_STEPS} such steps in a row."
        )
        return None
