"""Problems from lines of text such as `27+58 = 85`."""

from pathlib import Path

from datasets import Dataset

from laser_lightning.data import ProblemSource
from laser_lightning.errors import UserError


class EquationFile(ProblemSource):
    """Reads a problem and its answer from each line, on both sides of the equals sign.

    Args:
        path: the text file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def load(self) -> Dataset:
        rows = []
        for number, line in enumerate(Path(self.path).read_text(encoding="utf-8").splitlines(), start=1):
            problem, equals, answer = (part.strip() for part in line.partition("="))
            if not (problem and equals and answer):
                raise UserError(f"Line {number} of {self.path} is not of the form `problem = answer`: {line!r}.")
            rows.append({"problem": problem, "answer": answer, "kind": "sum" if "+" in problem else "other"})
        return Dataset.from_list(rows)
