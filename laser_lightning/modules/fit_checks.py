"""What ``fit`` of a module that samples refuses before its first step."""

from typing import TYPE_CHECKING

from laser_lightning.errors import UserError

if TYPE_CHECKING:
    from laser_lightning.modules.laser import LaSeRModule


def check_fit(module: "LaSeRModule") -> None:
    """Refuse an engine that cannot train or not ahead, and a batch that does not divide.

    Args:
        module: set up for ``fit``.
    """
    engine, ahead = module.engine, module.ahead.ahead
    if engine.replays:
        raise UserError(
            f"model.engine is {type(engine).__name__}, which hands out solutions that were kept and draws "
            "no new ones: fit needs an engine that does, such as laser_lightning.rollout.TransformersEngine."
        )
    if ahead and not engine.elsewhere:
        raise UserError(
            f"rollout.ahead is {ahead}, and model.engine is {type(engine).__name__}, which decodes in the trainer's "
            "own process and cannot while the update runs: put it into laser_lightning.EngineProcess (engine: the "
            "present one), or set rollout.ahead to 0."
        )
    update = module.update
    prompts = module.data.prompts_per_step
    per_process = prompts // module.ranks.count
    if per_process % update.mini_batches:
        raise UserError(
            f"update.mini_batches = {update.mini_batches} does not divide the {per_process} prompts of a "
            f"process (data.prompts_per_step = {prompts} over {module.ranks.count})."
        )
