"""Calibration of the reference constant c_ref before the first step."""

from dataclasses import dataclass

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.averaging import of_averages
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.offline import OfflineStage
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.modules.training import TrainingModule
from laser_lightning.objective.self_reward.head import SelfRewardHead
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.policy.model import model_path
from laser_lightning.policy.precision import precision_of_steps


@dataclass(frozen=True)
class Calibration:
    """What the initial policy thinks of the reward token after its own solutions (nats).

    Attributes:
        mean: mean of log pi_ref(z_c given x, y) over the finished solutions: the reference constant.
        std: their standard deviation; the smaller, the better a constant stands for each of them.
        minimum: the smallest.
        maximum: the largest.
        solutions: number of finished solutions on all ranks.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    solutions: int


class ReferenceConstantCalibration(Callback):
    """Sets the self-reward's reference constant from solutions of the initial policy, or from recorded ones.

    Before the first step (or before a stand-alone evaluation of a model that was never calibrated) it samples solutions
    of some problems and takes the mean of log pi_ref(z_c) over the finished ones, agreed over all ranks. A run that
    resumes, whose constant is given in the config, or whose self-reward has none, is left alone.

    The offline stage (``SupervisedModule`` with a self-reward) samples nothing: there the solutions are the first
    recorded ones of those problems, and the log-probs the initial policy's.

    Args:
        prompts: problems to sample for, over all ranks; they are the first ones of the training set, or of the first
            evaluation set where there is none.
        group_size: solutions per problem.
        max_emission_rate: refuse the reward token if more than this share of the solutions contains it.
        seed: seed of the sampling. It does not follow ``seed_everything``: the constant belongs to the initial model,
            and runs from the same model that differ by their seed alone share it.
    """

    def __init__(self, prompts: int = 64, group_size: int = 4, max_emission_rate: float = 0.01, seed: int = 0) -> None:
        if prompts < 1 or group_size < 1:
            raise UserError("calibration.prompts and calibration.group_size must be at least 1.")
        self.prompts, self.group_size = prompts, group_size
        self.max_emission_rate, self.seed = max_emission_rate, seed
        self.result: Calibration | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say so where there is nothing to calibrate."""
        head = getattr(pl_module, "self_reward", None)
        if head is not None and not isinstance(head, LastTokenSelfReward):
            rank_zero_info(f"{type(head).__name__} has no reference constant: nothing is calibrated.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate before the first step, unless the constant is known."""
        self._calibrate(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate before a stand-alone evaluation, unless the constant is known."""
        self._calibrate(trainer, pl_module)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def _calibrate(self, trainer: Trainer, module: LightningModule) -> None:
        offline = module.offline if isinstance(module, SupervisedModule) else None
        if not isinstance(module, LaSeRModule | SupervisedModule) or (
            isinstance(module, SupervisedModule) and offline is None
        ):
            raise UserError(
                "ReferenceConstantCalibration works with LaSeRModule, and with SupervisedModule where it has a "
                f"self_reward, and the model is {type(module).__name__}: set `calibration: null`."
            )
        head = module.self_reward
        if not isinstance(head, LastTokenSelfReward) or not head.needs_calibration:
            return
        if head.reference == "exported":
            _set_constant(trainer, head, _exported_constant(module, head))
            return
        if isinstance(module, LaSeRModule) and module.engine.replays:
            raise UserError(
                f"model.engine is {type(module.engine).__name__}, which draws no solutions to calibrate on, and the "
                "reference constant is not known: load a checkpoint with --ckpt_path, or give "
                "model.self_reward.reference the number under `reference` in the first line of the kept solutions."
            )
        if trainer.state.fn != TrainerFn.FITTING:
            module.check_policy()  # its own hook comes behind those of callbacks
        data = module.data
        problems = data.train_problems or next(iter(data.evaluation_problems.values()))
        mine = problems[: self.prompts][trainer.global_rank :: trainer.world_size]
        with precision_of_steps(trainer.precision_plugin):
            if offline is not None:
                log_probs, emitted = self._recorded(offline, mine)
            else:
                assert isinstance(module, LaSeRModule)
                log_probs, emitted = self._sampled(module, mine, trainer.global_rank)
        self.result = self._agree(module, head, log_probs, emitted)
        _set_constant(trainer, head, self.result.mean)
        self._report(trainer, head, self.result)

    def _sampled(self, module: LaSeRModule, problems: list[Problem], rank: int) -> tuple[Tensor, Tensor]:
        """Log-probs behind the finished ones of sampled solutions, and which of all contain the reward token."""
        generator = torch.Generator(module.device).manual_seed(self.seed * 100_003 + rank)
        prompts = [problem.prompt_ids for problem in problems]
        with module.interruption.interruptible(communicates=module.engine.collective):
            rollouts = module.sampler.draw(prompts, self.group_size, module.sampling, generator)
        emitted = rollouts.contains(module.self_reward.token_id)
        return rollouts.reward_token_log_probs[rollouts.finished, 0].double(), emitted

    def _recorded(self, offline: OfflineStage, problems: list[Problem]) -> tuple[Tensor, Tensor]:
        """The same of recorded solutions."""
        device = offline.module.device
        few = [problem._replace(recorded=problem.recorded[: self.group_size]) for problem in problems]
        # A rank without problems gathers weights for those that have some.
        with offline.module.gathered_weights(offline.module.policy):
            if not few:
                return torch.zeros(0, dtype=torch.float64, device=device), torch.zeros(
                    0, dtype=torch.bool, device=device
                )
            batch = offline.batch(few)
            read = offline.judge(batch, score=False).log_probs[batch.judged | batch.taught, 0].double()
        emitted = batch.rollout.rollouts.contains(offline.head.token_id)
        return read, emitted[batch.rewarded | batch.taught]

    def _agree(
        self, module: LaSeRModule | SupervisedModule, head: SelfRewardHead, log_probs: Tensor, emitted: Tensor
    ) -> Calibration:
        """Statistics over all ranks; refuses a model that never finishes, or that writes the reward token."""
        sums = torch.tensor([len(log_probs), len(emitted), int(emitted.sum())], device=module.device)
        finished, solutions, count = module.ranks.sum(sums).tolist()
        if not finished:
            if not isinstance(module, LaSeRModule):
                raise UserError(
                    f"None of {solutions} recorded solutions ends in <eos>, behind which the reference constant is "
                    "measured: raise calibration.prompts, or give self_reward.reference a number."
                )
            raise UserError(
                f"None of {solutions} calibration solutions ended within sampling.max_response_tokens = "
                f"{module.sampling.max_response_tokens}: raise it, or start from a model that ends its answers."
            )
        if count > self.max_emission_rate * solutions:
            raise UserError(
                f"The policy writes the reward token '{head.token}' in {count} of {solutions} solutions. "
                "Choose a token that normal text does not contain, such as an unused special token."
            )
        mean = float(module.ranks.sum(log_probs.sum())) / finished
        variance = float(module.ranks.sum((log_probs - mean).square().sum())) / max(finished - 1, 1)
        extremes = module.ranks.stack(torch.stack((_or(log_probs, torch.inf).min(), _or(log_probs, -torch.inf).max())))
        return Calibration(mean, variance**0.5, float(extremes[:, 0].min()), float(extremes[:, 1].max()), finished)

    @staticmethod
    def _report(trainer: Trainer, head: SelfRewardHead, result: Calibration) -> None:
        rank_zero_info(
            f"Reference constant of '{head.token}': {result.mean:.3f} (std {result.std:.3f}, "
            f"{result.minimum:.3f} to {result.maximum:.3f}, {result.solutions} solutions)."
        )
        values = {"mean": result.mean, "std": result.std, "min": result.minimum, "max": result.maximum}
        for logger in trainer.loggers:
            logger.log_metrics({f"calibration/{name}": value for name, value in values.items()}, trainer.global_step)


def _set_constant(trainer: Trainer, head: LastTokenSelfReward, constant: float) -> None:
    """Give the constant to the head and to its averages; refuses one with which a score of 1 is unreachable."""
    for known in (head, *of_averages(trainer, "self_reward")):
        known.reference_constant.fill_(constant)  # type: ignore[operator]
    head.check_reachable()


def _exported_constant(module: TrainingModule, head: LastTokenSelfReward) -> float:
    """The constant in the ``self_reward.json`` of the export that the run starts from."""
    directory = model_path(module.policy_settings.path)
    settings = SelfRewardSettings.read(directory)
    if settings.token != head.token or settings.reference_constant is None:
        raise UserError(
            f"self_reward.reference is exported, and the self_reward.json in {directory} has no constant for the token "
            f"'{head.token}' (its token is '{settings.token}'): use that token, or set reference to calibrate."
        )
    return settings.reference_constant


def _or(values: Tensor, default: float) -> Tensor:
    """The values, or one default where there are none."""
    return values if len(values) else values.new_tensor([default])
