"""Where in a response its answer stands, so that the reference answer can be put there."""

import re
from dataclasses import dataclass

from laser_lightning.errors import UserError
from laser_lightning.modules.patterns import compile_pattern


@dataclass(frozen=True)
class ReferenceAnswer:
    r"""How a reference answer takes the place of a response's own (RLPR, arXiv 2506.18254).

    The defaults are the authors' form, of which ``data.template`` must tell the model.

    Args:
        answer_pattern: regular expression with one group, the answer, which must match once in a response; in both
            ``.`` matches line breaks too.
        format_pattern: regular expression that a whole response in the right format matches.
        direct: what stands between the prompt and the reference answer where there is no reasoning.
        format_weight: share of the reward that is for the format.
    """

    answer_pattern: str = r"<answer>\s*(.*?)\s*</answer>"
    format_pattern: str = r"<think>.*</think>.*<answer>.*</answer>.*"
    direct: str = " "
    format_weight: float = 0.1

    def __post_init__(self) -> None:
        compile_pattern("reference_answer.answer_pattern", self.answer_pattern, finds="the answer", flags=re.DOTALL)
        compile_pattern("reference_answer.format_pattern", self.format_pattern, flags=re.DOTALL)
        if not 0 <= self.format_weight <= 1:
            raise UserError(f"reference_answer.format_weight is {self.format_weight}, and must be between 0 and 1.")

    def place(self, response: str) -> int | None:
        """Where the answer of a response begins, in characters; None where it has none, or several.

        Args:
            response: as text.
        """
        found = list(re.finditer(self.answer_pattern, response, re.DOTALL))
        return found[0].start(1) if len(found) == 1 else None

    def has_format(self, response: str) -> bool:
        """Whether a response is in the right format, with one answer.

        Args:
            response: as text.
        """
        whole = re.fullmatch(self.format_pattern, response, re.DOTALL)
        return whole is not None and self.place(response) is not None
