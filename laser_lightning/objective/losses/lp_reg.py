"""Lp-Reg: unlikely tokens that are no noise are kept from being punished away."""

import math

import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.objective.losses.clipped import clip_surrogate
from laser_lightning.objective.losses.policy_loss import PolicyLoss, PolicyTokens, TokenLosses
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.distributions import DistributionReading, DistributionReadings
from laser_lightning.shapes import Bool, Float, Int, Shaped


class ProxyLogProb(DistributionReading):
    """[T] log-prob of each token under the distribution without its noise: tokens of less than ``threshold`` times the
    probability of the likeliest are left out, the others renormalised. -inf for a token that is left out."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(
        self, log_probs: Float[Tensor, "T V"], token_ids: Int[Tensor, " T"], given: Shaped[Tensor, "T ..."] | None
    ) -> Float[Tensor, " T"]:
        """See ``DistributionReading``."""
        least = log_probs.amax(dim=-1, keepdim=True) + math.log(self.threshold)
        kept = log_probs.where(log_probs >= least, -torch.inf)
        return kept.gather(-1, token_ids[:, None]).squeeze(-1) - kept.logsumexp(dim=-1)


class LpRegPolicyLoss(PolicyLoss):
    """-A * ratio + weight * k3(pi, proxy) for the unlikeliest tokens with A < 0; for all others the clipped objective.

    Lp-Reg (arXiv 2510.03222, section 4, and the authors' code): the proxy is the old policy's distribution without its
    noise, renormalised (``ProxyLogProb``), and k3 = exp(d) - 1 - d with d = log proxy - log pi. It applies to the given
    share of tokens with the lowest log-probs among those with A < 0, and there only where pi < proxy, so that noise is
    punished as before. In the authors' code the share is taken of each micro-batch and of the current log-probs; here
    of all tokens of the optimizer step, and of the log-probs that it started from, so that micro-batches change
    nothing. At least one token is chosen. Their code also clamps k3 to between -10 and 10, so that a token above 10 has
    no gradient of it; here it is not clamped, and pulls such a token back the harder. Set ``update.entropy_coef`` to 0,
    as there.

    Args:
        clip_low: how far the ratio may fall below 1; 1 for no bound.
        clip_high: how far it may rise above 1.
        noise_threshold: tokens less likely than this times the likeliest are noise.
        share: of the tokens with A < 0, those of the lowest log-probs that are regularised.
        weight: of the regularisation.
    """

    needs_old_pass = True
    diagnostic_names = ("lp_reg/regularised",)

    def __init__(
        self,
        clip_low: float = 1.0,
        clip_high: float = 9.0,
        noise_threshold: float = 0.02,
        share: float = 0.01,
        weight: float = 1.0,
    ) -> None:
        if not 0 <= clip_low <= 1 or clip_high < 0:
            raise UserError("policy_loss.clip_low must be between 0 and 1, and policy_loss.clip_high 0 or more.")
        if not 0 < noise_threshold < 1 or not 0 < share <= 1 or weight < 0:
            raise UserError(
                "policy_loss.noise_threshold and policy_loss.share must be between 0 and 1, and policy_loss.weight 0 "
                "or more."
            )
        self.clip_low, self.clip_high = clip_low, clip_high
        self.noise_threshold, self.share, self.weight = noise_threshold, share, weight
        self.readings = DistributionReadings(old=ProxyLogProb(noise_threshold))

    def mark_tokens(self, targets: Targets, trained: Bool[Tensor, "N R"], ranks: Ranks) -> Bool[Tensor, "N R"]:
        """The share of trained tokens with A < 0 whose old log-probs are lowest; of ties all."""
        assert targets.old_log_probs is not None
        negative = trained & (targets.token_advantages < 0)
        chosen = max(1, int(float(ranks.sum(negative.sum())) * self.share))
        return negative & (targets.old_log_probs <= smallest(targets.old_log_probs[negative], chosen, ranks))

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses (see ``PolicyLoss``)."""
        assert tokens.old_reading is not None
        assert tokens.marks is not None
        ratio = (tokens.log_probs - tokens.old_log_probs).where(tokens.mask, 0.0).exp()
        clipped = clip_surrogate(ratio, tokens, self.clip_low, self.clip_high)
        held = tokens.marks & tokens.mask & (tokens.log_probs.detach() < tokens.old_reading)
        distance = (tokens.old_reading - tokens.log_probs).where(held, 0.0)
        regularised = -ratio * tokens.advantages + self.weight * (distance.exp() - 1 - distance)
        return TokenLosses(regularised.where(held, clipped.losses), clipped.clipped & ~held, (held.float(),))


def smallest(values: Float[Tensor, " T"], number: int, ranks: Ranks) -> Float[Tensor, ""]:
    """The ``number``-th smallest value of all ranks; infinite where there are fewer.

    Args:
        values: [T] of this rank.
        number: counted from 1, the same on all ranks.
        ranks: which call together.
    """
    own = values.new_full((number,), torch.inf)
    lowest = values.sort().values[:number]
    own[: len(lowest)] = lowest
    return ranks.stack(own).flatten().sort().values[number - 1]
