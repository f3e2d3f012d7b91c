"""SPOC (arXiv 2506.06923): solutions and verifications take turns in one response, and each has a reward of its own."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.messages import Messages
from laser_lightning.modules.self_correction import SelfCorrection
from laser_lightning.modules.training_log import TrainingLog
from laser_lightning.modules.written_judgement import WrittenJudgement
from laser_lightning.objective.advantages import Advantages, GroupRelative
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.phases import Phase
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout, SampledStep
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.sampler import Sampler


@dataclass
class SelfCorrectingSampler(Sampler):
    """Draws responses that judge and correct themselves.

    Attributes:
        self_correction: their form.
    """

    self_correction: SelfCorrection = field(default_factory=SelfCorrection)

    def solution_of(self, text: str) -> str:
        """The last solution that counts."""
        return self.self_correction.solution(text)

    def judge(self, problems: Sequence[Problem], rollouts: Rollouts, sampling: Sampling) -> Rollout:
        """Judge responses; the last verdict of each is its self-reward (see ``Sampler.judge``).

        A response that was cut behind the verification that accepts its solution keeps the verdict: it had ended there.
        """
        rollout = super().judge(problems, rollouts, sampling)
        accepted = torch.tensor([float(self.self_correction.accepts(text)) for text in rollout.texts])
        rollout.self_rewards = accepted.to(rollout.rewards.device)
        rollout.judging_tokens = torch.zeros_like(rollout.rollouts.response_lengths)  # they are part of the response
        return rollout


@dataclass
class MessageStep(SampledStep):
    """What a step sampled, its responses cut into messages.

    Attributes:
        messages: those of the responses that are trained on.
    """

    messages: Messages


class SPOCModule(WrittenJudgement):
    """Trains a policy that verifies and corrects itself in one pass, until a verification finds a solution correct.

    SPOC (arXiv 2506.06923): a solution is rewarded by the verifier, a verification with 1 if its verdict is right
    (section 3.1, the reward "Corr"), and each message has the advantage of its place among the responses to its
    problem (algorithm 4, see ``message_advantages``). The paper's other optimizer, RAFT, is not here, nor its stage of
    supervised pairs, which teaches the form: a model that never writes a verification is trained as by GRPO.

    The last solution that counts is the answer. The last verdict takes the place of the self-reward, 1 or 0; 0 without
    one. Generation itself knows nothing of verdicts, and runs on to ``<eos>`` or the length limit: what stands behind
    an accepting verification costs its tokens and is ignored, so that a cut there takes nothing from the verdict.

    Args:
        self_correction: the form of responses.
        laser: those of LaSeRModule; ``self_reward.loss_weight`` must be 0, ``advantage.estimator`` GroupRelative, and
            ``advantage.shaping`` empty.
    """

    method = "SPOC"

    def __init__(self, self_correction: SelfCorrection = SelfCorrection(), **laser: Any) -> None:
        super().__init__(**laser)
        if self.advantage.shaping or type(self.advantage.estimator) is not GroupRelative:
            raise UserError(
                "SPOC compares messages with messages, and advantage.shaping, and estimators other than "
                "laser_lightning.GroupRelative, are about whole responses: leave them out."
            )
        self.self_correction = self_correction

    def make_sampler(self) -> SelfCorrectingSampler:
        """What draws responses, and reads their verdicts."""
        return SelfCorrectingSampler(**vars(super().make_sampler()), self_correction=self.self_correction)

    def sample_groups(self, problems: list[Problem]) -> MessageStep:
        """The step's responses and their messages; what stands behind the last message is not trained on, either."""
        step = super().sample_groups(problems)
        trained, form = step.trained, self.self_correction
        messages = Messages.of(trained, [form.read(text) for text in trained.texts], self.tokenizer)
        solutions = messages.solutions()
        asked = [trained.problem_of(messages.response[number]) for number in solutions]
        messages.reward(self.sampler.verify(asked, [messages.texts[number] for number in solutions]))
        trained.rollouts.loss_mask = trained.rollouts.trained_mask & messages.mask(trained.rollouts)
        return MessageStep(step.sampled, trained, messages, chosen=step.chosen)

    def compute_advantages(self, step: SampledStep, phase: Phase, context: StepContext) -> Advantages:
        """[N, R] advantages: at each trained token that of its message, 0 elsewhere."""
        assert isinstance(step, MessageStep)
        rewards, rollouts = step.trained.grouped(step.trained.policy_rewards), step.trained.rollouts
        assert isinstance(self.advantage.estimator, GroupRelative)
        values = step.messages.advantages(rollouts, self.advantage.estimator)
        return Advantages.of(values.where(rollouts.trained_mask, 0.0), rewards)

    def step_values(
        self, log: TrainingLog, step: SampledStep, phase: Phase, advantages: Advantages
    ) -> dict[str, float | Tensor]:
        """What the step sampled, and how its messages fared."""
        assert isinstance(step, MessageStep)
        totals = self.ranks.sum(step.messages.counts().to(self.device)).tolist()
        responses, solutions, verifications, right, first = totals
        return super().step_values(log, step, phase, advantages) | {
            "train/self_correction/solutions": solutions / responses,
            "train/self_correction/first_reward": first / responses,
            "train/self_correction/verification_accuracy": right / verifications if verifications else math.nan,
        }

    def judgement_settings(self) -> dict[str, Any]:
        """The form of responses."""
        return super().judgement_settings() | {"self_correction": asdict(self.self_correction)}
