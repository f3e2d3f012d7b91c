"""One verdict at a time, whatever the verifier does."""

from collections.abc import Callable
from numbers import Real

from laser_lightning.verifiers.base import Verification, Verifier

_REMEMBERED_VERDICTS = 4096
_LARGEST_REWARD = 3.4e38  # rewards become float32
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
        self._verdicts: dict[tuple[str | None, str, str], bool] = {}

    def verify(self, response: str, gold: str, name: str | None = None) -> Verification:
        """Verifies one response.

        Args:
            response: The text that the model wrote, without its prompt.
            gold: The gold answer.
            name: Which of a `MixedVerifier`'s verifiers judges it; None for its default, and for other verifiers.

        Returns:
            The reward and the canonical answer; an error if the verifier raises or returns no finite number.
        """
        return _guarded(self._verify, response, gold, name)

    def find(self, response: str, gold: str, name: str | None = None) -> Verification:
        """Finds the final answer of a response that has no gold answer.

        Args:
            response: The text that the model wrote, without its prompt.
            gold: Not looked at.
            name: As in `verify`.

        Returns:
            The canonical answer, with 0.0 as its reward; an error if the verifier raises.
        """
        return _guarded(self._find, response, gold, name)

    def compare(self, answer: str, other: str, name: str | None = None) -> Verification:
        """Compares two extracted answers.

        Args:
            answer: An extracted answer.
            other: Another one.
            name: As in `verify`.

        Returns:
            The first answer in canonical form, with 1.0 as its reward if the two are equivalent, else 0.0; an
            error if the verifier raises.
        """
        return _guarded(self._compare, answer, other, name)

    def _verify(self, response: str, gold: str, name: str | None) -> Verification:
        verifier = self.verifier.named(name)
        answer = verifier.extract(response)
        if not verifier.has_own_reward:
            return Verification(0.0, None) if answer is None else self._compare(answer, gold, name)
        reward = verifier.reward(response, gold)
        if not isinstance(reward, Real) or not abs(reward) <= _LARGEST_REWARD:  # NaN is not
            raise ValueError(f"the reward must be a finite number (of float32), not {reward!r}")
        return Verification(float(reward), None if answer is None else verifier.canonical(answer))

    def _find(self, response: str, gold: str, name: str | None) -> Verification:
        verifier = self.verifier.named(name)
        answer = verifier.extract(response)
        return Verification(0.0, None if answer is None else verifier.canonical(answer))

    def _compare(self, answer: str, gold: str, name: str | None) -> Verification:
        verifier = self.verifier.named(name)
        key = (name, verifier.canonical(answer), gold)
        if key not in self._verdicts:
            if len(self._verdicts) == _REMEMBERED_VERDICTS:
                del self._verdicts[next(iter(self._verdicts))]
            self._verdicts[key] = bool(verifier.equivalent(answer, gold))
        return Verification(float(self._verdicts[key]), key[1])


def _guarded(
    judge: Callable[[str, str, str | None], Verification], text: str, gold: str, name: str | None
) -> Verification:
    try:
        return judge(text, gold, name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # not only Exception: a verifier may even call sys.exit
        return Verification(0.0, None, f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
