"""What is done with a policy besides training it: solutions are sampled, judged and measured."""

import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from laser_lightning.batching import Rollouts, micro_batches
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.evaluation import EvaluationMetrics
from laser_lightning.optimization import OptimizerSettings
from laser_lightning.policy import AdaptersOff, FrozenPolicy, Policy, PolicySettings
from laser_lightning.policy_module import PolicyModule
from laser_lightning.precision import float32_by_default
from laser_lightning.rollout import RolloutEngine, Sampling, TransformersEngine
from laser_lightning.rounds import Round
from laser_lightning.self_reward import LastTokenSelfReward, settled_scores
from laser_lightning.training_log import TrainingLog
from laser_lightning.verifiers import Verifier, VerifierPool
from laser_lightning.watchdog import part


@dataclass(frozen=True)
class VerificationSettings:
    """How responses are verified.

    Args:
        workers: verifier processes; 0 verifies in the training process, without a time limit.
        timeout_seconds: a response that takes longer gets reward 0, and its worker is replaced.
    """

    workers: int = 1
    timeout_seconds: float = 5.0


@dataclass(frozen=True)
class EvaluationSettings:
    """How problems are evaluated in ``validate`` and ``test``, and during ``fit``.

    Args:
        samples: solutions per problem, k.
        samples_per_set: k of single sets, by name, where it differs.
        sampling: how solutions are drawn; null for the training's own.
        at_start: evaluate before the first step, so that every run shows where it started.
        at_end: evaluate behind the last step, unless that was just done.
    """

    samples: int = 8
    samples_per_set: dict[str, int] = field(default_factory=dict)
    sampling: Sampling | None = None
    at_start: bool = True
    at_end: bool = True


