import pytest
import torch

from laser_lightning.metrics import BrierByKind


def test_values_by_hand() -> None:
    # Clamped: 1 and 0.5 for two right ones, (0 + 0.25) / 2; 0 and 0.2 for two wrong ones, (0 + 0.04) / 2.
    metric = BrierByKind(["a", "b", "none"])
    metric.update(torch.tensor([0, 1, 0, 1]), torch.tensor([1.5, -2.0, 0.5, 0.2]), torch.tensor([1.0, 0.5, 0.6, 0.0]))
    values = metric.compute()
    assert values["a"] == 0.125
    assert values["b"] == pytest.approx(0.02, abs=1e-7)
    assert values["none"].isnan()


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kind id 2 is not in 0\.\.1"):
        BrierByKind(["a", "b"]).update(torch.tensor([0, 2]), torch.zeros(2), torch.zeros(2))
