"""Drawing the next token."""

import torch
from torch import Tensor

from laser_lightning.rollout.engine import Sampling


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits: [B, V] float32.
        sampling: temperature, top-k, top-p and min-p, applied in this order.
        generator: on the device of the logits.

    Returns:
        The tokens [B] int64, and their log-probs [B] float32 at the sampling temperature before the other options
        (at temperature 0: at temperature 1).
    """
    log_probs = torch.log_softmax(logits / sampling.temperature if sampling.temperature > 0 else logits, dim=-1)
    if sampling.temperature == 0:
        tokens = log_probs.argmax(dim=-1)
    else:
        probs = _filtered(log_probs, sampling).exp()
        tokens = torch.multinomial(probs, 1, generator=generator).squeeze(-1)
    return tokens, log_probs.gather(-1, tokens[:, None]).squeeze(-1)


def _filtered(log_probs: Tensor, sampling: Sampling) -> Tensor:
    """Log-probs [B, V] with -inf for the tokens that top-k, top-p and min-p leave out (not renormalised)."""
    if 0 < sampling.top_k < log_probs.shape[-1]:
        smallest_kept = log_probs.topk(sampling.top_k, dim=-1).values[:, -1:]
        log_probs = log_probs.masked_fill(log_probs < smallest_kept, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = log_probs.sort(dim=-1, descending=True)
        probs = ordered.softmax(dim=-1)
        mass_before = probs.cumsum(dim=-1) - probs
        dropped = torch.zeros_like(log_probs, dtype=torch.bool).scatter(-1, order, mass_before >= sampling.top_p)
        log_probs = log_probs.masked_fill(dropped, -torch.inf)
    if sampling.min_p > 0:
        floor = log_probs.amax(dim=-1, keepdim=True) + torch.tensor(sampling.min_p, device=log_probs.device).log()
        log_probs = log_probs.masked_fill(log_probs < floor, -torch.inf)
    return log_probs
