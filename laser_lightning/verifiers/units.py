"""What stands around a number and is no mathematics: currency, units, counted things, words such as million."""

import re
from fractions import Fraction
from typing import NamedTuple

_MULTIPLES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
# One line a unit: the name it goes by, then its other spellings. Plurals in "s" are understood.
_SPELLINGS = """
mm millimeter millimetre
cm centimeter centimetre
dm decimeter decimetre
m meter metre
km kilometer kilometre
inch inches in
foot feet ft
yard yd
mile mi
acre
hectare ha
mg milligram
g gram gm gramme
kg kilogram kilo
ton tonne
pound lb lbs
ounce oz
ml milliliter millilitre mL
l liter litre L
gallon gal
quart
pint
cup
ms millisecond
s second sec
minute min mins
h hour hr hrs
day
week
month
year yr yrs
degree deg
radian rad
dollar USD usd buck
cent
euro EUR eur
GBP gbp
yen JPY
rupee Rs Rs. INR
yuan CNY RMB
CAD
AUD
CHF
unit
mph
kph kmph kmh
Hz hertz
N newton
J joule
kJ
W watt
kW
V volt
A amp ampere
ohm
K kelvin
C celsius Celsius
F fahrenheit Fahrenheit
Pa pascal
mol mole
kWh
byte
KB
MB
GB
dB
rpm
"""
_UNITS = {
    spelling: line.split()[0]
    for line in _SPELLINGS.strip().splitlines()
    for name in line.split()
    for spelling in ((name,) if len(name) <= 2 or name.endswith("s") else (name, f"{name}s"))
}
_NO_PRODUCTS = {"cm", "mm", "km", "kg", "mg", "ml", "mL", "ft"}
_SIGNS = {"$": "dollar", "€": "euro", "£": "GBP", "¥": "yen", "₹": "rupee"}
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_RAISED = str.maketrans({"²": "^2", "³": "^3"})
_COMMANDS = {"\\pounds": "GBP", "\\euro": "euro", "\\textdollar": "dollar"}
_IRREGULAR = {"people", "men", "women", "children", "mice", "geese", "teeth", "fish", "sheep", "cents", "times"}
# Behind a number these change what it says, or belong to another kind of answer.
_TELLING = """
dozens pair pairs couple couples score scores gross halves half thirds quarters fourths fifths sixths sevenths eighths
ninths tenths elevenths twelfths hundredths thousandths millionths ones tens hundreds thousands millions billions
trillions squared cubed factorial factorials more less fewer over under above below plus minus remainder remainders
before after ago to of or and at least most up upwards down downwards east west north south left right clockwise
counterclockwise anticlockwise behind ahead am pm bc ad is was has does others both inverse reciprocals percents
percentage permille mod modulus versus vs not no us yes this as january february march april may june july august
september october november december mondays tuesdays wednesdays thursdays fridays saturdays sundays
"""
_TELLING_WORDS = frozenset(_TELLING.split())
_WRAPPERS = re.compile(r"\\(?:text(?:rm|bf|it|sf|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname|rm)(?![A-Za-z])\s*")
_STYLED = re.compile(_WRAPPERS.pattern + r"\{([^{}]*)\}")
_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
_FACTOR = re.compile(r"(?:(square|cubic|sq|cu)\.? )?([A-Za-z]+)\.?(?:\^\{?(-?\d)\}?)?(?: (squared|cubed))?")
_WORDS = re.compile(r"[a-z]+(?: [a-z]+){0,2}")
_BEHIND = re.compile(
    r"(?P<space>[\s~]*)(?P<unit>(?:\\(?:text(?:rm|bf|it|sf|normal)?|math(?:rm|bf)|mbox|rm)\s*\{[^{}]*\}"
    r"(?:\s*\^\s*(?:\{-?\d\}|\d))?[\s/]*)+)"
)
_PLAIN_BEHIND = re.compile(r"(?P<space>\s+)(?P<unit>[A-Za-z.]{2,}(?:[ /]+[A-Za-z]+|\^\{?\d\}?)*)")


class Unit(NamedTuple):
    """What a number counts.

    Attributes:
        name: The unit or the counted thing in one spelling; empty for a bare number.
        multiple: What the number is multiplied with (1,000 for thousand).
        percent: Whether it is a percent sign.
    """

    name: str = ""
    multiple: Fraction = Fraction(1)
    percent: bool = False

    def agrees(self, other: "Unit") -> bool:
        """Whether the same number of both is the same amount: a bare number leaves the unit open."""
        return self.name == other.name or not self.name or not other.name


def read_currency(text: str) -> tuple[str, str]:
    r"""Takes a currency sign or code off the front of an amount (`\$12`, `€12`, `USD 12`, `-\$3`).

    Args:
        text: A cleaned answer.

    Returns:
        The amount, and the name of the currency, empty if there is none.
    """
    found = _CURRENCY.match(text)
    if found is None:
        return text, ""
    sign = found["sign"]
    name = _SIGNS.get(sign[-1]) or _COMMANDS.get(sign) or _UNITS.get(sign.strip("{} "), "")
    return found["minus"] + text[found.end() :], name


