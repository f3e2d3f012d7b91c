"""The verifier that calls a user's plain function."""

import inspect
from collections.abc import Callable
from typing import Any

from laser_lightning.arguments import import_function
from laser_lightning.errors import UnusableFunctionError
from laser_lightning.verifiers.base import Submission, Verification, Verifier
from laser_lightning.verifiers.last_line import LastLineAnswers


class FunctionVerifier(LastLineAnswers, Verifier):
    """Rewards responses by a plain function: `(response: str, gold: str) -> float` or `(submission) -> float`.

    A function with one argument is given a `Submission`: the response with its gold answer, problem, prompt and all
    columns of the row. For voting, a response's answer is its last line that is not empty.

    A function that is named by its path is imported where it is used, in the pool's worker processes when they start.
    One that is passed itself may be from anywhere, a script or a notebook too: it is sent there as it is, together
    with what it refers to.

    Args:
        function: The function, or its import path, such as `my_module.reward`.
    """

    def __init__(self, function: str | Callable[..., float]) -> None:
        if not isinstance(function, str):
            if not callable(function):
                raise ValueError(f"`function` must be a function or its import path, not {function!r}.")
            self.function = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
            self._passed: Callable[..., float] | None = function
            self._function: Callable[..., float] | None = function
            return
        module, _, name = function.rpartition(".")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            raise ValueError(f"`function` must be an import path such as 'my_module.reward', not {function!r}.")
        self.function = function
        self._passed = self._function = None

    def __getstate__(self) -> dict[str, Any]:
        import dill  # here, because most runs have no such verifier

        # By value where it cannot be imported, without the rest of the script that it is from.
        return {"function": self.function, "passed": dill.dumps(self._passed, recurse=True)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import dill

        self.function, self._passed = state["function"], dill.loads(state["passed"])
        # A worker unpickles once, at its start: an import that fails is reported before the first response,
        # and a slow one does not count against the time limit of a response.
        self._function = self._passed or self._load()

    @property
    def sees_all(self) -> bool:
        """Whether the function takes a submission."""
        try:
            return _arguments(self._callable()) == 1
        except (ImportError, TypeError):  # said where the function is called, or checked
            return True

    def verify(self, submission: Submission) -> Verification:
        """Calls the function.

        Args:
            submission: What a function of one argument is given; one of two is given its response and gold answer.

        Returns:
            What the function returns, and the last line of the response.
        """
        function = self._callable()
        reward = function(submission) if self.sees_all else function(submission.response, submission.gold)
        return Verification(reward, self.extract(submission.response))

    def _callable(self) -> Callable[..., float]:
        if self._function is None:
            self._function = self._load()
        return self._function

    def _load(self) -> Callable[..., float]:
        function: Callable[..., float] = import_function(self.function, "The verifier function")
        if not callable(function):
            kind = type(function).__name__
            raise UnusableFunctionError(f"The verifier function {self.function!r} cannot be called: it is a {kind}.")
        return function

    def reward(self, response: str, gold: str) -> float:
        """Calls the function.

        Args:
            response: The text that the model wrote, without its prompt.
            gold: The gold answer.

        Returns:
            What the function returns.

        Raises:
            ImportError: If the function cannot be imported.
            TypeError: If the path names something that cannot be called.
        """
        return self.verify(Submission(response, gold)).reward

    def check_gold(self, gold: str) -> None:
        """Accepts any gold answer, because only the function knows, but checks that there is a function.

        Args:
            gold: The gold answer.

        Raises:
            ImportError: If the function cannot be imported.
            TypeError: If the path names something that cannot be called.
        """
        self._callable()


def _arguments(function: Callable[..., float]) -> int:
    """How many arguments a function is given, 1 or 2; 2 where it takes both or does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    given_by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [one for one in parameters if one.kind in given_by_place]
    required = sum(one.default is inspect.Parameter.empty for one in places)
    takes_more = any(one.kind == inspect.Parameter.VAR_POSITIONAL for one in parameters)
    return 1 if not takes_more and (required == 1 or len(places) == 1) else 2
