"""LaSeR (arXiv 2510.14943) as a LightningModule: ``training_step`` reads as the algorithm."""

from collections.abc import Iterator

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.distributed.balancing import balanced
from laser_lightning.errors import UserError
from laser_lightning.modules.evaluation import EvaluationModule, EvaluationSettings
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.reward_log import FailingRewards, count_rewards
from laser_lightning.modules.rollouts import VerificationSettings
from laser_lightning.modules.training_log import StepWarnings, TrainingLog, mismatch_terms
from laser_lightning.objective.advantages import AdvantageSettings, estimated, mixed
from laser_lightning.objective.losses import ClippedPolicyLoss, PolicyLoss, solution_weights
from laser_lightning.objective.objective import Objective, Targets, UpdateSettings
from laser_lightning.objective.phases import Phase, Phases
from laser_lightning.objective.self_reward.last_token import SelfRewardHead, class_counts
from laser_lightning.objective.shaping.overlong import shaped
from laser_lightning.policy.model import PolicyOutputs, PolicySettings
from laser_lightning.policy.precision import float32_by_default
from laser_lightning.records.batching import MicroBatch, micro_batches, shortest
from laser_lightning.records.rounds import Round, joined
from laser_lightning.rollout import RolloutEngine, Sampling
from laser_lightning.verifiers import Verifier

PROGRESS_BAR = {
    "reward": "train/reward",
    "f1": "train/self_reward/f1",
    "length": "train/response_length_tokens",
    "tokens/s": "train/tokens_per_second",
}
"""Short names under which the progress bar shows the most telling metrics."""


