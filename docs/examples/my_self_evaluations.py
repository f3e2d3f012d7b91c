"""Worked solutions with the policy's own verdict behind them, and another attempt behind a bad one."""

from typing import Any

from datasets import Dataset

from laser_lightning.data import ArithmeticSource


class SelfEvaluated(ArithmeticSource):
    """Writes "?1" behind a right solution and "?0" behind a wrong one, as the forms of methods/spoc and others have it.

    Args:
        corrects: write ";", the right answer and "?1" behind "?0".
        source: those of ArithmeticSource; ``solution_noise`` makes wrong solutions.
    """

    def __init__(self, corrects: bool = True, **source: Any) -> None:
        super().__init__(**source)
        self.corrects = corrects

    def load(self) -> Dataset:
        return super().load().map(self.evaluate)

    def evaluate(self, row: dict[str, str]) -> dict[str, str]:
        answer = f"#{row['answer']}"
        if row["solution"].endswith(answer):
            return {"solution": f"{row['solution']}?1"}
        return {"solution": f"{row['solution']}?0" + f";{answer}?1" * self.corrects}
