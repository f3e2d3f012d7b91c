"""How a policy is measured: problems of evaluation sets are solved k times each, and the solutions counted."""

import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.evaluation.metrics import EvaluationMetrics, MetricsOfSets
from laser_lightning.modules.kept_rounds import KeptRounds, kept_directory
from laser_lightning.modules.rollouts import RolloutModule
from laser_lightning.policy.precision import float32_by_default
from laser_lightning.records.rounds import Round
from laser_lightning.rollout import Sampling


@dataclass(frozen=True)
class EvaluationSettings:
    """How problems are evaluated in ``validate`` and ``test``, and during ``fit``.

    Args:
        samples: solutions per problem, k.
        samples_per_set: k of single sets, by name, where it differs.
        sampling: how solutions are drawn; null for the training's own.
        at_start: evaluate before the first step, so that every run shows where it started.
        at_end: evaluate behind the last step, unless that was just done.
        keep: keep the solutions of stand-alone evaluations (``validate``, ``test`` and ``predict``) in
            ``<run>/kept/<stage>/<set>``. The same evaluation in the same run directory then takes them from there and
            samples only the batches that are missing. A run without a directory of its own (no logger, and
            ``trainer.default_root_dir`` is the working directory) keeps nothing.
    """

    samples: int = 8
    samples_per_set: dict[str, int] = field(default_factory=dict)
    sampling: Sampling | None = None
    at_start: bool = True
    at_end: bool = True
    keep: bool = True