class LaSeRModule(EvaluationModule):
    """Trains reasoning and self-verification together.

    One trainer step samples solutions, verifies them, and takes one optimizer step (more if ``update`` says so).

    Args:
        policy: which model is trained.
        self_reward: how the model judges its solutions, and learns to.
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
        seed: seed of all sampling, evaluations included. Default: that of ``seed_everything``.
        sampling_rounds: sample further problems, up to this many times data.prompts_per_step in all, until the step is
            full of groups whose rewards are not all equal (DAPO's dynamic sampling, arXiv 2503.14476, equation 11); 1
            trains on the groups as they come. The self-rewarding loss is trained on the same groups, and the metrics
            count all that was sampled.

    Attributes:
        judges_by_score: whether the score behind ``<eos>`` is the model's judgement; exports then carry its settings.
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
        policy_loss: PolicyLoss | None = None,
        advantage: AdvantageSettings = AdvantageSettings(),
        phases: Phases = Phases(),
        update: UpdateSettings = UpdateSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        verification: VerificationSettings = VerificationSettings(),
        evaluation: EvaluationSettings = EvaluationSettings(),
        max_skipped_steps: int = 10,
        seed: int | None = None,
        sampling_rounds: int = 1,
    ) -> None:
        # A constant reference and no KL term: no reference model is loaded, and none is run.
        needs_reference = self_reward.is_exact or update.kl_coef > 0
        super().__init__(
            evaluation=evaluation,
            policy=policy,
            self_reward=self_reward,
            verifier=verifier,
            sampling=sampling,
            engine=engine,
            verification=verification,
            micro_batch_tokens=update.micro_batch_tokens,
            needs_reference=needs_reference,
            optimizer=optimizer,
            max_skipped_steps=max_skipped_steps,
            seed=seed,
        )
        if group_size < 2:
            raise UserError(f"group_size is {group_size}: advantages compare solutions of one prompt, so at least 2.")
        if sampling_rounds < 1:
            raise UserError(f"sampling_rounds is {sampling_rounds}, and must be at least 1.")
        if sampling.temperature == 0:
            raise UserError(
                "sampling.temperature is 0: all solutions of a prompt would be the same; training needs more."
            )
        self.group_size, self.sampling_rounds = group_size, sampling_rounds
        self.advantage, self.phases, self.update = advantage, phases, update
        self.objective = Objective(ClippedPolicyLoss() if policy_loss is None else policy_loss, self_reward, update)
        self._failing = FailingRewards(verification.max_failing_steps)
        self._warnings = StepWarnings(sampling.max_response_tokens, self_reward.token)

    def setup(self, stage: str) -> None:
        """Check the batch arithmetic too."""
        super().setup(stage)
        prompts = self.trainer.datamodule.prompts_per_step  # type: ignore[attr-defined]
        per_process = prompts // self.trainer.world_size
        if stage == "fit" and per_process % self.update.mini_batches:
            raise UserError(
                f"update.mini_batches = {self.update.mini_batches} does not divide the {per_process} prompts of a "
                f"process (data.prompts_per_step = {prompts} over {self.trainer.world_size})."
            )

    # ---------------------------------------------------------------- training

    @float32_by_default()
    def training_step(self, problems: list[Problem], batch_idx: int) -> None:
        """One round of LaSeR (ALGORITHM steps 1 to 6)."""
        self.log_of_step = TrainingLog(self.all_sum)
        phase = self.phases.at(self.trainer.global_step)
        with self.interruption.interruptible(communicates=self.engine.collective):
            sampled, round_ = self.sample_groups(problems)
            self.engine.sleep()
            advantages = self.advantages(round_, phase)
            old_log_probs = self.no_grad_pass(self.policy, round_.rollouts)[0] if self.update.reuses_rollouts else None
            reference_log_probs = self.reference_log_probs(round_) if self.update.kl_coef > 0 else None
        for rows in self.mini_batches(round_):
            with self.part("update"):
                targets = self.targets(round_, rows, advantages, phase)
                targets.old_log_probs, targets.reference_log_probs = old_log_probs, reference_log_probs
                self.update_policy(round_, rows, targets)
        self._log_step(sampled, phase)

    def sample_groups(self, problems: list[Problem]) -> tuple[Round, Round]:
        """What the step samples, and what of it is trained on: the same, unless ``sampling_rounds`` asks for more.

        Every process draws further problems from its loader, whose position is saved with the run, until each has as
        many groups with a signal as it was given problems, or the rounds are used up; then others fill the places.
        """
        sampled = self.play(problems, self.group_size, self.sampling, self.generator)
        if self.sampling_rounds == 1:
            return sampled, sampled
        for _ in range(self.sampling_rounds - 1):
            if self.all_max(len(problems) - int(sampled.has_signal.sum())) <= 0:
                break
            more = next(iter(self.trainer.datamodule.train_dataloader()))  # type: ignore[attr-defined]
            sampled = joined(sampled, self.play(more, self.group_size, self.sampling, self.generator))
        self.last_round = sampled
        with_signal_first = sampled.has_signal.int().argsort(descending=True, stable=True)
        return sampled, sampled.select(with_signal_first[: len(problems)])

    def reference_log_probs(self, round_: Round) -> Tensor:
        """[N, R] log-probs under the frozen reference: of the pass that gave exact scores, where there was one."""
        if round_.reference_log_probs is not None:
            return round_.reference_log_probs
        return self.no_grad_pass(self.reference, round_.rollouts)[0]

    def advantages(self, round_: Round, phase: Phase) -> Tensor:
        """[N] advantages: of the verifier's rewards, mixed with self-rewards in the integrated phase."""
        rewards = round_.grouped(self.policy_rewards(round_))
        self.mixed_groups = torch.zeros(len(rewards), dtype=torch.bool, device=rewards.device)
        if phase < Phase.INTEGRATED or self.self_reward.loss_weight == 0:
            return estimated(rewards, self.advantage, self.all_sum).flatten()
        advantages, self.mixed_groups = mixed(
            rewards, round_.grouped(round_.self_rewards), self.advantage, self.all_sum
        )
        return advantages.flatten()

    def policy_rewards(self, round_: Round) -> Tensor:
        """[N] rewards that advantages are made of: the verifier's or their weighted sum, less a penalty of length."""
        if self.advantage.overlong is None:
            return round_.policy_rewards
        lengths, limit = round_.rollouts.response_lengths, self.sampling.max_response_tokens
        return shaped(round_.policy_rewards, lengths, limit, self.advantage.overlong)

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
            policy_weights=solution_weights(
                lengths, self.update.aggregation, totals[0], totals[1], self.sampling.max_response_tokens
            ),
            self_reward_weights=self.self_reward.loss_weights(rewards, finished & trains_score, totals[2:]),
            references=round_.references,
            sampling_log_probs=None if self.update.importance == "none" else rollouts.sampling_log_probs,
        )

    def update_policy(self, round_: Round, rows: Tensor, targets: Targets) -> None:
        """One optimizer step: the gradients of all micro-batches, then the step."""
        needed = rows[self.objective.contributing(targets)[rows]]
        if self.all_sum(torch.tensor(len(needed), device=self.device)) == 0:
            self.skip_step(
                "no solution has a signal: all rewards are equal in every group, and nothing else is trained"
            )
            return
        rollouts = round_.rollouts
        if (ranks := self.trainer.world_size) > 1:
            rollouts, targets, needed = balanced(rollouts, targets, needed, self.all_stacked, self.global_rank, ranks)
        terms: dict[str, Tensor] = {}
        budget, pad, packed = self.update.micro_batch_tokens, self.policy.pad_token_id, self.policy.packs
        most = self.all_max(len(micro_batches(rollouts, needed, budget, pad, packed)))
        batches = micro_batches(rollouts, needed, budget, pad, packed, at_least=most)
        mine = len(batches)
        batches += [shortest(rollouts, pad)] * (most - mine)  # of weight 0: ranks meet in every pass
        for number, batch in enumerate(batches):
            self.progress.advance(number, most)
            with self.interruption.interruptible(communicates=True), self.micro_step(last=number + 1 == most):
                token_ids = self.self_reward.trained_token_ids(targets.rewards[batch.rows])
                outputs = self.differentiable(batch, token_ids)
                parts = self.objective(outputs, batch, targets)
                if not self.update.reuses_rollouts:
                    parts |= mismatch_terms(outputs, batch, rollouts, token_ids == self.self_reward.token_id)
                parts = {name: value * float(number < mine) for name, value in parts.items()}
                self.backward_share(parts["loss"])
            for name, value in parts.items():
                terms[name] = terms.get(name, 0.0) + value.detach()
        norm = self.apply_gradients(terms["loss"])
        if norm is not None:
            self.log_of_step.add_update(terms, norm)

    def forward(self, batch: MicroBatch, token_ids: Tensor) -> PolicyOutputs:
        """The one differentiable pass: log-probs of a micro-batch's responses, and of one token [B] behind each."""
        return self.policy(batch, token_ids, self.sampling.temperature, self.update.entropy_coef > 0)

    # ----------------------------------------------------------------- logging

    def round_values(self, round_: Round, phase: Phase) -> dict[str, float | Tensor]:
        """What the step sampled, and how well the model judged it, over all ranks."""
        return self.log_of_step.round_values(round_, self.self_reward, phase, self.mixed_groups)

    def _log_step(self, round_: Round, phase: Phase) -> None:
        values = self.round_values(round_, phase)
        rewards = count_rewards(round_, self.verifier, self.all_sum)
        values |= rewards.values()
        values |= self.log_of_step.update_values()
        values |= self.log_of_step.time_values(float(values["train/response_tokens"]))
        numbers = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}
        # Lightning would number the rows by batches, and those of an evaluation in another way than the others.
        self.log_dict(numbers | {"step": torch.tensor(float(self.trainer.global_step))})
        self.log_dict({short: numbers[name] for short, name in PROGRESS_BAR.items()}, prog_bar=True, logger=False)
        self._warnings.tell(values, self.trainer.global_step, self.verifier_pool.last_errors)
        if failing := self._failing.count(rewards, self.verifier_pool.last_errors):
            self.stop(failing)
