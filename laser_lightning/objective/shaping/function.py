"""A shaper of a user's plain function."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from laser_lightning.arguments import import_function
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UnusableFunctionError, UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.shaping.shaper import RewardShaper
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


@dataclass(frozen=True)
class SolutionGroup:
    """The G solutions of a problem, as a function that shapes rewards sees them.

    Attributes:
        problem: what they solve.
        texts: the responses, without special tokens.
        lengths: of the responses, in tokens.
        finished: whether each ended by itself, and was not cut.
        answers: the final answers; None where the verifier found none.
        verdicts: the verifier's rewards.
        self_rewards: the model's own judgements; NaN where it was not asked.
        rewards: the rewards so far, changed by the shapers in front of this one.
        step: number of the training step, counted from 0 in optimizer steps.
        max_response_tokens: the length at which responses are cut.
    """

    problem: Problem
    texts: list[str]
    lengths: list[int]
    finished: list[bool]
    answers: list[str | None]
    verdicts: list[float]
    self_rewards: list[float]
    rewards: list[float]
    step: int
    max_response_tokens: int


class FunctionShaper(RewardShaper):
    """Lets a plain function, `(group: SolutionGroup) -> list[float]`, say the new rewards of each group of solutions.

    Args:
        function: the function, or its import path, such as `my_module.shape`.
    """

    def __init__(self, function: str | Callable[[SolutionGroup], Sequence[float]]) -> None:
        self.function = imported(function) if isinstance(function, str) else function
        self.name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))

    def __call__(self, rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """[N] rewards as the function says (see ``RewardShaper``).

        Raises:
            UserError: it does not return a number for each solution.
        """
        shaped: list[float] = []
        for group in groups_of(rewards, rollout, context):
            found = [float(reward) for reward in self.function(group)]
            if len(found) != len(group.texts) or not all(map(math.isfinite, found)):
                raise UserError(
                    f"FunctionShaper (advantage.shaping): {self.name} returned {found} for the {len(group.texts)} "
                    f"solutions of row {group.problem.index}: it must return a finite number for each."
                )
            shaped += found
        return rewards.new_tensor(shaped)


def groups_of(rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> list[SolutionGroup]:
    """The groups of a step's solutions, as plain values."""
    size = rollout.rollouts.group_size
    columns = {
        "texts": rollout.texts,
        "lengths": rollout.rollouts.response_lengths.tolist(),
        "finished": rollout.rollouts.finished.tolist(),
        "answers": [verification.answer for verification in rollout.verifications],
        "verdicts": rollout.rewards.tolist(),
        "self_rewards": rollout.self_rewards.tolist(),
        "rewards": rewards.tolist(),
    }

    def group(number: int, problem: Problem) -> SolutionGroup:
        own: dict[str, Any] = {name: column[number * size : (number + 1) * size] for name, column in columns.items()}
        return SolutionGroup(problem, **own, step=context.step, max_response_tokens=context.max_response_tokens)

    return [group(number, problem) for number, problem in enumerate(rollout.problems)]


def imported(path: str) -> Callable[..., Any]:
    """A function by its import path.

    Raises:
        UnusableFunctionError: there is none.
    """
    function: Callable[..., Any] = import_function(path, "FunctionShaper (advantage.shaping): the function")
    if not callable(function):
        raise UnusableFunctionError(f"FunctionShaper (advantage.shaping): '{path}' is a {type(function).__name__}.")
    return function
