"""The contract of a curriculum: problems are asked for, and what a step made of them is told."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from laser_lightning.arguments import Part
from laser_lightning.data.problem import Problem


@dataclass(frozen=True)
class Draw:
    """What is asked of a curriculum: the problems of one step, or of one further round of it (``sampling_rounds``).

    Attributes:
        number: draws made before in this run, over all of its steps and rounds.
        count: problems to choose, over all ranks: ``data.prompts_per_step``.
        step: optimizer steps taken so far, as ``trainer.max_steps`` counts them.
        seed: ``data.seed``.
        generator: randomness for this draw alone, made from ``seed`` and ``number``: equal on all ranks, and nothing of
            it needs to be saved.
    """

    number: int
    count: int
    step: int
    seed: int
    generator: random.Random


@dataclass(frozen=True)
class StepOutcome:
    """What one training step made of its problems, gathered over all ranks and equal on all of them.

    P problems, all that the step sampled, in the order in which they were chosen (whatever the number of ranks), with
    G solutions each. The tensors are float32 and on the CPU.

    Attributes:
        step: optimizer steps taken, those of this step included.
        problems: P numbers of problems, as ``choose`` gave them.
        kinds: P kinds of them; None where the source has no kinds.
        rewards: [P, G] of the verifier.
        self_rewards: [P, G] the model's own judgement; 0 for truncated solutions, NaN where it was not asked for.
        advantages: [P, G], the mean over its tokens where a solution has several; NaN in groups that were sampled and
            not trained on (``sampling_rounds``).
    """

    step: int
    problems: list[int]
    kinds: list[str | None]
    rewards: Tensor
    self_rewards: Tensor
    advantages: Tensor

    def select(self, rows: Sequence[int]) -> "StepOutcome":
        """The same of some of the P problems alone."""
        given = list(rows)
        return replace(
            self,
            problems=[self.problems[row] for row in given],
            kinds=[self.kinds[row] for row in given],
            rewards=self.rewards[given],
            self_rewards=self.self_rewards[given],
            advantages=self.advantages[given],
        )


class Curriculum(Part, ABC):
    """Decides which problems a training step gets, and may learn from what the step made of them.

    In the order of the calls:

        begin(problems)                 once, before anything else
        longest_response(limit)         before the first step
        load_state_dict(state)          in a resumed run
        choose(draw)                    for each step, and for each further round of one
        max_response_tokens(step)       before each round is sampled
        keeps(rewards)                  behind each round, with sampling_rounds above 1
        learn(outcome)                  behind each step
        state_dict()                    behind any step, for a checkpoint or for the state to go back to

    Every rank has a curriculum of its own, and all are to choose the same problems, of which each rank trains on its
    share: so whatever is random comes from ``draw.generator``, and whatever is learned from ``outcome``. Ranks that
    disagree end the run. A run that is broken off and resumed goes on with the same problems as if it had not been: so
    all that changes between two steps belongs into the state.
    """

    problems: Sequence[Problem]

    @property
    def learns(self) -> bool:
        """Whether ``learn`` does anything; if not, no outcome is gathered."""
        return type(self).learn is not Curriculum.learn

    def begin(self, problems: Sequence[Problem]) -> None:
        """See all training problems, with their kinds, and keep them as ``problems``.

        Args:
            problems: the same on all ranks. A problem's number is its place in this list.
        """
        self.problems = problems

    @abstractmethod
    def choose(self, draw: Draw) -> Sequence[int]:
        """Choose the problems of one draw.

        Args:
            draw: how many, when, and the randomness to do it with.

        Returns:
            ``draw.count`` numbers of problems. One may come twice: it then has two groups of solutions.
        """

    def max_response_tokens(self, step: int) -> int | None:
        """Say how long the responses of a training step may be.

        Args:
            step: optimizer steps taken when its problems were chosen.

        Returns:
            None, by default, for the limit of ``model.sampling``.
        """
        return None

    def longest_response(self, limit: int) -> int:
        """Say how long a response may be in any step, which lengths are checked against before the first.

        Args:
            limit: of ``model.sampling``.

        Returns:
            ``limit``, by default.
        """
        return limit

    def keeps(self, rewards: Tensor) -> Tensor:
        """Say which groups a step is filled with where ``sampling_rounds`` lets it sample until it is full.

        Args:
            rewards: [P, G] that advantages are made of, of the problems of this rank alone.

        Returns:
            [P] bool; by default True where the rewards are not all equal (DAPO, arXiv 2503.14476, equation 11).
        """
        return (rewards != rewards[:, :1]).any(dim=1)

    def learn(self, outcome: StepOutcome) -> None:
        """Learn from a training step of RL. The supervised stage has no rollouts, and never calls it.

        Args:
            outcome: what the step made of its problems.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that was learned: numbers, texts, tensors, and lists and mappings of them. Nothing, by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put everything back to a saved state, also one of before the last steps.

        Args:
            state: of ``state_dict``.
        """
