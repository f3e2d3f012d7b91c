"""What losses read off whole next-token distributions, without ever holding those of all positions."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from laser_lightning.policy.logprobs import Head
from laser_lightning.shapes import Float, Int, Shaped

COPIES = 4
"""Tensors of the logits' size that a reading holds at a time; it goes through the head in chunks that much smaller."""


class DistributionReading(ABC):
    """Reads a few numbers off the distribution that each token was drawn from.

    Attributes:
        has_gradient: whether gradients go through it; else it is read without.
    """

    has_gradient: bool = False

    @abstractmethod
    def __call__(
        self,
        log_probs: Float[Tensor, "T V"],
        token_ids: Int[Tensor, " T"],
        given: Shaped[Tensor, "T ..."] | None,
    ) -> Shaped[Tensor, "T ..."]:
        """The numbers, [T] or [T, K].

        Args:
            log_probs: [T, V] float32, of all tokens of the vocabulary at the sampling temperature.
            token_ids: [T] int64, the tokens that were drawn.
            given: [T, ...] what the old policy's reading found there, where this is another policy's; else None.
        """


class DistributionReadings(NamedTuple):
    """What is read, of which policy. Each costs one more run of the head over the tokens.

    Attributes:
        old: of the policy that the update starts from, in the pass that gives its log-probs: where a rollout sees
            several optimizer steps, or the policy loss has ``needs_old_pass``.
        teacher: of the teacher, which is given what ``old`` read.
        now: of the policy in the update, which is given what ``old`` read.
    """

    old: DistributionReading | None = None
    teacher: DistributionReading | None = None
    now: DistributionReading | None = None


class AskedReading(NamedTuple):
    """A reading that a pass is asked for.

    Attributes:
        reading: what is read.
        given: [B, R, ...] what it is given of each token of the pass; None for nothing.
    """

    reading: DistributionReading
    given: Shaped[Tensor, "B R ..."] | None = None

    def of(self, rows: Int[Tensor, " M"], width: int) -> "AskedReading":
        """The same of some solutions alone, whose longest response has ``width`` tokens."""
        return self if self.given is None else AskedReading(self.reading, self.given[rows, :width])


def read_distributions(
    reading: DistributionReading,
    hidden: Float[Tensor, "T D"],
    token_ids: Int[Tensor, " T"],
    head: Head,
    temperature: float,
    given: Shaped[Tensor, "T ..."] | None,
    chunk_size: int,
) -> Shaped[Tensor, "T ..."]:
    """Apply a reading to tokens, in chunks whose logits are recomputed in the backward pass.

    Args:
        reading: what is read.
        hidden: [T, D] hidden states that predict the tokens.
        token_ids: [T] int64.
        head: maps hidden states to float32 logits.
        temperature: divides the logits.
        given: [T, ...] for the reading.
        chunk_size: positions whose logits may be held once.
    """

    def read(hidden: Tensor, token_ids: Tensor, given: Tensor | None) -> Tensor:
        return reading((head(hidden) / temperature).log_softmax(dim=-1), token_ids, given)

    size = max(1, chunk_size // COPIES)
    pieces = []
    with torch.set_grad_enabled(torch.is_grad_enabled() and reading.has_gradient):
        for start in range(0, max(len(hidden), 1), size):
            part = slice(start, start + size)
            chunk = hidden[part], token_ids[part], None if given is None else given[part]
            if torch.is_grad_enabled():
                pieces.append(checkpoint(read, *chunk, use_reentrant=False, preserve_rng_state=False))
            else:
                pieces.append(read(*chunk))
    return torch.cat(pieces)
