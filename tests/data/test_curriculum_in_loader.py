"""A loader deals what its curriculum chooses, and its state is that of the curriculum too."""

from typing import Any

import pytest
import torch

from laser_lightning.data import Curriculum, Draw, PromptDataModule, StepOutcome
from laser_lightning.data.loader import PromptLoader
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError


class Asked(Curriculum):
    """Chooses at random among the problems from ``first`` on, and remembers what it was asked and told."""

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.draws: list[tuple[int, int, int, int]] = []
        self.told: list[int] = []

    def choose(self, draw: Draw) -> list[int]:
        self.draws.append((draw.number, draw.count, draw.step, draw.seed))
        start = self.first + len(self.told)
        return [draw.generator.randrange(start, len(self.problems)) for _ in range(draw.count)]

    def learn(self, outcome: StepOutcome) -> None:
        self.told.append(outcome.step)

    def state_dict(self) -> dict[str, Any]:
        return {"told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.told = state["told"]


class Fixed(Curriculum):
    """Always chooses the same."""

    def __init__(self, choice: Any) -> None:
        self.choice = choice

    def choose(self, draw: Draw) -> Any:
        return self.choice


def problems(count: int) -> list[Problem]:
    return [Problem("train", 10 * i, f"p{i}", f"p{i}", [i], str(i)) for i in range(count)]


def loader(curriculum: Curriculum, size: int = 2, **options: Any) -> PromptLoader:
    return PromptLoader(problems(9), size, drop_last=True, curriculum=curriculum, **options)


def rows(batch: list[Problem]) -> list[int]:
    return [problem.index for problem in batch]


def outcome(step: int) -> StepOutcome:
    return StepOutcome(step, [0], [None], *torch.zeros(3, 1, 2))


def test_ranks_deal_out_one_choice() -> None:
    shares = [loader(Fixed((4, 4, 0, 7)), rank=rank, world_size=2) for rank in range(2)]
    assert [rows(next(iter(share))) for share in shares] == [[40, 0], [40, 70]]
    assert shares[0].choices_checksum == shares[1].choices_checksum != 0


def test_what_a_curriculum_is_asked() -> None:
    curriculum = Asked()
    dealt = loader(curriculum, seed=3, step=lambda: 7, world_size=2)
    next(iter(dealt))
    next(iter(dealt))  # a further round of the same step
    assert curriculum.draws == [(0, 4, 7, 3), (1, 4, 7, 3)]
    assert [problem.index for problem in curriculum.problems] == list(range(0, 90, 10))


def test_a_resumed_loader_chooses_what_the_other_did() -> None:
    whole = loader(Asked())
    dealt = []
    for step in range(6):
        dealt.append(rows(next(iter(whole))))
        if step == 2:
            state = whole.state_dict()  # in the middle of the epoch, before this step is learned from
        whole.curriculum.learn(outcome(step))
    resumed = loader(Asked())
    resumed.load_state_dict(state)
    for step in range(2, 6):
        resumed.curriculum.learn(outcome(step))
        if step < 5:
            assert rows(next(iter(resumed))) == dealt[step + 1]
    assert resumed.state_dict() == whole.state_dict()
    assert state["learned"] == {"told": [0, 1]}, "later steps do not change it"
    # A generator of a draw's own: three draws of 2 out of 9 problems are not the same.
    assert len({tuple(batch) for batch in dealt}) > 1


def test_the_same_loader_goes_back_to_a_state_twice() -> None:
    dealt = loader(Asked())
    state = dealt.state_dict()
    first = rows(next(iter(dealt)))
    for _ in range(2):
        dealt.curriculum.learn(outcome(1))
        dealt.load_state_dict(state)
        assert rows(next(iter(dealt))) == first


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Fixed([0, 1]), r"curriculum was Asked\(first=2\) and is Fixed\(choice=\[0, 1\]\)"),
        (Asked(first=1), r"curriculum was Asked\(first=2\) and is Asked\(first=1\)"),
    ],
)
def test_another_curriculum_is_refused(other: Curriculum, message: str) -> None:
    with pytest.raises(UserError, match=message):
        loader(other).load_state_dict(loader(Asked(first=2)).state_dict())


def test_a_state_of_version_0_1_is_one_without_a_curriculum() -> None:
    state = PromptLoader(problems(9), 2, shuffle=True, drop_last=True).state_dict()
    old = {name: value for name, value in state.items() if name not in ("curriculum", "learned")} | {"batches": 3}
    resumed = PromptLoader(problems(9), 2, shuffle=True, drop_last=True)
    resumed.load_state_dict(old)
    assert resumed.state_dict() == state | {"batches": 3}
    with pytest.raises(UserError, match=r"curriculum was UniformShuffling\(\) and is Asked\(\)"):
        PromptLoader(problems(9), 2, shuffle=True, drop_last=True, curriculum=Asked()).load_state_dict(old)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ([0], r"Fixed \(data.curriculum\) chose 1 problems with numbers from 0 to 0: choose must return 2 numbers"),
        ([0, 9], r"chose 2 problems with numbers from 0 to 9: choose must return 2 numbers from 0 to 8"),
        ([-1, 3], r"chose 2 problems with numbers from -1 to 3"),
        ([], r"chose 0 problems"),
    ],
)
def test_a_choice_that_is_none_is_refused(choice: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        next(iter(loader(Fixed(choice))))


def test_a_state_that_no_checkpoint_holds_is_refused_at_once() -> None:
    class Bad(Fixed):
        def state_dict(self) -> dict[str, Any]:
            return {"seen": {1, 2}}

    with pytest.raises(UserError, match=r"Bad \(data.curriculum\) is a set, which a checkpoint cannot hold"):
        loader(Bad([0, 1]))


def test_order_and_choice_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"data.shuffle is false, .* and data.curriculum is Fixed, which chooses them"):
        PromptDataModule(shuffle=False, curriculum=Fixed([0]))
