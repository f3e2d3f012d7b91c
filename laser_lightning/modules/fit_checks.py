"""What a module that samples refuses before its first step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from laser_lightning.data.module import PromptDataModule
from laser_lightning.data.problem import Problem
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


def check_lengths(module: "LaSeRModule", data: PromptDataModule) -> None:
    """Refuse problems whose longest solutions do not fit into the model, or into a micro-batch.

    Args:
        module: has its policy.
        data: set up.

    Raises:
        UserError: they do not.
    """
    positions, limit = module.policy.positions, module.sampling.max_response_tokens
    longest, key = data.curriculum.longest_response(limit), "sampling.max_response_tokens"
    if longest != limit:
        key = "max_response_tokens of a stage of data.curriculum"
    _refuse_overlong(data.train_problems, longest, key, positions, module.update.micro_batch_tokens)
    if module.engine.replays:
        return
    sampling = module.evaluator.sampling
    key = "sampling.max_response_tokens" if sampling is module.sampling else "evaluation.sampling.max_response_tokens"
    for problems in data.evaluation_problems.values():
        _refuse_overlong(problems, sampling.max_response_tokens, key, positions)


def room_lacking(tokens: int, positions: int | None, micro_batch_tokens: int | None = None) -> str | None:
    """What a sequence does not fit into, and how a sentence that then names its lengths goes on; None where it fits.

    Args:
        tokens: of the sequence.
        positions: of the model; None for no limit.
        micro_batch_tokens: of an update; None where there is none.
    """
    rooms = {
        "the {} positions of the model: lower": positions,
        "update.micro_batch_tokens = {}: raise it, or lower": micro_batch_tokens,
    }
    lacking = (room.format(places) for room, places in rooms.items() if places is not None and tokens > places)
    return next(lacking, None)


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


def _refuse_overlong(
    problems: Sequence[Problem], limit: int, key: str, positions: int | None, micro_batch_tokens: int | None = None
) -> None:
    longest = max(problems, key=lambda problem: len(problem.prompt_ids), default=None)
    if longest is None:
        return
    if room := room_lacking(len(longest.prompt_ids) + limit, positions, micro_batch_tokens):
        raise UserError(
            f"Row {longest.index} of the set '{longest.dataset}' has a prompt of {len(longest.prompt_ids)} tokens, "
            f"which with a response of up to {limit} tokens ({key}) does not fit into {room} this limit "
            "or data.max_prompt_tokens."
        )
