import torch

from laser_lightning.metrics import MeanReward


def test_problems_weigh_the_same() -> None:
    # Problem 0: (1 + 0.5 + 0) / 3 = 0.5; problem 1: -1. Their mean is -0.25; that of the four solutions is 0.125.
    metric = MeanReward()
    metric.update(
        problem_ids=torch.tensor([0, 1, 0, 0]),
        sample_indices=torch.tensor([0, 0, 1, 2]),
        rewards=torch.tensor([1.0, -1.0, 0.5, 0.0]),
        answer_ids=torch.tensor([-1, -1, -1, -1]),
        self_rewards=torch.zeros(4),
    )
    assert metric.compute().item() == -0.25
