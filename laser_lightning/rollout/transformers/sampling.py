"""Drawing the next token."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from laser_lightning.rollout.engine import Sampling


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one token per row. Nothing here waits for the device.

    Args:
        logits: [B, V] float32.
        sampling: temperature, top-k, top-p and min-p, applied in this order.
        generator: on the device of the logits.

    Returns:
        The tokens [B] int64, and their log-probs [B] float32 at the sampling temperature before the other options
        (at temperature 0: at temperature 1). Those of rows whose logits are not finite are NaN.
    """
    if sampling.temperature not in (0, 1):
        logits = logits / sampling.temperature
    if sampling.temperature == 0:
        tokens, log_total = logits.argmax(dim=-1), logits.logsumexp(dim=-1)
    else:
        kept = _filtered(logits, sampling)
        tokens, log_total = _draw(kept, generator)
        if kept is not logits:
            log_total = logits.logsumexp(dim=-1)
    return tokens, logits.gather(-1, tokens[:, None]).squeeze(-1) - log_total


def _draw(logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One token per row [B] with probability softmax(logits), and logsumexp(logits) [B].

    A block of neighbouring tokens is drawn first, then a token of the block, so that some 2 sqrt(V) random numbers are
    needed for a row and not V: with large vocabularies these took longer than a small model's forward pass.
    """
    rows, vocabulary = logits.shape
    size = 2 ** round(math.log2(vocabulary) / 2)
    largest = logits.amax(dim=-1, keepdim=True)
    weights = functional.pad((logits - largest).exp_(), (0, -vocabulary % size)).view(rows, -1, size)
    block_weights = weights.sum(dim=-1)
    blocks = _race(block_weights, generator)
    within = _race(weights[torch.arange(rows, device=logits.device), blocks], generator)
    return blocks * size + within, largest.squeeze(-1) + block_weights.sum(dim=-1).log()


def _race(weights: Tensor, generator: torch.Generator) -> Tensor:
    """One index per row [B], with probability proportional to the weights [B, N], which may be 0.

    The first of exponential waiting times with these rates. torch.multinomial does the same, and waits for the device
    to check its argument.
    """
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(dim=-1)


def _filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [B, V] with -inf for the tokens that top-k, top-p and min-p leave out; the very same if they keep all."""
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probs = ordered.softmax(dim=-1)
        mass_before = probs.cumsum(dim=-1) - probs
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, mass_before >= sampling.top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    if sampling.min_p > 0:
        floor = logits.amax(dim=-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < floor, -torch.inf)
    return logits
