"""Files of kept solutions: what an evaluation sampled, as JSON lines that can be continued and read back."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from laser_lightning.errors import UserError
from laser_lightning.records.batching import Rollouts, pad_rows
from laser_lightning.runs.files import set_aside

FORMAT_VERSION = 1
VERSION_KEY = "kept_solutions"
INFORMATION = ("policy",)
"""Keys of a header that are told, and not compared: the same weights may lie under two paths."""

Header = dict[str, Any]
_OPTIONAL = {  # only written where there are several of them
    "rewards": "rewards",
    "policy_reward": "rewards",
    "further_log_probs": "further_log_probs",
    "further_reference_log_probs": "further_reference_log_probs",
    "scores": "scores",
    "judging_tokens": "judging_tokens",
}
_FLOATS = ("reward_token_log_prob", "reference_log_prob", "reward", "self_reward")
_LISTS = ("further_log_probs", "further_reference_log_probs", "scores")


@dataclass(frozen=True)
class KeptSolution:
    """One solution as it is kept.

    Attributes:
        index: the problem's row number in its source.
        prompt: fingerprint of the prompt's token ids.
        sample: number of the solution among those of its problem, from 0.
        text: the response without special tokens.
        response_ids: its tokens, ``<eos>`` included.
        finished: whether it ends in ``<eos>``.
        reward_token_log_prob: log pi(z_c given x, y), in nats; NaN if truncated.
        reference_log_prob: log pi_ref(z_c given x, y) with an exact reference, else None.
        reward: the verifier's.
        answer: extracted final answer; None if there is none.
        error: why the verifier failed; None if it did not.
        self_reward: r_s; 0 if truncated.
        rewards: what each of several reward functions said; None for one that failed. Empty for a single one.
        policy_reward: their weighted sum, which a policy is trained on; None for a single one.
        further_log_probs: log-probs of the other tokens that the score is made of. Empty for a single one.
        further_reference_log_probs: the same under an exact reference.
        scores: all of several scores, NaN for absent ones. Empty, and not written, where r_s is the only one.
        judging_tokens: tokens that the model wrote to judge it. None, and not written, where it judges by a score.
    """

    index: int
    prompt: str
    sample: int
    text: str
    response_ids: list[int]
    finished: bool
    reward_token_log_prob: float
    reference_log_prob: float | None
    reward: float
    answer: str | None
    error: str | None
    self_reward: float
    rewards: dict[str, float | None] = field(default_factory=dict)
    policy_reward: float | None = None
    further_log_probs: list[float] = field(default_factory=list)
    further_reference_log_probs: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    judging_tokens: int | None = None


@dataclass(frozen=True)
class KeptBatch:
    """What one rank sampled in one batch.

    Attributes:
        solutions: those of a problem next to each other; none where the rank had no problem.
        seconds: wall time of sampling and judging them.
    """

    solutions: list[KeptSolution]
    seconds: float


class SolutionFile:
    """The kept solutions of one evaluation set on one rank.

    The first line is a header: the version of the form, and all that the solutions depend on. Behind it each batch is a
    line for every solution and one line that closes it, with the number of its solutions and its seconds. Batches are
    appended in their order, each in one piece that is handed to the operating system at once.

    Opening a file cuts off a batch that a killed run left unfinished. A file under another header is kept as
    ``<stem>.1<suffix>``, and a new one begun.

    Args:
        path: the file.
        header: what the solutions depend on, as JSON holds it.

    Attributes:
        batches: number of batches that are there.
        replaced: why an earlier file was kept under another name, as a sentence; else None.

    Raises:
        UserError: if the file is damaged.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.replaced: str | None = None
        self._ends: list[int] = []
        header = json.loads(json.dumps({VERSION_KEY: FORMAT_VERSION, **header}))
        if path.exists():
            self._resume(header)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._start = self._write("wb", [header])

    @property
    def batches(self) -> int:
        """Number of batches that are there."""
        return len(self._ends)

    def read(self, batch: int) -> KeptBatch:
        """A batch that is there.

        Args:
            batch: its number, from 0.
        """
        start, end = (self._ends[batch - 1] if batch else self._start), self._ends[batch]
        with self.path.open("rb") as file:
            file.seek(start)
            *rows, closing = (json.loads(line) for line in file.read(end - start).splitlines())
        if len(rows) != closing["solutions"]:
            raise UserError(
                f"{self.path} is damaged: batch {batch} has {len(rows)} lines, and closes with the number "
                f"{closing['solutions']}. Move the file away."
            )
        return KeptBatch([_solution(row, self.path) for row in rows], closing["seconds"])

    def append(self, batch: KeptBatch) -> None:
        """Write the next batch."""
        closing = {"batch": self.batches, "solutions": len(batch.solutions), "seconds": batch.seconds}
        self._ends.append(self._write("ab", [*map(_row, batch.solutions), closing]))

    def keep_only(self, batches: int) -> None:
        """Cut off all batches but the first ones."""
        if batches < self.batches:
            self._ends = self._ends[:batches]
            self._cut(self._ends[-1] if self._ends else self._start)

    def _resume(self, header: Header) -> None:
        lines = _lines(self.path)
        first = next(lines, None)
        if first is None:  # killed in the first line
            self.path.unlink()
            return
        self._start, kept = first
        _check_header(self.path, kept)
        if (difference := first_difference(kept, header)) is not None:
            aside = set_aside(self.path)
            assert aside is not None
            self.replaced = (
                f"The solutions in {self.path} are of another evaluation ({difference}): kept as {aside.name}."
            )
            return
        self._ends = [end for end, row in lines if "batch" in row]
        self._cut(self._ends[-1] if self._ends else self._start)

    def _cut(self, size: int) -> None:
        with self.path.open("rb+") as file:
            file.truncate(size)

    def _write(self, mode: str, rows: Sequence[Mapping[str, Any]]) -> int:
        text = "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows)
        with self.path.open(mode) as file:
            # What UTF-8 cannot hold (half a surrogate pair) becomes the escape that JSON has for it.
            file.write(text.encode("utf-8", "backslashreplace"))
            return file.tell()


