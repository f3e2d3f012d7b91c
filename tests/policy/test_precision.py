"""Half precision of the weights, and float32 for the rest."""

from collections.abc import Iterator

import pytest
import torch

from laser_lightning.policy.precision import float32_by_default


@pytest.fixture(params=[torch.bfloat16, torch.float16])
def half(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """torch's default dtype, as in a step of bf16-true or 16-true."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def test_in_half_precision(half: torch.dtype) -> None:
    with float32_by_default():
        assert float(torch.tensor(6006) / 1) == 6006  # bfloat16 would make it 6016
    assert torch.get_default_dtype() == half
    with pytest.raises(ValueError, match="defect"), float32_by_default():
        raise ValueError("defect")
    assert torch.get_default_dtype() == half


def test_double_precision_stays() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with float32_by_default():
            assert torch.ones(1).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
