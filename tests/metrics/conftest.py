from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Rows = dict[str, Tensor]


@pytest.fixture
def random_rows() -> Callable[..., Rows]:
    """Makes rows of a GroupMetric; few distinct answers and scores, so that votes and scores often tie."""

    def make(seed: int = 0, problems: int = 40, samples: int = 8) -> Rows:
        generator = torch.Generator().manual_seed(seed)
        size = problems * samples
        rows = {
            "problem_ids": torch.arange(problems).repeat_interleave(samples) * 7 + 3,
            "sample_indices": torch.arange(samples).repeat(problems),
            "rewards": torch.randint(0, 2, (size,), generator=generator).float(),
            "answer_ids": torch.randint(-1, 4, (size,), generator=generator),
            # Multiples of 1/8 from -1/2 to 3/2: their sums are exact in any order.
            "self_rewards": torch.randint(-4, 13, (size,), generator=generator) / 8,
        }
        # One problem without any answer, and one where no score is positive.
        rows["answer_ids"][:samples] = -1
        rows["self_rewards"][samples : 2 * samples] = -0.25
        order = torch.randperm(size, generator=generator)
        return {name: column[order] for name, column in rows.items()}

    return make
