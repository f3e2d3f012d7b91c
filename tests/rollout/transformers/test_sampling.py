"""Drawing one token: which ones are left by each option, and which log-probs are reported."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.rollout.engine import Sampling
from laser_lightning.rollout.transformers.sampling import _filtered, sample

PROBS = [0.4, 0.05, 0.3, 0.1, 0.15]  # by rank: tokens 0, 2, 4, 3, 1
LOGITS = torch.tensor([PROBS]).log()


def kept(probs: list[float], **options: Any) -> set[int]:
    mask = _filtered(torch.tensor([probs]).log(), Sampling(**options)) > -torch.inf
    return set(mask[0].nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 1}, {0}),
        ({"top_k": 3}, {0, 2, 4}),
        ({"top_k": 5}, {0, 1, 2, 3, 4}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        # running sums 0.4, 0.7, 0.85, 0.95, 1: the token that reaches top_p is the last one kept
        ({"top_p": 0.05}, {0}),
        ({"top_p": 0.39}, {0}),
        ({"top_p": 0.41}, {0, 2}),
        ({"top_p": 0.69}, {0, 2}),
        ({"top_p": 0.71}, {0, 2, 4}),
        ({"top_p": 0.96}, {0, 1, 2, 3, 4}),
        # at least min_p times 0.4: 0.2, 0.12, 0.04
        ({"min_p": 0.5}, {0, 2}),
        ({"min_p": 0.3}, {0, 2, 4}),
        ({"min_p": 0.1}, {0, 1, 2, 3, 4}),
        # top-p after top-k looks at what is left, renormalised: 0.4 / 0.7 = 0.571
        ({"top_k": 2, "top_p": 0.5}, {0}),
        ({"top_k": 2, "top_p": 0.6}, {0, 2}),
        ({"top_p": 0.8, "min_p": 0.5}, {0, 2}),
    ],
)
def test_kept_tokens_by_hand(options: dict[str, Any], expected: set[int]) -> None:
    assert kept(PROBS, **options) == expected


def test_each_row_is_filtered_by_itself() -> None:
    rows = torch.tensor([PROBS, PROBS[::-1]]).log()
    mask = _filtered(rows, Sampling(top_k=2)) > -torch.inf
    assert mask.tolist() == [[True, False, True, False, False], [False, False, True, False, True]]


@pytest.mark.parametrize("seed", range(5))
def test_top_p_against_a_slow_twin(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randn(12, generator=generator).softmax(0).tolist()
    top_p = float(torch.rand((), generator=generator))
    expected: set[int] = set()
    for token in sorted(range(12), key=lambda i: -probs[i]):
        if sum(probs[i] for i in expected) >= top_p:
            break
        expected.add(token)
    assert kept(probs, top_p=top_p) == expected


def draw(sampling: Sampling, rows: int = 4000) -> tuple[Tensor, Tensor]:
    return sample(LOGITS.expand(rows, -1), sampling, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": 3}, {"top_p": 0.71}, {"min_p": 0.3}, {"temperature": 0.5}, {"temperature": 2.0, "top_k": 2}],
)
def test_tokens_follow_the_filtered_tempered_distribution(options: dict[str, Any]) -> None:
    sampling = Sampling(**options)
    tempered = [p ** (1 / sampling.temperature) for p in PROBS]
    tempered = [p / sum(tempered) for p in tempered]
    left = [p if i in kept(tempered, **options) else 0.0 for i, p in enumerate(tempered)]
    tokens, log_probs = draw(sampling)
    for token, (share, probability) in enumerate(zip(left, tempered, strict=True)):
        expected = share / sum(left)
        # within 4 standard deviations of a count of 4000 draws; exactly none where nothing is left
        error = abs(float((tokens == token).float().mean()) - expected)
        assert error <= 4 * math.sqrt(expected * (1 - expected) / 4000)
        # the log-prob reported is the tempered one, as if nothing had been filtered out
        for value in log_probs[tokens == token].unique().tolist():
            assert value == pytest.approx(math.log(probability), abs=1e-6)


def is_plausible(tokens: Tensor, probs: Tensor) -> bool:
    """Whether counts follow the distribution: chi-square within 4 standard deviations of its mean."""
    expected, counts = probs * len(tokens), torch.bincount(tokens, minlength=len(probs)).float()
    freedom = int((probs > 0).sum()) - 1
    chi_square = float(((counts - expected)[probs > 0] ** 2 / expected[probs > 0]).sum())
    return not counts[probs == 0].any() and abs(chi_square - freedom) <= 4 * (2 * freedom) ** 0.5


# Vocabularies that are whole blocks (64 = 8 x 8, 1024 = 32 x 32) and that are not.
@pytest.mark.parametrize("vocabulary", [2, 3, 64, 80, 300, 1024, 1025])
@pytest.mark.parametrize("holes", [False, True])
def test_large_vocabularies(vocabulary: int, holes: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(vocabulary, generator=generator).clamp(-1.5, 1.5) + 100
    if holes and vocabulary > 3:  # whole blocks that cannot be drawn, and single tokens
        logits[: vocabulary // 3] = logits[::7] = logits[-1] = -torch.inf
    probs = logits.double().softmax(0)
    draws = [sample(logits.expand(2000, -1), Sampling(), generator) for _ in range(20)]
    tokens, log_probs = torch.cat([d[0] for d in draws]), torch.cat([d[1] for d in draws])
    assert is_plausible(tokens, probs)
    torch.testing.assert_close(log_probs.double(), probs.log()[tokens], rtol=0, atol=2e-5)  # float32 of logits near 100
    assert not is_plausible(tokens, (logits.double() * 1.2).softmax(0))  # a slightly different one is told apart


def test_rows_draw_from_their_own_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((50, 300), -torch.inf)
    only = torch.randint(0, 300, (50,), generator=generator)
    logits[torch.arange(50), only] = torch.randn(50, generator=generator)
    tokens, log_probs = sample(logits, Sampling(), generator)
    assert torch.equal(tokens, only)
    assert not log_probs.any()  # certain


def test_log_probs_of_logits_that_are_not_finite_are_nan() -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] = torch.nan
    assert sample(logits, Sampling(), torch.Generator())[1].isnan().tolist() == [False, True, False]
    assert sample(logits, Sampling(temperature=0), torch.Generator())[1].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("options", [{}, {"top_p": 0.1}, {"top_k": 4, "min_p": 0.9}])
def test_temperature_zero_takes_the_most_likely_token(options: dict[str, Any]) -> None:
    tokens, log_probs = draw(Sampling(temperature=0, **options), rows=3)
    assert tokens.tolist() == [0, 0, 0]
    torch.testing.assert_close(log_probs, torch.full((3,), math.log(0.4)))  # at temperature 1


def test_the_generator_is_the_only_source_of_randomness() -> None:
    torch.manual_seed(1)
    first = draw(Sampling())[0]
    before = torch.get_rng_state()
    assert torch.equal(draw(Sampling())[0], first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_response_tokens", 0),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", -0.1),
        ("min_p", 1.0),
        ("temperature", math.nan),
    ],
)
def test_options_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"sampling\.{field} is {value}"):
        Sampling(**{field: value})
