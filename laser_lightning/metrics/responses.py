"""How long responses are, and how many were cut off."""

import torch
from torch import Tensor

from laser_lightning.metrics.base import ExactMetric
from laser_lightning.shapes import Bool, Int, Real


class ResponseStatistics(ExactMetric):
    """Lengths and truncation rate of responses, and what their judgement costs.

    ``compute`` returns a dict of scalars, all but ``tokens`` NaN (undefined) without responses:

    - ``length_tokens``: mean number of tokens.
    - ``truncation_rate``: share of the responses that were cut at the length limit.
    - ``tokens``: number of tokens in all, int64.
    - ``judging_tokens``: mean number of tokens that the model computes to judge a response; NaN where that of one is
      not known.
    """

    tokens: Int[Tensor, ""]
    judging: Int[Tensor, ""]
    unknown: Int[Tensor, ""]
    truncated: Int[Tensor, ""]
    responses: Int[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.add_count("tokens")
        self.add_count("judging")
        self.add_count("unknown")
        self.add_count("truncated")
        self.add_count("responses")

    def update(
        self,
        lengths: Int[Tensor, " N"],
        finished: Bool[Tensor, " N"],
        judging_tokens: Int[Tensor, " N"] | None = None,
    ) -> None:
        """Add responses.

        Args:
            lengths: [N], integers: tokens of each response, its ``<eos>`` included.
            finished: [N], bool: whether an ``<eos>`` was sampled.
            judging_tokens: [N], integers: tokens that the model wrote to judge each response, -1 where that is not
                known. None where it judges by the score behind ``<eos>``: that is one further token of a finished
                response, and none of another.

        Raises:
            ValueError: if the shapes or the dtypes are not these.
        """
        self.check_columns(lengths=lengths, finished=finished)
        self.check_integers(lengths=lengths)
        if finished.dtype != torch.bool:
            raise ValueError(f"finished must be a boolean tensor, but its dtype is {finished.dtype}.")
        self.tokens = self.tokens + lengths.sum().to(self.device)
        judging = finished.long() if judging_tokens is None else judging_tokens
        self.check_columns(lengths=lengths, judging_tokens=judging)
        self.check_integers(judging_tokens=judging)
        self.judging = self.judging + judging.sum().to(self.device)
        self.unknown = self.unknown + (judging < 0).sum().to(self.device)
        self.truncated = self.truncated + (~finished).sum().to(self.device)
        self.responses = self.responses + len(lengths)

    def compute(self) -> dict[str, Real[Tensor, ""]]:
        """The values named above, over all ranks."""
        return {
            "length_tokens": self.tokens / self.responses,
            "truncation_rate": self.truncated / self.responses,
            "tokens": self.tokens,
            "judging_tokens": (self.judging / self.responses).where(self.unknown == 0, torch.nan),
        }
