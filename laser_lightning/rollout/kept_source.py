"""The solutions that evaluations kept, as rows to train on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from laser_lightning.data.sources import ProblemSource
from laser_lightning.errors import UserError
from laser_lightning.rollout.solution_store import kept_files, read_header, read_solutions


class KeptSource(ProblemSource):
    """Reads the folders ``kept`` of evaluations: a row for each solution, with its reward.

    Kept solutions know their problem by its row number and its prompt, so the source of the problems is named too.

    Args:
        path: the folder of one evaluation set below ``kept``, or a file in it; or several, of the same problems.
        problems: the source of that set's problems.
        check_prompts: refuse solutions whose prompt has other tokens than the one of their problem, as those of another
            template or seed have. false is for a model with another tokenizer than the one that drew them.

    Raises:
        UserError: if there are no kept solutions, or those of different problems.
    """

    def __init__(self, path: str | list[str], problems: ProblemSource, check_prompts: bool = True) -> None:
        self.path, self.problems, self.check_prompts = path, problems, check_prompts
        paths = [path] if isinstance(path, str) else path
        self._files = [file for one in paths for file in kept_files(Path(one).expanduser())]
        headers = [(file, read_header(file)) for file in self._files]
        other = next((file for file, header in headers if header["problems"] != headers[0][1]["problems"]), None)
        if other is not None:
            raise UserError(
                f"{self._files[0]} and {other} hold solutions of different problems: give path the folder of one "
                "evaluation set, such as kept/validate/<name of the set>."
            )

    def load(self) -> Dataset:
        """Read the solutions, those of a file in their order.

        Raises:
            UserError: if the source of the problems does not have one of theirs, or a file is damaged.
        """
        rows = list(self._rows())
        if not rows:
            raise UserError(f"{self._files[0]} has no solutions yet.")
        return Dataset.from_list(rows)

    def _rows(self) -> Iterator[dict[str, Any]]:
        problems = {row.get("index", number): row for number, row in enumerate(self.problems.load())}
        for file in self._files:
            for solution in read_solutions(file):
                if solution.index not in problems:
                    raise UserError(
                        f"{file} has a solution of the problem in row {solution.index}, and the source under problems "
                        f"has no such row: name the source of the set '{read_header(file)['set']}'."
                    )
                yield {
                    **problems[solution.index],
                    "index": solution.index,
                    "solution": solution.text,
                    "reward": solution.reward,
                    "finished": solution.finished,
                    "prompt_fingerprint": solution.prompt if self.check_prompts else None,
                }
