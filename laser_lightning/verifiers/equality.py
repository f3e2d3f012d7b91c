"""Whether two sympy expressions are the same, proved where that is needed, and never by a fixed small difference."""

from fractions import Fraction
from typing import Any

import sympy
from sympy import Rational

from laser_lightning.verifiers.expressions import Expression
from laser_lightning.verifiers.functions import SYMPY_ERRORS
from laser_lightning.verifiers.numbers import is_rounding

_DIGITS = 30
_NEAR = Rational(1, 10**20)
_SURE_DIGITS = 400
# Where expressions with letters are compared before anything is proved: letters of both signs, and no round numbers.
_POINTS = [Rational(p, q) for p, q in ((13, 7), (-17, 11), (29, 13), (-5, 19), (23, 17), (37, 31))]


def same_value(one: Expression, other: Expression) -> bool:
    """Decides whether two expressions are equal for all values of their letters.

    A number written as a decimal agrees with one that it cannot write exactly, to six places.

    Args:
        one: An expression.
        other: Another one.

    Returns:
        True if they are equal; False if they are not, or if neither can be shown.
    """
    try:
        return _same_value(one, other)
    except SYMPY_ERRORS:
        return False


def _same_value(one: Expression, other: Expression) -> bool:
    a, b = one.value, other.value
    if isinstance(a, sympy.MatrixBase) or isinstance(b, sympy.MatrixBase):
        if not (isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase) and a.shape == b.shape):
            return False
        pairs = zip(a.flat(), b.flat(), strict=True)
        return all(same_value(Expression(x, one.decimal), Expression(y, other.decimal)) for x, y in pairs)
    if a == b:
        return True
    if a.is_Rational and b.is_Rational and (one.decimal == other.decimal):
        return False
    if a.free_symbols or b.free_symbols or a.has(sympy.core.function.AppliedUndef):
        return _same_function(a, b)
    if not (a.is_finite and b.is_finite):
        return False
    if one.decimal != other.decimal:
        return _rounds(a, b) if one.decimal else _rounds(b, a)
    return _near(a, b) and _is_zero(a - b)


def _rounds(decimal: Any, exact: Any) -> bool:
    """Whether a number written with a decimal point is an exact one, to six places."""
    if exact.is_integer or not (exact.is_real and decimal.is_Rational):
        return False
    number = Rational(exact.evalf(_DIGITS))
    return is_rounding(Fraction(decimal.p, decimal.q), Fraction(number.p, number.q))


def _near(a: Any, b: Any) -> bool:
    """Whether two numbers agree in their first digits, however small they are."""
    one, other = a.evalf(_DIGITS), b.evalf(_DIGITS)
    try:
        return bool(abs(one - other) <= _NEAR * max(abs(one), abs(other)))
    except TypeError:  # evalf cannot compute one of them
        return False


def _is_zero(difference: Any) -> bool:
    if difference.is_zero is not None:
        return bool(difference.is_zero)
    if sympy.expand(difference) == 0:
        return True
    proved = difference.equals(0)
    if proved is not None:
        return bool(proved)
    digits = difference.evalf(15, maxn=_SURE_DIGITS)
    return bool(digits.is_zero or abs(digits) < Rational(1, 10 ** (_SURE_DIGITS - 50)))


def _same_function(a: Any, b: Any) -> bool:
    letters = sorted(a.free_symbols | b.free_symbols, key=str)
    if a.free_symbols != b.free_symbols and len(letters) > 6:
        return False
    for shift in range(3):
        at = {letter: _POINTS[(place + 2 * shift) % len(_POINTS)] for place, letter in enumerate(letters)}
        x, y = a.subs(at), b.subs(at)
        if x.is_number and y.is_number and x.is_finite and y.is_finite and x != y and not _near(x, y):
            return False
    difference = a - b
    if sympy.expand(difference) == 0:
        return True
    return bool(sympy.simplify(difference) == 0)


def is_multiple(one: Any, other: Any, positive: bool) -> bool:
    """Whether two expressions that are compared with zero say the same: one is the other times a number.

    Args:
        one: A sympy expression.
        other: Another one.
        positive: Whether the number must be positive, as for inequalities.
    """
    if one == 0 or other == 0:
        return bool(one == other)
    try:
        ratio = sympy.simplify(one / other)
    except SYMPY_ERRORS:
        return False
    return bool(ratio.is_number and ratio.is_real and ratio.is_nonzero and (ratio.is_positive or not positive))
