"""LaSeR (arXiv 2510.14943) as a LightningModule: ``training_step`` reads as the algorithm."""

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from laser_lightning.advantages import AdvantageSettings, group_relative, mixed
from laser_lightning.batching import MicroBatch, Rollouts, micro_batches, shortest
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.evaluation import EvaluationMetrics
from laser_lightning.losses import ClippedPolicyLoss, PolicyLoss, solution_weights
from laser_lightning.objective import Objective, Targets, UpdateSettings
from laser_lightning.optimization import OptimizerSettings
from laser_lightning.phases import Phase, Phases
from laser_lightning.policy import FrozenPolicy, Policy, PolicyOutputs, PolicySettings
from laser_lightning.policy_module import PolicyModule
from laser_lightning.rollout import RolloutEngine, Sampling, TransformersEngine
from laser_lightning.rounds import Round
from laser_lightning.self_reward import LastTokenSelfReward, class_counts, settled_scores
from laser_lightning.training_log import TrainingLog, mismatch_terms
from laser_lightning.verifiers import Verifier, VerifierPool

PROGRESS_BAR = {
    "reward": "train/reward",
    "f1": "train/self_reward/f1",
    "length": "train/response_length_tokens",
    "tokens/s": "train/tokens_per_second",
}
"""Short names under which the progress bar shows the most telling metrics."""


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


