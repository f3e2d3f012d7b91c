"""Every curriculum goes on bit for bit from its state, and chooses and learns on two ranks what it does on one."""

import io
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from laser_lightning.data import (
    DUMP,
    SEC,
    Curriculum,
    Dads,
    MoPPS,
    Problem,
    PromptLoader,
    Schedule,
    Stage,
    StepOutcome,
    UniformShuffling,
    VerificationGap,
)

CURRICULA: dict[str, Callable[[], Curriculum]] = {
    "mopps": lambda: MoPPS(candidates=2, decay=0.9),
    "sec": lambda: SEC(temperature=0.2),
    "dump": lambda: DUMP(window=5),
    "dads": lambda: Dads(every_n_steps=2),
    "verification_gap": VerificationGap,
    # The second stage begins behind the third step, where the state is saved.
    "schedule": lambda: Schedule(
        [Stage(kinds=["a"], curriculum=MoPPS(candidates=2)), Stage(from_step=3, curriculum=SEC(0.1))]
    ),
    "schedule_of_epochs": lambda: Schedule([Stage(kinds=["a", "b"]), Stage(from_step=2, kinds=["b", "c"])]),
    "small_set": UniformShuffling,
}


class Run:
    """Steps on what the loaders of all ranks deal, with outcomes that are functions of problem and step."""

    def __init__(self, problems: Sequence[Problem], name: str, ranks: int) -> None:
        self.step = 0
        self.loaders = [
            PromptLoader(
                problems[:3] if name == "small_set" else problems,
                4 // ranks,
                seed=1,
                rank=rank,
                world_size=ranks,
                shuffle=True,
                drop_last=True,
                curriculum=CURRICULA[name](),
                step=lambda: self.step,
            )
            for rank in range(ranks)
        ]

    def take(self, steps: int) -> list[list[int]]:
        """The problems of some steps, by row number."""
        dealt = []
        for _ in range(steps):
            shares = [next(iter(loader)) for loader in self.loaders]
            together = [problem for row in zip(*shares, strict=True) for problem in row]
            self.step += 1
            for loader in self.loaders:
                loader.curriculum.learn(self._outcome(loader, together))
            dealt.append([problem.index for problem in together])
        return dealt

    def _outcome(self, loader: PromptLoader, problems: list[Problem]) -> StepOutcome:
        numbers = [random.Random(f"{problem.index}/{self.step}") for problem in problems]
        rewards = torch.tensor([[float(row.random() < 0.5) for _ in range(4)] for row in numbers])
        scores = torch.tensor([[row.random() for _ in range(4)] for row in numbers])
        places = loader.places_of([problem.index for problem in problems])
        kinds = [problem.kind for problem in problems]
        return StepOutcome(self.step, places, kinds, rewards, scores, rewards - rewards.mean(dim=1, keepdim=True))


def same(ours: Any, theirs: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


@pytest.mark.parametrize("name", CURRICULA)
def test_a_resumed_run_and_two_ranks_choose_the_same(name: str, make_problems: Callable[[str], list[Problem]]) -> None:
    problems = make_problems("abcaabbccabcaabbccabc")
    whole, pair = Run(problems, name, ranks=1), Run(problems, name, ranks=2)
    dealt = whole.take(3)
    saved = io.BytesIO()
    torch.save(whole.loaders[0].state_dict(), saved)
    dealt += whole.take(5)
    assert pair.take(8) == dealt
    for loader in pair.loaders:
        assert same(loader.state_dict(), whole.loaders[0].state_dict())
        assert loader.choices_checksum == whole.loaders[0].choices_checksum

    saved.seek(0)
    resumed = Run(problems, name, ranks=2)
    resumed.step = 3
    state = torch.load(saved, weights_only=True)
    for loader in resumed.loaders:
        loader.load_state_dict(state)
    assert resumed.take(5) == dealt[3:]
    assert same(resumed.loaders[1].state_dict(), whole.loaders[0].state_dict())
    unchanged = same(state["learned"], whole.loaders[0].state_dict()["learned"])
    assert unchanged == (name in ("small_set", "schedule_of_epochs"))
