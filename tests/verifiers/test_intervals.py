import pytest

from laser_lightning.verifiers.intervals import Interval, Union, read_inequality

INFINITY = "\\infty"


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        (r"-2 < x \le 7", Interval("-2", "7", False, True, "x")),
        (r"7 \ge x > -2", Interval("-2", "7", False, True, "x")),
        ("x < 3", Interval("-\\infty", "3", False, False, "x")),
        (r"x \ge \frac{1}{2}", Interval(r"\frac{1}{2}", INFINITY, True, False, "x")),
        ("3 > t", Interval("-\\infty", "3", False, False, "t")),
        (r"0 < \theta < \pi", Interval("0", r"\pi", False, False, r"\theta")),
        (r"\{ x \in \mathbb{R} : x > 5 \}", Interval("5", INFINITY, False, False, "x")),
        (r"x > 1 \text{ and } x \le 3", Interval("1", "3", False, True, "x")),
    ],
)
def test_inequalities_as_intervals(text: str, interval: Interval) -> None:
    assert read_inequality(text) == interval


def test_alternatives_are_unions() -> None:
    outside = Union((Interval("-\\infty", "0", False, False, "x"), Interval("3", INFINITY, True, False, "x")))
    assert read_inequality(r"x < 0 or x \ge 3") == outside
    both = Union((Interval("-\\infty", "2", False, False, "x"), Interval("2", INFINITY, False, False, "x")))
    assert read_inequality(r"x \ne 2") == both


@pytest.mark.parametrize(
    "text", ["5", "x = 5", "2x < 5", "x < x + 1", "1 < 2", "1 < x > 2", "1 < x < 2 < 3", "x < 0 or 5", "x < 0 or y > 1"]
)
def test_what_bounds_no_letter_is_no_interval(text: str) -> None:
    assert read_inequality(text) is None