class LaSeRModule(PolicyModule):
    """Trains reasoning and self-verification together.

    One trainer step samples solutions, verifies them, and takes one optimizer step (more if ``update`` says so).

    Args:
        policy: which model is trained.
        self_reward: the last-token self-reward.
        verifier: judges final answers.
        group_size: solutions per prompt, G.
        sampling: how solutions are drawn in training.
        engine: draws them; default: TransformersEngine.
        policy_loss: policy-gradient loss; default: ClippedPolicyLoss.
        advantage: how advantages are computed.
        phases: when the self-rewarding loss and the mixed advantages begin.
        update: how rollouts become optimizer steps.
        optimizer: how gradients change weights.
        verification: processes and time limit of the verifier.
        evaluation: how problems are evaluated.
        max_skipped_steps: stop after this many optimizer steps in a row without a usable gradient.
        seed: seed of all sampling.

    Attributes:
        last_round: the latest training or evaluation round, for callbacks.
    """

    evaluation_metrics: nn.ModuleDict

    def __init__(
        self,
        policy: PolicySettings,
        self_reward: LastTokenSelfReward,
        verifier: Verifier,
        group_size: int = 8,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        engine: RolloutEngine | None = None,
        policy_loss: PolicyLoss | None = None,
        advantage: AdvantageSettings = AdvantageSettings(),  # noqa: B008
        phases: Phases = Phases(),  # noqa: B008
        update: UpdateSettings = UpdateSettings(),  # noqa: B008
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008
        verification: VerificationSettings = VerificationSettings(),
        evaluation: EvaluationSettings = EvaluationSettings(),
        max_skipped_steps: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(policy, optimizer, max_skipped_steps, seed)
        if group_size < 2:
            raise UserError(f"group_size is {group_size}: advantages compare solutions of one prompt, so at least 2.")
        if sampling.temperature == 0:
            raise UserError(
                "sampling.temperature is 0: all solutions of a prompt would be the same; training needs more."
            )
        self.self_reward, self.verifier, self.group_size = self_reward, verifier, group_size
        self.engine = TransformersEngine() if engine is None else engine
        self.sampling, self.advantage, self.phases, self.update = sampling, advantage, phases, update
        self.evaluation = evaluation
        self.objective = Objective(ClippedPolicyLoss() if policy_loss is None else policy_loss, self_reward, update)
        self.verifier_pool = VerifierPool(verifier, verification.workers, verification.timeout_seconds)
        self.reference: FrozenPolicy | None = None
        self.evaluation_metrics = nn.ModuleDict()
        self.last_round: Round | None = None
        self.strict_loading = False  # checkpoints lack the reference, see saved_weights
        self.log_of_step = TrainingLog(self.all_sum)
        self._last_evaluated_step = -1
        self._reported_emission = False

    # ------------------------------------------------------------------ set-up

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen reference model is run at all: never with a constant and without a KL term."""
        return self.self_reward.is_exact or self.update.kl_coef > 0

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
            self.reference = FrozenPolicy(self.policy_settings, self.tokenizer)

    def saved_weights(self, state: dict[str, Any]) -> dict[str, Any]:
        """All but the frozen reference, which a resumed run loads from ``policy.path`` as the first run did."""
        return {name: value for name, value in state.items() if not name.startswith("reference.")}

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
        """Check the gold answers and the batch arithmetic before anything is sampled."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise UserError("LaSeRModule needs a PromptDataModule: pass it to the trainer as `datamodule`.")
        if stage == "fit":
            per_process = data.prompts_per_step // self.trainer.world_size
            if per_process % self.update.mini_batches:
                raise UserError(
                    f"update.mini_batches = {self.update.mini_batches} does not divide the {per_process} prompts of a "
                    f"process (data.prompts_per_step = {data.prompts_per_step} over {self.trainer.world_size})."
                )
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

    # ---------------------------------------------------------------- training

    def training_step(self, problems: list[Problem], batch_idx: int) -> None:
        """One round of LaSeR (ALGORITHM steps 1 to 6)."""
        started = time.perf_counter()
        self.log_of_step = TrainingLog(self.all_sum)
        phase = self.phases.at(self.trainer.global_step)
        round_ = self.play(problems, self.group_size, self.sampling, self.generator)
        advantages = self.advantages(round_, phase)
        old_log_probs = self.token_log_probs(self.policy, round_) if self.update.reuses_rollouts else None
        reference_log_probs = self.token_log_probs(self.reference, round_) if self.update.kl_coef > 0 else None
        for rows in self.mini_batches(round_):
            targets = self.targets(round_, rows, advantages, phase)
            targets.old_log_probs, targets.reference_log_probs = old_log_probs, reference_log_probs
            self.update_policy(round_, rows, targets)
        self._log_step(round_, phase, time.perf_counter() - started)

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
        started = time.perf_counter()
        rollouts = self.sample(problems, group_size, sampling, generator)
        self.log_of_step.seconds["rollout"] += time.perf_counter() - started
        texts = self.tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
        golds = [problem.answer for problem in problems for _ in range(group_size)]
        started = time.perf_counter()
        verifications = self.verifier_pool.verify(list(zip(texts, golds, strict=True)))
        self.log_of_step.seconds["verification"] += time.perf_counter() - started
        rewards = torch.tensor([v.reward for v in verifications], dtype=torch.float32, device=self.device)
        references = self.reference_scores(rollouts) if self.self_reward.is_exact else None
        scores = self.self_reward.score(rollouts.reward_token_log_probs, references)
        self_rewards = settled_scores(scores, rollouts.finished)
        self.last_round = Round(problems, rollouts, texts, verifications, rewards, references, self_rewards)
        return self.last_round

    def sample(
        self, problems: Sequence[Problem], group_size: int, sampling: Sampling, generator: torch.Generator
    ) -> Rollouts:
        """Draw solutions with the reward token's log-prob, from the policy as it is now."""
        prompts = [problem.prompt_ids for problem in problems]
        with self.gathered_weights(self.policy):
            return self.engine.generate(
                self.policy, prompts, group_size, sampling, self.self_reward.token_id, generator
            )

    def advantages(self, round_: Round, phase: Phase) -> Tensor:
        """[N] advantages: of the verifier's rewards, mixed with self-rewards in the integrated phase."""
        rewards = round_.grouped(round_.rewards)
        self.mixed_groups = torch.zeros(len(rewards), dtype=torch.bool, device=rewards.device)
        if phase < Phase.INTEGRATED or self.self_reward.loss_weight == 0:
            return group_relative(rewards, self.advantage.divide_by_std, self.advantage.epsilon).flatten()
        advantages, self.mixed_groups = mixed(rewards, round_.grouped(round_.self_rewards), self.advantage)
        return advantages.flatten()

    def mini_batches(self, round_: Round) -> Iterator[Tensor]:
        """The solutions [M] of each optimizer step: all of them, or random parts of the prompts in each epoch."""
        prompts = len(round_.problems)
        for _ in range(self.update.epochs):
            if self.update.mini_batches == 1:
                yield torch.arange(len(round_.rollouts), device=self.device)
                continue
            order = torch.randperm(prompts, generator=self.generator, device=self.device)
            for part in order.chunk(self.update.mini_batches):
                yield round_.rows_of(part)

    def targets(self, round_: Round, rows: Tensor, advantages: Tensor, phase: Phase) -> Targets:
        """Fix every denominator and class count of an optimizer step on solutions ``rows``, over all ranks."""
        rollouts, rewards = round_.rollouts, round_.rewards
        lengths, finished = rollouts.response_lengths, rollouts.finished
        totals = self.all_sum(
            torch.cat(
                (
                    lengths[rows].sum()[None],
                    rows.new_tensor([len(rows)]),
                    class_counts(rewards[rows], finished[rows]),
                )
            )
        )
        trains_score = phase >= Phase.SELF_REWARDING
        return Targets(
            advantages=advantages,
            rewards=rewards,
            policy_weights=solution_weights(lengths, self.update.aggregation, totals[0], totals[1]),
            self_reward_weights=self.self_reward.loss_weights(rewards, finished & trains_score, totals[2:]),
            references=round_.references,
        )

    def update_policy(self, round_: Round, rows: Tensor, targets: Targets) -> None:
        """One optimizer step: the gradients of all micro-batches, then the step."""
        started = time.perf_counter()
        needed = rows[self.objective.contributing(targets)[rows]]
        if self.all_sum(torch.tensor(len(needed), device=self.device)) == 0:
            self.skip_step(
                "no solution has a signal: all rewards are equal in every group, and nothing else is trained"
            )
            return
        terms: dict[str, Tensor] = {}
        budget, pad = self.update.micro_batch_tokens, self.policy.pad_token_id
        batches = micro_batches(round_.rollouts, needed, budget, pad)
        mine, most = len(batches), self.all_max(len(batches))
        batches += [shortest(round_.rollouts, pad)] * (most - mine)  # of weight 0: ranks meet in every pass
        for number, batch in enumerate(batches):
            with self.micro_step(last=number + 1 == most):
                outputs = self.differentiable(batch)
                parts = self.objective(outputs, batch, targets)
                if not self.update.reuses_rollouts:
                    parts |= mismatch_terms(outputs, batch, round_)
                parts = {name: value * float(number < mine) for name, value in parts.items()}
                self.backward_share(parts["loss"])
            for name, value in parts.items():
                terms[name] = terms.get(name, 0.0) + value.detach()
        norm = self.apply_gradients(terms["loss"])
        if norm is not None:
            self.log_of_step.add_update(terms, norm)
        self.log_of_step.seconds["update"] += time.perf_counter() - started

    def forward(self, batch: MicroBatch) -> PolicyOutputs:
        """The one differentiable pass: log-probs of a micro-batch's responses and of the reward token."""
        return self.policy(batch, self.self_reward.token_id, self.sampling.temperature, self.update.entropy_coef > 0)

    @torch.no_grad()
    def token_log_probs(self, model: Policy | None, round_: Round) -> Tensor:
        """[N, R] log-probs of the response tokens under ``model``, in a forward pass of its own."""
        return self._no_grad_pass(model, round_.rollouts)[0]

    @torch.no_grad()
    def reference_scores(self, rollouts: Rollouts) -> Tensor:
        """[N] log pi_ref(z_c given x, y), for exact self-rewards."""
        return self._no_grad_pass(self.reference, rollouts)[1]

    def _no_grad_pass(self, model: Policy | None, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        assert model is not None
        log_probs = torch.zeros_like(rollouts.sampling_log_probs)
        reward_token = torch.zeros_like(rollouts.reward_token_log_probs)
        rows = torch.arange(len(rollouts), device=self.device)
        with self.gathered_weights(model):
            for batch in micro_batches(rollouts, rows, self.update.micro_batch_tokens, self.policy.pad_token_id):
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
        return self._play_evaluation(problems, batch_idx) if problems else None

    def metrics_of(self, dataset: str) -> EvaluationMetrics:
        """The metrics of one evaluation set."""
        metrics = self.evaluation_metrics[dataset]
        assert isinstance(metrics, EvaluationMetrics)
        return metrics

    def _evaluate(self, problems: list[Problem], batch_idx: int) -> None:
        # A rank without problems gathers weights for those that have some.
        with self.gathered_weights(self.policy, self.reference if self.self_reward.is_exact else None):
            if problems:
                metrics = self.metrics_of(problems[0].dataset)
                compare = None if self.verifier.canonical_decides else self.verifier_pool.equivalent
                metrics.update(self._play_evaluation(problems, batch_idx), compare)

    def _play_evaluation(self, problems: list[Problem], batch_idx: int) -> Round:
        # A stream of its own: an evaluation is the same at every step, and training is the same without it.
        name = problems[0].dataset
        seed = zlib.crc32(f"{self.seed}/{name}/{batch_idx}/{self.global_rank}".encode())
        generator = torch.Generator(self.device).manual_seed(seed)
        samples = self.evaluation.samples_per_set.get(name, self.evaluation.samples)
        return self.play(problems, samples, self.evaluation.sampling or self.sampling, generator)

    def on_validation_epoch_end(self) -> None:
        """Log the values of every set."""
        self._log_evaluation("val")
        if not self.trainer.sanity_checking:
            self._last_evaluated_step = self.trainer.global_step

    def on_test_epoch_end(self) -> None:
        """Log the values of every set."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        values = {"step": torch.tensor(float(self.trainer.global_step))}
        for name in self.evaluation_metrics:
            metrics = self.metrics_of(name)
            values |= {f"{stage}/{name}/{key}": value.float() for key, value in metrics.compute().items()}
            metrics.reset()
        self.log_dict(values)

    # ----------------------------------------------------------------- logging

    def _log_step(self, round_: Round, phase: Phase, seconds: float) -> None:
        values = self.log_of_step.round_values(round_, self.self_reward, phase, self.mixed_groups)
        values |= self.log_of_step.update_values()
        values |= self.log_of_step.time_values(seconds, float(values["train/response_tokens"]))
        numbers = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}
        # Lightning would number the rows by batches, and those of an evaluation in another way than the others.
        self.log_dict(numbers | {"step": torch.tensor(float(self.trainer.global_step))})
        self.log_dict({short: numbers[name] for short, name in PROGRESS_BAR.items()}, prog_bar=True, logger=False)
        self._warn(values)

    def _warn(self, values: dict[str, float | Tensor]) -> None:
        """Say what a user should know of a step and might not look for in the metrics."""
        step = self.trainer.global_step
        if values["train/truncation_rate"] == 1:
            rank_zero_warn(
                f"All responses of step {step} were cut at sampling.max_response_tokens = "
                f"{self.sampling.max_response_tokens}: none has a self-reward to learn from."
            )
        if values["train/reward_token_emitted"] and not self._reported_emission:
            self._reported_emission = True
            rank_zero_warn(
                f"In step {step} {values['train/reward_token_emitted']:.2%} of the responses contain the reward token "
                f"'{self.self_reward.token}', which normal text should not; the metric train/reward_token_emitted "
                "says how many do from here on."
            )
        if values["train/verifier_failures"]:
            errors = self.verifier_pool.last_errors or ["on another rank"]
            rank_zero_warn(
                f"The verifier failed on {values['train/verifier_failures']:.0f} responses of step {step}, which get "
                f"reward 0; the last one here: {errors[-1]}."
            )

    def teardown(self, stage: str) -> None:
        """Stop the verifier's processes."""
        self.verifier_pool.close()
