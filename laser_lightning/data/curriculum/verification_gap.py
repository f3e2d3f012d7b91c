"""Practise the kinds of problems on which the model misjudges its solutions."""

from torch import Tensor

from laser_lightning.data.curriculum.curriculum import StepOutcome
from laser_lightning.data.curriculum.sec import SEC
from laser_lightning.errors import UserError


class VerificationGap(SEC):
    """Draws kinds as SEC does, by the distance of self-reward and reward: mean abs(s - r) in place of mean abs(A).

    Ours: no paper has it. Solutions without a self-reward are left out.

    Args:
        temperature: how evenly kinds are drawn.
        rate: weight of the latest step.
    """

    def __init__(self, temperature: float = 0.2, rate: float = 0.5) -> None:
        super().__init__(temperature, rate)

    def gains(self, outcome: StepOutcome) -> Tensor:
        """[P, G] how far off the model's judgement was.

        Raises:
            UserError: the model judged nothing, and never does.
        """
        if outcome.self_rewards.isnan().all():
            raise UserError(
                "VerificationGap (data.curriculum) learns from self-rewards, and no solution of the step has one: the "
                "module does not judge the solutions of training. Take laser_lightning.data.SEC."
            )
        return (outcome.self_rewards - outcome.rewards).abs()
