"""Curricula that choose among the kinds of problems."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from laser_lightning.data.curriculum.curriculum import Curriculum, Draw, StepOutcome
from laser_lightning.data.curriculum.drawing import draw_from
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError


class KindCurriculum(Curriculum):
    """Draws the kind of each problem of a step, and problems of that kind at random.

    Problems without a kind are a kind of their own, where others have one.
    """

    of_kind: dict[str | None, list[int]]

    def begin(self, problems: Sequence[Problem]) -> None:
        """Sort the problems by kind.

        Raises:
            UserError: there is nothing to choose between.
        """
        super().begin(problems)
        self.of_kind = {}
        for number, problem in enumerate(problems):
            self.of_kind.setdefault(problem.kind, []).append(number)
        if len(self.of_kind) < 2:
            only = next(iter(self.of_kind))
            found = "have no kinds" if only is None else f"are all of the kind '{only}'"
            raise UserError(
                f"{type(self).__name__} (data.curriculum) chooses among kinds of problems, and the training problems "
                f"{found}: name the column that holds the kind (kind_column of the source), or choose among problems, "
                "such as by laser_lightning.data.MoPPS."
            )

    @abstractmethod
    def probabilities(self) -> Mapping[str | None, float]:
        """How likely each kind is drawn now; they add up to 1."""

    def choose(self, draw: Draw) -> list[int]:
        """Kinds by their probabilities, and problems of each at random, none twice where there are enough."""
        probabilities = self.probabilities()
        drawn = draw.generator.choices(list(probabilities), list(probabilities.values()), k=draw.count)
        numbers = [
            number
            for kind, count in Counter(drawn).items()
            for number in draw_from(draw.generator, self.of_kind[kind], count)
        ]
        draw.generator.shuffle(numbers)  # every rank, which takes every n-th, gets of all kinds
        return numbers


def known_by_kind(outcome: StepOutcome, values: Tensor) -> dict[str | None, Tensor]:
    """The values of the solutions to each kind of problem in a step.

    Args:
        outcome: the step.
        values: [P, G], NaN where one is not known.

    Returns:
        [M] float64 by kind, those that are known; kinds without any are left out.
    """
    rows: dict[str | None, list[int]] = {}
    for row, kind in enumerate(outcome.kinds):
        rows.setdefault(kind, []).append(row)
    found = {kind: values[of_kind].flatten().double() for kind, of_kind in rows.items()}
    known = {kind: of_kind[~of_kind.isnan()] for kind, of_kind in found.items()}
    return {kind: of_kind for kind, of_kind in known.items() if len(of_kind)}


def advantage_sizes(outcome: StepOutcome) -> Tensor:
    """[P, G] abs(A). Groups whose rewards are all equal are told to have none, where they were not trained on."""
    alike = (outcome.rewards == outcome.rewards[:, :1]).all(dim=1, keepdim=True)
    sizes = outcome.advantages.abs()
    return sizes.where(~(alike & sizes.isnan()), 0.0)
