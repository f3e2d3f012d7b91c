"""Messages are compared with those in their place."""

import pytest
import torch

from laser_lightning.objective.advantages.by_message import message_advantages


def test_by_hand() -> None:
    # Place (0, 0): 1, 0, 0 with mean 1/3 and std sqrt((4/9 + 1/9 + 1/9) / 2) = 1/sqrt(3). Place (1, 0): one alone.
    # Place (0, 1): all equal, whatever their mean is rounded to.
    places = torch.tensor([[0, 0], [0, 1], [0, 0], [1, 0], [0, 1], [0, 0], [0, 1]])
    rewards = torch.tensor([1.0, 0.1, 0.0, 1.0, 0.1, 0.0, 0.1])
    third = 3**0.5 / 3
    found = message_advantages(rewards, places)
    assert found.tolist() == pytest.approx([2 * third, 0, -third, 0, 0, -third, 0], abs=1e-5)
    assert found[[1, 3, 4, 6]].tolist() == [0, 0, 0, 0]
    assert message_advantages(rewards, places, divide_by_std=False).tolist() == pytest.approx(
        [2 / 3, 0, -1 / 3, 0, 0, -1 / 3, 0]
    )
    assert found.dtype == torch.float32
