import pytest

from laser_lightning.verifiers.equality import same_value
from laser_lightning.verifiers.expressions import read_expression


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"\sqrt{12}", r"2\sqrt3", True),
        (r"\sin 15^\circ", r"\frac{\sqrt6-\sqrt2}{4}", True),
        (r"\sqrt{2}\sqrt{3}", r"\sqrt6", True),
        ("(x+1)^2", "x^2+2x+1", True),
        (r"\sqrt{x^2}", "x", False),  # differ for negative x
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}", False),
        (r"\sqrt2+10^{-40}", r"\sqrt2", False),
        (r"\frac{x}{2^{99}}", r"\frac{x}{2^{98}}", False),
        (r"\frac{\pi}{10^{30}}", r"\frac{\pi}{10^{31}}", False),
        # A decimal beside what it cannot write: to six places, and not in place of a whole number.
        ("3.141593", r"\pi", True),
        ("3.14159", r"\pi", False),
        ("0.0", r"\frac{1}{13983816}", False),
        ("1024.0000001", "2^{10}", False),
    ],
)
def test_same_value(one: str, other: str, same: bool) -> None:
    first, second = read_expression(one), read_expression(other)
    assert first is not None
    assert second is not None
    assert same_value(first, second) is same
    assert same_value(second, first) is same
