"""Takes the last number of a response for its answer, and forgives a small error."""

import re

from laser_lightning.verifiers import Verifier


class LastNumber(Verifier):
    """Compares the last number of a response with the gold answer.

    Args:
        tolerance: relative error that still counts as correct.
    """

    def __init__(self, tolerance: float = 0.0) -> None:
        self.tolerance = tolerance

    def extract(self, response: str) -> str | None:
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", response)
        return numbers[-1] if numbers else None

    def canonical(self, answer: str) -> str:
        return f"{_number(answer):.12g}"  # 1,000 and 1000.0 vote together

    def equivalent(self, answer: str, gold: str) -> bool:
        return abs(_number(answer) - _number(gold)) <= self.tolerance * abs(_number(gold))

    def check_gold(self, gold: str) -> None:
        _number(gold)  # a ValueError names the row before training begins


def _number(text: str) -> float:
    return float(text.replace(",", ""))
