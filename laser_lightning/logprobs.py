"""Log-probs of tokens from hidden states, without ever holding the logits of all positions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
"""Maps hidden states [T, D] to float32 logits [T, V]."""


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
    temperature: float,
    entropy: bool = False,
    chunk_size: int = 1024,
) -> TokenStatistics:
    """Log-probs (and entropies) of target tokens, in chunks whose logits are recomputed in the backward pass.

    Peak memory is that of ``chunk_size`` rows of logits, whatever the number of tokens.

    Args:
        hidden: [T, D] hidden states that predict the targets.
        targets: [T] int64 token ids.
        head: maps hidden states to float32 logits.
        temperature: divides the logits; log-probs and entropies are those of the tempered distribution.
        entropy: compute entropies too.
        chunk_size: positions that go through the head together.
    """

    def chunk_statistics(hidden_chunk: Tensor, target_chunk: Tensor) -> tuple[Tensor, Tensor]:
        log_distribution = torch.log_softmax(head(hidden_chunk) / temperature, dim=-1)
        log_probs = log_distribution.gather(-1, target_chunk[:, None]).squeeze(-1)
        if not entropy:
            return log_probs, torch.zeros_like(log_probs)
        return log_probs, -(log_distribution.exp() * log_distribution).sum(dim=-1)

    recompute = torch.is_grad_enabled() and hidden.shape[0] > chunk_size
    pieces = []
    for hidden_chunk, target_chunk in zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True):
        if recompute:
            pieces.append(checkpoint(chunk_statistics, hidden_chunk, target_chunk, use_reentrant=False))
        else:
            pieces.append(chunk_statistics(hidden_chunk, target_chunk))
    if not pieces:
        return TokenStatistics(hidden.new_zeros(0).float(), hidden.new_zeros(0).float())
    log_probs, entropies = zip(*pieces, strict=True)
    return TokenStatistics(torch.cat(log_probs), torch.cat(entropies))


def reward_token_log_probs(logits: Tensor, reward_token_id: int) -> Tensor:
    """log pi(z_c) at temperature 1: the one definition behind the loss, the advantage, the metrics and the scorer.

    Args:
        logits: [B, V] float32, the next-token logits at each solution's last token, before any sampling option.
        reward_token_id: id of z_c.

    Returns:
        [B] float32.
    """
    return logits[:, reward_token_id] - torch.logsumexp(logits, dim=-1)
