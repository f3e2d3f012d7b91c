"""Chunked log-probs against plain log-softmax, in values and in gradients."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from laser_lightning.policy import logprobs
from laser_lightning.policy.logprobs import reward_token_log_probs, token_statistics


def identity(hidden: Tensor) -> Tensor:
    return hidden


def test_values_by_hand() -> None:
    # Logits ln 1, ln 2, ln 5 are the distribution 1/8, 2/8, 5/8; the entropy is
    # -(ln(1/8)/8 + 2 ln(1/4)/8 + 5 ln(5/8)/8) = 0.259930 + 0.346574 + 0.293752 = 0.900256.
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log().repeat(3, 1)
    statistics = token_statistics(logits, torch.tensor([0, 1, 2]), identity, temperature=1.0, entropy=True)
    torch.testing.assert_close(statistics.log_probs, torch.tensor([1 / 8, 2 / 8, 5 / 8]).log())
    torch.testing.assert_close(statistics.entropy, torch.full((3,), 0.900256), rtol=0, atol=2e-6)


def test_the_temperature_divides_the_logits() -> None:
    # At temperature 1/2 logits double: ln 1, ln 4, ln 25, the distribution 1/30, 4/30, 25/30.
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log()
    statistics = token_statistics(logits, torch.tensor([1]), identity, temperature=0.5, entropy=True)
    torch.testing.assert_close(statistics.log_probs, torch.tensor([math.log(4 / 30)]))
    expected = -sum(p * math.log(p) for p in (1 / 30, 4 / 30, 25 / 30))
    torch.testing.assert_close(statistics.entropy, torch.tensor([expected]))


def test_entropy_is_zero_where_not_asked_for() -> None:
    statistics = token_statistics(torch.randn(4, 5), torch.zeros(4, dtype=torch.long), identity, 1.0)
    assert statistics.entropy.tolist() == [0.0] * 4


def test_no_tokens() -> None:
    statistics = token_statistics(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), identity, 1.0, entropy=True)
    assert statistics.log_probs.shape == statistics.entropy.shape == (0,)
    assert statistics.log_probs.dtype == torch.float32


class RecordingHead(nn.Linear):
    """A linear head that remembers how many positions it was given at a time."""

    def __init__(self) -> None:
        super().__init__(8, 11)
        self.sizes: list[int] = []

    def forward(self, hidden: Tensor) -> Tensor:
        self.sizes.append(len(hidden))
        return super().forward(hidden)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 19, 20, 21])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunks_give_the_plain_values_and_gradients(chunk_size: int, entropy: bool, temperature: float) -> None:
    torch.manual_seed(0)
    head, targets = RecordingHead(), torch.randint(11, (20,))
    hidden = torch.randn(20, 8, requires_grad=True)
    weights = torch.randn(2, 20)

    distribution = torch.log_softmax(nn.functional.linear(hidden, head.weight, head.bias) / temperature, dim=1)
    log_probs = torch.stack([distribution[i, target] for i, target in enumerate(targets.tolist())])
    entropies = -(distribution.exp() * distribution).sum(dim=1)
    loss = (log_probs * weights[0]).sum() + (entropies * weights[1]).sum() * entropy
    expected = torch.autograd.grad(loss, (hidden, head.weight, head.bias))

    statistics = token_statistics(hidden, targets, head, temperature, entropy, chunk_size)
    torch.testing.assert_close(statistics.log_probs, log_probs)
    torch.testing.assert_close(statistics.entropy, entropies * entropy)
    assert sum(head.sizes) == 20
    assert max(head.sizes) <= chunk_size
    loss = (statistics.log_probs * weights[0]).sum() + (statistics.entropy * weights[1]).sum()
    torch.testing.assert_close(torch.autograd.grad(loss, (hidden, head.weight, head.bias)), expected)
    # Logits of several chunks are not kept for the backward pass, but recomputed there.
    assert sum(head.sizes) == (40 if chunk_size < 20 else 20)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("chunk_size", [6, 100])
@pytest.mark.parametrize("rows_at_once", [1, 4, 100])
def test_in_float64_they_are_equal(
    chunk_size: int, entropy: bool, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CACHED_LOGITS", rows_at_once * 11)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    hidden, weight, bias = (draw(*shape).requires_grad_() for shape in ((20, 8), (11, 8), (11,)))
    targets = torch.randint(11, (20,), generator=generator)
    temperatures = 0.5 + torch.rand(20, generator=generator, dtype=torch.float64)

    def head(hidden: Tensor) -> Tensor:  # with a cap, whose own gradient needs the logits
        return 3 * torch.tanh(nn.functional.linear(hidden, weight, bias) / 3)

    loss, weights, plain = torch.zeros((), dtype=torch.float64), draw(2, 20), []
    for i in range(20):
        distribution = torch.log_softmax(head(hidden[i]) / temperatures[i], dim=0)
        plain.append(distribution[targets[i]])
        loss = loss + weights[0, i] * plain[-1]
        if entropy:
            loss = loss - weights[1, i] * (distribution.exp() * distribution).sum()
    expected = torch.autograd.grad(loss, (hidden, weight, bias))

    statistics = token_statistics(hidden, targets, head, temperatures, entropy, chunk_size)
    torch.testing.assert_close(statistics.log_probs, torch.stack(plain), rtol=0, atol=1e-12)
    loss = (statistics.log_probs * weights[0]).sum() + (statistics.entropy * weights[1]).sum()
    gradients = torch.autograd.grad(loss, (hidden, weight, bias))
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Watches how many elements the largest result of any operation has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


@pytest.mark.parametrize("entropy", [False, True])
def test_no_more_than_the_logits_of_a_chunk_are_ever_held(entropy: bool) -> None:
    head, hidden = nn.Linear(2, 50), torch.randn(400, 2, requires_grad=True)
    targets = torch.randint(50, (400,))
    with LargestTensor() as largest:
        statistics = token_statistics(hidden, targets, head, 0.7, entropy, chunk_size=20)
        (statistics.log_probs + statistics.entropy).sum().backward()
    assert largest.elements == 20 * 50


def test_a_frozen_head_gets_no_gradient() -> None:
    head, hidden = nn.Linear(4, 9).requires_grad_(False), torch.randn(10, 4, requires_grad=True)
    token_statistics(hidden, torch.zeros(10, dtype=torch.long), head, 1.0, chunk_size=3).log_probs.sum().backward()
    assert head.weight.grad is None
    expected = head.weight[0] - torch.softmax(head(hidden), dim=1) @ head.weight
    torch.testing.assert_close(hidden.grad, expected)


def test_autocast_reaches_the_recomputation() -> None:
    head, hidden = nn.Linear(16, 9), torch.randn(10, 16, requires_grad=True)
    dtypes: list[torch.dtype] = []

    def recording(hidden: Tensor) -> Tensor:
        logits = head(hidden)
        dtypes.append(logits.dtype)
        return logits.float()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        statistics = token_statistics(hidden, torch.zeros(10, dtype=torch.long), recording, 1.0, chunk_size=5)
    assert statistics.log_probs.dtype == torch.float32
    statistics.log_probs.sum().backward()
    assert dtypes == [torch.bfloat16] * 4


def test_without_gradients_nothing_is_recomputed() -> None:
    head = RecordingHead()
    with torch.no_grad():
        statistics = token_statistics(torch.randn(9, 8), torch.zeros(9, dtype=torch.long), head, 1.0, chunk_size=4)
    assert head.sizes == [4, 4, 1]
    assert not statistics.log_probs.requires_grad


def test_reward_token_log_probs_by_hand() -> None:
    # exp of the logits: 1, 2, 3 (sum 6) and 4, 2, 4 (sum 10); token 1 has 2/6 and 2/10.
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 2.0, 4.0]]).log()
    torch.testing.assert_close(reward_token_log_probs(logits, (1,)), torch.tensor([[1 / 3], [1 / 5]]).log())


def test_reward_token_log_probs_survive_large_logits() -> None:
    # 1000 - ln(e^1000 (1 + e^-1000)) = 0 and -1000, where exp(1000) alone would overflow.
    logits = torch.tensor([[1000.0, 0.0]])
    assert reward_token_log_probs(logits, (0, 1)).tolist() == [[0.0, -1000.0]]
