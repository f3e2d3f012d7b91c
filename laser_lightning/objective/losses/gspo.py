"""GSPO: the clipped objective with one ratio per solution."""

from torch import Tensor

from laser_lightning.objective.losses.clipped import ClippedPolicyLoss
from laser_lightning.shapes import Bool, Float


class GSPOPolicyLoss(ClippedPolicyLoss):
    """-min(s * A, clip(s, 1 - clip_low, 1 + clip_high) * A) for each solution, s the mean ratio of its tokens.

    s is the geometric mean of the token ratios, (pi(y|x) / pi_old(y|x))^(1 / |y|) (GSPO, arXiv 2507.18071, equations 5
    and 7), and the gradient reaches all tokens of the solution through it. The loss of a solution stands at each of its
    tokens, so ``update.aggregation: sequence_mean`` makes the paper's mean over solutions of it.

    Args:
        clip_low: how far the ratio may fall below 1 before the solution's gradient is cut off; a mean over tokens
            varies far less than a single ratio.
        clip_high: how far it may rise above 1.
    """

    def __init__(self, clip_low: float = 3e-4, clip_high: float = 4e-4) -> None:
        super().__init__(clip_low, clip_high)

    def ratios(self, log_ratios: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"]) -> Float[Tensor, "B R"]:
        """[B, R], the solution's ratio at each of its tokens."""
        mean = log_ratios.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return mean.exp().expand_as(log_ratios)
