"""Names and functions of LaTeX expressions, and operations that stay small enough to compute."""

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Rational
from sympy.polys.polyerrors import BasePolynomialError

LARGEST_FACTORIAL = 10_000
_MOST_BITS = 200_000
_MOST_TERMS = 1000

_GREEK = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi
varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega Pi Upsilon ell hbar
"""
GREEK = {f"\\{name}": name for name in _GREEK.split()}
LETTERS = {"α": "alpha", "β": "beta", "θ": "theta", "φ": "phi", "λ": "lambda", "μ": "mu", "ω": "omega"}
_TRIGONOMETRIC = {"sin": "asin", "cos": "acos", "tan": "atan", "cot": "acot", "sec": "asec", "csc": "acsc"}
_HYPERBOLIC = {"sinh": "asinh", "cosh": "acosh", "tanh": "atanh", "coth": "acoth"}
INVERSES = _TRIGONOMETRIC | _HYPERBOLIC
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(sympy, name) for name in INVERSES},
    **{f"arc{name}": getattr(sympy, f"a{name}") for name in INVERSES},
    "ln": sympy.log,
    "lg": lambda x: sympy.log(x, 10),
    "exp": sympy.exp,
}
SEVERAL = {"max": sympy.Max, "min": sympy.Min, "gcd": sympy.gcd, "lcm": sympy.lcm}
OPENERS = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "\\lvert": "\\rvert"}
TIMES = {"\\cdot", "\\times", "*", "\\ast", "×", "⋅"}
NAMES_OF_FUNCTIONS = set("fghFGH")


class UnreadableError(Exception):
    """The text is no expression, or one with several readings, or too large to compute."""


# What sympy raises on what makes no sense, such as the floor of a matrix, or is beyond it.
SYMPY_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    BasePolynomialError,
)


def factorial(value: Any) -> Any:
    """Computes a factorial; raises `UnreadableError` if it is of no natural number, or a huge one."""
    if value.is_number and not (value.is_Integer and 0 <= value <= LARGEST_FACTORIAL):
        raise UnreadableError
    return sympy.factorial(value)


def power(base: Any, exponent: Any) -> Any:
    """Computes a power; raises `UnreadableError` if it is too large to write out."""
    if getattr(base, "is_Rational", False) and exponent.is_Rational:
        bits = max(abs(base.p).bit_length(), base.q.bit_length(), 1)
        if base not in (0, 1, -1) and bits * abs(exponent) > _MOST_BITS:
            raise UnreadableError
    elif (exponent.is_number and not exponent.is_Rational and getattr(exponent, "is_infinite", False)) or (
        getattr(base, "is_Add", False) and exponent.is_Integer and abs(exponent) > _MOST_TERMS
    ):
        raise UnreadableError
    return base**exponent


def root(value: Any, index: Any) -> Any:
    """Computes a root; an odd one of a negative number is real, as people mean it."""
    if value.is_number and value.is_negative and getattr(index, "is_Integer", False) and index % 2:
        return -((-value) ** (Rational(1) / index))
    return value ** (Rational(1) / index)
