"""One verdict at a time, whatever the verifier does."""

from collections.abc import Callable
from numbers import Real
from typing import Any

from laser_lightning.verifiers.base import Submission, Verification, Verifier

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

    def verify(self, *submission: Any) -> Verification:
        """Verifies one response.

        Args:
            submission: The values of a `Submission`, in order.

        Returns:
            The reward and the canonical answer; an error if the verifier raises or returns no finite number.
        """
        return _guarded(self._verify, *submission)

    def find(self, response: str, gold: str, name: str | None = None) -> Verification:
        """Finds the final answer of a response that has no gold answer.

        Args:
            response: The text that the model wrote, without its prompt.
            gold: Not looked at.
            name: Which of a `MixedVerifier`'s verifiers finds it; None for its default, and for other verifiers.

        Returns:
            The canonical answer, with 0.0 as its reward; an error if the verifier raises.
        """
        return _guarded(self._find, response, gold, name)

    def compare(self, answer: str, other: str, name: str | None = None) -> Verification:
        """Compares two extracted answers.

        Args:
            answer: An extracted answer.
            other: Another one.
            name: As in `find`.

        Returns:
            The first answer in canonical form, with 1.0 as its reward if the two are equivalent, else 0.0; an
            error if the verifier raises.
        """
        return _guarded(self._compare, answer, other, name)

    def failed(self, error: str, name: str | None = None) -> Verification:
        """What is said of a response on which the verifier failed as a whole.

        Args:
            error: Why it failed.
            name: As in `find`.

        Returns:
            The error, with every reward function of the verifier as one that failed.
        """
        found = _guarded(lambda: Verification(0.0, None, error, dict.fromkeys(self.verifier.named(name).reward_names)))
        return found._replace(error=error)

    def _verify(self, *values: Any) -> Verification:
        submission = Submission(*values)
        response, gold, name = submission[:3]
        verifier = self.verifier.named(name)
        if verifier.sees_all:
            return _plain(verifier.verify(submission))
        answer = verifier.extract(response)
        if not verifier.has_own_reward:
            return Verification(0.0, None) if answer is None else self._compare(answer, gold, name)
        reward = _number(verifier.reward(response, gold))
        return Verification(reward, None if answer is None else verifier.canonical(answer))

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


def _number(reward: object) -> float:
    if not isinstance(reward, Real) or not abs(float(reward)) <= _LARGEST_REWARD:  # NaN is not
        raise ValueError(f"the reward must be a finite number (of float32), not {reward!r}")
    return float(reward)


def _plain(found: Verification) -> Verification:
    """A verification that was made by hand, with plain numbers in it, as the worker sends them."""
    if not isinstance(found, Verification):
        raise TypeError(f"`verify` must return a Verification, not a {type(found).__name__}")
    rewards = {name: None if reward is None else _number(reward) for name, reward in found.rewards.items()}
    policy_reward = None if found.policy_reward is None else _number(found.policy_reward)
    return Verification(_number(found.reward), found.answer, found.error, rewards, policy_reward)


def _guarded(judge: Callable[..., Verification], *values: Any) -> Verification:
    try:
        return judge(*values)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # not only Exception: a verifier may even call sys.exit
        return Verification(0.0, None, f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
