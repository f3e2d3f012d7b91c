"""When a module in training, or a stand-alone run, evaluates: Lightning's hooks around an ``Evaluator``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.evaluation.evaluator import Evaluator
from laser_lightning.evaluation.kept_rounds import KeptRounds, kept_directory
from laser_lightning.modules.training import TrainingModule
from laser_lightning.policy.model import FrozenPolicy
from laser_lightning.policy.precision import float32_by_default
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import RecordedSolutions, RolloutEngine, Sampling
from laser_lightning.rollout.fingerprints import described, weights_fingerprint
from laser_lightning.rollout.sampler import Sampler
from laser_lightning.rollout.solution_store import Header
from laser_lightning.verifiers import Verifier


class EvaluationHooks(TrainingModule):
    """Lightning's hooks of a module whose policy is measured by an ``Evaluator``; nothing of the measuring itself.

    Attributes:
        evaluator: solves and counts.
        sampler: draws and judges, from ``configure_model`` on.
        verifier: judges final answers.
        last_rollout: the latest training or evaluation round, for callbacks.
    """

    has_groups = True
    evaluator: Evaluator
    sampler: Sampler
    verifier: Verifier
    last_rollout: Rollout | None
    _last_evaluated_step = -1
    _loaded_step = 0

    @property
    def last_round(self) -> Rollout | None:
        """The name of ``last_rollout`` in version 0.1."""
        return self.last_rollout

    @property
    def rollout_engine(self) -> RolloutEngine:
        """The sampler's."""
        return self.sampler.engine

    def solve(
        self, problems: list[Problem], samples: int, sampling: Sampling, generator: torch.Generator
    ) -> Rollout | None:
        """The solutions of an evaluation batch, judged; None for a rank without problems, which takes part in the
        others' generation where the engine is collective.

        Args:
            problems: P problems, maybe none.
            samples: solutions of each.
            sampling: how they are drawn.
            generator: the source of randomness, on the policy's device.
        """
        if problems:
            return self.sampler.rollout(problems, samples, sampling, generator)
        if self.sampler.engine.collective:
            self.sampler.draw([], samples, sampling, generator)
        return None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which step was evaluated last, and what vote rules have learned."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["laser_last_evaluated_step"] = self._last_evaluated_step
        checkpoint["laser_votes"] = self.evaluator.votes_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore which step was evaluated last, and what vote rules have learned."""
        super().on_load_checkpoint(checkpoint)
        self._last_evaluated_step = checkpoint["laser_last_evaluated_step"]
        self.evaluator.load_votes_state(checkpoint.get("laser_votes", {}))
        self._loaded_step = checkpoint["global_step"]

    def forget_position(self) -> None:
        """Of which step was evaluated last, too; the number of steps behind the weights is still theirs."""
        super().forget_position()
        self._last_evaluated_step = -1

    def setup(self, stage: str) -> None:
        """Make the metrics of the evaluation sets."""
        super().setup(stage)
        self.evaluator.prepare(self.data.evaluation_problems, self.data.kinds, self.verifier.reward_names)
        self.evaluator.to(self.device)

    # ------------------------------------------------------------------- when

    def on_train_start(self) -> None:
        """Resume the random streams, and evaluate before the first step.

        A checkpoint of a step that is evaluated too is written before that evaluation; on resume it is made up for.
        """
        super().on_train_start()
        every = self.trainer.val_check_batch
        done = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if self.trainer.global_step == 0:
            due = self.evaluator.settings.at_start
        else:
            due = every is not None and done % every == 0
        if due and self._last_evaluated_step != self.trainer.global_step:
            with _training_metrics_awaited(self.trainer):
                run_validation(self.trainer)

    def on_train_end(self) -> None:
        """Evaluate behind the last step."""
        if self.evaluator.settings.at_end and self._last_evaluated_step != self.trainer.global_step:
            run_validation(self.trainer)

    def on_validation_start(self) -> None:
        """Try the policy, look for kept solutions, and say which vote rules learned nothing, if it stands alone."""
        super().on_validation_start()
        if self.trainer.state.fn != TrainerFn.FITTING:
            for rule in self.evaluator.votes:
                if rule.lacks is not None:
                    rank_zero_warn(
                        f"The vote rule '{rule.name}' {rule.lacks}: load a checkpoint of a run with the rule in "
                        "model.evaluation.votes, or read its values as those of a rule that knows nothing."
                    )
        directory = kept_directory(self.trainer)
        keeps = self.evaluator.settings.keep and directory is not None
        self.evaluator.kept = self._open_kept(directory) if keeps and directory is not None else None

    def on_validation_epoch_start(self) -> None:
        """Tell the engine that an average is in the place of the weights, where a callback put it there."""
        if self._exchanges:
            self.sampler.engine.weights_changed()

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    # ------------------------------------------------------------------- steps

    def validation_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Sample each problem k times, and count."""
        self._evaluate(problems, batch_idx, dataloader_idx)

    def test_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Sample each problem k times, and count."""
        self._evaluate(problems, batch_idx, dataloader_idx)

    def predict_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> Rollout | None:
        """Sample each problem k times; callbacks write the solutions."""
        with self.interruption.interruptible(communicates=self.sampler.engine.collective):
            return self._solutions_of(problems, batch_idx, dataloader_idx)

    @float32_by_default()
    def _solutions_of(self, problems: list[Problem], batch_idx: int, dataloader_idx: int) -> Rollout | None:
        dataset, rank = list(self.evaluator.metrics)[dataloader_idx], self.ranks.index
        rollout = self.evaluator.load_or_rollout(problems, batch_idx, dataset, rank, self.device, self._solve_gathered)
        self.last_rollout = self.last_rollout if rollout is None else rollout
        return rollout

    def _solve_gathered(self, *batch: Any) -> Rollout | None:
        offloaded, gathered = self.training_strategy.offloaded_states(), self.sampler.computing_models
        with offloaded, self.parts("evaluation"), self.gathered_weights(*gathered):
            self.sampler.hand_over_weights()  # some ranks may have nothing to draw
            return self.solve(*batch)

    @float32_by_default()
    def _evaluate(self, problems: list[Problem], batch_idx: int, dataloader_idx: int) -> None:
        with self.interruption.interruptible(communicates=self.sampler.engine.collective):
            if rollout := self._solutions_of(problems, batch_idx, dataloader_idx):
                self.evaluator.count(rollout, self.sampler.verifier_pool)

    def on_validation_epoch_end(self) -> None:
        """Log the values of every set."""
        if self._exchanges:  # the callback has put the weights back
            self.sampler.engine.weights_changed()
        self._log_evaluation("val")
        if not self.trainer.sanity_checking:
            self._last_evaluated_step = self.trainer.global_step

    def on_test_epoch_end(self) -> None:
        """Log the values of every set."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        # Outside of `fit` only the checkpoint knows the number of steps behind the weights.
        step = self.trainer.global_step if self.trainer.state.fn == TrainerFn.FITTING else self._loaded_step
        with self.parts("evaluation"):
            values = {f"{stage}/{name}": value for name, value in self.evaluator.compute().items()}
        values["step"] = torch.tensor(step, dtype=torch.float32, device=self.device)
        # The values are those of all ranks; the largest of equal numbers is that number, bit for bit.
        self.log_dict(values, sync_dist=True, reduce_fx="max")

    # ---------------------------------------------------------- kept solutions

    def _open_kept(self, directory: Path) -> KeptRounds:
        engine, evaluator = self.sampler.engine, self.evaluator
        if isinstance(engine, RecordedSolutions) and engine.reads_below(directory):
            raise UserError(
                f"model.engine.path {engine.path} is where this run keeps its own solutions: give the run another "
                "run_dir (or set model.evaluation.keep to false)."
            )
        return KeptRounds(
            directory,
            self.data.evaluation_problems,
            {name: evaluator.samples_of(name) for name in evaluator.metrics},
            self._kept_header(),
            self.ranks,
            self.data.eval_prompts_per_batch,
            self.policy.pad_token_id,
            self.device,
        )

    def _kept_header(self) -> Header:
        """All that solutions and their scores depend on, besides the set."""
        sampler = self.sampler
        reference = sampler.reference
        exact = isinstance(reference, FrozenPolicy) and sampler.self_reward.is_exact
        with self.gathered_weights(self.policy, reference if exact else None):
            weights = weights_fingerprint(self.policy)
            of_reference = weights_fingerprint(reference) if exact and isinstance(reference, FrozenPolicy) else None
        return {
            "policy": self.policy_settings.path,
            "weights": weights,
            "attention": self.policy.lm.config.get_text_config()._attn_implementation,
            "precision": self.trainer.precision,
            "sampling": asdict(self.evaluator.sampling),
            "seed": self.seed,
            "engine": described(sampler.engine),
            **self.judgement_settings(),
            **({} if of_reference is None else {"reference": of_reference}),
            "verifier": described(sampler.verifier_pool.verifier),
            "verification_timeout_seconds": sampler.verifier_pool.timeout_seconds,
            "processes": self.ranks.count,
            "prompts_per_batch": self.data.eval_prompts_per_batch,
        }

    def judgement_settings(self) -> dict[str, Any]:
        """What the model's judgement of its solutions depends on besides its weights, as plain values."""
        head = self.sampler.self_reward
        has_weights = next(head.parameters(), None) is not None
        return head.score_settings() | ({"score_weights": weights_fingerprint(head)} if has_weights else {})


@contextmanager
def _training_metrics_awaited(trainer: Trainer) -> Iterator[None]:
    """In here, before a start's first step, early stopping on a metric of training does not mind that there is none."""
    early = [c for c in trainer.early_stopping_callbacks if c.strict and c.monitor.startswith("train/")]
    for callback in early:
        callback.strict = False
    try:
        yield
    finally:
        for callback in early:
            callback.strict = True


def run_validation(trainer: Trainer) -> None:
    """Run the trainer's validation now, in the middle of ``fit``, at a moment that Lightning has no setting for."""
    loop = trainer.fit_loop.epoch_loop
    if not trainer.enable_validation:
        return
    trainer.validating = True
    first_iteration = trainer._logger_connector._first_loop_iter
    loop.val_loop.restarting = False  # a resumed run would go on behind the batches of an earlier evaluation
    loop.val_loop.run()
    trainer._logger_connector._first_loop_iter = first_iteration
    trainer.training = True
