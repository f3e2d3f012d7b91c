import pytest

from laser_lightning.verifiers.units import Unit, read_currency, read_unit, split_unit


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("", ""),
        (r" \text{ cm}^2", "cm^2"),
        (" square centimeters", "cm^2"),
        (" km/h", "kph"),
        (" kilometers per hour", "kph"),
        (r" \frac{m}{s^2}", "m/s^2"),
        (r"\mathrm{~m}^{3}", "m^3"),
        (" m²", "m^2"),
        (" degrees", ""),
        ("€", "euro"),
        (r" \text{ red apples}", "red apples"),
    ],
)
def test_units(text: str, unit: str) -> None:
    assert read_unit(text) == Unit(unit)


@pytest.mark.parametrize(
    "text",
    ["m", " m", "t", "abc", r"\mathrm{x}", r"\text{ June}", r"\text{ AM}", r"\text{ pairs}", " below", "^2", "+1"],
)
def test_letters_and_words_that_say_something_else_are_no_units(text: str) -> None:
    assert read_unit(text) is None


def test_multiples_and_percent() -> None:
    assert read_unit(r"\text{ million dollars}") == Unit("dollar", multiple=10**6)
    assert read_unit(" dozen") == Unit(multiple=12)
    assert read_unit(r"\%") == Unit(percent=True)
    assert read_unit(" thousand percent") is None


def test_one_thing_is_named_in_the_singular() -> None:
    assert read_unit(r"\text{ ticket}") is None
    assert read_unit(r"\text{ ticket}", small=True) == Unit("ticket")


@pytest.mark.parametrize(
    ("text", "amount", "currency"),
    [(r"\$12", "12", "dollar"), ("-£3", "-3", "GBP"), ("EUR 5", "5", "euro"), ("x", "x", ""), (r"\$x", r"\$x", "")],
)
def test_currency(text: str, amount: str, currency: str) -> None:
    assert read_currency(text) == (amount, currency)


def test_units_of_expressions() -> None:
    assert split_unit(r"4\pi \text{ cm}^2") == (r"4\pi", Unit("cm^2"))
    assert split_unit(r"2\sqrt{3} cm") == (r"2\sqrt{3}", Unit("cm"))
    assert split_unit(r"x+2\text{ things}") == (r"x+2\text{ things}", Unit())
    assert split_unit("x+2m") == ("x+2m", Unit())
