"""Solutions whose lengths, rewards and texts are given, for the tests of shapers."""

from collections.abc import Callable

import pytest
import torch

from laser_lightning.data import Problem
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import Verification


@pytest.fixture(scope="session")
def make_solutions() -> Callable[..., Rollout]:
    """``make_solutions(rewards, lengths=..., texts=..., answers=..., tokens=..., cut=(), group_size=None)``.

    N solutions in groups (of all, by default); those in places ``cut`` are truncated.
    """

    def make(
        rewards: list[float],
        lengths: list[int] | None = None,
        texts: list[str] | None = None,
        answers: list[str | None] | None = None,
        tokens: list[list[int]] | None = None,
        cut: tuple[int, ...] = (),
        group_size: int | None = None,
    ) -> Rollout:
        total = len(rewards)
        size = group_size or total
        tokens = [[5] * length for length in lengths or [1] * total] if tokens is None else tokens
        longest = max(map(len, tokens))
        rollouts = Rollouts(
            prompt_ids=torch.ones(total // size, 1, dtype=torch.long),
            prompt_lengths=torch.ones(total // size, dtype=torch.long),
            response_ids=torch.tensor([row + [0] * (longest - len(row)) for row in tokens]),
            response_lengths=torch.tensor([len(row) for row in tokens]),
            finished=torch.tensor([place not in cut for place in range(total)]),
            sampling_log_probs=torch.zeros(total, longest),
            reward_token_log_probs=torch.zeros(total, 1),
        )
        found = [None] * total if answers is None else answers
        return Rollout(
            [Problem("train", 10 * i, f"p{i}", f"p{i}", [i], str(i)) for i in range(total // size)],
            rollouts,
            ["" for _ in rewards] if texts is None else texts,
            [Verification(reward, answer) for reward, answer in zip(rewards, found, strict=True)],
            torch.tensor(rewards),
            None,
            torch.tensor(rewards) / 2,
        )

    return make
