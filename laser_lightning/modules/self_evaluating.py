"""DeepSeekMath-V2's generator (arXiv 2511.22570) for checkable answers: solution and own evaluation in one response."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.modules.self_evaluation import SelfEvaluation
from laser_lightning.modules.training_log import TrainingLog
from laser_lightning.modules.written_judgement import WrittenJudgement
from laser_lightning.objective.advantages import Advantages
from laser_lightning.objective.phases import Phase
from laser_lightning.objective.self_reward.solutions import zero_if_truncated
from laser_lightning.records.batching import Rollouts, append_responses
from laser_lightning.records.rollout import Rollout, SampledStep
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.sampler import Sampler


@dataclass
class SelfEvaluatingSampler(Sampler):
    """Draws responses whose own score is read from their text.

    Attributes:
        self_evaluation: their form.
    """

    self_evaluation: SelfEvaluation = field(default_factory=SelfEvaluation)

    def solution_of(self, text: str) -> str:
        """The solution alone: an evaluation has an answer of its own."""
        return self.self_evaluation.read(text).solution

    def texts_of(self, rollouts: Rollouts) -> list[str]:
        """Decode the last attempt of each of N responses, without special tokens."""
        return self.tokenizer.batch_decode(
            list(map(self._last_attempt, rollouts.responses())), skip_special_tokens=True
        )

    def _last_attempt(self, ids: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(ids[:-1]) if token in self.policy.eos_token_ids]
        return ids[ends[-1] + 1 :] if ends else ids

    def judge(self, problems: Sequence[Problem], rollouts: Rollouts, sampling: Sampling) -> Rollout:
        """Judge responses and read them (see ``Sampler.judge``)."""
        rollout = super().judge(problems, rollouts, sampling)
        rollout.self_rewards = self._own_scores(rollout)
        columns = (rollout.texts, rollout.policy_rewards.tolist(), rollout.rewards.clamp(0, 1).tolist())
        rewards = torch.tensor([self.self_evaluation.reward(*row) for row in zip(*columns, strict=True)])
        rollout.train_on(zero_if_truncated(rewards.to(rollout.rewards.device), rollout.rollouts.finished))
        rollout.judging_tokens = torch.zeros_like(rollout.rollouts.response_lengths)  # they are part of the response
        return rollout

    def _own_scores(self, rollout: Rollout) -> Tensor:
        scores = [self.self_evaluation.read(text).score or 0.0 for text in rollout.texts]
        return zero_if_truncated(torch.tensor(scores, device=rollout.rewards.device), rollout.rollouts.finished)

    def refine(self, rollout: Rollout | None, sampling: Sampling, generator: torch.Generator) -> None:
        """Write every solution anew that ended with an own score below 1; its response then holds both attempts.

        Args:
            rollout: N solutions; None on a rank without, which takes part where the engine is collective.
            sampling: how they were drawn.
            generator: the source of randomness, on the policy's device.
        """
        rows: list[int] = []
        if rollout is not None:
            rows = (rollout.rollouts.finished & (rollout.self_rewards < 1)).nonzero().flatten().tolist()
        if not rows and not self.engine.collective:
            return
        prompts = []
        for row in rows:
            assert rollout is not None
            problem = rollout.problem_of(row).problem
            prompts.append(self.self_evaluation.encode_refinement(problem, rollout.texts[row], self.tokenizer))
        drawn = self.draw(prompts, 1, sampling, generator, part="refinement")
        if rollout is None or not rows:
            return
        append_responses(rollout.rollouts, rows, drawn, self.policy.pad_token_id)
        texts = self.texts_of(drawn)
        asked = [rollout.problem_of(row) for row in rows], [self.solution_of(text) for text in texts]
        for row, text, verification in zip(rows, texts, self.verify(*asked), strict=True):
            rollout.texts[row], rollout.verifications[row] = text, verification
            rollout.rewards[row] = verification.reward
        rollout.self_rewards = self._own_scores(rollout)


class SelfEvaluatingModule(WrittenJudgement):
    """Trains a policy that writes a solution and then, in the same response, scores it itself.

    DeepSeekMath-V2's generator (arXiv 2511.22570, section 2.2): R = R_format (0.76 R_Y + 0.24 R_Z), with
    R_Z = 1 - abs(own score - true score). There a trained verifier of proofs gives R_Y and the true score, and a
    meta-verifier weighs R_Z by the quality of the analysis; here the verifier of final answers gives both, and every
    analysis counts. The own score takes the place of the self-reward in votes and metrics; where a response has none,
    or is truncated, that is 0.

    In evaluation a solution whose own score is below 1 may be written anew (``self_evaluation.refinements``).
    What all attempts of a solution cost is in its length.

    Args:
        self_evaluation: the form of responses, and how often they are refined.
        laser: those of LaSeRModule; ``self_reward.loss_weight`` must be 0.
    """

    method = "DeepSeekMath-V2's generator"
    sampler: SelfEvaluatingSampler

    def __init__(self, self_evaluation: SelfEvaluation = SelfEvaluation(), **laser: Any) -> None:
        super().__init__(**laser)
        self.self_evaluation = self_evaluation

    def make_sampler(self) -> SelfEvaluatingSampler:
        """What draws responses, and reads their own scores."""
        return SelfEvaluatingSampler(**vars(super().make_sampler()), self_evaluation=self.self_evaluation)

    def solve(
        self, problems: list[Problem], samples: int, sampling: Sampling, generator: torch.Generator
    ) -> Rollout | None:
        """The solutions of an evaluation batch, refined; kept ones are final."""
        rollout = super().solve(problems, samples, sampling, generator)
        for _ in range(0 if self.engine.replays else self.self_evaluation.refinements):
            self.sampler.refine(rollout, sampling, generator)
        return rollout

    def step_values(
        self, log: TrainingLog, step: SampledStep, phase: Phase, advantages: Advantages
    ) -> dict[str, float | Tensor]:
        """What the step sampled, and how many of the responses have the form."""
        rows = list(zip(step.sampled.texts, step.sampled.rollouts.finished.tolist(), strict=True))
        have_form = [ended and self.self_evaluation.is_written(text) for text, ended in rows]
        counts = torch.tensor([float(sum(have_form)), float(len(rows))], dtype=torch.float64, device=self.device)
        formed, number = self.ranks.sum(counts).tolist()
        return super().step_values(log, step, phase, advantages) | {
            "train/self_evaluation/format_rate": formed / number
        }

    def judgement_settings(self) -> dict[str, Any]:
        """The form of responses, and how often they are refined."""
        return super().judgement_settings() | {"self_evaluation": asdict(self.self_evaluation)}