def kept_files(path: Path) -> list[Path]:
    """The files of kept solutions at a path: that one file, or all of a folder but those kept under another name.

    Raises:
        UserError: if there is none.
    """
    if path.is_file():
        return [path]
    found = [file for file in sorted(path.rglob("rank*.jsonl")) if re.fullmatch(r"rank\d+\.jsonl", file.name)]
    if not found:
        raise UserError(
            f"There are no kept solutions at {path}: name the folder `kept` of an evaluation's run, or a folder or "
            "file in it."
        )
    return found


def read_header(path: Path) -> Header:
    """The header of a file.

    Raises:
        UserError: if the file has no header, or one of another version.
    """
    first = next(_lines(path), None)
    header = {} if first is None else first[1]
    _check_header(path, header)
    return header


def read_solutions(path: Path) -> Iterator[KeptSolution]:
    """The solutions of a file, one by one; an unfinished last line is passed over.

    Raises:
        UserError: if a line is damaged.
    """
    for number, (_, row) in enumerate(_lines(path)):
        if number and "batch" not in row:
            yield _solution(row, path)


def as_rollouts(
    prompts: Sequence[Sequence[int]], solutions: Sequence[KeptSolution], pad_token_id: int, device: torch.device
) -> Rollouts:
    """Kept solutions as an engine would return them; the log-probs of their tokens are not kept, and NaN.

    Args:
        prompts: P token id sequences.
        solutions: N = P * G, those of a prompt next to each other.
        pad_token_id: fills unused places.
        device: where the tensors shall be.
    """
    prompt_ids, prompt_lengths = pad_rows(prompts, pad_token_id)
    response_ids, response_lengths = pad_rows([solution.response_ids for solution in solutions], pad_token_id)
    log_probs = [[solution.reward_token_log_prob, *solution.further_log_probs] for solution in solutions]
    return Rollouts(
        prompt_ids.to(device),
        prompt_lengths.to(device),
        response_ids.to(device),
        response_lengths.to(device),
        finished=torch.tensor([solution.finished for solution in solutions], device=device),
        sampling_log_probs=torch.full(response_ids.shape, torch.nan, dtype=torch.float32, device=device),
        reward_token_log_probs=torch.tensor(log_probs, dtype=torch.float32, device=device).view(
            len(solutions), len(log_probs[0]) if log_probs else 1
        ),
    )


def first_difference(kept: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> str | None:
    """In words, the first setting in which two headers differ; None if there is none."""
    for key in dict.fromkeys((*ours, *kept)):
        theirs, mine = kept.get(key), ours.get(key)
        if theirs == mine or (not prefix and key in INFORMATION):
            continue
        if isinstance(theirs, dict) and isinstance(mine, dict):
            return first_difference(theirs, mine, f"{prefix}{key}.")
        return f"{prefix}{key} was {json.dumps(theirs)} and is {json.dumps(mine)}"
    return None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole line's object, with the place in the file where the line ends."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(
                    f"Line {number} of {path} is damaged: it is not a JSON object. Cut the file off in front of that "
                    "line, or move it away."
                )
            yield end, row


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    version = header.get(VERSION_KEY)
    if version is None:
        raise UserError(f"{path} is no file of kept solutions: its first line has no key '{VERSION_KEY}'.")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} is of version {version} of the form of kept solutions, and this release reads version "
            f"{FORMAT_VERSION}: read it with the release that wrote it, or move it away."
        )


def _row(solution: KeptSolution) -> dict[str, Any]:
    found = asdict(solution)
    row = {name: value for name, value in found.items() if name not in _OPTIONAL or found[_OPTIONAL[name]]}
    row |= {name: _as_json(row[name]) for name in _FLOATS if row[name] is not None}
    return row | {name: [_as_json(value) for value in row[name]] for name in _LISTS if name in row}


def _solution(row: dict[str, Any], path: Path) -> KeptSolution:
    try:
        names = [one.name for one in fields(KeptSolution)]
        values = {name: row[name] for name in names if name in row or name not in _OPTIONAL}
        values |= {name: float(row[name]) for name in _FLOATS if row[name] is not None}
        values |= {name: [float(value) for value in row[name]] for name in _LISTS if name in row}
        return KeptSolution(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"A line of {path} is damaged: it is not a kept solution ({error!r}). Move the file away."
        ) from error


def _as_json(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)
