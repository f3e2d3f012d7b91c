"""RISE (arXiv 2505.13445), which verifies by generation: the policy also answers a question about its solutions."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.module import PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.outcome_rewards import OutcomeRewards
from laser_lightning.modules.self_verifying_sampler import SelfVerifyingSampler
from laser_lightning.modules.training_log import TrainingLog
from laser_lightning.modules.verification_prompts import VerificationPrompts
from laser_lightning.modules.verified_step import VerifiedStep, take_judgements
from laser_lightning.modules.written_judgement import WrittenJudgement
from laser_lightning.objective.advantages import Advantages
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.phases import Phase
from laser_lightning.records.batching import stacked
from laser_lightning.records.rollout import Rollout, SampledStep, concat_rollouts
from laser_lightning.rollout import Sampling


class RISEModule(WrittenJudgement):
    """Trains reasoning and verification by generation: each solution costs k more responses, its verifications.

    A verification is rewarded with 1 if its verdict is the verifier's, else with 0 (also without a verdict). Its
    advantage is relative to all G * k verifications of its problem: those of one solution alone would say which one
    hit the verdict, and not which solutions the policy judges wrongly. Solutions and verifications make
    one optimizer step, with one mean over the tokens of all of them. (RISE itself trains by PPO with a value model;
    rewards, by default, and advantages here are those of the other methods, for comparison.) What a part of the
    objective learns from a step, such as the baselines of ``EMABaseline``, it learns from the solutions alone.

    The mean verdict takes the place of the self-reward in training and evaluation. A verdict counts 1 for "correct",
    else 0, which are "incorrect", no verdict, and any verdict on a truncated solution.

    Args:
        verification_prompts: how the policy is asked about its solutions, and how often.
        rewards: those of solutions and verifications that are right, wrong, or have no answer (RISE's own are its
            defaults, 1, -0.5 and -1); null for the verifier's rewards, and 1 and 0 for verifications.
        laser: those of LaSeRModule; ``sampling_rounds`` must be 1, ``self_reward.loss_weight`` 0, and ``policy_loss``
            use advantages. With ``rollout.ahead`` solutions are drawn ahead, and verifications when they are used.

    Attributes:
        last_verifications: the verifications of the latest training or evaluation round, as a round in which each
            verified solution is a problem of its own with k responses.
    """

    method = "RISE"
    sampler: SelfVerifyingSampler
    last_verifications: Rollout

    def __init__(
        self,
        verification_prompts: VerificationPrompts = VerificationPrompts(),
        rewards: OutcomeRewards | None = None,
        **laser: Any,
    ) -> None:
        super().__init__(**laser)
        if self.sampling_rounds != 1:
            raise UserError(
                f"sampling_rounds is {self.sampling_rounds}, and RISE verifies the solutions of one round: set it to 1."
            )
        self.verification_prompts, self.rewards = verification_prompts, rewards

    def make_sampler(self) -> SelfVerifyingSampler:
        """What draws solutions, and asks the policy about them."""
        return SelfVerifyingSampler(**vars(super().make_sampler()), verification_prompts=self.verification_prompts)

    def check_data(self, data: PromptDataModule) -> None:
        """Refuse prompts, and those of verifications, with tokens that the model has no rows for."""
        super().check_data(data)
        if self.has_tokens_beyond:
            for problem in chain(data.train_problems, *data.evaluation_problems.values()):
                self.verification_prompts.question(problem, "", self.tokenizer, self.policy.vocabulary_size)

    def sample_groups(self, problems: list[Problem]) -> VerifiedStep:
        """The step's solutions, and all that it trains on: these and the verifications behind them."""
        solutions = super().sample_groups(problems).sampled
        drawn = self.verification_prompts.choose(len(problems), self.generator)
        verified = solutions.select(drawn)
        self.last_verifications = self.sampler.ask_about(verified, self.sampling, self.generator)
        take_judgements(solutions, solutions.rows_of(drawn), verified)
        if self.rewards is not None:
            for made in (solutions, self.last_verifications):
                made.train_on(self.rewards(made))
        both = concat_rollouts(solutions.ungrouped(), self.last_verifications.ungrouped())
        return VerifiedStep(solutions, both, drawn, self.last_verifications)

    def compute_advantages(self, step: SampledStep, phase: Phase, context: StepContext) -> Advantages:
        """Advantages of solutions in their groups, and of verifications among all of their problem."""
        assert isinstance(step, VerifiedStep)
        made, end = step.verifications, len(step.sampled.rollouts)
        first, behind = context.rows(slice(end)), context.rows(slice(end, None))
        of_solutions = super().compute_advantages(SampledStep(step.sampled, step.sampled), phase, first)
        rewards = made.policy_rewards.view(len(step.verified), -1)
        of_verifications = Advantages.of(self.advantage.estimator(rewards, made, behind), rewards)
        return of_solutions._replace(values=stacked((of_solutions.values, of_verifications.values)))

    def mini_batches(self, step: SampledStep) -> Iterator[Tensor]:
        """The trajectories of each optimizer step: some problems' solutions, and the verifications of these."""
        assert isinstance(step, VerifiedStep)
        for rows in super().mini_batches(SampledStep(step.sampled, step.sampled)):
            yield step.trajectories_of(rows)

    def step_values(
        self, log: TrainingLog, step: SampledStep, phase: Phase, advantages: Advantages
    ) -> dict[str, float | Tensor]:
        """What the step sampled, its verifications included."""
        assert isinstance(step, VerifiedStep)
        values = super().step_values(log, step, phase, advantages)
        tokens, number, right, found = self.ranks.sum(step.counts().to(self.device)).tolist()
        return values | {
            "train/verification/accuracy": right / number,
            "train/verification/verdict_rate": found / number,
            "train/verification/response_tokens": tokens,
            "train/generated_tokens": values["train/generated_tokens"] + tokens,
        }

    def solve(
        self, problems: list[Problem], samples: int, sampling: Sampling, generator: torch.Generator
    ) -> Rollout | None:
        """The solutions of an evaluation batch, each of them verified by the policy."""
        rollout = super().solve(problems, samples, sampling, generator)
        if rollout is not None:
            self.last_verifications = self.sampler.ask_about(rollout, sampling, generator)
        elif self.engine.collective:
            self.sampler.draw_verifications([], sampling, generator)
        return rollout

    def _solutions_of(self, problems: list[Problem], batch_idx: int, dataloader_idx: int) -> Rollout | None:
        """The solutions of a batch; of those that version 0.1 kept the mean verdict is all that is known."""
        rollout = super()._solutions_of(problems, batch_idx, dataloader_idx)
        if rollout is not None and rollout.judging_tokens is None:
            rollout.judging_tokens = torch.full_like(rollout.rollouts.response_lengths, -1)
            if (samples := self.verification_prompts.samples) > 1:
                rollout.scores = rollout.self_rewards[:, None].expand(-1, samples)
        return rollout

    def judgement_settings(self) -> dict[str, Any]:
        """How it is asked."""
        asked = asdict(self.verification_prompts)
        if asked["samples"] == 1:  # what was kept before there were more says nothing of their number
            del asked["samples"]
        return super().judgement_settings() | {"verification_prompts": asked}
