"""When rollouts are drawn."""

from dataclasses import dataclass

from laser_lightning.errors import UserError


@dataclass(frozen=True)
class RolloutSettings:
    """When the rollouts of training are drawn.

    Args:
        ahead: rounds that are drawn while updates run, with weights that are up to as many updates old; 0 draws each
            round behind the update before it, with the weights of the moment. Above 0 it needs an engine that draws
            elsewhere, such as ``laser_lightning.EngineProcess``. Every ``ahead`` rounds the engine gets the weights,
            and draws as many further rounds with them.
    """

    ahead: int = 0

    def __post_init__(self) -> None:
        if self.ahead < 0:
            raise UserError(f"rollout.ahead is {self.ahead}, and must be 0 or more.")
