"""The form of a response in which solutions and verifications take turns."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from laser_lightning.errors import UserError
from laser_lightning.modules.patterns import compile_pattern


class Message(NamedTuple):
    """A turn of a response.

    Attributes:
        start: where it begins in the response, in characters.
        end: where it ends.
        verdict: of a verification, whether it finds the solution in front of it correct; None for a solution.
    """

    start: int
    end: int
    verdict: bool | None = None


@dataclass(frozen=True)
class SelfCorrection:
    r"""Solutions with verifications between them, in one response (SPOC, arXiv 2506.06923, section 3.1, appendix E).

    The defaults are the paper's form, of which ``data.template`` must tell the model. What stands in front of a
    verification, from the last one on, is a solution. The first verification that finds its solution correct ends the
    response: what the policy writes behind it does not count, and is not trained on. So does a verification that stands
    behind another one without a solution between them: right verdicts on nothing would be rewards for nothing.

    Args:
        verification_pattern: regular expression of a whole verification with one group, its verdict; ``.`` matches
            line breaks too.
        correct_verdict: what the group holds when the policy finds the solution correct; anything else is "incorrect".
    """

    verification_pattern: str = (
        r"<reflection>(?:(?!<reflection>).)*?Verification: Is the previous solution correct\? (Yes|No)\s*</reflection>"
    )
    correct_verdict: str = "Yes"

    def __post_init__(self) -> None:
        key = "self_correction.verification_pattern"
        pattern = compile_pattern(key, self.verification_pattern, finds="the verdict", flags=re.DOTALL)
        if pattern.fullmatch(""):
            raise UserError(
                f"{key} '{self.verification_pattern}' matches where nothing is written: "
                "let it match a whole verification."
            )

    def read(self, response: str) -> list[Message]:
        """The messages of a response in their order, up to the verification that ends it; the first is a solution.

        Args:
            response: as text.
        """
        messages: list[Message] = []
        place, accepts = 0, False
        for found in re.finditer(self.verification_pattern, response, re.DOTALL):
            if messages and not response[place : found.start()].strip():
                return messages  # nothing is verified: the solution in front of both stands
            accepts = found[1] == self.correct_verdict
            messages += [Message(place, found.start()), Message(found.start(), found.end(), accepts)]
            place = found.end()
            if accepts:
                break
        if messages and not response[place:].strip():  # what ends a line or the response belongs to what it ends
            messages[-1] = messages[-1]._replace(end=len(response))
        elif not accepts:
            messages.append(Message(place, len(response)))
        return messages

    def solution(self, response: str) -> str:
        """The last solution that counts.

        Args:
            response: as text.
        """
        last = [message for message in self.read(response) if message.verdict is None][-1]
        return response[last.start : last.end]

    def accepts(self, response: str) -> bool:
        """Whether a response ends in a verification that finds its solution correct.

        Args:
            response: as text.
        """
        return bool(self.read(response)[-1].verdict)
