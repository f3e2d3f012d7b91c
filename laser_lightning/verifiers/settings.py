"""How the verifier is run."""

from dataclasses import dataclass

from laser_lightning.errors import UserError


@dataclass(frozen=True)
class VerificationSettings:
    """How responses are verified.

    Args:
        workers: verifier processes; 0 verifies in the training process, without a time limit.
        timeout_seconds: a response that takes longer gets reward 0, and its worker is replaced. Time limits that the
            verifier itself has, such as those of an endpoint or of unit tests, come on top.
        max_failing_steps: stop the run after this many training steps in a row in which the verifier, or one of its
            reward functions, failed on every response.
    """

    workers: int = 1
    timeout_seconds: float = 5.0
    max_failing_steps: int = 3

    def __post_init__(self) -> None:
        if self.max_failing_steps < 1:
            raise UserError(f"verification.max_failing_steps is {self.max_failing_steps}, and must be at least 1.")
