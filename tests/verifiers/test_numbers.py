from fractions import Fraction

import pytest

from laser_lightning.verifiers.numbers import Number


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
        ("5 apples", Fraction(5)),
        (r"5 \text{ dozen}", Fraction(60)),
        ("€12", Fraction(12)),
        # 5 hundred-thousandths, and a tenth and 6/90.
        ("5e-05", Fraction(1, 20_000)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"0.\dot{1}4285\dot{7}", Fraction(1, 7)),
        # No group of thousands begins with 0.
        ("0,125", Fraction(1, 8)),
    ],
)
def test_number(text: str, value: Fraction) -> None:
    number = Number.parse(text)
    assert number is not None
    assert number.value == value
    assert not number.percent


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1/0",
        "1, 234",
        "3,50",
        "2^3",
        "1,2",
        "5 pairs",
        "6m",
        "20 June",
        "2516_8",
        r"\frac{1}{x}",
        "1-1/2",
        "9" * 5000,
    ],
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
        # 0.5 is no rounding of 0.5000001, nor 0.000001 one of 1/1000003.
        ("0.5", "5000001/10000000", False),
        ("0.000001", "1/1000003", False),
        ("0", "1/13983816", False),
        # Units may be left out, but not differ.
        ("15 cm", "15", True),
        ("15 cm", "15 centimeters", True),
        ("15 cm", "15 km", False),
        (r"\$5", "5 cents", False),
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