class EvaluationModule(RolloutModule):
    """A policy that is sampled, judged and measured: everything but the training step.

    Args:
        evaluation: how problems are evaluated.
        rollout: arguments of RolloutModule.

    Attributes:
        evaluation_metrics: the metrics of each evaluation set, by its name.
    """

    evaluation_metrics: MetricsOfSets

    def __init__(self, evaluation: EvaluationSettings, **rollout: Any) -> None:
        super().__init__(**rollout)
        self.evaluation = evaluation
        self.evaluation_metrics = MetricsOfSets()
        self._last_evaluated_step = -1
        self._loaded_step = 0
        self._kept: KeptRounds | None = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which step was evaluated last."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["laser_last_evaluated_step"] = self._last_evaluated_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore which step was evaluated last."""
        super().on_load_checkpoint(checkpoint)
        self._last_evaluated_step = checkpoint["laser_last_evaluated_step"]
        self._loaded_step = checkpoint["global_step"]

    def forget_position(self) -> None:
        """Of which step was evaluated last, too; the number of steps behind the weights is still theirs."""
        super().forget_position()
        self._last_evaluated_step = -1

    def setup(self, stage: str) -> None:
        """Make the metrics of the evaluation sets."""
        super().setup(stage)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.evaluation_metrics = MetricsOfSets()
        for name in data.evaluation_problems:
            metrics = EvaluationMetrics(self.samples_of(name), data.kinds(name), self.verifier.reward_names)
            self.evaluation_metrics[name] = metrics.to(self.device)
        unknown = set(self.evaluation.samples_per_set) - set(self.evaluation_metrics)
        if unknown and data.evaluation_problems:
            raise UserError(f"evaluation.samples_per_set names {sorted(unknown)}, which no data set has as its key.")

    def samples_of(self, dataset: str) -> int:
        """Solutions per problem of one set."""
        return self.evaluation.samples_per_set.get(dataset, self.evaluation.samples)

    def on_train_start(self) -> None:
        """Resume the random streams, and evaluate before the first step.

        A checkpoint of a step that is evaluated too is written before that evaluation; on resume it is made up for.
        """
        super().on_train_start()
        every = self.trainer.val_check_batch
        done = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if self.trainer.global_step == 0:
            due = self.evaluation.at_start
        else:
            due = every is not None and done % every == 0
        if due and self._last_evaluated_step != self.trainer.global_step:
            self._evaluate_now()

    def on_train_end(self) -> None:
        """Evaluate behind the last step."""
        if self.evaluation.at_end and self._last_evaluated_step != self.trainer.global_step:
            self._evaluate_now()

    def _evaluate_now(self) -> None:
        loop = self.trainer.fit_loop.epoch_loop
        if not self.trainer.enable_validation:
            return
        self.trainer.validating = True
        first_iteration = self.trainer._logger_connector._first_loop_iter
        loop.val_loop.restarting = False  # a resumed run would go on behind the batches of an earlier evaluation
        loop.val_loop.run()
        self.trainer._logger_connector._first_loop_iter = first_iteration
        self.trainer.training = True

    def on_validation_start(self) -> None:
        """Look for kept solutions of this evaluation, if it stands alone."""
        self._kept = None
        directory = kept_directory(self.trainer)
        if self.evaluation.keep and directory is not None:
            samples = {name: self.samples_of(name) for name in self.evaluation_metrics}
            self._kept = KeptRounds(self, directory, samples, self.evaluation.sampling or self.sampling)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def validation_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Sample each problem k times, and count."""
        self._evaluate(problems, batch_idx, dataloader_idx)

    def test_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Sample each problem k times, and count."""
        self._evaluate(problems, batch_idx, dataloader_idx)

    def predict_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> Round | None:
        """Sample each problem k times; callbacks write the solutions."""
        with self.interruption.interruptible(communicates=self.engine.collective):
            return self._play_or_take(problems, batch_idx, dataloader_idx)

    def metrics_of(self, dataset: str) -> EvaluationMetrics:
        """The metrics of one evaluation set."""
        return self.evaluation_metrics[dataset]

    @float32_by_default()
    def _evaluate(self, problems: list[Problem], batch_idx: int, dataloader_idx: int) -> None:
        with self.interruption.interruptible(communicates=self.engine.collective):
            if round_ := self._play_or_take(problems, batch_idx, dataloader_idx):
                compare = None if self.verifier.canonical_decides else self.verifier_pool.equivalent
                self.metrics_of(problems[0].dataset).update(round_, compare)

    def _play_or_take(self, problems: list[Problem], batch_idx: int, dataloader_idx: int) -> Round | None:
        """The solutions of a batch: those that are kept, or else new ones, which are kept."""
        if self._kept is None:
            return self._play_evaluation(problems, batch_idx)
        name = list(self.evaluation_metrics)[dataloader_idx]
        if self._kept.has(name, batch_idx):
            round_ = self._kept.take(name, batch_idx, problems)
            self.last_round = self.last_round if round_ is None else round_
        else:
            round_ = self._play_evaluation(problems, batch_idx)
            self._kept.put(name, round_)
        return round_

    @float32_by_default()
    def _play_evaluation(self, problems: list[Problem], batch_idx: int) -> Round | None:
        # A stream of its own: an evaluation is the same at every step, and training is the same without it.
        name = problems[0].dataset if problems else ""
        seed = zlib.crc32(f"{self.seed}/{name}/{batch_idx}/{self.global_rank}".encode())
        generator = torch.Generator(self.device).manual_seed(seed)
        samples = self.samples_of(name)
        sampling = self.evaluation.sampling or self.sampling
        exact = self.self_reward.is_exact
        with self.part("evaluation"), self.gathered_weights(self.policy, self.reference if exact else None):
            started = time.perf_counter()
            round_ = self.solve(problems, samples, sampling, generator)
            if round_ is not None:
                round_.seconds = time.perf_counter() - started
            return round_

    def solve(
        self, problems: list[Problem], samples: int, sampling: Sampling, generator: torch.Generator
    ) -> Round | None:
        """The solutions of an evaluation batch, judged; None for a rank without problems, which takes part in the
        others' generation where the engine is collective.

        Args:
            problems: P problems, maybe none.
            samples: solutions of each.
            sampling: how they are drawn.
            generator: the source of randomness, on the policy's device.
        """
        if problems:
            return self.play(problems, samples, sampling, generator)
        if self.engine.collective:
            self.sample(problems, samples, sampling, generator)
        return None

    def on_validation_epoch_end(self) -> None:
        """Log the values of every set."""
        self._log_evaluation("val")
        if not self.trainer.sanity_checking:
            self._last_evaluated_step = self.trainer.global_step

    def on_test_epoch_end(self) -> None:
        """Log the values of every set."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        # Outside of `fit` only the checkpoint knows the number of steps behind the weights.
        step = self.trainer.global_step if self.trainer.state.fn == TrainerFn.FITTING else self._loaded_step
        values = {"step": torch.tensor(step, dtype=torch.float32, device=self.device)}
        with self.part("evaluation"):
            for name in self.evaluation_metrics:
                metrics = self.metrics_of(name)
                values |= {f"{stage}/{name}/{key}": value.float() for key, value in metrics.compute().items()}
                metrics.reset()
        # The values are those of all ranks; the largest of equal numbers is that number, bit for bit.
        self.log_dict(values, sync_dist=True, reduce_fx="max")