class RolloutModule(PolicyModule):
    """A policy with its rollout engine, verifier and self-reward: everything but the training step.

    Args:
        policy: which model.
        self_reward: the last-token self-reward.
        verifier: judges final answers.
        sampling: how solutions are drawn in training.
        engine: draws them.
        verification: processes and time limit of the verifier.
        evaluation: how problems are evaluated.
        micro_batch_tokens: token budget of a forward pass without gradient.
        needs_reference: load the frozen reference model (with LoRA it is the policy itself, its adapters off).
        optimizer: how gradients change weights.
        max_skipped_steps: stop after this many optimizer steps in a row without a usable gradient.
        seed: seed of all sampling.

    Attributes:
        last_round: the latest training or evaluation round, for callbacks.
        reference: the frozen policy of before training, where the objective needs one.
        evaluation_metrics: the metrics of each evaluation set, by its name.
    """

    evaluation_metrics: nn.ModuleDict

    def __init__(
        self,
        policy: PolicySettings,
        self_reward: LastTokenSelfReward,
        verifier: Verifier,
        sampling: Sampling,
        engine: RolloutEngine | None,
        verification: VerificationSettings,
        evaluation: EvaluationSettings,
        micro_batch_tokens: int,
        needs_reference: bool,
        optimizer: OptimizerSettings,
        max_skipped_steps: int,
        seed: int,
    ) -> None:
        super().__init__(policy, optimizer, max_skipped_steps, seed)
        self.self_reward, self.verifier, self.sampling, self.evaluation = self_reward, verifier, sampling, evaluation
        self.engine = TransformersEngine() if engine is None else engine
        self.verifier_pool = VerifierPool(verifier, verification.workers, verification.timeout_seconds)
        self.micro_batch_tokens, self.needs_reference = micro_batch_tokens, needs_reference
        self.reference: FrozenPolicy | AdaptersOff | None = None
        self.evaluation_metrics = nn.ModuleDict()
        self.last_round: Round | None = None
        self.strict_loading = False  # checkpoints lack the reference, see saved_weights
        self.log_of_step = TrainingLog(self.all_sum)
        self._last_evaluated_step = -1

    # ------------------------------------------------------------------ set-up

    def configure_model(self) -> None:
        """Load the policy, and the reference where the objective needs one."""
        super().configure_model()
        self.self_reward.bind(self.tokenizer, self.policy.eos_token_ids)
        if self.self_reward.token_id >= (size := self.policy.lm.config.get_text_config().vocab_size):
            raise UserError(
                f"self_reward.token '{self.self_reward.token}' has the id {self.self_reward.token_id}, and the model's "
                f"vocabulary ends at {size - 1}: choose a token that the model has."
            )
        if self.needs_reference and self.reference is None:
            if self.policy_settings.random_init:
                raise UserError(
                    "policy.random_init has no reference model to be held to: a KL term (update.kl_coef) and "
                    "self_reward.reference 'exact' need pretrained weights."
                )
            if self.policy_settings.lora is None:
                self.reference = FrozenPolicy(self.policy_settings, self.tokenizer)
            else:
                self.reference = AdaptersOff(self.policy)

    def saved_weights(self, state: dict[str, Any]) -> dict[str, Any]:
        """Without the frozen reference too, which a resumed run loads from ``policy.path`` as the first run did."""
        kept = super().saved_weights(state)
        return {name: value for name, value in kept.items() if not name.startswith("reference.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which step was evaluated last."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["laser_last_evaluated_step"] = self._last_evaluated_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore which step was evaluated last."""
        super().on_load_checkpoint(checkpoint)
        self._last_evaluated_step = checkpoint["laser_last_evaluated_step"]

    def fingerprint(self) -> dict[str, Any]:
        """The model's, and the reward token that the constant was measured for."""
        return super().fingerprint() | {"reward_token": self.self_reward.token}

    def setup(self, stage: str) -> None:
        """Check the gold answers, and make the metrics of the evaluation sets, before anything is sampled."""
        self.engine.weights_changed()  # a checkpoint may be loaded next
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise UserError(f"{type(self).__name__} needs a PromptDataModule: pass the trainer a `datamodule`.")
        if stage == "fit":
            self._check_gold("train", data.train_problems)
        self.evaluation_metrics = nn.ModuleDict()
        for name, problems in data.evaluation_problems.items():
            self._check_gold(name, problems)
            samples = self.evaluation.samples_per_set.get(name, self.evaluation.samples)
            self.evaluation_metrics[name] = EvaluationMetrics(samples, data.kinds(name)).to(self.device)
        unknown = set(self.evaluation.samples_per_set) - set(self.evaluation_metrics)
        if unknown and data.evaluation_problems:
            raise UserError(f"evaluation.samples_per_set names {sorted(unknown)}, which no data set has as its key.")

    def _check_gold(self, name: str, problems: Sequence[Problem]) -> None:
        bad: list[str] = []
        verdicts: dict[str, str | None] = {}
        for problem in problems:
            if problem.answer not in verdicts:
                try:
                    self.verifier.check_gold(problem.answer)
                    verdicts[problem.answer] = None
                except ValueError as error:
                    verdicts[problem.answer] = str(error)
            if (reason := verdicts[problem.answer]) is not None:
                bad.append(f"row {problem.index} ({reason})")
        if bad:
            raise UserError(
                f"{len(bad)} gold answers of the set '{name}' can never be matched: {'; '.join(bad[:5])}. "
                "Mend the rows, or choose another verifier or answer_pattern."
            )

    def apply_gradients(self, loss: Tensor) -> float | None:
        """Take an optimizer step, and tell the engine."""
        norm = super().apply_gradients(loss)
        if norm is not None:
            self.engine.weights_changed()
        return norm

    # ---------------------------------------------------------------- rollouts

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around a part of the step: its time is logged, and errors of other ranks name it.

        Args:
            name: such as ``rollout``.
        """
        started = time.perf_counter()
        with part(self.strategy, name):
            yield
        self.log_of_step.seconds[name] += time.perf_counter() - started

    def play(
        self, problems: Sequence[Problem], group_size: int, sampling: Sampling, generator: torch.Generator
    ) -> Round:
        """Sample solutions and judge them: rollout with scores, verification, self-rewards.

        Args:
            problems: P problems.
            group_size: solutions of each.
            sampling: how they are drawn.
            generator: the source of randomness, on the policy's device.
        """
        rollouts = self.sample(problems, group_size, sampling, generator)
        texts = self.tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
        golds = [problem.answer for problem in problems for _ in range(group_size)]
        with self.part("verification"):
            verifications = self.verifier_pool.verify(list(zip(texts, golds, strict=True)))
        rewards = torch.tensor([v.reward for v in verifications], dtype=torch.float32, device=self.device)
        reference_log_probs, references = None, None
        if self.self_reward.is_exact:
            reference_log_probs, references = self.no_grad_pass(self.reference, rollouts)
        scores = self.self_reward.score(rollouts.reward_token_log_probs, references)
        self_rewards = settled_scores(scores, rollouts.finished)
        self.last_round = Round(
            problems, rollouts, texts, verifications, rewards, references, self_rewards, reference_log_probs
        )
        return self.last_round

    def sample(
        self, problems: Sequence[Problem], group_size: int, sampling: Sampling, generator: torch.Generator
    ) -> Rollouts:
        """Draw solutions with the reward token's log-prob, from the policy as it is now."""
        prompts = [problem.prompt_ids for problem in problems]
        with self.part("rollout"), self.gathered_weights(self.policy):
            return self.engine.generate(
                self.policy, prompts, group_size, sampling, self.self_reward.token_id, generator
            )

    @torch.no_grad()
    def no_grad_pass(self, model: Policy | AdaptersOff | None, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """[N, R] log-probs of the response tokens and [N] of the reward token under ``model``, in a pass of its own."""
        assert model is not None
        log_probs = torch.zeros_like(rollouts.sampling_log_probs)
        reward_token = torch.zeros_like(rollouts.reward_token_log_probs)
        rows = torch.arange(len(rollouts), device=self.device)
        name = "reference_pass" if model is self.reference else "old_log_probs_pass"
        pad, packed = self.policy.pad_token_id, self.policy.packs
        with self.part(name), self.gathered_weights(model):
            for batch in micro_batches(rollouts, rows, self.micro_batch_tokens, pad, packed):
                outputs = model(batch, self.self_reward.token_id, self.sampling.temperature)
                log_probs[batch.rows, : outputs.log_probs.shape[1]] = outputs.log_probs
                reward_token[batch.rows] = outputs.reward_token_log_probs
        return log_probs, reward_token

    def all_sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        return self.trainer.strategy.reduce(values, reduce_op="sum")

    def all_max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return int(self.trainer.strategy.reduce(torch.tensor(number, device=self.device), reduce_op="max"))

    # -------------------------------------------------------------- evaluation

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

    def validation_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Sample each problem k times, and count."""
        self._evaluate(problems, batch_idx)

    def test_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Sample each problem k times, and count."""
        self._evaluate(problems, batch_idx)

    def predict_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> Round | None:
        """Sample each problem k times; callbacks write the solutions."""
        return self._play_evaluation(problems, batch_idx)

    def metrics_of(self, dataset: str) -> EvaluationMetrics:
        """The metrics of one evaluation set."""
        metrics = self.evaluation_metrics[dataset]
        assert isinstance(metrics, EvaluationMetrics)
        return metrics

    @float32_by_default()
    def _evaluate(self, problems: list[Problem], batch_idx: int) -> None:
        if round_ := self._play_evaluation(problems, batch_idx):
            compare = None if self.verifier.canonical_decides else self.verifier_pool.equivalent
            self.metrics_of(problems[0].dataset).update(round_, compare)

    @float32_by_default()
    def _play_evaluation(self, problems: list[Problem], batch_idx: int) -> Round | None:
        # A stream of its own: an evaluation is the same at every step, and training is the same without it.
        name = problems[0].dataset if problems else ""
        seed = zlib.crc32(f"{self.seed}/{name}/{batch_idx}/{self.global_rank}".encode())
        generator = torch.Generator(self.device).manual_seed(seed)
        samples = self.evaluation.samples_per_set.get(name, self.evaluation.samples)
        sampling = self.evaluation.sampling or self.sampling
        exact = self.self_reward.is_exact
        with self.part("evaluation"), self.gathered_weights(self.policy, self.reference if exact else None):
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
        values = {"step": torch.tensor(self.trainer.global_step, dtype=torch.float32, device=self.device)}
        with self.part("evaluation"):
            for name in self.evaluation_metrics:
                metrics = self.metrics_of(name)
                values |= {f"{stage}/{name}/{key}": value.float() for key, value in metrics.compute().items()}
                metrics.reset()
        # The values are those of all ranks; the largest of equal numbers is that number, bit for bit.
        self.log_dict(values, sync_dist=True, reduce_fx="max")

    def teardown(self, stage: str) -> None:
        """Stop the verifier's processes and the engine."""
        self.verifier_pool.close()
        self.engine.close()
