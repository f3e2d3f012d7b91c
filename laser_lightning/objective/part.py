"""What the parts of the objective have in common."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

from laser_lightning.arguments import Part, Stateful
from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.records.rollout import Rollout


class ObjectivePart(Stateful, Part, ABC):
    """A part that says what it asks to be computed for it, beside what every step has, and may learn from each step.

    Attributes:
        needs_reference: the log-probs of the frozen policy of before training.
        needs_teacher: those of ``model.teacher``.
        needs_entropy: the entropy of each token's distribution in the update.
        needs_routers: how evenly a mixture of experts spreads the tokens of each solution.
    """

    needs_reference: bool = False
    needs_teacher: bool = False
    needs_entropy: bool = False
    needs_routers: bool = False

    def learn(self, rollout: Rollout, context: StepContext) -> None:
        """Take a step into account from the next one on; called once, at its end. Nothing by default.

        What is remembered belongs into ``state_dict``, and is the same on all ranks (``context.ranks``).

        Args:
            rollout: what the step was trained on.
            context: the step.
        """


class PartAround(ObjectivePart):
    """A part that changes what another one says: it asks for what that one asks for, and remembers what it remembers.

    Args:
        inner: the other part.
    """

    def __init__(self, inner: ObjectivePart) -> None:
        self._inner = inner
        self.needs_reference, self.needs_teacher = inner.needs_reference, inner.needs_teacher
        self.needs_entropy, self.needs_routers = inner.needs_entropy, inner.needs_routers

    def learn(self, rollout: Rollout, context: StepContext) -> None:
        """Let the other part learn."""
        self._inner.learn(rollout, context)

    def state_dict(self) -> dict[str, Any]:
        """What the other part remembers."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the other part go on."""
        self._inner.load_state_dict(state)


class ObjectiveParts:
    """The parts of a run's objective, taken together.

    Args:
        parts: by their keys below ``model``.
    """

    def __init__(self, parts: Mapping[str, ObjectivePart]) -> None:
        self._parts = dict(parts)

    @property
    def need_reference(self) -> bool:
        """Whether one asks for the log-probs of the frozen policy of before training."""
        return any(part.needs_reference for part in self._parts.values())

    def check_teacher(self, given: bool) -> None:
        """Refuse a teacher that no part asks for, and a part that asks for one in vain.

        Args:
            given: whether ``model.teacher`` is set.
        """
        asking = [key for key, part in self._parts.items() if part.needs_teacher]
        if asking and not given:
            kind = type(self._parts[asking[0]]).__name__
            raise UserError(f"{asking[0]} is {kind}, which needs a teacher: set model.teacher.path to its weights.")
        if given and not asking:
            raise UserError(
                "model.teacher is set, and nothing asks for its log-probs: leave it out, or add a part that does, such "
                "as a term of model.update.terms."
            )

    def learn(self, rollout: Rollout, context: StepContext) -> None:
        """Let every part take a step into account (see ``ObjectivePart.learn``)."""
        for part in self._parts.values():
            part.learn(rollout, context)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """What parts remember, by their keys; those without memory are left out."""
        states = {key: part.state_dict() for key, part in self._parts.items()}
        return {key: state for key, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Let every part go on from what it remembered."""
        for key, part in self._parts.items():
            part.load_state_dict(states.get(key, {}))
