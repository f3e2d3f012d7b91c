"""Numbers written in digits, with what stands around them."""

import re
from fractions import Fraction
from typing import NamedTuple

from laser_lightning.verifiers.units import read_currency, read_unit

_DECIMAL = r"\d+(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    # No group of thousands begins with 0: "0,111" has a decimal comma.
    rf"(?P<sign>[+-]?) ?(?:(?P<thousands>[1-9]\d{{0,2}}(?:(?:,\d{{3}})+|(?: \d{{3}})+)(?![\d,])(?:\.\d+)?)"
    rf"|(?P<comma>0,\d{{3}})(?![\d,])"
    rf"|(?:(?P<whole>\d+) )? ?(?P<negative>-?)(?P<top>{_DECIMAL}) ?/ ?(?P<bottom>{_DECIMAL})"
    r"|(?P<fixed>\d*\.\d*)(?:\\(?:overline|bar) ?\{(?P<period>\d+)\}|\\dot ?\{?(?P<first>\d)\}?"
    r"(?:(?P<middle>\d*)\\dot ?\{?(?P<last>\d)\}?)?)"
    rf"|(?P<plain>{_DECIMAL})(?:[eE](?P<exponent>[+-]?\d{{1,3}}))?)(?![\d_])"
    r"(?: ?\^ ?(?:\\circ(?![a-z])|\{ ?\\circ ?\})(?: ?(?P<scale>[CF])$)?)?"
)
_PLAIN_FRACTION = re.compile(r" ?\\frac\{(-?\d+)\}\{(\d+)\}")
_BRACKETED = re.compile(r"\((-? ?\d+(?:\.\d+)?)\)")
# Python refuses to convert longer integers, and no answer is one.
_LONGEST_NUMBER = 1000
# A decimal that stands for a fraction is right to six places, and to about four digits where it is tiny.
_PLACES = Fraction(1, 2_000_000)
_RELATIVE = Fraction(1, 20_000)
# Its sixth place may be 0; "0.5" and "0.000001" were not rounded to six places.
_FEWEST_PLACES = 5
_FEWEST_DIGITS = 4


def is_rounding(decimal: Fraction, exact: Fraction) -> bool:
    """Whether a decimal is a number that it cannot write exactly, to six places.

    Args:
        decimal: The decimal.
        exact: The number.

    Returns:
        True if they differ by less than half of the sixth place, and by less than 0.005% of the number.
    """
    difference = abs(decimal - exact)
    places = next((power for power in range(40) if 10**power % decimal.denominator == 0), 0)
    written = places >= _FEWEST_PLACES and abs(decimal) * 10**places >= 10 ** (_FEWEST_DIGITS - 1)
    return written and difference < _PLACES and difference <= _RELATIVE * abs(exact)


class Number(NamedTuple):
    """A number written in digits.

    Attributes:
        value: Its exact value; for a percentage the number before the percent sign.
        percent: Whether a percent sign follows.
        decimal: Whether it is written with a decimal point, and so may be rounded.
        unit: What it counts, in one spelling; empty if it is bare, or an angle in degrees.
    """

    value: Fraction
    percent: bool
    decimal: bool
    unit: str = ""

    @classmethod
    def parse(cls, text: str) -> "Number | None":
        r"""Reads an integer, decimal, fraction (`1/2`, `\frac{1}{2}`), mixed number (`1\frac{1}{2}`) or `5e-05`.

        Thousands separators, repeating decimals (`0.\overline{3}`), currency, a percent sign, a degree sign, units,
        counted things and words such as million are understood.

        Args:
            text: An unwrapped answer.

        Returns:
            The number, or None if the text is anything else, or is followed by words that change it (20 June).
        """
        if len(text) > _LONGEST_NUMBER:
            return None
        text, currency = read_currency(text.strip())
        text = _BRACKETED.sub(r"\1", text) if text.startswith("(") else text
        text = _PLAIN_FRACTION.sub(r" \1/\2", text).strip()
        match = _NUMBER.match(text)
        if match is None or (value := _value(match)) is None:
            return None
        behind = text[match.end() :]
        unit = read_unit(behind, small=abs(value) <= 1)
        if unit is None or (currency and unit.name not in ("", currency)):
            return None
        decimal = "." in match[0] and match["fixed"] is None
        name = unit.name or match["scale"] or currency
        return cls(value * unit.multiple, unit.percent, decimal or match["comma"] is not None, name)

    def __str__(self) -> str:
        return f"{self.value}{'%' if self.percent else ''}{' ' if self.unit else ''}{self.unit}"

    def agrees(self, other: "Number") -> bool:
        """Compares two numbers exactly, but for a decimal beside a fraction.

        A decimal agrees with a fraction that it approximates to six places. A percentage p% agrees with the
        bare numbers p and p/100, because problems ask for either. Units may be left out, but not differ.

        Args:
            other: The other number.

        Returns:
            True if they are the same number.
        """
        if self.unit != other.unit and self.unit and other.unit:
            return False
        one, two = self.value, other.value
        pairs = [(one, two)]
        if self.percent != other.percent:
            pairs.append((one / 100, two) if self.percent else (one, two / 100))
        if self.decimal == other.decimal:
            return any(one == two for one, two in pairs)
        ordered = pairs if self.decimal else [(two, one) for one, two in pairs]
        whole = (other if self.decimal else self).value.denominator == 1
        return any(one == two or (not whole and is_rounding(one, two)) for one, two in ordered)


def _value(match: re.Match[str]) -> Fraction | None:
    if match["top"] is not None:
        bottom = Fraction(match["bottom"])
        if bottom == 0 or (match["whole"] and match["negative"]):
            return None
        value = Fraction(match["negative"] + match["top"]) / bottom + int(match["whole"] or 0)
    elif match["fixed"] is not None:
        value = _repeating(match)
    elif match["comma"]:
        value = Fraction(match["comma"].replace(",", "."))
    else:
        digits = (match["thousands"] or match["plain"]).replace(",", "").replace(" ", "")
        value = Fraction(digits) * Fraction(10) ** int(match["exponent"] or 0)
    return -value if match["sign"] == "-" else value


def _repeating(match: re.Match[str]) -> Fraction:
    period = match["period"] or match["first"] + (match["middle"] or "") + (match["last"] or "")
    fixed = match["fixed"]
    places = len(fixed) - fixed.index(".") - 1
    start = Fraction("0" + fixed if fixed.startswith(".") else fixed)
    return start + Fraction(int(period), 10 ** len(period) - 1) / 10**places
