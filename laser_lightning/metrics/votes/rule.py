"""What a vote rule is: it chooses one answer, or one solution, out of several solutions to a problem."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from laser_lightning.arguments import Part, Stateful
from laser_lightning.errors import UserError
from laser_lightning.metrics.groups import SampleGroups
from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.shapes import Bool, Real


class VoteRule(Stateful, Part, ABC):
    """Chooses among the solutions of a problem by what they answer and how they are scored.

    The rule says how high each solution stands (``standings``), and the highest wins. It sees many problems at once,
    and every process that asks it shows it the same solutions in the same order.

    A rule may learn from the solutions of training rounds, whose rewards are known (``learns``, ``learn``); an
    evaluation has none but the rule's ``standings``. What is remembered belongs into ``state_dict``.

    Attributes:
        name: under which it is reported, as ``<name>@<k>``: letters, digits, ``_`` and ``-``. A rule whose arguments
            change what it is called sets it in ``__init__``.
        chooses: ``answer``: the answer of the solution that stands highest wins, with all solutions that gave it;
            a solution without an answer cannot win. ``solution``: the solution itself; what becomes of one without an
            answer is up to the standings, see ``BestScored``.
        uses_scores: whether it looks at scores; equal-compute curves count what scores cost for those that do.
        learns: whether ``learn`` is to be called.
    """

    name: str
    chooses: Literal["answer", "solution"] = "answer"
    uses_scores: bool = True
    learns: bool = False

    @abstractmethod
    def standings(self, candidates: Candidates) -> Real[Tensor, " N"]:
        """How high each solution stands among those of its problem.

        Args:
            candidates: the N solutions of P problems.

        Returns:
            [N], integers or real numbers, without NaN. What stands equally high ties: sums and means by
            ``Candidates.sum_by_answer`` and ``mean_by_answer`` are exact.
        """

    def learn(self, groups: SampleGroups) -> None:
        """Take a training round into account. Nothing by default.

        Args:
            groups: the round's solutions of all processes, the same on each of them, with their rewards; their scores
                are those of before the policy was trained on them.
        """

    def settled(self) -> "VoteRule":
        """The rule as it decides now, without memory: what it has learned is among the new rule's arguments.

        Exports carry it, and early stops ask for it, since it may be another rule. By default the rule itself.
        """
        return self

    @property
    def lacks(self) -> str | None:
        """What the rule should have learned and has not, as half a sentence; None if nothing."""
        return None

    def winners(self, candidates: Candidates) -> Bool[Tensor, " N"]:
        """The solutions that win.

        Args:
            candidates: the N solutions of P problems.

        Returns:
            [N] bool: those that stand highest in their problem, or all that gave the answer of such a one; of several
            answers (or solutions) where these tie. None in a problem without answers, if answers are chosen.

        Raises:
            UserError: if ``standings`` are not [N] real numbers.
        """
        standings = self._checked(self.standings(candidates), len(candidates.problem))
        if self.chooses == "solution":
            return _highest(standings, candidates.problem, candidates.problems)
        rows, row_class, problem = candidates.classes
        of_classes = _maxima(standings[rows], row_class, len(problem))
        won = torch.zeros_like(candidates.finished)
        won[rows] = _highest(of_classes, problem, candidates.problems)[row_class]
        return won

    def _checked(self, standings: Tensor, solutions: int) -> Tensor:
        if standings.shape != (solutions,) or standings.is_complex():
            raise UserError(
                f"The vote rule '{self.name}' ({type(self).__name__}) gave standings of shape "
                f"{list(standings.shape)} to {solutions} solutions: give one real number to each."
            )
        if standings.isnan().any():
            raise UserError(
                f"The vote rule '{self.name}' ({type(self).__name__}) gave a solution NaN as its standing: give one "
                "that shall not win -inf."
            )
        return standings if standings.is_floating_point() else standings.long()


def _maxima(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """The largest value of each group, [groups]."""
    lowest = -torch.inf if values.is_floating_point() else torch.iinfo(values.dtype).min
    return values.new_full((groups,), lowest).scatter_reduce(0, group, values, "amax")


def _highest(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Whether each value is the largest of its group, several where they tie, [len(values)] bool."""
    return values == _maxima(values, group, groups)[group]


def check_names(rules: Sequence[VoteRule], fixed: Sequence[VoteRule]) -> None:
    """Refuse rules that cannot be told apart in the names of metrics.

    Args:
        rules: those of the config ``evaluation.votes``.
        fixed: those that are always reported.

    Raises:
        UserError: naming the rule, and what is wrong with its name.
    """
    owners = {"pass": "the metric pass@k"}
    owners |= {rule.name: f"{type(rule).__name__}, which is always reported" for rule in fixed}
    for number, rule in enumerate(rules):
        key, kind = f"evaluation.votes[{number}]", type(rule).__name__
        if not isinstance(rule, VoteRule):
            raise UserError(f"{key} is {rule!r}, and must be a VoteRule.")
        name = getattr(rule, "name", None)
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise UserError(
                f"{key} ({kind}) has the name {name!r}, which no metric can bear: set its `name` to letters, digits, "
                "_ and -."
            )
        if name in owners:
            raise UserError(
                f"{key} ({kind}) has the name '{name}', which is that of {owners[name]}: give it a `name` of its own."
            )
        if rule.chooses not in ("answer", "solution"):
            raise UserError(f"{key} ({kind}) has chooses = {rule.chooses!r}, and must choose an answer or a solution.")
        owners[name] = f"{key} ({kind})"
