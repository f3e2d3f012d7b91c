"""Top-k on-policy distillation: the reverse KL to the teacher on the student's likeliest tokens."""

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.policy_loss import PolicyLoss, PolicyTokens, TokenLosses
from laser_lightning.policy.distributions import DistributionReading, DistributionReadings
from laser_lightning.shapes import Float, Int, Shaped


class TopTokens(DistributionReading):
    """[T, k] int64, the k likeliest tokens."""

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(
        self, log_probs: Float[Tensor, "T V"], token_ids: Int[Tensor, " T"], given: Shaped[Tensor, "T ..."] | None
    ) -> Shaped[Tensor, "T ..."]:
        """See ``DistributionReading``."""
        return log_probs.topk(min(self.k, log_probs.shape[-1]), dim=-1).indices


class GivenLogProbs(DistributionReading):
    """[T, k] log-probs of given tokens [T, k], with gradient."""

    has_gradient = True

    def __call__(
        self, log_probs: Float[Tensor, "T V"], token_ids: Int[Tensor, " T"], given: Shaped[Tensor, "T ..."] | None
    ) -> Shaped[Tensor, "T ..."]:
        """See ``DistributionReading``."""
        assert given is not None
        known = log_probs.gather(-1, given.clamp(max=log_probs.shape[-1] - 1))
        # Models of one tokenizer may have unused rows of their own behind its tokens.
        return known.where(given < log_probs.shape[-1], log_probs.amin(dim=-1, keepdim=True))


class GivenLogProbsAndOverlap(GivenLogProbs):
    """[T, k + 1]: besides, which share of the given tokens are among this policy's own k likeliest."""

    def __call__(
        self, log_probs: Float[Tensor, "T V"], token_ids: Int[Tensor, " T"], given: Shaped[Tensor, "T ..."] | None
    ) -> Shaped[Tensor, "T ..."]:
        """See ``DistributionReading``."""
        found = super().__call__(log_probs, token_ids, given)
        assert given is not None
        least = log_probs.topk(given.shape[-1], dim=-1).values[:, -1:]
        return torch.cat((found, (found >= least).float().mean(dim=-1, keepdim=True)), dim=-1)


class TopKDistillation(PolicyLoss):
    """sum_v w_v (log pi_v - log pi_T,v) over the k likeliest tokens v of the policy that drew the response.

    Top-k on-policy distillation (arXiv 2604.13016, and the authors' settings ``only_stu``, ``student_p``, k = 16): w
    are the student's probabilities on these tokens, renormalised. As there each token's w_v (log pi_T,v - log pi_v)
    acts as an advantage: the gradient is sum_v w_v (log pi_v - log pi_T,v) d log pi_v, with nothing through w. (That
    weights are renormalised was read off code that others derived from the authors', whose own was out of reach.)
    Unlike the authors' advantages, which are those of the rollout, both factors here are the policy's of now.

    ``train/top_k/overlap`` is the share of the student's k likeliest tokens that are among the teacher's, which rises
    where distillation works; ``train/top_k/mass`` the probability of the k tokens together. Rewards have no say in this
    loss.

    Args:
        k: how many tokens.
    """

    needs_teacher = True
    looks_at_advantages = uses_advantages = False
    needs_old_pass = True
    diagnostic_names = ("top_k/overlap", "top_k/mass")

    def __init__(self, k: int = 16) -> None:
        if k < 1:
            raise UserError(f"policy_loss.k is {k}, and must be at least 1.")
        self.k = k
        self.readings = DistributionReadings(TopTokens(k), GivenLogProbsAndOverlap(), GivenLogProbs())

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses (see ``PolicyLoss``)."""
        own, of_teacher = tokens.reading, tokens.teacher_reading
        assert own is not None
        assert of_teacher is not None
        known = own.detach()
        shares = known.softmax(dim=-1) * (known - of_teacher[..., :-1])
        losses = (shares * (1 + own - known)).sum(dim=-1)
        return TokenLosses(losses, torch.zeros_like(tokens.mask), (of_teacher[..., -1], known.exp().sum(dim=-1)))
