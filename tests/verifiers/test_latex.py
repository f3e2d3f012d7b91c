from fractions import Fraction

import pytest

from laser_lightning.verifiers.latex import (
    Number,
    as_intervals,
    clean,
    is_prose,
    is_set,
    is_tuple,
    is_union,
    last_boxed,
    squeeze,
    unwrap,
)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{42}.", "42"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{6} or \fbox{7}", "7"),
        (r"\boxed{x = \boxed{3}}", "3"),
        (r"\boxed{\boxed{3} + 1}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        # Escaped braces do not count, so these two balance.
        (r"\boxed{[0, 1\}}", r"[0, 1\}"),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        ("\\boxed{a\nb}", "a\nb"),
        # The last box is cut off, empty or not a box: the one before it counts.
        (r"\boxed{5} and \boxed{6", "5"),
        (r"\boxed{5} and \boxed{}", "5"),
        (r"\boxed{5} } { in \boxed", "5"),
        (r"\boxed{5}} stray", "5"),
        ("no box", None),
        (r"\boxed{ }", None),
        (r"\boxed{1", None),
        (r"\boxed{" * 2000, None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (r"$\dfrac{1}{2}$.", r"\frac{1}{2}"),
        (r"\left( 3, \tfrac{\pi}{2} \right)", r"( 3, \frac{\pi}{2} )"),
        (r"\leftarrow", r"\leftarrow"),
        (r"\$10,\!080", "10,080"),
        (r"11,\! 111,\! 100", "11,111,100"),
        ("1{,}234", "1,234"),
        (r"\frac43", r"\frac{4}{3}"),
        (r"\frac 59", r"\frac{5}{9}"),
        (r"\frac9{19}", r"\frac{9}{19}"),
        (r"\frac{270}7", r"\frac{270}{7}"),
        ("−5", "-5"),
        ("90°", r"90^\circ"),
        ("(0,∞)", r"(0,\infty )"),
        (r"3\,\text{cm}", r"3 \text{cm}"),
        (r"\quad(2, 1)", "(2, 1)"),
        # The space after a new row's backslashes is no spacing command.
        (r"1 \\ 2", r"1 \\ 2"),
        (r"m_{\max }=2", r"m_{max}=2"),
        (r"2516_{8}", "2516_8"),
        (r"x \leqslant 3", r"x \le  3"),
        ("x ≥ 3", r"x \ge  3"),
        ("∅", r"\emptyset"),
        (r"\text{The answer is } 7", "7"),
        (r"{\bf 7}", "{ 7}"),
        ("= 3", "3"),
        (r"\langle 1,2\rangle", "( 1,2)"),
        ("yes. ", "yes"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "unwrapped"),
    [
        (r"\text{Evelyn}", "Evelyn"),
        (r"\textbf{(C)}", "C"),
        (r"\mathrm{No solution.}", "No solution"),
        (r"\text{\mathrm{B}}", r"\text{\mathrm{B}}"),
        ("(3)", "(3)"),
        ("a\n  b", "a b"),
    ],
)
def test_unwrap(text: str, unwrapped: str) -> None:
    assert unwrap(text) == unwrapped


def test_squeeze_keeps_only_the_spaces_that_separate() -> None:
    assert squeeze(r"( 3 , \frac {1}{2} ) , 1 1") == r"(3,\frac{1}{2}),1 1"
    assert squeeze(r"\cot x") == r"\cot x"


@pytest.mark.parametrize("text", ["Evelyn", "no solution", "forty-two", "It's Monday, then"])
def test_prose(text: str) -> None:
    assert is_prose(text)


@pytest.mark.parametrize("text", ["abc", "xy", "sqrt(3)", "June 1", r"\infty", "f(x)=alpha", ""])
def test_not_prose(text: str) -> None:
    assert not is_prose(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", Fraction(42)),
        ("+7", Fraction(7)),
        ("007", Fraction(7)),
        ("-0.50", Fraction(-1, 2)),
        (".5", Fraction(1, 2)),
        ("18.90", Fraction(189, 10)),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("1 234 567", Fraction(1234567)),
        ("6/4", Fraction(3, 2)),
        ("-1/3", Fraction(-1, 3)),
        (r"\frac{-1}{2}", Fraction(-1, 2)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"1\frac{4}{5}", Fraction(9, 5)),
        (r"-137 \frac{1}{2}", Fraction(-275, 2)),
        ("1 1/2", Fraction(3, 2)),
        (r"90^\circ", Fraction(90)),
        (r"90^{\circ}", Fraction(90)),
        (r"15 \text{ cm}^2", Fraction(15)),
        (r"864 \mbox{ inches}^{2}", Fraction(864)),
        ("12 dollars", Fraction(12)),
        ("12 million dollars", Fraction(12_000_000)),
        (r"-1.5 \text{ thousand}", Fraction(-1500)),
        ("2.5 square meters", Fraction(5, 2)),
    ],
)
def test_number(text: str, value: Fraction) -> None:
    number = Number.parse(text)
    assert number is not None
    assert number.value == value
    assert not number.percent


