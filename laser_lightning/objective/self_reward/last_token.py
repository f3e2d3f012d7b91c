"""The self-reward: what the distribution behind ``<eos>`` says of the solution; LaSeR's own (arXiv 2510.14943)."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.solutions import (
    CORRECT_THRESHOLD,
    Supervision,
    class_counts,
    zero_if_truncated,
)
from laser_lightning.objective.self_reward.target import SelfRewardTarget, VerifierTarget
from laser_lightning.objective.self_reward.weights import ClassBalancedWeights, SelfRewardWeights
from laser_lightning.shapes import Float

# All of them were defined here in version 0.1.
__all__ = ["CORRECT_THRESHOLD", "LastTokenSelfReward", "SelfRewardHead", "class_counts", "zero_if_truncated"]


class LastTokenSelfReward(SelfRewardHead):
    """Turns the reward token's log-prob after ``<eos>`` into the model's own judgement of its solution.

    The self-reward is r_s = beta * (log pi(z_c given x, y) - reference), where the reference is a constant for all
    solutions, or log pi_ref(z_c given x, y) of each one.

    Args:
        token: the reward token z_c, one token of the vocabulary that normal text does not contain.
        beta: KL coefficient beta_v of the verification objective; the scale of the score.
        loss_weight: alpha, the weight of the self-rewarding loss; 0 trains plain GRPO, with no self-rewards in the
            advantages either, and still reports the score.
        reference: ``calibrate`` takes the mean of log pi_ref(z_c) over solutions of the initial policy (needs the
            ReferenceConstantCalibration callback), ``exported`` has it take the constant in the ``self_reward.json``
            of the export that ``policy.path`` names, a number is taken as it is, and ``exact`` runs the frozen
            reference model on every solution.
        class_weights: false is version 0.1's word for ``weights: EqualWeights``.
        weights: what each solution's error weighs in the loss: correct and incorrect ones half each, however many there
            are, or another part.
        target: what each self-reward is trained towards: the verifier's reward, or another part.

    Attributes:
        reference_constant: float32 buffer, saved with the model; NaN until it is known, and for ``exact``.
    """

    squares_errors = True

    reference_constant: Float[Tensor, ""]

    def __init__(
        self,
        token: str,
        beta: float = 0.1,
        loss_weight: float = 0.1,
        reference: Literal["calibrate", "exported", "exact"] | float = "calibrate",
        class_weights: bool = True,
        weights: SelfRewardWeights = ClassBalancedWeights(),
        target: SelfRewardTarget = VerifierTarget(),
    ) -> None:
        super().__init__({"token": token}, loss_weight, class_weights, weights, target)
        if beta <= 0:
            raise UserError(f"self_reward.beta is {beta}, and must be above 0.")
        self.beta, self.reference = beta, reference
        self.is_exact = reference == "exact"
        constant = torch.nan if isinstance(reference, str) else float(reference)
        self.register_buffer("reference_constant", torch.tensor(constant, dtype=torch.float32))
        if not isinstance(reference, str):
            self.check_reachable()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LastTokenSelfReward":
        # A model cast to bfloat16 must not round the constant: -23.11 would become -23.125.
        exact = self.reference_constant
        super()._apply(fn, recurse)
        self.reference_constant = exact.to(self.reference_constant.device)
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether the constant is still unknown."""
        return not self.is_exact and bool(self.reference_constant.isnan())

    def score_settings(self) -> dict[str, Any]:
        """With the scale and the constant (of an exact reference, the word)."""
        reference = "exact" if self.is_exact else float(self.reference_constant)
        return super().score_settings() | {"beta": self.beta, "reference": reference}

    def check_reachable(self) -> None:
        """Refuse a beta with which a self-reward of 1 lies above probability 1 (beta * -constant at most 1)."""
        constant = float(self.reference_constant)
        if self.beta * -constant <= 1:
            remedy = (
                f"raise self_reward.beta to {_rounded_up(1 / -constant)} or more"
                if constant < 0
                else "choose a token that the model gives next to no probability"
            )
            raise UserError(
                f"With beta = {self.beta} and a reference constant of {constant:.4g} a self-reward of 1 is "
                f"unreachable, since the reward token would need a probability of 1 or more: {remedy}."
            )

    def score(self, readings: Readings) -> Float[Tensor, " N"]:
        """The self-reward r_s.

        Args:
            readings: log pi(z_c given x, y) of N solutions, and log pi_ref(z_c given x, y) with ``reference: exact``.

        Returns:
            [N] float32 self-rewards, NaN where the log-probs are (truncated solutions).
        """
        log_probs = readings.log_probs[:, 0].float()
        if self.is_exact:
            if readings.references is None:
                raise ValueError("An exact self-reward needs the reference model's log-probs.")
            return self.beta * (log_probs - readings.references[:, 0].float())
        if self.needs_calibration:
            raise UserError(
                "The self-reward's reference constant is not known yet: add the ReferenceConstantCalibration callback "
                "(config key `calibration`), or give self_reward.reference a number."
            )
        return self.beta * (log_probs - self.reference_constant)

    def loss(self, readings: Readings, supervision: Supervision) -> Float[Tensor, ""]:
        """The weighted squared error between self-reward and target, summed over these solutions.

        Args:
            readings: as in ``score``, with gradient; those of weight 0 may be NaN.
            supervision: targets and weights.
        """
        targets, weights = supervision
        errors = (self.score(readings) - targets).where(weights > 0, 0.0)
        return (weights * errors.square()).sum()

    def extra_repr(self) -> str:
        """Settings in the module's printout."""
        return f"token={self.token!r}, beta={self.beta}, loss_weight={self.loss_weight}, reference={self.reference}"


def _rounded_up(value: float) -> str:
    """The smallest number of three significant digits above a positive value."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{(math.floor(value / unit) + 1) * unit:.3g}"
