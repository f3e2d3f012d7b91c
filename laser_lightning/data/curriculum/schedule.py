"""Stages of a run by step: which kinds of problems, chosen how, and how long responses may be."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from laser_lightning.data.curriculum.curriculum import Curriculum, Draw, StepOutcome
from laser_lightning.data.curriculum.uniform import UniformShuffling
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError

EACH_ONCE_AN_EPOCH = UniformShuffling()


@dataclass(frozen=True)
class Stage:
    """What a run does from some step on.

    Args:
        from_step: optimizer step that it begins with, counted from 0.
        kinds: kinds of problems that it trains on; null for all.
        max_response_tokens: length limit of its responses; null for that of model.sampling.
        curriculum: chooses among its problems.
    """

    from_step: int = 0
    kinds: list[str] | None = None
    max_response_tokens: int | None = None
    curriculum: Curriculum = EACH_ONCE_AN_EPOCH


class Schedule(Curriculum):
    """Goes from stage to stage at given steps: of data (such as mathematics, then code, in AceReason, arXiv 2505.16400;
    easy before hard in Kimi k1.5, arXiv 2501.12599), of the length limit (8K, 16K, 24K tokens), or of both.

    Evaluations keep the length limit of model.sampling, which is best the longest of all.

    A stage begins with the batch that is handed out at its first step, problems and length limit together. With
    ``rollout.ahead`` that batch is trained on so many rounds later: until then the run trains on rounds of the stage
    before, within that stage's limit, and the new stage learns from what they have of its kinds.

    Args:
        stages: in their order; the first begins at step 0. Each has its curriculum to itself, which counts its epochs
            from the stage's beginning, and learns from the steps of its own stage alone.
    """

    def __init__(self, stages: list[Stage]) -> None:
        starts = [stage.from_step for stage in stages]
        if not starts or starts[0] != 0 or any(later <= earlier for earlier, later in pairwise(starts)):
            raise UserError(
                f"Schedule (data.curriculum): its stages begin at steps {starts}; give at least one, the first from "
                "step 0 on, and each later than the one before it."
            )
        for number, stage in enumerate(stages):
            if stage.max_response_tokens is not None and stage.max_response_tokens < 1:
                raise UserError(
                    f"Schedule (data.curriculum): stages[{number}].max_response_tokens is "
                    f"{stage.max_response_tokens}, and must be at least 1."
                )
        self.stages = stages

    @property
    def learns(self) -> bool:
        """Whether the curriculum of a stage does."""
        return any(stage.curriculum.learns for stage in self.stages)

    def begin(self, problems: Sequence[Problem]) -> None:
        """Give each stage its problems.

        Raises:
            UserError: a stage has none, or names a kind that there is not.
        """
        super().begin(problems)
        known = {problem.kind for problem in problems}
        self._numbers = [_of_kinds(stage.kinds, problems, known) for stage in self.stages]
        self._curricula = [deepcopy(stage.curriculum) for stage in self.stages]
        for curriculum, numbers in zip(self._curricula, self._numbers, strict=True):
            curriculum.begin([problems[number] for number in numbers])
        self._current, self._first_draw = 0, 0

    def stage_at(self, step: int) -> int:
        """The number of the stage that an optimizer step belongs to."""
        return sum(stage.from_step <= step for stage in self.stages) - 1

    def choose(self, draw: Draw) -> list[int]:
        """What the curriculum of the stage chooses."""
        stage = self.stage_at(draw.step)
        if stage != self._current:
            self._current, self._first_draw = stage, draw.number
        of_stage = replace(draw, number=draw.number - self._first_draw)
        return [self._numbers[stage][place] for place in self._curricula[stage].choose(of_stage)]

    def max_response_tokens(self, step: int) -> int | None:
        """The length limit of the stage."""
        return self.stages[self.stage_at(step)].max_response_tokens

    def longest_response(self, limit: int) -> int:
        """The limit of the stage with the longest responses."""
        return max(limit if stage.max_response_tokens is None else stage.max_response_tokens for stage in self.stages)

    def keeps(self, rewards: Tensor) -> Tensor:
        """What the curriculum of the stage keeps."""
        return self._curricula[self._current].keeps(rewards)

    def learn(self, outcome: StepOutcome) -> None:
        """Let the curriculum of the stage learn, from what it has itself of a round drawn ahead in the stage before."""
        place_of = {number: place for place, number in enumerate(self._numbers[self._current])}
        own = [row for row, number in enumerate(outcome.problems) if number in place_of]
        if not own:
            return
        if len(own) < len(outcome.problems):
            outcome = outcome.select(own)
        places = [place_of[number] for number in outcome.problems]
        self._curricula[self._current].learn(replace(outcome, problems=places))

    def state_dict(self) -> dict[str, Any]:
        """The stage, the draw that it began with, and what each stage's curriculum learned."""
        learned = [curriculum.state_dict() for curriculum in self._curricula]
        return {"stage": self._current, "first_draw": self._first_draw, "learned": learned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self._current, self._first_draw = state["stage"], state["first_draw"]
        for curriculum, learned in zip(self._curricula, state["learned"], strict=True):
            curriculum.load_state_dict(learned)


def _of_kinds(kinds: list[str] | None, problems: Sequence[Problem], known: set[str | None]) -> list[int]:
    """Numbers of the problems of some kinds."""
    if kinds is None:
        return list(range(len(problems)))
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        named = ", ".join(sorted(f"'{kind}'" for kind in known if kind is not None)) or "none"
        what = f"the kind '{unknown[0]}'" if unknown else "no kind at all"
        raise UserError(
            f"Schedule (data.curriculum): a stage names {what}; the kinds of the training problems are: {named}."
        )
    return [number for number, problem in enumerate(problems) if problem.kind in kinds]