_CURRENCY = re.compile(
    r"(?P<minus>-? ?)(?:\\text ?\{)?"
    r"(?P<sign>(?:US|[CA]|HK)? ?\\\$|US\$|\\(?:pounds|euro|textdollar)(?![A-Za-z])|[€£¥₹]|"
    r"(?:USD|EUR|GBP|CAD|AUD|CHF|INR|JPY|CNY) |Rs\.? ?)\}?\s*(?=[\d.\\(])"
)


def read_unit(text: str, small: bool = False) -> Unit | None:
    r"""Reads what stands behind a number.

    Args:
        text: What a cleaned answer has behind its number, such as ` \text{ cm}^2`, ` km/h`, `\%`, ` million dollars`.
        small: Whether the number is at most one, so that a counted thing is named in the singular.

    Returns:
        The unit; None if the text is no unit, or a word that changes what the number says (AM, June, pairs).
    """
    if not text.strip():
        return Unit()
    upright = "\\" in text
    plain = text
    if upright:
        plain = _WRAPPERS.sub("", _FRACTION.sub(r"\1/\2", _STYLED.sub(r"\1", text)))
    # Braces of exponents stay: `^{2}`.
    plain = " ".join(re.sub(r"(?<!\^)\{([^{}]*)\}", r" \1 ", plain).replace("~", " ").translate(_RAISED).split())
    plain = re.sub(r" ?(\^|/) ?", r"\1", plain.removesuffix(".") if plain.count(".") == 1 else plain)
    plain = plain.removesuffix(" old") if plain.startswith("year") else plain
    if plain in ("%", "\\%", "percent", "pct", "per cent"):
        return Unit(percent=True)
    if plain[:1] in _SIGNS or plain in ("\\$",):
        return Unit(_SIGNS[plain[-1]]) if plain[-1:] in _SIGNS and len(plain) <= 2 else None
    if "\\" in plain:
        return None
    first, _, rest = plain.partition(" ")
    if first.lower() in _MULTIPLES and (text[:1].isspace() or upright):
        unit = read_unit(" " + rest if rest else "", small)
        if unit is None or unit.percent:
            return None
        return unit._replace(multiple=unit.multiple * _MULTIPLES[first.lower()])
    # Letters set as mathematics right behind a number are variables: 6m, 5t, 3 d.
    spaced = text[:1].isspace()
    if not upright and not (spaced and ("/" in plain or len(first) > 1)) and first not in _NO_PRODUCTS:
        return None
    if (name := _compound(plain)) is not None:
        return Unit("" if name == "degree" else name)
    words = plain.split()
    if not _WORDS.fullmatch(plain) or len(words[-1]) < 3 or not _TELLING_WORDS.isdisjoint(words):
        return None
    counted = words[-1].endswith("s") or words[-1] in _IRREGULAR or small
    return Unit(plain) if counted and (upright or (spaced and len(words[-1]) > 3)) else None


def _compound(text: str) -> str | None:
    """The units of a product or quotient in one spelling; None if one of them is unknown."""
    parts = re.split(r"/| per ", text)
    if len(parts) > 2:
        return None
    names = []
    for part in parts:
        found = _FACTOR.fullmatch(part)
        if found is None or (name := _UNITS.get(found[2]) or _UNITS.get(found[2].lower())) is None:
            return None
        if len(found[2]) <= 2 and found[2] not in _UNITS:
            return None
        power = {"squared": "^2", "cubed": "^3"}.get(found[4] or "") or (f"^{found[3]}" if found[3] else "")
        names.append(name + (_POWERS.get(found[1] or "") or power))
    joined = "/".join(names)
    return {"mile/h": "mph", "km/h": "kph"}.get(joined, joined)


def split_unit(text: str) -> tuple[str, Unit]:
    r"""Takes the unit off the end of an expression (`4\pi \text{ cm}^2`, `\frac{1}{2} hour`).

    Args:
        text: A cleaned answer.

    Returns:
        The expression and its unit; the text as it is and no unit if it ends in none that is known.
    """
    text, currency = read_currency(text)
    for pattern in (_BEHIND, _PLAIN_BEHIND):
        for found in pattern.finditer(text):
            if found.end() == len(text) and found.start() and not text[: found.start()].endswith(("+", "-", "=", "^")):
                unit = read_unit(text[found.start() :])
                if unit is not None and not unit.percent and unit.multiple == 1 and _is_known(unit.name):
                    return text[: found.start()].strip(), unit
    return text, Unit(currency)


def _is_known(name: str) -> bool:
    return not name or _compound(name) is not None
