"""Beliefs of success rates by hand, and the choice that they lead to."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from laser_lightning.data import Draw, MoPPS, Problem, StepOutcome
from laser_lightning.errors import UserError

Problems = Callable[[str], list[Problem]]
Draws = Callable[..., Draw]


def test_beliefs(make_problems: Problems, make_outcome: Callable[..., StepOutcome]) -> None:
    curriculum = MoPPS(decay=0.5)
    curriculum.begin(make_problems("---"))
    # From Beta(1, 1): 0.5 * 1 + 0.5 * 1 + successes and failures.
    curriculum.learn(make_outcome("--", [[1.0, 0.0, 1.0, 1.0], [0.0] * 4], problems=[2, 0]))
    assert curriculum.beliefs.tolist() == [[1.0, 5.0], [1.0, 1.0], [4.0, 2.0]]
    # 0.5 * 4 + 0.5 + 1.5 and 0.5 * 2 + 0.5 + 2.5: half a point is half a success, and more than one is one.
    curriculum.learn(make_outcome("-", [[0.5, 0.0, 7.0, -1.0]], problems=[2]))
    assert curriculum.beliefs.tolist()[2] == [4.0, 4.0]


def test_a_problem_that_comes_twice_is_forgotten_once(
    make_problems: Problems, make_outcome: Callable[..., StepOutcome]
) -> None:
    curriculum = MoPPS(decay=0.5)
    curriculum.begin(make_problems("--"))
    curriculum.beliefs[0] = torch.tensor([9.0, 1.0])
    # Twice 1 of 2 right: 0.5 * 9 + 0.5 + 2 = 7 and 0.5 * 1 + 0.5 + 2 = 3.
    # The other problem, between them: 0.5 + 0.5 + 2 = 3 and 0.5 + 0.5 + 0 = 1.
    curriculum.learn(make_outcome("---", [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], problems=[0, 1, 0]))
    assert curriculum.beliefs.tolist() == [[7.0, 3.0], [3.0, 1.0]]


def test_without_forgetting(make_problems: Problems, make_outcome: Callable[..., StepOutcome]) -> None:
    curriculum = MoPPS()
    curriculum.begin(make_problems("-"))
    for _ in range(3):
        curriculum.learn(make_outcome("-", [[1.0, 0.0]]))
    assert curriculum.beliefs.tolist() == [[4.0, 4.0]]


def test_problems_near_the_target_are_chosen(make_problems: Problems, make_draw: Draws) -> None:
    curriculum = MoPPS()
    curriculum.begin(make_problems("-" * 6))
    # Sure of 1/2 for two problems, and of 0 or 1 for the others.
    curriculum.beliefs = torch.tensor([[1e4, 1], [1e4, 1e4], [1, 1e4], [1e4, 1], [1e4, 1e4], [1, 1e4]]).double()
    assert all({*curriculum.choose(make_draw(2, number))} == {1, 4} for number in range(20))
    curriculum.target = 1.0
    assert all({*curriculum.choose(make_draw(2, number))} == {0, 3} for number in range(20))


def test_candidates_are_drawn_anew(make_problems: Problems, make_draw: Draws) -> None:
    curriculum = MoPPS(candidates=2)
    curriculum.begin(make_problems("-" * 40))
    curriculum.beliefs[:20] = torch.tensor([1e6, 1.0], dtype=torch.float64)  # solved every time
    chosen = Counter(place for number in range(50) for place in curriculum.choose(make_draw(4, number)))
    # Of 8 candidates about 4 are among the unknown ones: the solved ones fill up where there are fewer.
    solved = sum(count for place, count in chosen.items() if place < 20)
    assert 0 < solved < 50
    assert len([place for place in chosen if place >= 20]) == 20


def test_a_set_smaller_than_a_step(make_problems: Problems, make_draw: Draws) -> None:
    curriculum = MoPPS()
    curriculum.begin(make_problems("---"))
    assert sorted(Counter(curriculum.choose(make_draw(8))).values()) == [2, 3, 3]


@pytest.mark.parametrize("arguments", [{"candidates": 0}, {"target": 1.5}, {"decay": -0.1}])
def test_settings_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"MoPPS \(data.curriculum\): candidates is"):
        MoPPS(**arguments)  # type: ignore[arg-type]
