"""A soft penalty for responses that come close to the length limit (DAPO's overlong shaping)."""

from dataclasses import dataclass

from torch import Tensor

from laser_lightning.errors import UserError


@dataclass(frozen=True)
class OverlongSettings:
    """What the last tokens before the length limit cost.

    Args:
        buffer_share: the penalty grows over this last part of sampling.max_response_tokens; DAPO's is 4,096 of 20,480.
        penalty: what a response at the limit loses. DAPO's rewards are 1 and -1 and its penalty is 1; with rewards
            of 1 and 0 the same share is 0.5.
    """

    buffer_share: float = 0.2
    penalty: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.buffer_share <= 1 or not self.penalty > 0:
            raise UserError(
                "advantage.overlong.buffer_share must be above 0 and at most 1, and advantage.overlong.penalty above 0."
            )


def shaped(rewards: Tensor, lengths: Tensor, limit: int, settings: OverlongSettings) -> Tensor:
    """Rewards less the penalty of length: linear over the buffer, whole at the limit (arXiv 2503.14476, equation 13).

    They are for the advantages alone. The self-reward is trained towards the verifier's own reward, and measured
    against it: its verdict is about the answer, and a correct answer does not become wrong by being long.

    Args:
        rewards: [N] of the verifier.
        lengths: [N] response lengths in tokens, at most ``limit``.
        limit: the length at which responses are cut.
        settings: the buffer and the whole penalty.

    Returns:
        [N].
    """
    buffer = settings.buffer_share * limit
    share = ((lengths - (limit - buffer)) / buffer).clamp(min=0)
    return rewards - settings.penalty * share.to(rewards.dtype)
