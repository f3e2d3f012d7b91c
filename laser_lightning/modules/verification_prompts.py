"""The question whether a solution is correct, as text, and the verdict in the model's response to it."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from laser_lightning.data.problem import Problem
from laser_lightning.data.prompts import check_vocabulary
from laser_lightning.data.templates import PromptTemplate
from laser_lightning.errors import UserError
from laser_lightning.modules.patterns import compile_pattern
from laser_lightning.shapes import Int

_PROBLEM, _RESPONSE = "{problem}", "{response}"


def check_places(key: str, template: str) -> None:
    """Refuse a template that does not show the policy a problem and its response to it.

    Args:
        key: of the template in a config.
        template: with ``{problem}`` and ``{response}``.

    Raises:
        UserError: one of them is missing.
    """
    for place in (_PROBLEM, _RESPONSE):
        if place not in template:
            raise UserError(f"{key} '{template}' has no {place}: write it where the {place.strip('{}')} belongs.")


def fill_places(template: str, problem: str, response: str) -> str:
    """Put a problem and a response into a template; other braces are left alone.

    Args:
        template: with ``{problem}`` and ``{response}``.
        problem: as text.
        response: as text.
    """
    texts = {_PROBLEM: problem, _RESPONSE: response}
    # In one go: a problem may contain the other place's name.
    return re.sub(r"\{problem\}|\{response\}", lambda match: texts[match[0]], template)


@dataclass(frozen=True)
class VerificationPrompts:
    r"""How a policy is asked to verify its own solutions, and how its verdict is read (RISE, arXiv 2505.13445).

    Args:
        template: the prompt, with ``{problem}`` and ``{response}`` in the places of both; other braces are left alone.
        verdict_pattern: regular expression with one group, the verdict; its first match in a verification counts.
        correct_verdict: what the group holds when the policy finds the solution correct.
        incorrect_verdict: what it holds when it finds it incorrect.
        max_response_tokens: length limit of a verification. One that is cut there counts if it has a verdict.
        chat: put the prompt into the tokenizer's chat template, as the user's message.
        system: system message, if not empty; only with ``chat``.
        share: share of a training step's problems whose solutions are verified and trained on, drawn anew in each
            step; at least one problem of each process.
        samples: verifications of each solution, in training and evaluation; the share of them that find it correct is
            its score.
    """

    template: str = (
        "Problem:\n{problem}\n\nProposed solution:\n{response}\n\n"
        "Is the final answer of the proposed solution correct? Check it step by step, then write \\boxed{1} if it is "
        "correct, or \\boxed{0} if it is not."
    )
    verdict_pattern: str = r"\\boxed\{([01])\}"
    correct_verdict: str = "1"
    incorrect_verdict: str = "0"
    max_response_tokens: int = 1024
    chat: bool = False
    system: str = ""
    share: float = 1.0
    samples: int = 1

    def __post_init__(self) -> None:
        check_places("verification_prompts.template", self.template)
        compile_pattern("verification_prompts.verdict_pattern", self.verdict_pattern, finds="the verdict")
        if self.correct_verdict == self.incorrect_verdict:
            raise UserError(
                f"verification_prompts.correct_verdict and incorrect_verdict are both '{self.correct_verdict}': "
                "give them different texts."
            )
        if self.max_response_tokens < 1:
            raise UserError(
                f"verification_prompts.max_response_tokens is {self.max_response_tokens}, and must be at least 1."
            )
        if not 0 < self.share <= 1:
            raise UserError(f"verification_prompts.share is {self.share}, and must be above 0 and at most 1.")
        if self.samples < 1:
            raise UserError(f"verification_prompts.samples is {self.samples}, and must be at least 1.")
        if self.system and not self.chat:
            raise UserError("verification_prompts.system is set, but verification_prompts.chat is not: set chat: true.")

    def choose(self, problems: int, generator: torch.Generator) -> Int[Tensor, " M"]:
        """[M] problems of a step, in their order, whose solutions are verified: a share of them.

        Args:
            problems: of the step.
            generator: the source of randomness, on the policy's device; not asked where all are verified.
        """
        if self.share == 1:
            return torch.arange(problems, device=generator.device)
        order = torch.randperm(problems, generator=generator, device=generator.device)
        return order[: max(1, round(self.share * problems))].sort().values

    def encode(self, problem: str, response: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The token ids of the prompt that asks about one solution.

        Args:
            problem: its problem, as text.
            response: the solution, as text.
            tokenizer: the policy's.

        Raises:
            UserError: ``chat`` is set, and the tokenizer has no chat template.
        """
        filled = fill_places(self.template, problem, response)
        return PromptTemplate(chat=self.chat, system=self.system).encode(filled, tokenizer)[1]

    def question(
        self, problem: Problem, response: str, tokenizer: PreTrainedTokenizerBase, vocabulary_size: int
    ) -> list[int]:
        """The token ids of the prompt that asks a policy about its solution.

        Args:
            problem: what was to be solved.
            response: the solution, as text.
            tokenizer: the policy's.
            vocabulary_size: rows that it has.

        Raises:
            UserError: the policy has no rows for some of the tokens.
        """
        ids = self.encode(problem.problem, response, tokenizer)
        where = f"The verification prompt of row {problem.index} of the set '{problem.dataset}'"
        check_vocabulary(ids, tokenizer, vocabulary_size, where)
        return ids

    def verdict(self, verification: str) -> bool | None:
        """Whether a verification finds its solution correct; None if it has no verdict."""
        match = re.search(self.verdict_pattern, verification)
        if match is None or match[1] not in (self.correct_verdict, self.incorrect_verdict):
            return None
        return match[1] == self.correct_verdict
