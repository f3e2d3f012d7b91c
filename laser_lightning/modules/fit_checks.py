"""What ``fit`` of a module that samples refuses before its first step."""

from typing import TYPE_CHECKING

from laser_lightning.errors import UserError
from laser_lightning.objective.advantages.mixing import SelfRewardMixing
from laser_lightning.objective.self_reward.target import VerifierTarget

if TYPE_CHECKING:
    from laser_lightning.modules.laser import LaSeRModule


def check_fit(module: "LaSeRModule") -> None:
    """Refuse parts without effect or with stale scores, an engine that cannot train, and a batch that does not divide.

    Args:
        module: set up for ``fit``.
    """
    _check_untrained_score(module)
    _check_moving_target(module)
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


def _check_untrained_score(module: "LaSeRModule") -> None:
    """Refuse a mixing or a target that somebody chose, where scores are neither trained nor mixed.

    Weights may stay: configs of LaSeR set some, and one of GRPO behind them sets the weight of the whole loss to 0.
    """
    if module.self_reward.loss_weight > 0:
        return
    parts: dict[str, tuple[object, type]] = {
        "advantage.mixing": (module.advantage.mixing, SelfRewardMixing),
        "self_reward.target": (module.self_reward.target, VerifierTarget),
    }
    for key, (part, default) in parts.items():
        if part is not None and type(part) is not default:
            raise UserError(
                "self_reward.loss_weight is 0, so that self-rewards are neither trained nor mixed into the advantages, "
                f"and {key} is {type(part).__name__}, which would do nothing: set self_reward.loss_weight above 0, or "
                f"leave {key} out."
            )


def _check_moving_target(module: "LaSeRModule") -> None:
    """Refuse rollouts whose scores are not those of the policy that is updated, where the target moves with them."""
    target, update = module.self_reward.target, module.update
    if not target.moves_with_scores:
        return
    values = {
        "update.epochs": (update.epochs, 1),
        "update.mini_batches": (update.mini_batches, 1),
        "rollout.ahead": (module.ahead.ahead, 0),
    }
    for key, (value, fresh) in values.items():
        if value != fresh:
            raise UserError(
                f"self_reward.target is {type(target).__name__}, which needs scores of the policy as it is, and with "
                f"{key} = {value} an update gets those of an earlier one: set {key} to {fresh}, or take another "
                "self_reward.target."
            )
