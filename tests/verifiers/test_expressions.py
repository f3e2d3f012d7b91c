import pytest
import sympy
from sympy import E, I, Rational, Symbol, pi, sqrt

from laser_lightning.verifiers.expressions import read_expression

x, m, R, r = (Symbol(name, real=True) for name in "xmRr")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac12", Rational(1, 2)),
        (r"\frac\pi2", pi / 2),
        (r"\frac{\sqrt3}2", sqrt(3) / 2),
        (r"2^\frac12", sqrt(2)),
        (r"{1 \over 2}", Rational(1, 2)),
        (r"1\frac{4}{5}", Rational(9, 5)),
        # Only a fraction right behind a number makes a mixed number.
        (r"2(\frac12)", 1),
        (r"\frac{R}{r}", R / r),
        (r"3+4\mathrm{i}", 3 + 4 * I),
        ("(1+i)^2", 2 * I),
        ("2e^3", 2 * E**3),
        (r"10\mathrm{x}", 10 * x),
        (r"\cos 60^\circ", Rational(1, 2)),
        (r"\cos 60", sympy.cos(60)),
        (r"\sin^2 x", sympy.sin(x) ** 2),
        (r"\log_2 8", 3),
        (r"\lfloor m / 2\rfloor", sympy.floor(m / 2)),
        (r"|3+4i|", 5),
        (r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", -2),
        (r"2\begin{bmatrix} 1 & x \end{bmatrix}", sympy.ImmutableMatrix([[2, 2 * x]])),
        ("n2^{n-1}", Symbol("n", real=True) * 2 ** (Symbol("n", real=True) - 1)),
        (r"\sum_{k=1}^{4} k", 10),
        (r"\int_0^1 x^2 dx", Rational(1, 3)),
    ],
)
def test_expressions(text: str, value: object) -> None:
    found = read_expression(text)
    assert found is not None
    assert sympy.sympify(found.value).expand() == sympy.sympify(value).expand()


@pytest.mark.parametrize(
    "text",
    [
        "1/2x",
        "2 3",
        "x2",
        "12_3",
        r"\mho(1)",
        r"\frac{1}{0}",
        "x'",
        r"\sin x/2",
        "10^{10^{10}}",
        "(2.5)!",
        "((x)",
        "",
        "3|x",
    ],
)
def test_what_has_several_readings_or_none_is_not_read(text: str) -> None:
    assert read_expression(text) is None


@pytest.mark.parametrize("text", [r"\sum_{k=1}^{n} k_1 + 12_3", r"\sum_{k=1}^{n} I", r"\lim_{x \to 0} \text{x}"])
def test_sums_that_the_parser_would_misread_are_not_read(text: str) -> None:
    assert read_expression(text) is None


def test_letters_keep_their_case_and_their_names() -> None:
    pairs = [("R", "r"), (r"\Gamma", r"\gamma"), ("x_1", "x_2"), (r"\mathbf{i}", "i"), ("E", "e"), ("I", "i")]
    for one, other in pairs:
        first, second = read_expression(one), read_expression(other)
        assert first is not None
        assert second is not None
        assert first.value != second.value


def test_decimals_are_exact_and_marked() -> None:
    found = read_expression(r"1.2 \cdot 10^{-3}")
    assert found is not None
    assert (found.value, found.decimal) == (Rational(12, 10_000), True)
