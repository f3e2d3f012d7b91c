"""One verdict at a time, whatever the verifier does."""

import math
from collections.abc import Callable
from numbers import Real

from laser_lightning.verifiers.base import Verification, Verifier

_REMEMBERED_VERDICTS = 4096
_LONGEST_ERROR = 300


class Judge:
    """Calls a verifier and turns what goes wrong in it into the error of a `Verification`.

    Solutions of one problem often agree, so the verdict on a (canonical answer, gold) pair is remembered, and
    used unless the verifier has a reward of its own.

    Args:
        verifier: The verifier to call.
    """

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self._own_reward = type(verifier).reward is not Verifier.reward
        self._verdicts: dict[tuple[str, str], bool] = {}

    def verify(self, response: str, gold: str) -> Verification:
        """Verifies one response.

        Args:
            response: The text that the model wrote, without its prompt.
            gold: The gold answer.

        Returns:
            The reward and the canonical answer; an error if the verifier raises or returns no finite number.
        """
        return _guarded(self._verify, response, gold)

    def find(self, response: str, gold: str) -> Verification:
        """Finds the final answer of a response that has no gold answer.

        Args:
            response: The text that the model wrote, without its prompt.
            gold: Not looked at.

        Returns:
            The canonical answer, with 0.0 as its reward; an error if the verifier raises.
        """
        return _guarded(self._find, response, gold)

    def compare(self, answer: str, other: str) -> Verification:
        """Compares two extracted answers.

        Args:
            answer: An extracted answer.
            other: Another one.

        Returns:
            The first answer in canonical form, with 1.0 as its reward if the two are equivalent, else 0.0; an
            error if the verifier raises.
        """
        return _guarded(self._compare, answer, other)

    def _verify(self, response: str, gold: str) -> Verification:
        answer = self.verifier.extract(response)
        if not self._own_reward:
            return Verification(0.0, None) if answer is None else self._compare(answer, gold)
        reward = self.verifier.reward(response, gold)
        if not isinstance(reward, Real) or not math.isfinite(reward):
            raise ValueError(f"the reward must be a finite number, not {reward!r}")
        return Verification(float(reward), None if answer is None else self.verifier.canonical(answer))

    def _find(self, response: str, gold: str) -> Verification:
        answer = self.verifier.extract(response)
        return Verification(0.0, None if answer is None else self.verifier.canonical(answer))

    def _compare(self, answer: str, gold: str) -> Verification:
        key = (self.verifier.canonical(answer), gold)
        if key not in self._verdicts:
            if len(self._verdicts) == _REMEMBERED_VERDICTS:
                del self._verdicts[next(iter(self._verdicts))]
            self._verdicts[key] = bool(self.verifier.equivalent(answer, gold))
        return Verification(float(self._verdicts[key]), key[0])


def _guarded(judge: Callable[[str, str], Verification], text: str, gold: str) -> Verification:
    try:
        return judge(text, gold)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # not only Exception: a verifier may even call sys.exit
        return Verification(0.0, None, f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
