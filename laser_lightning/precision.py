"""What Lightning's half precision must not touch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Around a step: numbers beside the model are float32, whatever its weights are.

    In every step of ``precision: bf16-true`` Lightning makes bfloat16 the dtype of all tensors for which none is named,
    and of every quotient of integers: of 6,006 tokens 6,016 would be counted, and step 257 would be logged as 256.
    """
    before = torch.get_default_dtype()
    if before in (torch.bfloat16, torch.float16):
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
