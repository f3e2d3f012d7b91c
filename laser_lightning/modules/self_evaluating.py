"""DeepSeekMath-V2's generator (arXiv 2511.22570) for checkable answers: solution and own evaluation in one response."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.module import PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.data.prompts import check_vocabulary
from laser_lightning.modules.self_evaluating_sampler import SelfEvaluatingSampler, refuse_long_refinements
from laser_lightning.modules.self_evaluation import SelfEvaluation
from laser_lightning.modules.training_log import TrainingLog
from laser_lightning.modules.written_judgement import WrittenJudgement
from laser_lightning.objective.advantages import Advantages
from laser_lightning.objective.phases import Phase
from laser_lightning.records.rollout import Rollout, SampledStep
from laser_lightning.rollout import Sampling


class SelfEvaluatingModule(WrittenJudgement):
    """Trains a policy that writes a solution and then, in the same response, scores it itself.

    DeepSeekMath-V2's generator (arXiv 2511.22570, section 2.2): R = R_format (0.76 R_Y + 0.24 R_Z), with
    R_Z = 1 - abs(own score - true score). There a trained verifier of proofs gives R_Y and the true score, and a
    meta-verifier weighs R_Z by the quality of the analysis; here the verifier of final answers gives both, and every
    analysis counts. The own score takes the place of the self-reward in votes and metrics; where a response has none,
    or is truncated, that is 0.

    In evaluation a solution whose own score is below 1, as that of a truncated one is, may be written anew
    (``self_evaluation.refinements``). What all attempts of a solution cost is in its length; the last one that was not
    cut counts.

    Args:
        self_evaluation: the form of responses, and how often they are refined.
        laser: those of LaSeRModule; ``self_reward.loss_weight`` must be 0, and ``policy_loss`` use advantages.
    """

    method = "DeepSeekMath-V2's generator"
    sampler: SelfEvaluatingSampler

    def __init__(self, self_evaluation: SelfEvaluation = SelfEvaluation(), **laser: Any) -> None:
        super().__init__(**laser)
        self.self_evaluation = self_evaluation

    def make_sampler(self) -> SelfEvaluatingSampler:
        """What draws responses, and reads their own scores."""
        return SelfEvaluatingSampler(**vars(super().make_sampler()), self_evaluation=self.self_evaluation)

    def check_data(self, data: PromptDataModule) -> None:
        """Refuse prompts, and those of refinements, with tokens that the model has no rows for, or with too many."""
        super().check_data(data)
        if self.self_evaluation.refinements == 0:
            return
        limit = self.evaluator.sampling.max_response_tokens
        for problem in (problem for problems in data.evaluation_problems.values() for problem in problems):
            ids = self.self_evaluation.encode_refinement(problem.problem, "", self.tokenizer)
            what = f"The refinement prompt of row {problem.index} of the set '{problem.dataset}'"
            check_vocabulary(ids, self.tokenizer, self.policy.vocabulary_size, what)
            refuse_long_refinements(f"{what} can have", len(ids) + limit, limit, self.policy.positions)

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
