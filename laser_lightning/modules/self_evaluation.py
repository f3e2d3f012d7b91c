"""The form of a response that ends in the policy's own evaluation of it, and how it is asked to do better."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from laser_lightning.data.templates import PromptTemplate
from laser_lightning.errors import UserError
from laser_lightning.modules.patterns import compile_pattern
from laser_lightning.modules.verification_prompts import check_places, fill_places


class EvaluatedSolution(NamedTuple):
    """A response, read.

    Attributes:
        solution: what the verifier is asked about.
        score: the policy's own, 0 to 1; None where the response does not have the form.
    """

    solution: str
    score: float | None


def _rubric() -> dict[str, float]:
    return {"0": 0.0, "0.5": 0.5, "1": 1.0}


@dataclass(frozen=True)
class SelfEvaluation:
    r"""A solution with its evaluation in one response (DeepSeekMath-V2, arXiv 2511.22570, section 2.2, appendix A.1).

    The defaults are the paper's form, of which ``data.template`` must tell the model. A response has it if it begins
    with ``opening``, has one ``separator``, and its score stands at its end.

    Args:
        opening: what a response begins with; empty for nothing in particular.
        separator: what stands between solution and evaluation.
        score_pattern: regular expression with one group, the score; its last match in the evaluation counts.
        scores: what the group may hold, with the number that it stands for, 0 to 1.
        score_weight: share of the reward that is for the right score.
        default_score: what a response without ``separator`` scores itself; null, as in the paper, for nothing: it does
            not have the form. With a number a model that does not know the form yet learns to solve meanwhile.
        refinements: how often, in evaluation, a solution that the policy does not give the score 1 is written anew;
            a truncated one has no score.
        refinement_template: the prompt of that, with ``{problem}`` and ``{response}`` where the problem and the whole
            last response belong. (The paper's own wording is not taken over.)
        chat: put that prompt into the tokenizer's chat template, as the user's message.
        system: system message, if not empty; only with ``chat``.
    """

    opening: str = "## Solution"
    separator: str = "## Self Evaluation"
    score_pattern: str = r"Based on my evaluation, the final overall score should be:\s*\\boxed\{([^{}]*)\}\s*$"
    scores: dict[str, float] = field(default_factory=_rubric)
    score_weight: float = 0.24
    default_score: float | None = None
    refinements: int = 0
    refinement_template: str = (
        "## Problem\n{problem}\n\nBelow is your last response, a solution with your own evaluation of it. Resolve the "
        "issues that the evaluation found, or choose another approach, and respond in the same format.\n\n{response}"
    )
    chat: bool = False
    system: str = ""

    def __post_init__(self) -> None:
        if not self.separator:
            raise UserError("self_evaluation.separator is empty: write what stands between solution and evaluation.")
        compile_pattern("self_evaluation.score_pattern", self.score_pattern, finds="the score")
        if not self.scores or not all(0 <= score <= 1 for score in self.scores.values()):
            raise UserError(f"self_evaluation.scores is {self.scores}: give texts with numbers from 0 to 1.")
        if not 0 <= self.score_weight <= 1:
            raise UserError(f"self_evaluation.score_weight is {self.score_weight}, and must be between 0 and 1.")
        if self.default_score is not None and not 0 <= self.default_score <= 1:
            raise UserError(f"self_evaluation.default_score is {self.default_score}, and must be between 0 and 1.")
        if self.refinements < 0:
            raise UserError(f"self_evaluation.refinements is {self.refinements}, and must be 0 or more.")
        check_places("self_evaluation.refinement_template", self.refinement_template)
        if self.system and not self.chat:
            raise UserError("self_evaluation.system is set, but self_evaluation.chat is not: set chat: true.")

    def read(self, response: str) -> EvaluatedSolution:
        """Tell solution and score apart.

        Args:
            response: as text.
        """
        written, _, evaluation = response.partition(self.separator)
        opened = written.lstrip().startswith(self.opening)
        solution = written.lstrip().removeprefix(self.opening) if self.opening and opened else written
        if self.separator not in response:
            return EvaluatedSolution(solution, self.default_score)
        found = re.findall(self.score_pattern, evaluation)
        has_form = opened and bool(found) and self.separator not in evaluation
        return EvaluatedSolution(solution, self.scores.get(found[-1]) if has_form else None)

    def is_written(self, response: str) -> bool:
        """Whether a response has an own score that the policy wrote.

        Args:
            response: as text.
        """
        return self.separator in response and self.read(response).score is not None

    def reward(self, response: str, outcome: float, correctness: float) -> float:
        """What a response is worth: R_format ((1 - w) R_Y + w (1 - abs(own score - true score))).

        The paper's R_Z is multiplied by a meta-verifier's score of the evaluation, which is 1 here: the true score of a
        checkable answer needs no analysis.

        Args:
            response: as text.
            outcome: R_Y, the verifier's reward of the solution.
            correctness: the solution's true score, 0 to 1.
        """
        score = self.read(response).score
        if score is None:
            return 0.0
        return (1 - self.score_weight) * outcome + self.score_weight * (1 - abs(score - correctness))

    def encode_refinement(self, problem: str, response: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The token ids of the prompt that asks for a better response.

        Args:
            problem: as text.
            response: the last one, as text.
            tokenizer: the policy's.
        """
        filled = fill_places(self.refinement_template, problem, response)
        return PromptTemplate(chat=self.chat, system=self.system).encode(filled, tokenizer)[1]
