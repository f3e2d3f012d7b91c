"""Stages of data and of length, each with a curriculum of its own."""

from collections.abc import Callable

import pytest

from laser_lightning.data import SEC, Draw, InOrder, MoPPS, Problem, Schedule, Stage, StepOutcome
from laser_lightning.errors import UserError

Problems = Callable[[str], list[Problem]]
Draws = Callable[..., Draw]


def test_stages_by_step(make_problems: Problems, make_draw: Draws) -> None:
    curriculum = Schedule(
        [
            Stage(kinds=["b"], max_response_tokens=16, curriculum=InOrder()),
            Stage(from_step=2, kinds=["a", "c"], curriculum=InOrder()),
            Stage(from_step=5, max_response_tokens=32),
        ]
    )
    curriculum.begin(make_problems("abcabca"))  # b: 1 4; a and c: 0 2 3 5 6
    assert curriculum.choose(make_draw(2, 0, step=0)) == [1, 4]
    assert curriculum.choose(make_draw(2, 1, step=1)) == [1, 4]
    # Draw 2 is the first of the second stage, whose epochs have two draws.
    assert curriculum.choose(make_draw(2, 2, step=2)) == [0, 2]
    assert curriculum.choose(make_draw(2, 3, step=3)) == [3, 5]
    assert curriculum.choose(make_draw(2, 4, step=4)) == [0, 2]
    # Shuffled, the default: 7 problems in epochs of 3 draws.
    last = [curriculum.choose(make_draw(2, number, step=number)) for number in (5, 6, 7)]
    assert len({place for chosen in last for place in chosen}) == 6
    assert [curriculum.max_response_tokens(step) for step in (0, 1, 2, 4, 5, 99)] == [16, 16, None, None, 32, 32]
    assert not curriculum.learns


def test_a_stage_learns_from_its_own_steps(
    make_problems: Problems, make_draw: Draws, make_outcome: Callable[..., StepOutcome]
) -> None:
    curriculum = Schedule([Stage(kinds=["b"], curriculum=MoPPS()), Stage(from_step=1, curriculum=SEC(rate=1.0))])
    curriculum.begin(make_problems("abab"))
    assert curriculum.learns
    beliefs, values = curriculum._curricula
    assert isinstance(beliefs, MoPPS) and isinstance(values, SEC)  # noqa: PT018
    curriculum.choose(make_draw(1, 0, step=0))
    curriculum.learn(make_outcome("b", [[1.0, 1.0]], problems=[3]))  # the second b
    assert beliefs.beliefs.tolist() == [[1.0, 1.0], [3.0, 1.0]]
    curriculum.choose(make_draw(1, 1, step=1))
    curriculum.learn(make_outcome("a", [[1.0, 0.0]], [[0.5, -0.5]], problems=[2]))
    assert values.values == {"a": 0.5, "b": 0.0}
    assert beliefs.beliefs.tolist() == [[1.0, 1.0], [3.0, 1.0]]


def test_a_stage_learns_of_its_own_problems_from_a_round_of_the_stage_before(
    make_problems: Problems, make_draw: Draws, make_outcome: Callable[..., StepOutcome]
) -> None:
    """Rounds that are drawn ahead were chosen before the stage began."""
    curriculum = Schedule([Stage(), Stage(from_step=1, kinds=["b"], curriculum=MoPPS())])
    curriculum.begin(make_problems("abab"))
    beliefs = curriculum._curricula[1]
    assert isinstance(beliefs, MoPPS)
    curriculum.choose(make_draw(2, 0, step=0))
    curriculum.choose(make_draw(1, 1, step=1))
    curriculum.learn(make_outcome("ab", [[0.0, 0.0], [1.0, 1.0]], problems=[2, 3]))
    assert beliefs.beliefs.tolist() == [[1.0, 1.0], [3.0, 1.0]]  # of the second b alone
    curriculum.learn(make_outcome("a", [[1.0, 1.0]], problems=[0]))
    assert beliefs.beliefs.tolist() == [[1.0, 1.0], [3.0, 1.0]]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], r"begin at steps \[\]"),
        ([Stage(from_step=3)], r"begin at steps \[3\]; give at least one, the first from step 0"),
        ([Stage(), Stage(from_step=5), Stage(from_step=5)], r"steps \[0, 5, 5\]"),
        ([Stage(max_response_tokens=0)], r"stages\[0\].max_response_tokens is 0"),
    ],
)
def test_stages_that_are_none_are_refused(stages: list[Stage], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Schedule(stages)


@pytest.mark.parametrize(
    ("kinds", "message"), [(["a", "x"], r"names the kind 'x'; .* are: 'a', 'b'"), ([], "names no kind at all")]
)
def test_kinds_that_there_are_not_are_refused(kinds: list[str], message: str, make_problems: Problems) -> None:
    with pytest.raises(UserError, match=message):
        Schedule([Stage(kinds=kinds)]).begin(make_problems("ab"))
