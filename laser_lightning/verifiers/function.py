"""The verifier that calls a user's plain function."""

from collections.abc import Callable
from importlib import import_module

from laser_lightning.errors import UnusableFunctionError
from laser_lightning.verifiers.base import Verifier


class FunctionVerifier(Verifier):
    """Rewards responses by a plain function `(response: str, gold: str) -> float`.

    Only the function's path is kept; the function is imported where it is used, in the pool's worker
    processes when they start. For voting, a response's answer is its last line that is not empty.

    Args:
        function: Import path of the function, such as `my_module.reward`.
    """

    def __init__(self, function: str) -> None:
        module, _, name = function.rpartition(".")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            raise ValueError(f"`function` must be an import path such as 'my_module.reward', not {function!r}.")
        self.function = function
        self._function: Callable[[str, str], float] | None = None

    def __getstate__(self) -> dict[str, str]:
        return {"function": self.function}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.function = state["function"]
        # A worker unpickles once, at its start: an import that fails is reported before the first response,
        # and a slow one does not count against the time limit of a response.
        self._function = self._load()

    def _load(self) -> Callable[[str, str], float]:
        module, _, name = self.function.rpartition(".")
        try:
            function = getattr(import_module(module), name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UnusableFunctionError(
                f"The verifier function {self.function!r} cannot be imported ({reason}); "
                "its module must be on the import path, for instance in the working directory."
            ) from error
        if not callable(function):
            kind = type(function).__name__
            raise UnusableFunctionError(f"The verifier function {self.function!r} cannot be called: it is a {kind}.")
        return function

    def extract(self, response: str) -> str | None:
        """Finds the last line that is not empty.

        Args:
            response: The text that the model wrote, without its prompt.

        Returns:
            The stripped line, or None if the response is empty.
        """
        lines = response.strip().splitlines()
        return lines[-1].strip() if lines else None

    def equivalent(self, answer: str, gold: str) -> bool:
        """Compares two answers as text; the reward does not use it.

        Args:
            answer: An extracted answer.
            gold: Another one.

        Returns:
            True if the stripped texts are equal.
        """
        return answer.strip() == gold.strip()

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
        if self._function is None:
            self._function = self._load()
        return self._function(response, gold)

    def check_gold(self, gold: str) -> None:
        """Accepts any gold answer, because only the function knows, but checks that there is a function.

        Args:
            gold: The gold answer.

        Raises:
            ImportError: If the function cannot be imported.
            TypeError: If the path names something that cannot be called.
        """
        if self._function is None:
            self._function = self._load()
