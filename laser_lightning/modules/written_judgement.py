"""The base of modules whose policy judges its solutions in words, and not by a score behind ``<eos>``."""

from typing import Any, ClassVar

from laser_lightning.errors import UserError
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.objective.losses.policy_loss import refuse_unused_rewards


class WrittenJudgement(LaSeRModule):
    """Takes what the policy writes of its solutions for their self-rewards, which nothing else trains.

    Args:
        laser: those of LaSeRModule; ``self_reward.loss_weight`` must be 0, and ``policy_loss`` use advantages.

    Attributes:
        method: its name, as sentences say it.
    """

    judges_by_score = False
    method: ClassVar[str]

    def __init__(self, **laser: Any) -> None:
        super().__init__(**laser)
        if self.self_reward.loss_weight != 0:
            raise UserError(
                f"self_reward.loss_weight is {self.self_reward.loss_weight}, and {self.method} trains no self-rewards: "
                "set it to 0."
            )
        refuse_unused_rewards(self.objective.policy_loss, self.method)
