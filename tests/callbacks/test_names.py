import math

import pytest

from laser_lightning.callbacks.names import number, row_order


@pytest.mark.parametrize(
    ("metric", "value", "sign", "text"),
    [
        ("pass@1", 0.12345, False, "0.123"),
        ("pass@1", 0.12345, True, "+0.123"),
        ("pass@1", math.nan, True, "-"),
        ("response/length_tokens", 41.26, False, "41.3"),
        ("self_verification/correct", 96.0, False, "96"),
        ("self_verification/mixed_problems", 96.0, False, "96"),
        ("self_verification/mixed_problems/sum", 6.0, False, "6"),
        ("response/tokens", 115351.0, False, "115351"),
        ("seconds", 30.816, True, "+30.8"),
    ],
)
def test_numbers(metric: str, value: float, sign: bool, text: str) -> None:
    assert number(metric, value, sign) == text


def test_rows_are_in_order_and_none_is_lost() -> None:
    names = [
        "own",
        "self_verification/f1",
        "maj@8",
        "pass@8",
        "pass@1/add1",
        "seconds",
        "mean_score@8",
        "response/length_tokens",
        "best_of@8",
        "pass@1",
    ]
    assert row_order(dict.fromkeys(names, 0.0)) == [
        "pass@1",
        "pass@1/add1",
        "pass@8",
        "maj@8",
        "best_of@8",
        "mean_score@8",
        "self_verification/f1",
        "response/length_tokens",
        "seconds",
        "own",
    ]
