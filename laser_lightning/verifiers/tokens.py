"""The tokens of a LaTeX expression."""

import re

from laser_lightning.verifiers.functions import GREEK, UnreadableError

_TOKEN = re.compile(
    r"\s+|\\(?:begin|end)\s*\{[A-Za-z]+\*?\}|\\(?:math(?:rm|bf|it|sf)|text(?:rm|bf|it)?|mbox|boldsymbol|vec|hat|mathbb)"
    r"\s*\{\s*\\?[A-Za-z]+\s*\}|\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\.\d+|.",
    re.DOTALL,
)


class Tokens:
    """Tokens of one text, and a place among them."""

    def __init__(self, text: str) -> None:
        self.tokens = [token for token in _TOKEN.findall(text) if not token.isspace()]
        self.at = 0

    @property
    def token(self) -> str:
        """The token at the place; empty at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        """Takes a token; raises `UnreadableError` if there is none, or another than expected."""
        token = self.token
        if not token or (expected and token != expected):
            raise UnreadableError
        self.at += 1
        return token

    def raw(self) -> str:
        """The text of a group or token, for subscripts."""
        token = self.take()
        if token != "{":
            if not (token.isalnum() or token in GREEK):
                raise UnreadableError
            return token
        taken, depth = "", 1
        while depth:
            token = self.take()
            depth += (token == "{") - (token == "}")
            taken += token if depth else ""
        return taken