@pytest.mark.parametrize(
    "text",
    ["", "x", "1/0", "1, 234", "3,50", "2^3", "1,2", "1e5", "5 apples", r"\frac{1}{x}", "1-1/2", "9" * 5000],
)
def test_not_a_number(text: str) -> None:
    assert Number.parse(text) is None


@pytest.mark.parametrize("text", ["62.5%", r"62.5\%", r"62.5 \%", "62.5 percent", r"62.5\text{ percent}"])
def test_percentage(text: str) -> None:
    number = Number.parse(text)
    assert number == Number(Fraction(125, 2), percent=True, decimal=True)
    assert str(number) == "125/2%"


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("0.50", "1/2", True),
        ("2", "2.000", True),
        ("2", "2.0000001", False),
        ("0.1234567", "0.1234568", False),
        # A decimal beside a fraction may be rounded to six places: |1/3 - 0.333333| = 1/3,000,000.
        ("1/3", "0.333333", True),
        ("1/3", "0.33333", False),
        ("333333/1000000", "1/3", False),
        # A percentage may stand for itself or for its hundredth.
        ("62.5%", "62.5", True),
        ("62.5%", "5/8", True),
        ("62.5%", "62.5%", True),
        ("62.5%", "6.25", False),
        ("50%", "5%", False),
    ],
)
def test_numbers_agree(one: str, other: str, agree: bool) -> None:
    first, second = Number.parse(one), Number.parse(other)
    assert first is not None
    assert second is not None
    assert first.agrees(second) is agree
    assert second.agrees(first) is agree


@pytest.mark.parametrize(
    ("text", "intervals"),
    [
        (r"-2 < x \le 7", "(-2,7]"),
        (r"7 \ge x > -2", "(-2,7]"),
        ("x < 3", r"(-\infty,3)"),
        (r"x \ge \frac{1}{2}", r"[\frac{1}{2},\infty)"),
        (r"3 \le t", r"[3,\infty)"),
        ("3 > t", r"(-\infty,3)"),
        (r"x < 0 or x \ge 3", r"(-\infty,0)\cup[3,\infty)"),
        (r"x < 0 \text{ or } x > 3", r"(-\infty,0)\cup(3,\infty)"),
        (r"\{x \mid x > 5\}", r"(5,\infty)"),
        (r"\{ x \in \mathbb{R} : x > 5 \}", r"(5,\infty)"),
    ],
)
def test_inequalities_as_intervals(text: str, intervals: str) -> None:
    assert as_intervals(text) == intervals


@pytest.mark.parametrize(
    "text", ["5", "x = 5", "2x < 5", "x < x + 1", "1 < 2", "1 < x > 2", "1 < x < 2 < 3", "x < 0 or 5", "< x", r"\left"]
)
def test_what_bounds_no_letter_is_no_interval(text: str) -> None:
    assert as_intervals(text) is None


def test_tuples_unions_and_sets() -> None:
    assert [is_tuple(text) for text in ("(1,2)", "[1,2,3)", "(1)", "(1,2),(3,4)", "1,2")] == [True, True] + [False] * 3
    unions = ("(1,2]", r"(1,2) \cup [3,4]", "(1,2),(3,4)", r"\{1\} \cup (2,3)")
    assert [is_union(text) for text in unions] == [True, True, False, False]
    assert [is_set(text) for text in (r"\{1,2\}", r"\{1\} \cup \{2\}", "(1,2)")] == [True, False, False]
