r"""Reading of LaTeX expressions into sympy: all of a text, or nothing of it.

Letters keep their case, `e`, `i` and `\pi` are the constants, an argument of a function in degrees is converted. What
has more than one reading (`1/2x`, a number with a base, a word) is not read.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import sympy
from sympy import E, I, Rational, Symbol, pi

from laser_lightning.verifiers.calculus import read_calculus
from laser_lightning.verifiers.functions import (
    FUNCTIONS,
    GREEK,
    INVERSES,
    LARGEST_FACTORIAL,
    LETTERS,
    NAMES_OF_FUNCTIONS,
    OPENERS,
    SEVERAL,
    SYMPY_ERRORS,
    TIMES,
    UnreadableError,
    factorial,
    power,
    root,
)
from laser_lightning.verifiers.tokens import Tokens

_STYLED = re.compile(r"\\(?!begin|end)([a-z]+)\s*\{\s*(\\?[A-Za-z]+)\s*\}")
_CALCULUS = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")
_VECTORS = set("ijke")
_DEEPEST = 60


class Expression(NamedTuple):
    """What a text says.

    Attributes:
        value: The sympy expression.
        decimal: Whether it is written with a decimal point, and so may be rounded.
    """

    value: Any
    decimal: bool


@lru_cache(maxsize=512)
def read_expression(text: str) -> Expression | None:
    """Reads a LaTeX expression.

    Args:
        text: A cleaned answer.

    Returns:
        The expression; None if it cannot be read.
    """
    try:
        value = read_calculus(text) if _CALCULUS.search(text) else _Reader(text).read()
    except (UnreadableError, *SYMPY_ERRORS):
        return None
    if getattr(value, "has", None) and value.has(sympy.nan, sympy.zoo):
        return None
    return Expression(value, re.search(r"\d\.\d|\.\d", text) is not None)


class _Reader(Tokens):
    """A recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.bars = 0
        self.in_function = 0

    def read(self) -> Any:
        value = self.sum()
        if self.at < len(self.tokens):
            raise UnreadableError
        return value

    def sum(self) -> Any:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadableError
        value = self.product()
        while self.token in ("+", "-"):
            sign = self.take()
            term = self.product()
            value = value + term if sign == "+" else value - term
        self.depth -= 1
        return value

    def product(self) -> Any:
        if self.token in ("+", "-"):
            sign = self.take()
            value = self.product()
            return value if sign == "+" else -value
        value, divided = self.factor(), False
        while True:
            if self.token in TIMES:
                self.take()
                value = value * (self.signed_factor())
                divided = False
            elif self.token in ("/", "\\div", "÷"):
                if divided:
                    raise UnreadableError
                self.take()
                value = value / self.signed_factor()
                divided = True
            elif self.starts_factor():
                # `1/2x` is half of x to some and one over 2x to others.
                if divided or (self.token[0] in "0123456789." and not self.follows_bracket_or_is_power()):
                    raise UnreadableError
                value = self.juxtaposed(value)
            else:
                return value

    def follows_bracket_or_is_power(self) -> bool:
        """A number behind a factor multiplies it in `(n-2) 2^n` and `n2^{n-1}`, not in `x2` and `2 3`."""
        before = self.tokens[self.at - 1]
        return before in (")", "]") or (before.isalpha() and self.tokens[self.at + 1 : self.at + 2] == ["^"])

    def juxtaposed(self, value: Any) -> Any:
        """`2x` is a product, `1\\frac{4}{5}` a mixed number."""
        before, is_fraction = self.tokens[self.at - 1], self.token == "\\frac"
        factor = self.factor()
        if is_fraction and before.isdigit() and factor.is_Rational:
            if value != int(before) or not 0 < factor < 1:
                raise UnreadableError
            return value + factor
        return value * factor

    def signed_factor(self) -> Any:
        if self.token == "-":
            self.take()
            return -self.factor()
        return self.factor()

    def starts_factor(self) -> bool:
        token = self.token
        if token == "|":
            return self.bars == 0
        if token == "√" or token.isalnum() or token in OPENERS or token.startswith("."):
            return token.isascii() or token in LETTERS or token in "π√"
        return token[:1] == "\\" and (
            token in GREEK
            or token in ("\\frac", "\\sqrt", "\\pi", "\\binom", "\\infty", "\\log", "\\operatorname")
            or token[1:] in FUNCTIONS
            or token[1:] in SEVERAL
            or token.startswith(("\\begin",))
            or _STYLED.fullmatch(token) is not None
        )

    def factor(self) -> Any:
        value = self.atom()
        while True:
            if self.token == "^":
                self.take()
                if self.is_degree():
                    value = value * pi / 180 if self.in_function else value
                else:
                    value = power(value, self.exponent())
            elif self.token == "!":
                self.take()
                value = factorial(value)
            elif self.token in ("%", "\\%"):
                self.take()
                value = value / 100
            else:
                return value

    def is_degree(self) -> bool:
        for degree in (["\\circ"], ["{", "\\circ", "}"]):
            if self.tokens[self.at : self.at + len(degree)] == degree:
                self.at += len(degree)
                if not self.in_function and self.at < len(self.tokens) and self.token not in ("}", ")", "+", "-"):
                    raise UnreadableError
                return True
        return False

    def exponent(self) -> Any:
        if self.token == "-":
            self.take()
            return -self.exponent()
        within, self.in_function = self.in_function, 0
        value = self.atom()
        self.in_function = within
        return value

    def argument(self) -> Any:
        """An argument of a command as TeX takes it: a group, a command with its arguments, a letter, one digit."""
        token = self.token
        if token.isdigit() and len(token) > 1:
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        elif token[:1].isdigit() and "." in token:
            raise UnreadableError
        return self.atom()

    def atom(self) -> Any:
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            if self.token == "_":
                raise UnreadableError
            return Rational(token)
        if token in OPENERS:
            return self.group(token)
        if token == "|":
            if self.bars:
                raise UnreadableError
            self.bars = 1
            value = self.sum()
            self.take("|")
            self.bars = 0
            return sympy.Abs(value)
        if token[0] == "\\" and len(token) > 1:
            return self.command(token)
        if token in LETTERS:
            return self.symbol(LETTERS[token])
        if token in ("π", "∞", "√"):
            return pi if token == "π" else sympy.oo if token == "∞" else sympy.sqrt(self.atom())
        if token.isalpha() and token.isascii():
            return self.letter(token)
        raise UnreadableError

    def group(self, opener: str) -> Any:
        bars, self.bars = self.bars, 0
        value = self.sum()
        if opener == "{" and self.token == "\\over":
            self.take()
            value = value / self.sum()
        self.take(OPENERS[opener])
        self.bars = bars
        if opener == "\\lfloor":
            return sympy.floor(value)
        if opener == "\\lceil":
            return sympy.ceiling(value)
        return sympy.Abs(value) if opener == "\\lvert" else value

    def letter(self, name: str) -> Any:
        if name in ("e", "i") and self.token != "_":
            return E if name == "e" else I
        if name in NAMES_OF_FUNCTIONS and self.token == "(":
            self.take()
            arguments = [self.sum()]
            while self.token == ",":
                self.take()
                arguments.append(self.sum())
            self.take(")")
            return sympy.Function(name)(*arguments)
        return self.symbol(name)

    def symbol(self, name: str) -> Any:
        if self.token == "_":
            self.take()
            name += "_" + self.raw()
        if self.token in ("'", "\\prime") or self.tokens[self.at : self.at + 2] == ["^", "\\prime"]:
            raise UnreadableError
        return Symbol(name, real=True)

    def command(self, token: str) -> Any:
        name = token[1:]
        if token in GREEK:
            return self.symbol(GREEK[token])
        if name == "frac":
            top = self.argument()
            return top / self.argument()
        if name == "binom":
            top, bottom = self.argument(), self.argument()
            if max((abs(part) for part in (top, bottom) if part.is_number), default=0) > LARGEST_FACTORIAL:
                raise UnreadableError
            return sympy.binomial(top, bottom)
        if name == "sqrt":
            index = 2
            if self.token == "[":
                self.take()
                index = self.sum()
                self.take("]")
            return root(self.argument(), index)
        if name in ("pi", "infty"):
            return pi if name == "pi" else sympy.oo
        if name == "operatorname":
            name = self.raw()
        if name == "log":
            return self.logarithm()
        if name in FUNCTIONS:
            return self.function(name)
        if name in SEVERAL:
            return SEVERAL[name](*self.several())
        if token.startswith("\\begin"):
            return self.matrix(token)
        if (styled := _STYLED.fullmatch(token)) is not None:
            return self.styled(*styled.groups())
        raise UnreadableError

    def styled(self, style: str, content: str) -> Any:
        if content in ("\\pi", "pi") and style.startswith("math"):
            return pi
        if content.removeprefix("\\") in FUNCTIONS or content.removeprefix("\\") == "log":
            return self.command("\\" + content.removeprefix("\\"))
        if len(content) != 1:
            raise UnreadableError
        if style in ("vec", "hat", "mathbb") or (style in ("mathbf", "textbf", "boldsymbol") and content in _VECTORS):
            return self.symbol(f"{style if style in ('hat', 'vec', 'mathbb') else 'bold'} {content}")
        return self.letter(content)

    def logarithm(self) -> Any:
        if self.token != "_":
            return self.apply(lambda x: sympy.log(x, 10))
        self.take()
        base = self.argument()
        return self.apply(lambda x: sympy.log(x, base))

    def function(self, name: str) -> Any:
        exponent: Any = 1
        if self.token == "^":
            self.take()
            exponent = self.exponent()
            if exponent == -1:
                if name not in INVERSES:
                    raise UnreadableError
                return self.apply(getattr(sympy, INVERSES[name]))
        return self.apply(FUNCTIONS[name]) ** exponent

    def apply(self, function: Callable[..., Any]) -> Any:
        exponent: Any = 1
        if self.token == "^":
            self.take()
            exponent = self.exponent()
        self.in_function += 1
        if self.token in ("(", "[", "{", "|", "\\lvert"):
            inner = self.factor() if self.token in ("{", "|", "\\lvert") else self.group(self.take())
            if self.token == "^" and self.tokens[self.at - 1] in (")", "]"):
                raise UnreadableError  # \sin(x)^2
        else:
            inner = -self.factor() if self.token == "-" and self.take() else self.factor()
            while self.starts_factor() and not self.is_function():
                inner = self.juxtaposed(inner)
            if self.token == "/":
                raise UnreadableError  # \sin x/2
        self.in_function -= 1
        return function(inner) ** exponent

    def is_function(self) -> bool:
        return self.token[:1] == "\\" and (self.token[1:] in FUNCTIONS or self.token in ("\\log", "\\operatorname"))

    def several(self) -> list[Any]:
        closer = OPENERS[self.take()]
        values = [self.sum()]
        while self.token == ",":
            self.take()
            values.append(self.sum())
        self.take(closer)
        return values

    def matrix(self, token: str) -> Any:
        kind = token[token.index("{") + 1 : -1]
        if kind not in ("pmatrix", "bmatrix", "vmatrix", "matrix", "array", "smallmatrix"):
            raise UnreadableError
        if kind == "array":
            self.take("{")
            self.at -= 1
            self.take()
            while self.take() != "}":
                pass
        rows = [[self.sum()]]
        end = f"\\end{{{kind}}}"
        while "".join(self.token.split()) != end:
            if self.token == "&":
                self.take()
                rows[-1].append(self.sum())
            else:
                self.take("\\\\")
                if "".join(self.token.split()) != end:
                    rows.append([self.sum()])
        self.take()
        value = sympy.ImmutableMatrix(rows)
        return value.det() if kind == "vmatrix" else value
