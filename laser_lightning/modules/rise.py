"""RISE (arXiv 2505.13445), the baseline that verifies by generation: the policy also answers a question about each of
its solutions, and both kinds of trajectory update it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.module import PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.data.prompts import check_vocabulary
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.outcome_rewards import OutcomeRewards
from laser_lightning.modules.training_log import TrainingLog
from laser_lightning.modules.verification_prompts import VerificationPrompts
from laser_lightning.modules.written_judgement import WrittenJudgement
from laser_lightning.objective.advantages import Advantages, AdvantageSettings
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.losses import ClippedPolicyLoss, PolicyLoss
from laser_lightning.objective.phases import Phase, Phases
from laser_lightning.objective.self_reward.head import SelfRewardHead
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD, zero_if_truncated
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.model import PolicySettings
from laser_lightning.records.batching import Rollouts, stacked
from laser_lightning.records.rollout import Rollout, SampledStep, concat_rollouts
from laser_lightning.rollout import RolloutEngine, RolloutSettings, Sampling
from laser_lightning.shapes import Int
from laser_lightning.verifiers import Verification, Verifier
from laser_lightning.verifiers.settings import VerificationSettings


@dataclass
class VerifiedStep(SampledStep):
    """Solutions, and the policy's verifications of them; ``trained`` is both, in groups of one, solutions first.

    Attributes:
        verified: [M] problems whose solutions were verified.
        verifications: V = M * G * k verifications, in a group for each of the M * G solutions.
    """

    verified: Tensor
    verifications: Rollout

    @property
    def lesson(self) -> Rollout:
        """The solutions alone: they have groups, and rewards of the kind that baselines and spreads are about."""
        return self.sampled


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
        policy: which model is trained.
        self_reward: how the model judges its solutions, and learns to; here its ``loss_weight`` must be 0.
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
        sampling_rounds: must be 1: the solutions of one round are verified.
        teacher: a frozen policy of its own, for parts that ask for its log-probs; null for none.
        rollout: when the rollouts are drawn; with ``ahead`` the solutions, while verifications are those of the moment.

    Attributes:
        last_verifications: the verifications of the latest training or evaluation round, as a round in which each
            verified solution is a problem of its own with k responses.
    """

    method = "RISE"
    last_verifications: Rollout

    def __init__(
        self,
        verification_prompts: VerificationPrompts = VerificationPrompts(),
        rewards: OutcomeRewards | None = None,
        *,
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
        super().__init__(
            policy=policy,
            self_reward=self_reward,
            verifier=verifier,
            group_size=group_size,
            sampling=sampling,
            engine=engine,
            policy_loss=policy_loss,
            advantage=advantage,
            phases=phases,
            update=update,
            optimizer=optimizer,
            verification=verification,
            evaluation=evaluation,
            max_skipped_steps=max_skipped_steps,
            seed=seed,
            sampling_rounds=sampling_rounds,
            teacher=teacher,
            rollout=rollout,
        )
        if self.sampling_rounds != 1:
            raise UserError(
                f"sampling_rounds is {self.sampling_rounds}, and RISE verifies the solutions of one round: set it to 1."
            )
        self.verification_prompts, self.rewards = verification_prompts, rewards

    def check_vocabulary(self, data: PromptDataModule) -> None:
        """Refuse prompts, and those of verifications, with tokens that the model has no rows for."""
        super().check_vocabulary(data)
        if self.has_tokens_beyond:
            for problem in chain(data.train_problems, *data.evaluation_problems.values()):
                self._verification_prompt(problem, "")

    def _verification_prompt(self, problem: Problem, response: str) -> list[int]:
        """The token ids of the prompt that asks about a solution."""
        ids = self.verification_prompts.encode(problem.problem, response, self.tokenizer)
        where = f"The verification prompt of row {problem.index} of the set '{problem.dataset}'"
        check_vocabulary(ids, self.tokenizer, self.policy.vocabulary_size, where)
        return ids

    # ---------------------------------------------------------------- training

    def sample_groups(self, problems: list[Problem]) -> VerifiedStep:
        """The step's solutions, and all that it trains on: these and the verifications behind them."""
        solutions = super().sample_groups(problems).sampled
        drawn = self._drawn(len(problems))
        verified = solutions.select(drawn)
        self.last_verifications = self.verify(verified, self.sampling, self.generator)
        take_judgements(solutions, solutions.rows_of(drawn), verified)
        if self.rewards is not None:
            for made in (solutions, self.last_verifications):
                made.train_on(self.rewards(made))
        both = concat_rollouts(solutions.ungrouped(), self.last_verifications.ungrouped())
        return VerifiedStep(solutions, both, drawn, self.last_verifications)

    def _drawn(self, problems: int) -> Tensor:
        """[M] problems whose solutions are verified."""
        share = self.verification_prompts.share
        if share == 1:
            return torch.arange(problems, device=self.device)
        order = torch.randperm(problems, generator=self.generator, device=self.device)
        return order[: max(1, round(share * problems))].sort().values

    def compute_advantages(self, step: SampledStep, phase: Phase, context: StepContext) -> Advantages:
        """Advantages of solutions in their groups, and of verifications among all of their problem."""
        assert isinstance(step, VerifiedStep)
        solutions, made = SampledStep(step.sampled, step.sampled), step.verifications
        first = slice(len(step.sampled.rollouts))
        of_solutions = super().compute_advantages(
            solutions, phase, context._replace(log_probs=context.log_probs.rows(first))
        )
        rewards = made.policy_rewards.view(len(step.verified), -1)
        behind = context._replace(log_probs=context.log_probs.rows(slice(first.stop, None)))
        of_verifications = Advantages.of(self.advantage.estimator(rewards, made, behind), rewards)
        return of_solutions._replace(values=stacked((of_solutions.values, of_verifications.values)))

    def mini_batches(self, step: SampledStep) -> Iterator[Tensor]:
        """The trajectories of each optimizer step: some problems' solutions, and the verifications of these."""
        assert isinstance(step, VerifiedStep)
        solutions = torch.arange(len(step.sampled.rollouts), device=self.device)
        verified = step.sampled.rows_of(step.verified).repeat_interleave(self.verification_prompts.samples)
        solution_of = torch.cat((solutions, verified))
        for rows in super().mini_batches(SampledStep(step.sampled, step.sampled)):
            yield torch.isin(solution_of, rows).nonzero().squeeze(-1)

    def step_values(
        self, log: TrainingLog, step: SampledStep, phase: Phase, advantages: Advantages
    ) -> dict[str, float | Tensor]:
        """What the step sampled, its verifications included."""
        assert isinstance(step, VerifiedStep)
        values = super().step_values(log, step, phase, advantages)
        made = step.verifications
        found = sum(verification.answer is not None for verification in made.verifications)
        counts = (made.rollouts.response_lengths.sum(), len(made.rollouts), made.rewards.sum(), found)
        row = torch.tensor([float(count) for count in counts], dtype=torch.float64, device=self.device)
        tokens, number, right, found = self.ranks.sum(row).tolist()
        return values | {
            "train/verification/accuracy": right / number,
            "train/verification/verdict_rate": found / number,
            "train/verification/response_tokens": tokens,
            "train/generated_tokens": values["train/generated_tokens"] + tokens,
        }

    # -------------------------------------------------------------- evaluation

    def solve(
        self, problems: list[Problem], samples: int, sampling: Sampling, generator: torch.Generator
    ) -> Rollout | None:
        """The solutions of an evaluation batch, each of them verified by the policy."""
        rollout = super().solve(problems, samples, sampling, generator)
        if rollout is not None:
            self.last_verifications = self.verify(rollout, sampling, generator)
        elif self.engine.collective:
            self._generate([], sampling, generator)
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

    # ------------------------------------------------------------ verification

    def verify(self, rollout: Rollout, sampling: Sampling, generator: torch.Generator) -> Rollout:
        """Let the policy verify solutions k times, and put its mean verdicts in the place of their self-rewards.

        Args:
            rollout: N solutions; its ``self_rewards`` are replaced.
            sampling: how they were drawn; verifications are, too, up to their own length limit.
            generator: the source of randomness, on the policy's device.

        Returns:
            The N * k verifications as a round of N problems with k solutions each; their ``rewards`` say which
            verdicts are right.
        """
        asked, samples = range(len(rollout.rollouts)), self.verification_prompts.samples
        prompts = [self._verification_prompt(rollout.problem_of(row), rollout.texts[row]) for row in asked]
        rollouts = self._generate(prompts, sampling, generator)
        texts = self.sampler.texts_of(rollouts)
        verdicts = [self.verification_prompts.verdict(text) for text in texts]
        found_correct = torch.tensor([float(verdict is True) for verdict in verdicts], device=self.device)
        rollout.self_rewards = zero_if_truncated(found_correct.view(-1, samples).mean(dim=1), rollout.rollouts.finished)
        rollout.judging_tokens = rollouts.response_lengths.view(-1, samples).sum(dim=1)
        if samples > 1:
            rollout.scores = found_correct.view(-1, samples) * rollout.rollouts.finished[:, None]
        correct = (rollout.rewards > CORRECT_THRESHOLD).repeat_interleave(samples).tolist()
        rewards = [float(verdict == truth) for verdict, truth in zip(verdicts, correct, strict=True)]
        answers = [None if verdict is None else str(verdict) for verdict in verdicts]
        return Rollout(
            [rollout.problem_of(row) for row in asked],
            rollouts,
            texts,
            [Verification(reward, answer) for reward, answer in zip(rewards, answers, strict=True)],
            torch.tensor(rewards, device=self.device),
            None,
            torch.full((len(rewards),), torch.nan, device=self.device),
        )

    def _generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, generator: torch.Generator) -> Rollouts:
        """k verifications for each of N prompts."""
        limit = self.verification_prompts.max_response_tokens
        longest = max((len(prompt) for prompt in prompts), default=0)
        positions = self.policy.positions
        if positions is not None and longest + limit > positions:
            raise UserError(
                f"A verification prompt of {longest} tokens and verification_prompts.max_response_tokens = {limit} do "
                f"not fit into the {positions} positions of the model: lower sampling.max_response_tokens, "
                "data.max_prompt_tokens or the latter."
            )
        shorter = replace(sampling, max_response_tokens=limit)
        samples = self.verification_prompts.samples
        return self.sampler.draw(prompts, samples, shorter, generator, part="self_verification")


def take_judgements(rollout: Rollout, rows: Int[Tensor, " M"], judged: Rollout) -> None:
    """Put the judgements of some solutions into the round that they are of; others have none, which cost no token.

    Args:
        rollout: N solutions; its ``self_rewards``, ``scores`` and ``judging_tokens`` are replaced.
        rows: [M] those that were judged.
        judged: the same M, with their judgements.
    """
    rollout.self_rewards = torch.full_like(rollout.self_rewards, torch.nan)
    rollout.self_rewards[rows] = judged.self_rewards
    if judged.judging_tokens is not None:
        rollout.judging_tokens = torch.zeros_like(rollout.rollouts.response_lengths)
        rollout.judging_tokens[rows] = judged.judging_tokens
    if judged.scores is not None:
        rollout.scores = judged.scores.new_full((len(rollout.rollouts), judged.scores.shape[1]), torch.nan)
        rollout.scores[rows] = judged.scores
