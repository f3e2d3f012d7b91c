"""What is read off distributions, in chunks, against plain autograd over all logits at once."""

import pytest
import torch
from torch import Tensor

from laser_lightning.losses import DistributionReading
from laser_lightning.policy.distributions import COPIES, read_distributions

VOCABULARY, WIDTH, TOKENS, TEMPERATURE = 7, 5, 9, 0.5


class Margin(DistributionReading):
    """Log-probs of the drawn token and of a given one."""

    def __init__(self, has_gradient: bool) -> None:
        self.has_gradient = has_gradient

    def __call__(self, log_probs: Tensor, token_ids: Tensor, given: Tensor | None) -> Tensor:
        assert given is not None
        return torch.cat((log_probs.gather(1, token_ids[:, None]), log_probs.gather(1, given)), dim=1)


@pytest.mark.parametrize("chunk", [1, 2 * COPIES, 100])
def test_values_and_gradients_are_those_of_all_logits_at_once(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, requires_grad=True)
    token_ids, given = (torch.randint(VOCABULARY, (TOKENS, n), generator=generator) for n in (1, 1))
    pulls = torch.randn(TOKENS, 2, generator=generator)
    seen: list[int] = []

    def head(states: Tensor) -> Tensor:
        seen.append(len(states))
        return states @ weight.T

    found = read_distributions(Margin(True), hidden, token_ids[:, 0], head, TEMPERATURE, given, chunk)
    (gradient,) = torch.autograd.grad((found * pulls).sum(), hidden)
    assert max(seen) <= max(1, chunk // COPIES)
    twin = (hidden @ weight.T / TEMPERATURE).log_softmax(dim=1)
    expected = torch.cat((twin.gather(1, token_ids), twin.gather(1, given)), dim=1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * pulls).sum(), hidden)[0])


def test_a_reading_without_gradient_keeps_none() -> None:
    hidden = torch.randn(3, WIDTH, requires_grad=True)
    given = torch.zeros(3, 1, dtype=torch.long)
    found = read_distributions(Margin(False), hidden, given[:, 0], lambda states: states, 1.0, given, 100)
    assert not found.requires_grad


def test_no_tokens_have_a_reading_of_the_right_shape() -> None:
    given = torch.zeros(0, 1, dtype=torch.long)
    found = read_distributions(Margin(False), torch.zeros(0, WIDTH), given[:, 0], lambda states: states, 1.0, given, 9)
    assert found.shape == (0, 2)
