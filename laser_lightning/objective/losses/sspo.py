"""SSPO: the clipped objective with one ratio, and bounds of its own, for each sentence."""

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.clipped import clip_surrogate
from laser_lightning.objective.losses.policy_loss import PolicyLoss, PolicyTokens, TokenLosses
from laser_lightning.shapes import Float, Int


class SSPOPolicyLoss(PolicyLoss):
    """-min(s * A, clip(s, 1 - h * clip_low, 1 + h * clip_high) * A) for each sentence, s the mean ratio of its tokens.

    s is the geometric mean of the token ratios of the sentence, between GRPO's of tokens and GSPO's of the whole
    response, and bounds are wider where the sentence's entropy is high (SSPO, arXiv 2511.04256). The scaling h could
    not be verified: the abstract says that high-entropy tokens get wider bounds and low-entropy ones narrower, the
    formula was out of reach. Here h is the sentence's mean entropy over that of its response, so that the bounds of a
    response are those of the arguments on average and no other response has a say in them. The bounds' sizes are not
    from the paper either: they lie between those of GSPO and of PPO.

    Args:
        clip_low: how far the ratio may fall below 1 in a sentence of average entropy.
        clip_high: how far it may rise above 1 there.
        scale_by_entropy: whether bounds follow the sentence's entropy.
    """

    needs_sentences = True

    def __init__(self, clip_low: float = 0.03, clip_high: float = 0.04, scale_by_entropy: bool = True) -> None:
        if not 0 <= clip_low < 1 or clip_high < 0:
            raise UserError("policy_loss.clip_low must be at least 0 and below 1, and policy_loss.clip_high 0 or more.")
        self.clip_low, self.clip_high, self.scale_by_entropy = clip_low, clip_high, scale_by_entropy
        self.needs_entropy = scale_by_entropy

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses (see ``PolicyLoss``)."""
        assert tokens.sentences is not None
        mask, counts = tokens.mask, tokens.mask.to(tokens.log_probs.dtype)
        log_ratios = (tokens.log_probs - tokens.old_log_probs).where(mask, 0.0)
        ratio = sentence_means(log_ratios, counts, tokens.sentences).exp()
        if not self.scale_by_entropy:
            return clip_surrogate(ratio, tokens, self.clip_low, self.clip_high)
        entropy = tokens.entropy.detach().where(mask, 0.0)
        whole = entropy.sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True).clamp(min=1)
        scale = sentence_means(entropy, counts, tokens.sentences) / whole.clamp(min=torch.finfo(whole.dtype).tiny)
        # A ratio is above 0, where a bound below it would cut nothing off.
        return clip_surrogate(ratio, tokens, (self.clip_low * scale).clamp(max=1), self.clip_high * scale)


def sentence_means(
    values: Float[Tensor, "B R"], counts: Float[Tensor, "B R"], sentences: Int[Tensor, "B R"]
) -> Float[Tensor, "B R"]:
    """[B, R] the mean over each token's sentence, at each token.

    Args:
        values: [B, R], 0 at tokens that do not count.
        counts: [B, R] 1 at those that do, else 0.
        sentences: [B, R] numbers of the tokens' sentences.
    """
    empty = torch.zeros_like(values)
    sums, numbers = (empty.scatter_add(1, sentences, one) for one in (values, counts))
    return (sums / numbers.clamp(min=1)).gather(1, sentences)
