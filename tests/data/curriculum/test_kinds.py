"""Kinds by their probabilities, problems of a kind at random."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from laser_lightning.data import KindCurriculum, Problem, StepOutcome
from laser_lightning.data.curriculum.drawing import draw_from, softmax
from laser_lightning.data.curriculum.kinds import advantage_sizes, known_by_kind
from laser_lightning.errors import UserError


class ThreeToOne(KindCurriculum):
    """Three of the first kind for one of the second."""

    def probabilities(self) -> dict[str | None, float]:
        return dict(zip(self.of_kind, (0.75, 0.25), strict=True))


def test_kinds_come_by_their_probabilities(make_problems: Callable[[str], list[Problem]], make_draw: Callable) -> None:
    curriculum = ThreeToOne()
    curriculum.begin(make_problems("ab" * 50))  # a at even places
    chosen = [place for number in range(300) for place in curriculum.choose(make_draw(8, number))]
    counts = Counter("ab"[place % 2] for place in chosen)
    # 2,400 draws: 1,800 expected, with a deviation of sqrt(2400 * 3/16) = 21; the seed is fixed.
    assert abs(counts["a"] - 1800) < 63
    assert len({*chosen}) == 100, "all problems come"
    assert all(len({*curriculum.choose(make_draw(8, number))}) == 8 for number in range(100)), "none twice in a step"
    # Both kinds reach each of two ranks, which take every second one.
    assert any("b" in {"ab"[p % 2] for p in curriculum.choose(make_draw(8, n))[0::2]} for n in range(5))


@pytest.mark.parametrize(("kinds", "message"), [("---", "have no kinds"), ("aaa", "are all of the kind 'a'")])
def test_nothing_to_choose_between_is_refused(
    kinds: str, message: str, make_problems: Callable[[str], list[Problem]]
) -> None:
    with pytest.raises(UserError, match=f"ThreeToOne .* {message}: name the column"):
        ThreeToOne().begin(make_problems(kinds))


def test_problems_without_a_kind_are_one(make_problems: Callable[[str], list[Problem]]) -> None:
    curriculum = ThreeToOne()
    curriculum.begin(make_problems("a--a"))
    assert curriculum.of_kind == {"a": [0, 3], None: [1, 2]}


def test_what_is_known_of_each_kind(make_outcome: Callable[..., StepOutcome]) -> None:
    nan = math.nan
    values = torch.tensor([[1.0, 2.0], [nan, nan], [3.0, nan]])
    found = known_by_kind(make_outcome("aba", [[0.0, 0.0]] * 3), values)
    assert {kind: of_kind.tolist() for kind, of_kind in found.items()} == {"a": [1, 2, 3]}


def test_groups_that_were_not_trained_on_have_no_advantages_if_all_alike(
    make_outcome: Callable[..., StepOutcome],
) -> None:
    nan = math.nan
    # Trained; not trained and all wrong: 0; not trained and mixed: not known; all right, and trained nevertheless.
    rewards = [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    outcome = make_outcome("aaaa", rewards, [[0.5, -0.5], [nan, nan], [nan, nan], [-0.25, 0.25]])
    found = advantage_sizes(outcome).nan_to_num(9.0)
    assert found.tolist() == [[0.5, 0.5], [0.0, 0.0], [9.0, 9.0], [0.25, 0.25]]


def test_a_pool_that_is_too_small_is_repeated(make_draw: Callable) -> None:
    drawn = draw_from(make_draw(8).generator, [4, 7, 9], 8)
    assert drawn[:6] == [4, 7, 9] * 2
    assert len({*drawn[6:]}) == 2


def test_softmax_of_large_values() -> None:
    # exp(2) : 1 = 7.389 : 1; 1000 / 0.5 alone is beyond every float.
    found = softmax({"a": 1000.0, "b": 999.0}, 0.5)
    assert found["a"] / found["b"] == pytest.approx(math.exp(2), rel=1e-9)
    assert sum(found.values()) == pytest.approx(1.0)
