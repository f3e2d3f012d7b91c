"""Which phase each step belongs to."""

import pytest

from laser_lightning.errors import UserError
from laser_lightning.objective.phases import Phase, Phases

R, S, I = Phase.REASONING, Phase.SELF_REWARDING, Phase.INTEGRATED  # noqa: E741


@pytest.mark.parametrize(
    ("reasoning", "self_reward", "expected"),
    [
        (2, 3, [R, R, S, S, S, I, I]),
        (0, 2, [S, S, I, I, I, I, I]),
        (2, 0, [R, R, I, I, I, I, I]),
        (0, 0, [I, I, I, I, I, I, I]),
        (99, 1, [R, R, R, R, R, R, R]),
    ],
)
def test_phases_by_step(reasoning: int, self_reward: int, expected: list[Phase]) -> None:
    phases = Phases(reasoning, self_reward)
    assert [phases.at(step) for step in range(7)] == expected


def test_the_papers_run() -> None:
    phases = Phases(reasoning_steps=200, self_reward_steps=200)
    assert [phases.at(step) for step in (0, 199, 200, 399, 400)] == [R, R, S, S, I]


def test_phases_are_ordered() -> None:
    assert R < S < I


@pytest.mark.parametrize("fields", [{"reasoning_steps": -1}, {"self_reward_steps": -1}])
def test_negative_steps_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(fields))):
        Phases(**fields)
