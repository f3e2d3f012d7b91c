"""LaSeR (arXiv 2510.14943) as a LightningModule: ``training_step`` reads as the algorithm."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.module import PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.distributed.balancing import balance_ranks
from laser_lightning.errors import UserError
from laser_lightning.evaluation.evaluator import Evaluator
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.ahead import RoundsAhead, with_importance
from laser_lightning.modules.evaluation import EvaluationHooks
from laser_lightning.modules.filling import fill_step, is_filled
from laser_lightning.modules.fit_checks import check_fit, check_lengths
from laser_lightning.modules.judging import Judging
from laser_lightning.modules.mismatch_limit import MismatchLimit
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.reward_log import FailingRewards, count_rewards
from laser_lightning.modules.teacher import load_teacher
from laser_lightning.modules.teaching import keeps, teach_curriculum
from laser_lightning.modules.training_log import PROGRESS_BAR, Mismatch, StepWarnings, TrainingLog, UpdateSums
from laser_lightning.objective.advantages import Advantages, AdvantageSettings
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.losses import ClippedPolicyLoss, PolicyLoss, solution_weights
from laser_lightning.objective.objective import Objective
from laser_lightning.objective.part import ObjectiveParts
from laser_lightning.objective.phases import Phase, Phases
from laser_lightning.objective.router import check_routers
from laser_lightning.objective.self_reward.head import SelfRewardHead
from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision
from laser_lightning.objective.sentences import sentence_ends
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.distributions import AskedReading
from laser_lightning.policy.model import AdaptersOff, FrozenPolicy, PolicyOutputs, PolicySettings
from laser_lightning.policy.precision import float32_by_default
from laser_lightning.records.batching import MicroBatch, Rollouts, shortest
from laser_lightning.records.rollout import Rollout, SampledStep, concat_rollouts
from laser_lightning.rollout import RolloutEngine, RolloutSettings, Sampling, TransformersEngine
from laser_lightning.rollout.sampler import Sampler
from laser_lightning.verifiers import Verifier, VerifierPool
from laser_lightning.verifiers.settings import VerificationSettings


class LaSeRModule(EvaluationHooks):
    """Trains reasoning and self-verification together.

    One trainer step samples solutions, verifies them, and takes one optimizer step (more if ``update`` says so).

    Args:
        policy: which model is trained.
        self_reward: how the model judges its solutions, and learns to.
        verifier: judges final answers.
        group_size: solutions per prompt, G.
        sampling: how solutions are drawn in training.
        engine: draws them; default: TransformersEngine.
        policy_loss: policy-gradient loss.
        advantage: how advantages are computed.
        phases: when the self-rewarding loss and the mixed advantages begin.
        update: how rollouts become optimizer steps.
        optimizer: how gradients change weights.
        verification: processes and time limit of the verifier.
        evaluation: how problems are evaluated.
        max_skipped_steps: stop after this many optimizer steps in a row without a usable gradient.
        seed: seed of all sampling, evaluations included. Default: that of ``seed_everything``.
        teacher: a frozen policy of its own, for parts that ask for its log-probs; null for none.
        sampling_rounds: sample further problems, up to this many times data.prompts_per_step in all, until the step is
            full of groups whose rewards are not all equal (DAPO's dynamic sampling, arXiv 2503.14476, equation 11), of
            an accuracy within data.accuracy_bounds, or that data.curriculum keeps for another reason; 1 trains on the
            groups as they come. The self-rewarding loss is trained on the same groups; metrics count all of them.
        rollout: when the rollouts are drawn; with ``ahead`` while the updates before them run.

    Attributes:
        objective_parts: the parts of the objective by their keys, which may remember something between steps.
        ahead: draws the rounds, ahead of the updates or not.
        judging: takes the judging updates of ``update.judging``.
        judges_by_score: whether the score behind ``<eos>`` is the model's judgement; exports then carry its settings.
        sampler: draws and judges solutions, from ``configure_model`` on.
        last_rollout: what the latest training step or evaluation batch sampled, with its judgements; None before it.
        reference: the frozen policy of before training, where the objective needs one.
        teacher: the teacher, where there is one.
    """

    judges_by_score: bool = True

    def __init__(
        self,
        policy: PolicySettings,
        self_reward: SelfRewardHead,
        verifier: Verifier,
        group_size: int = 8,
        sampling: Sampling = Sampling(),
        engine: RolloutEngine | None = None,
        policy_loss: PolicyLoss = ClippedPolicyLoss(),
        advantage: AdvantageSettings = AdvantageSettings(),
        phases: Phases = Phases(),
        update: UpdateSettings = UpdateSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        verification: VerificationSettings = VerificationSettings(),
        evaluation: EvaluationSettings = EvaluationSettings(),
        max_skipped_steps: int = 10,
        seed: int | None = None,
        sampling_rounds: int = 1,
        teacher: PolicySettings | None = None,
        rollout: RolloutSettings = RolloutSettings(),
    ) -> None:
        super().__init__(policy, optimizer, max_skipped_steps, seed)
        if group_size < 2:
            raise UserError(f"group_size is {group_size}: advantages compare solutions of one prompt, so at least 2.")
        if sampling_rounds < 1:
            raise UserError(f"sampling_rounds is {sampling_rounds}, and must be at least 1.")
        if sampling.temperature == 0:
            raise UserError(
                "sampling.temperature is 0: all solutions of a prompt would be the same; training needs more."
            )
        self.strict_loading = False  # checkpoints lack the reference, see saved_weights
        update = with_importance(update, rollout.ahead)
        self.self_reward, self.verifier, self.sampling = self_reward, verifier, sampling
        self._engine = TransformersEngine() if engine is None else engine
        self.verifier_pool = VerifierPool(verifier, verification.workers, verification.timeout_seconds)
        self.group_size, self.sampling_rounds = group_size, sampling_rounds
        self.advantage, self.phases, self.update = advantage, phases, update
        self.objective = Objective(policy_loss, self_reward, update)
        self.objective_parts = ObjectiveParts(
            {"policy_loss": policy_loss, **advantage.parts(), **update.parts(), **self_reward.parts()}
        )
        self.objective_parts.check_teacher(teacher is not None)
        self.teacher_settings = teacher
        self.evaluator = Evaluator(evaluation, sampling, self.seed)
        self.reference: FrozenPolicy | AdaptersOff | None = None
        self.teacher: FrozenPolicy | None = None
        self.last_rollout: Rollout | None = None
        self.judging, self.ahead = Judging(update.judging, self), RoundsAhead(rollout, self)
        self._failing = FailingRewards(verification.max_failing_steps)
        self._mismatch = MismatchLimit(update.max_mismatch, rollout.ahead)
        self._warnings = StepWarnings(sampling.max_response_tokens, self_reward.token)

    @property
    def engine(self) -> RolloutEngine:
        """Draws solutions; another one may be put in its place between two steps."""
        return self._engine

    @engine.setter
    def engine(self, engine: RolloutEngine) -> None:
        self._engine = engine
        if hasattr(self, "sampler"):
            self.sampler.engine = engine

    # ------------------------------------------------------------------ set-up

    def configure_model(self) -> None:
        """Load the policy, and the reference where the objective needs one."""
        super().configure_model()
        check_routers(self.policy.lm, self.objective.needs_routers, self.update.router_aux_loss)
        self.self_reward.bind(self.tokenizer, self.policy.eos_token_ids)
        self.self_reward.check_vocabulary(self.policy.lm.config.get_text_config().vocab_size)
        # A constant reference and no KL term: no reference model is loaded, and none is run.
        if (self.self_reward.is_exact or self.objective_parts.need_reference) and self.reference is None:
            self.reference = self.load_reference()
        if not hasattr(self, "sampler"):
            self.self_reward.prepare(self.policy.hidden_size, sharded=getattr(self.strategy, "zero_stage_3", False))
        if self.teacher_settings is not None and self.teacher is None:
            self.teacher = load_teacher(self.teacher_settings, self.tokenizer, self.policy.vocabulary_size)
        if self.objective.policy_loss.needs_sentences:
            self.objective.sentence_ends = sentence_ends(self.tokenizer, self.policy.vocabulary_size)
        self.sampler = self.make_sampler()

    def check_data(self, data: PromptDataModule) -> None:
        """Refuse texts with tokens that the model has no rows for, or no places, before the first step."""
        super().check_data(data)
        check_lengths(self, data)

    def make_sampler(self) -> Sampler:
        """What draws and judges solutions in training and evaluation."""
        return Sampler(
            self.policy,
            self.tokenizer,
            self.engine,
            self.verifier_pool,
            self.self_reward,
            self.reference,
            self.gathered_weights,
            self.parts,
            self.update.micro_batch_tokens,
            self.teacher,
            self.weight_stream,
        )

    def setup(self, stage: str) -> None:
        """Check what needs the trainer: the data, the engine and the batch arithmetic."""
        super().setup(stage)
        self.engine.weights_changed()  # a checkpoint may be loaded next
        if stage == "fit":
            self.ahead.clear()
            check_fit(self)

    def teardown(self, stage: str) -> None:
        """Stop the verifier's processes and the engine."""
        self.verifier_pool.close()
        self.engine.close()

    # ---------------------------------------------------------------- training

    @float32_by_default()
    def training_step(self, problems: list[Problem], batch_idx: int) -> None:
        """One round of LaSeR (ALGORITHM steps 1 to 6)."""
        log, phase = TrainingLog(self.ranks, self.parts), self.phases.at(self.trainer.global_step)
        with self.training_strategy.offloaded_states(), self.interruption.interruptible(self.engine.collective):
            step = self.sample_groups(problems)
            self.last_rollout = step.sampled
            self.ahead.go_on()
            context = self.context(step.trained)
            advantages = self.compute_advantages(step, phase, context)
        if self.update.reuses_rollouts:  # the passes of its updates are those of other weights
            log.compare(context.log_probs, step.trained.rollouts)
        for rows in self.mini_batches(step):
            with self.parts("update"):
                targets = self.targets(step.trained, rows, advantages, phase, context)
                self.update_policy(step.trained.rollouts, rows, targets, log)
        judged = self.judging.replay(step.sampled, phase)
        self.objective_parts.learn(step.lesson, context)
        teach_curriculum(self.data, step, advantages.values, self.trainer.global_step, self.ranks)
        self.evaluator.teach_votes(step.sampled, self.verifier_pool, self.ranks)
        rewards = count_rewards(step.sampled, self.verifier, self.ranks)
        values = {**self.step_values(log, step, phase, advantages), **rewards.values(), **judged}
        self._log_step(values | self.ahead.end_step())
        failing = self._failing.count(rewards, self.verifier_pool.last_errors)
        if why := failing or self._mismatch.count(values, self.trainer.global_step):
            self.stop(why)

    def sample_groups(self, problems: list[Problem]) -> SampledStep:
        """What the step samples, and what of it is trained on.

        With ``sampling_rounds`` every process draws further problems from its loader, whose position is saved with the
        run, until together they have as many groups that the curriculum keeps (those with a signal, by default) as they
        were given problems, or the rounds are used up; then others fill the places.
        """
        sampled = self.ahead.next_round(problems)
        if self.sampling_rounds == 1:
            return SampledStep(sampled, sampled)
        for _ in range(self.sampling_rounds - 1):
            if is_filled(keeps(self.data, sampled), len(problems), self.ranks):
                break
            sampled = concat_rollouts(sampled, self.ahead.draw(next(iter(self.data.train_dataloader()))))
        return fill_step(sampled, keeps(self.data, sampled), len(problems), self.ranks)

    def context(self, trained: Rollout) -> StepContext:
        """The step as its parts see it, with what the policy and frozen ones say of the tokens that it trains on."""
        old, reference = self.objective.needs_old, self.objective_parts.need_reference
        readings, temperature = self.objective.token_readings, self.sampling.temperature
        log_probs = self.sampler.fixed_log_probs(trained, temperature, old, reference, readings)
        limit = self.ahead.sampling.max_response_tokens
        return StepContext(self.trainer.global_step, limit, self.ranks, log_probs)

    def compute_advantages(self, step: SampledStep, phase: Phase, context: StepContext) -> Advantages:
        """Advantages of the verifier's rewards, mixed with self-rewards in the integrated phase."""
        mixes = phase >= Phase.INTEGRATED and self.self_reward.loss_weight > 0
        return self.advantage.compute_advantages(step.trained, context, mixes)

    def mini_batches(self, step: SampledStep) -> Iterator[Tensor]:
        """The solutions [M] of each optimizer step: all of them, or random parts of the prompts in each epoch."""
        rollout = step.trained
        for _ in range(self.update.epochs):
            if self.update.mini_batches == 1:
                yield torch.arange(len(rollout.rollouts), device=self.device)
                continue
            order = torch.randperm(len(rollout.problems), generator=self.generator, device=self.device)
            for part in order.chunk(self.update.mini_batches):
                yield rollout.rows_of(part)

    def targets(
        self, rollout: Rollout, rows: Tensor, advantages: Advantages, phase: Phase, context: StepContext
    ) -> Targets:
        """Fix every denominator and class count of an optimizer step on solutions ``rows``, over all ranks."""
        rollouts, rewards = rollout.rollouts, rollout.rewards
        lengths = rollouts.trained_mask.sum(dim=1)
        tokens, solutions = self.ranks.sum(torch.cat((lengths[rows].sum()[None], rows.new_tensor([len(rows)]))))
        supervision = Supervision(rewards, torch.zeros_like(rewards))
        if phase >= Phase.SELF_REWARDING and self.self_reward.loss_weight > 0:
            supervision = self.self_reward.supervise(StepSolutions.of(rollout, rows, context))
        targets = Targets(
            advantages=advantages.values,
            rewards=rewards,
            policy_weights=solution_weights(
                lengths, self.update.aggregation, tokens, solutions, context.max_response_tokens
            ),
            self_reward_weights=supervision.weights,
            self_reward_targets=supervision.targets,
            references=rollout.references,
            sampling_log_probs=rollouts.finite_log_probs,
            **context.log_probs.as_targets(),
        )
        return self.objective.mark_tokens(targets, rollouts.trained_mask, rows, self.ranks)

    # ------------------------------------------------------ one optimizer step

    def update_policy(self, rollouts: Rollouts, rows: Tensor, targets: Targets, log: TrainingLog) -> None:
        """Take one optimizer step: the gradients of all micro-batches, then the step."""
        needed = rows[self.objective.has_gradient(targets)[rows]]
        if self.ranks.sum(torch.tensor(len(needed), device=self.device)) == 0:
            self.skip_step(
                "no solution has a signal: all rewards are equal in every group, and nothing else is trained"
            )
            return
        if self.ranks.count > 1:
            rollouts, targets, needed = balance_ranks(rollouts, targets, needed, self.ranks, self.policy.sharing)
        sums = self.accumulate_gradients(self.aligned_batches(rollouts, needed), rollouts, targets)
        norm = self.apply_gradients(sums.terms.loss)
        if norm is not None:
            self.engine.weights_changed()
            log.add_update(sums, norm, self.objective)

    def aligned_batches(self, rollouts: Rollouts, rows: Tensor) -> list[tuple[MicroBatch, float]]:
        """Micro-batches of some solutions with their weights, the same number on all ranks, which meet in every pass.

        Where a rank has fewer than another, a solution of weight 0 fills the places.
        """
        budget, part = self.update.micro_batch_tokens, 1.0 / self.ranks.together
        most = self.ranks.max(len(self.policy.micro_batches(rollouts, rows, budget)))
        batches = [(batch, part) for batch in self.policy.micro_batches(rollouts, rows, budget, at_least=most)]
        return batches + [(shortest(rollouts, self.policy.pad_token_id), 0.0)] * (most - len(batches))

    def accumulate_gradients(
        self, batches: list[tuple[MicroBatch, float]], rollouts: Rollouts, targets: Targets
    ) -> UpdateSums:
        """Differentiate every micro-batch's share of the loss; return what they add up to on this rank."""
        total: UpdateSums | None = None
        for number, (batch, weight) in enumerate(batches):
            last = number + 1 == len(batches)
            self.parts.progress.advance(number, len(batches))
            with self.interruption.interruptible(communicates=True), self.micro_step(last):
                outputs = self.differentiable(*self.objective.inputs(batch, targets))
                terms = self.objective(outputs, batch, targets).weighted(weight)
                self.backward_share(terms.loss)
            mismatch = None if self.update.reuses_rollouts else Mismatch.between(outputs, batch, rollouts)
            sums = UpdateSums(terms.detach(), None if mismatch is None else mismatch.weighted(weight))
            total = sums if total is None else total + sums
        assert total is not None
        return total

    def forward(self, batch: MicroBatch, asked: AskedReading | None = None) -> PolicyOutputs:
        """The one differentiable pass: log-probs of a micro-batch's responses, and what is read behind each."""
        return self.policy(batch, self.self_reward.token_ids, self.sampling.temperature, *self.objective.needs, asked)

    # ----------------------------------------------------------------- logging

    def step_values(
        self, log: TrainingLog, step: SampledStep, phase: Phase, advantages: Advantages
    ) -> dict[str, float | Tensor]:
        """What the step sampled, how well the model judged it, and its updates, over all ranks."""
        values = log.round_values(step.sampled, self.self_reward, phase, advantages.mixed_groups) | log.update_values()
        return values | log.time_values(float(values["train/response_tokens"]))

    def _log_step(self, values: dict[str, float | Tensor]) -> None:
        numbers = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}
        # Lightning would number the rows by batches, and those of an evaluation in another way than the others.
        self.log_dict(numbers | {"step": torch.tensor(float(self.trainer.global_step))})
        self.log_dict({short: numbers[name] for short, name in PROGRESS_BAR.items()}, prog_bar=True, logger=False)
        self._warnings.tell(values, self.trainer.global_step, self.verifier_pool.last_errors)

    # ------------------------------------------------------------- checkpoints

    def saved_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without the frozen reference and teacher too, which a resumed run loads as the first run did."""
        kept = super().saved_weights(state)
        return {name: value for name, value in kept.items() if not name.startswith(("reference.", "teacher."))}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the parts of the objective remember, solutions to replay, and steps of a mismatch in a row."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["laser_mismatched_steps"] = self._mismatch.steps
        checkpoint["laser_objective_parts"] = self.objective_parts.state_dict()
        self.judging.save(checkpoint)
        self.ahead.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the parts of the objective go on from what they remember, and the count of mismatched steps."""
        super().on_load_checkpoint(checkpoint)
        self._mismatch.steps = checkpoint.get("laser_mismatched_steps", 0)
        self.objective_parts.load_state_dict(checkpoint.get("laser_objective_parts", {}))
        self.judging.load(checkpoint)
        self.ahead.load(checkpoint)

    def put_back_step(self) -> None:
        """Go back to the rounds of before the step, too."""
        self.ahead.put_back()

    def forget_position(self) -> None:
        """Of the mismatched steps, too."""
        super().forget_position()
        self._mismatch.steps = 0

    def fingerprint(self) -> dict[str, object]:
        """The model's, and the tokens that carry its judgement."""
        return super().fingerprint() | {"reward_token": " / ".join(self.self_reward.tokens.values())}
