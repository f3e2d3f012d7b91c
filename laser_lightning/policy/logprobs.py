"""Log-probs of tokens from hidden states, without ever holding the logits of all positions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
"""Maps hidden states [T, D] to float32 logits [T, V], in memory of their own: gradients are written over them."""

CACHED_LOGITS = 2**20
"""Logits that a CPU works on at a time, few enough to stay in its cache."""


class TokenStatistics(NamedTuple):
    """What the update reads off the distributions that response tokens were drawn from.

    Attributes:
        log_probs: [T] float32, log-prob of each token at the given temperature.
        entropy: [T] float32, entropy (nats) of each distribution at that temperature; zeros if not asked for.
    """

    log_probs: Tensor
    entropy: Tensor


def token_statistics(
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    temperature: float | Tensor,
    entropy: bool = False,
    chunk_size: int = 1024,
) -> TokenStatistics:
    """Log-probs (and entropies) of target tokens, in chunks whose logits are recomputed in the backward pass.

    Peak memory is that of the logits of ``chunk_size`` positions, held once, whatever the number of tokens.

    Args:
        hidden: [T, D] hidden states that predict the targets.
        targets: [T] int64 token ids.
        head: maps hidden states to float32 logits.
        temperature: divides the logits, one for all or [T]; log-probs and entropies are those of the tempered
            distribution.
        entropy: compute entropies too.
        chunk_size: positions that go through the head together.
    """

    def statistics(hidden: Tensor, targets: Tensor, temperatures: Tensor, known: list[Tensor]) -> tuple[Tensor, Tensor]:
        return _Statistics.apply(head(hidden), targets, temperatures, entropy, known)

    if not len(hidden):
        return TokenStatistics(hidden.new_zeros(0).float(), hidden.new_zeros(0).float())
    temperatures = torch.as_tensor(temperature, dtype=torch.float64, device=hidden.device).expand(len(hidden))
    recompute = torch.is_grad_enabled() and len(hidden) > chunk_size
    inputs = zip(hidden.split(chunk_size), targets.split(chunk_size), temperatures.split(chunk_size), strict=True)
    if recompute:
        pieces = [checkpoint(statistics, *chunk, [], use_reentrant=False, preserve_rng_state=False) for chunk in inputs]
    else:
        pieces = [statistics(*chunk, []) for chunk in inputs]
    log_probs, entropies = zip(*pieces, strict=True)
    return TokenStatistics(torch.cat(log_probs), torch.cat(entropies))


class _Statistics(torch.autograd.Function):
    """Log-probs and entropies of rows of logits; the gradient takes the place of the logits.

    With s = logits / temperature, Z = logsumexp(s), p = exp(s - Z) and entropy H, the gradient by s_v is
    [v is the target] - p_v of the log-prob, and -p_v * (s_v - Z + H) of the entropy.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, temperatures: Tensor, entropy: bool, known: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        temperatures = temperatures.to(logits.dtype)
        if not known:  # a recomputation needs the logits alone
            known += (torch.zeros_like(temperatures), torch.zeros_like(temperatures))
            for block, tempers, *results in _blocks(logits, temperatures, *known):
                _reduce(block / tempers[:, None], entropy, *results)
        ctx.save_for_backward(logits, targets, temperatures, *known)
        ctx.entropy = entropy
        log_normalizers, entropies = known
        chosen = logits.gather(-1, targets[:, None]).squeeze(-1)
        return chosen / temperatures - log_normalizers, entropies.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, *rows = ctx.saved_tensors
        for block, chosen, *columns in _blocks(logits, *rows, *gradients):
            temper, log_normalizer, entropy, of_log_prob, of_entropy = (column[:, None] for column in columns)
            log_p = block.div_(temper).sub_(log_normalizer)
            if ctx.entropy:
                p = log_p.exp()
                log_p.add_(entropy).mul_(of_entropy).add_(of_log_prob).mul_(p).div_(-temper)
            else:
                log_p.exp_().mul_(-of_log_prob / temper)
            block.scatter_add_(-1, chosen[:, None], of_log_prob / temper)
        return logits, None, None, None, None


def _reduce(logits: Tensor, entropy: bool, log_normalizers: Tensor, entropies: Tensor) -> None:
    """Fill in the log of the sum of exponentials of each row, and the entropy of its distribution if asked for."""
    torch.logsumexp(logits, dim=-1, out=log_normalizers)
    if entropy:
        log_p = logits - log_normalizers[:, None]
        torch.sum(log_p.exp().mul_(log_p), dim=-1, out=entropies).neg_()


def _blocks(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows of ``logits`` [T, V] that are worked on together, and the same rows of other tensors [T]."""
    size = max(1, CACHED_LOGITS // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
    return zip(*(values.split(size) for values in (logits, *others)), strict=True)


def reward_token_log_probs(logits: Tensor, token_ids: Sequence[int]) -> Tensor:
    """log pi(z) at temperature 1, where the logits are at hand; the update reads it with ``token_statistics``.

    Args:
        logits: [B, V] float32, the next-token logits at each solution's last token, before any sampling option.
        token_ids: K ids.

    Returns:
        [B, K] float32.
    """
    # Stacked columns: a list of ids as an index would travel to the device in each step of decoding.
    chosen = torch.stack([logits[:, token_id] for token_id in token_ids], dim=1)
    return chosen - torch.logsumexp(logits, dim=-1, keepdim=True)
