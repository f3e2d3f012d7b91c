"""The stop of a run whose engine samples from another policy than the one that is trained."""

from collections.abc import Mapping
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

MAX_STEPS = 10
"""Steps in a row above the limit at which a run stops: fewer may be the noise of a few responses."""


class Compared(NamedTuple):
    """Log-probs of engine and trainer that each step compares.

    Attributes:
        metric: their mean difference, in nats.
        name: in a sentence.
        allowance: how many times ``update.max_mismatch`` it may be.
    """

    metric: str
    name: str
    allowance: float


COMPARED = (
    Compared("train/mismatch/token_log_prob", "the sampled tokens", 1),
    # At -13 to -25 nats bfloat16 is that much coarser, and 1 nat moves a score by beta = 0.1.
    Compared("train/mismatch/reward_token_log_prob", "the reward token", 10),
)


class MismatchLimit:
    """Notices steps in which the engine's log-probs are not the trainer's, several of them in a row.

    Args:
        limit: largest mean difference in nats (``update.max_mismatch``); None for no limit.
        ahead: how far ahead rounds are drawn, with weights that are as many updates old (``rollout.ahead``).

    Attributes:
        steps: how many steps in a row were above it; saved with the run.
    """

    def __init__(self, limit: float | None, ahead: int = 0) -> None:
        self.limit, self.steps, self._ahead = limit, 0, ahead

    def count(self, values: Mapping[str, float | Tensor], step: int) -> str | None:
        """Count a step, and warn if it is above the limit.

        Args:
            values: its metrics, the same on all ranks. A step in which nothing was compared, since the update was
                skipped, leaves the count as it is.
            step: its number.

        Returns:
            Why the run must stop, as a part of a sentence; None if it need not.
        """
        if self.limit is None or COMPARED[0].metric not in values:
            return None
        gaps = {one: float(values[one.metric]) for one in COMPARED if one.metric in values}
        above = [one for one, gap in gaps.items() if gap > one.allowance * self.limit]
        if not above:
            self.steps = 0
            return None
        self.steps += 1
        one = above[0]
        times = "" if one.allowance == 1 else f"{one.allowance:g} times "
        found = (
            f"the engine's log-probs of {one.name} are {gaps[one]:.3g} nat from the trainer's on average, more than "
            f"{times}update.max_mismatch = {self.limit:g}"
        )
        remedy = (
            "it samples from another policy than the one that is trained, since it decodes in lower precision (give it "
            "the dtype of the policy), with old weights, or computes this architecture in another way (take another "
            "engine). A higher update.max_mismatch lets such a run go on, and null any run"
        )
        if self._ahead:
            remedy = (
                f"it samples from the policy of up to {self._ahead} updates before (rollout.ahead), and these moved it "
                f"far (a lower learning rate, or rollout.ahead: 0), or {remedy}"
            )
        rank_zero_warn(f"In step {step} {found}: {remedy}.")
        if self.steps < MAX_STEPS:
            return None
        return f"in {self.steps} steps in a row, the last one being {step}, {found}: {remedy}"
