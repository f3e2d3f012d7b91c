"""In which order metrics are shown, and how as text."""

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase

from laser_lightning.metrics.votes import FIXED_RULES

COUNTS = (
    "self_verification/correct",
    "self_verification/incorrect",
    "self_verification/mixed_problems",
    "response/tokens",
)
# Metrics are shown in this order; "*" stands for any text.
ROWS = (
    "loss",
    "pass@1",
    "pass@1/*",
    "pass@*",
    *(f"{rule.name}@*" for rule in FIXED_RULES),
    "*@*",  # votes by rules of the user's
    "self_verification/f1",
    "self_verification/auroc",
    "self_verification/auroc_within",
    "self_verification/auroc_within/*",
    "self_verification/auroc_within_mean",
    "self_verification/auroc_within_mean/*",
    "self_verification/mixed_problems",
    "self_verification/mixed_problems/*",
    "self_verification/brier",
    "self_verification/brier/*",
    "self_verification/ece",
    "self_verification/accuracy_on_correct",
    "self_verification/accuracy_on_incorrect",
    "self_verification/correct",
    "self_verification/incorrect",
    "reward",
    "response/length_tokens",
    "response/judging_tokens",
    "response/truncation_rate",
    "response/tokens",
    "seconds",
)


def row_order(values: Iterable[str]) -> list[str]:
    """The metrics in this order, those of other names behind them."""
    ordered: list[str] = []
    for pattern in ROWS:
        matches = [name for name in values if fnmatchcase(name, pattern)]
        ordered += [name for name in matches if name not in ordered]
    return ordered + [name for name in values if name not in ordered]


def number(metric: str, value: float, sign: bool = False) -> str:
    """A value as text: counts without, lengths and times with one, others with three decimals; - for undefined ones."""
    if not math.isfinite(value):
        return "-"
    is_count = metric.startswith(COUNTS)  # maybe of a kind of problem
    decimals = 0 if is_count else 1 if metric.endswith(("_tokens", "seconds")) else 3
    return f"{value:{'+' if sign else ''}.{decimals}f}"
