"""Self-rewards mixed in by how far they can be trusted in each group."""

import torch
from torch import Tensor

from laser_lightning.objective.advantages.mixing import SelfRewardMixing
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD, is_judged
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class TrustWeightedMixing(SelfRewardMixing):
    """LaSeR's mixing with a tau of each group, smaller where scores are upside down (after Trust-GRPO, 2505.17018).

    In a group with correct and incorrect solutions, whose self-rewards, clamped to [0, 1], have the means s_c and s_i,

        tau_g = tau                     if s_c >= s_i,
        tau_g = tau * exp(s_c - s_i)    otherwise,

    down to tau / e. Truncated solutions, and others whose score is not known, have no part in the means. Groups without
    both, where nothing says what scores are worth, are mixed with tau, or, if all rewards are equal, not at all
    (``mix_unanimous_groups``). The weight is the gamma of Trust-GRPO (SophiaVL-R1, arXiv 2505.17018), which multiplies
    a thinking reward by it; here it multiplies tau.

    Args:
        tau: the share of the self-rewarding advantage where scores can be trusted; 0 mixes nothing.
        min_std: in a group whose clamped self-rewards vary no more than this, only the verifier counts.
        mix_unanimous_groups: mix also in groups whose rewards are all equal, with tau.
    """

    def tau_of(
        self, rewards: Float[Tensor, "P G"], scores: Float[Tensor, "P G"], rollout: Rollout
    ) -> Float[Tensor, " P"]:
        """[P] float64 tau of each group; the verifier's own rewards say who is correct, not shaped ones."""
        correct, judged = rollout.grouped(rollout.rewards) > CORRECT_THRESHOLD, rollout.grouped(is_judged(rollout))
        gap = _mean_where(judged & correct, scores) - _mean_where(judged & ~correct, scores)
        # NaN in groups without both, which have no gap.
        return self.tau * gap.clamp(max=0).exp().nan_to_num(1.0)


def _mean_where(mask: Tensor, values: Tensor) -> Tensor:
    """[P] float64 means of the values [P, G] where the mask [P, G] is; NaN where it is nowhere."""
    return values.double().where(mask, torch.nan).nanmean(dim=1)
