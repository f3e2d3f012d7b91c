"""The verifier that asks a language model for a grade."""

import re
from collections.abc import Mapping
from typing import Any

from laser_lightning.verifiers.base import Submission, Verification, Verifier, column
from laser_lightning.verifiers.endpoint import ChatEndpoint
from laser_lightning.verifiers.last_line import LastLineAnswers

_PLACE = re.compile(r"\{([A-Za-z_][\w.-]*)\}")
_OWN_PLACES = ("problem", "prompt", "response", "gold")

QUESTION = """\
You grade a solution to a problem. Compare its final answer with the reference answer.

Problem:
{problem}

Reference answer:
{gold}

Solution:
{response}

Say in one sentence whether the final answer of the solution agrees with the reference answer. Then end with a line of \
the form "Score: 1" if it does, or "Score: 0" if it does not.
"""


class JudgeVerifier(LastLineAnswers, Verifier):
    r"""Rewards responses by the grade that a language model gives, behind an OpenAI-compatible endpoint.

    The model is asked once for each response, and the last match of `pattern` in its reply is the grade; the reward is
    the grade divided by `best`. An endpoint that cannot be reached, or replies without a grade from 0 to `best`, is
    asked again; in the end the verifier fails on that response. For voting, a response's answer is its last line that
    is not empty.

    A judge waits more than it computes: give it many processes (`verification.workers: 16`). Its own time limits come
    on top of `verification.timeout_seconds`.

    Args:
        url: Base of the endpoint, up to and with `/v1`, such as `http://localhost:8000/v1`.
        model: Name of the model there.
        question: What is asked, with `{problem}`, `{prompt}`, `{response}`, `{gold}`, and columns of the row in braces.
        pattern: Regular expression with one group that finds the grade in a reply.
        best: The best grade, which has reward 1; the worst is 0.
        seconds: Time limit of one attempt.
        retries: Attempts after the first one.
        max_tokens: Length limit of a reply, in the model's tokens.
        temperature: Of the reply.
        api_key_variable: Name of the environment variable that holds the endpoint's key, such as `OPENAI_API_KEY`.
            Default: no key is sent.
        cache: Folder where replies are kept, so that the same question is asked once by all processes and runs.
            Default: each process keeps its own in memory.

    Raises:
        ValueError: If a limit or the pattern cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str,
        question: str = QUESTION,
        pattern: str = r"(?i)\bscore:\W*(\d+(?:\.\d+)?)",
        best: float = 1.0,
        seconds: float = 30.0,
        retries: int = 3,
        max_tokens: int = 512,
        temperature: float = 0.0,
        api_key_variable: str | None = None,
        cache: str | None = None,
    ) -> None:
        if not re.match(r"https?://", url):
            raise ValueError(f"`url` must begin with http:// or https://, and is {url!r}.")
        if "{response}" not in question:
            raise ValueError("`question` has no {response}: write it where the response belongs.")
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"`pattern` is not a regular expression: {pattern!r}: {error}.") from error
        if groups != 1:
            raise ValueError(f"`pattern` must have exactly one group, around the grade, but {pattern!r} has {groups}.")
        if not (best > 0 and seconds > 0 and retries >= 0 and max_tokens > 0):
            raise ValueError("`best`, `seconds` and `max_tokens` must be more than 0, and `retries` 0 or more.")
        self.url, self.model, self.question, self.pattern, self.best = url, model, question, pattern, best
        self.parameters = {"max_tokens": max_tokens, "temperature": temperature}
        self._endpoint = ChatEndpoint(url, model, seconds, retries, api_key_variable, cache, self.parameters)

    @property
    def own_seconds(self) -> float:
        """The longest that all attempts together take."""
        return self._endpoint.longest_seconds

    def verify(self, submission: Submission) -> Verification:
        """Asks for a grade.

        Args:
            submission: What the question shows.

        Returns:
            The grade divided by `best`, and the last line of the response.

        Raises:
            EndpointError: If there is no usable reply in the end.
            ValueError: If the question names a column that the row lacks.
        """

        def shown(place: re.Match[str]) -> str:
            name = place[1]
            return str(getattr(submission, name) if name in _OWN_PLACES else submission.column(name))

        # In one pass: braces in a response are no places.
        reply = self._endpoint.ask(_PLACE.sub(shown, self.question), lambda text: self._grade(text) is not None)
        grade = self._grade(reply)
        assert grade is not None
        return Verification(grade / self.best, self.extract(submission.response))

    def _grade(self, reply: str) -> float | None:
        """The last grade in a reply; None if there is none from 0 to the best."""
        found = re.findall(self.pattern, reply)
        try:
            grade = float(found[-1]) if found else None
        except ValueError:
            return None
        return grade if grade is not None and 0 <= grade <= self.best else None

    def check_gold(self, gold: str) -> None:
        """Refuses an empty gold answer that the question would show, and accepts any other one.

        Args:
            gold: The gold answer.

        Raises:
            ValueError: If the question shows a gold answer, and it is empty.
        """
        if "{gold}" in self.question:
            super().check_gold(gold)

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuses a row that lacks a column of the question.

        Args:
            row: All columns of the problem's row in the source.

        Raises:
            ValueError: If it lacks one.
        """
        for name in _PLACE.findall(self.question):
            if name not in _OWN_PLACES:
                column(row, name)
