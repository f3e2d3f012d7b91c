import pytest
import torch

from laser_lightning.metrics import WallTime


def test_seconds_add_up() -> None:
    metric = WallTime()
    for seconds in (0.25, 3.5, 1e-6):
        metric.update(seconds)
    assert metric.compute().item() == pytest.approx(3.750001)
    metric.reset()
    metric.update(2.0)
    assert metric.compute().item() == 2.0


def test_a_cast_of_the_model_loses_nothing() -> None:
    metric = WallTime().to(torch.bfloat16)
    metric.update(1000.0)
    metric.update(1.0)
    assert metric.compute().item() == 1001.0  # in bfloat16 it would be 1000


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_took_no_time() -> None:
    assert WallTime().compute().item() == 0
