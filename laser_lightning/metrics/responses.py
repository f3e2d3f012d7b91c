"""How long responses are, and how many were cut off."""

import torch
from torch import Tensor

from laser_lightning.metrics.base import ExactMetric
from laser_lightning.shapes import Bool, Int, Real


class ResponseStatistics(ExactMetric):
    """Lengths and truncation rate of responses.

    ``compute`` returns a dict of scalars, the first two NaN (undefined) without responses:

    - ``length_tokens``: mean number of tokens.
    - ``truncation_rate``: share of the responses that were cut at the length limit.
    - ``tokens``: number of tokens in all, int64.
    """

    tokens: Int[Tensor, ""]
    truncated: Int[Tensor, ""]
    responses: Int[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.add_count("tokens")
        self.add_count("truncated")
        self.add_count("responses")

    def update(self, lengths: Int[Tensor, " N"], finished: Bool[Tensor, " N"]) -> None:
        """Add responses.

        Args:
            lengths: [N], integers: tokens of each response, its ``<eos>`` included.
            finished: [N], bool: whether an ``<eos>`` was sampled.

        Raises:
            ValueError: if the shapes or the dtypes are not these.
        """
        self.check_columns(lengths=lengths, finished=finished)
        self.check_integers(lengths=lengths)
        if finished.dtype != torch.bool:
            raise ValueError(f"finished must be a boolean tensor, but its dtype is {finished.dtype}.")
        self.tokens = self.tokens + lengths.sum().to(self.device)
        self.truncated = self.truncated + (~finished).sum().to(self.device)
        self.responses = self.responses + len(lengths)

    def compute(self) -> dict[str, Real[Tensor, ""]]:
        """The values named above, over all ranks."""
        return {
            "length_tokens": self.tokens / self.responses,
            "truncation_rate": self.truncated / self.responses,
            "tokens": self.tokens,
        }
