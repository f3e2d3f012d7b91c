"""What ``predict`` writes: for each problem its solutions with their scores, and the answers that they vote for."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch import LightningModule, Trainer

from laser_lightning.callbacks.base import RunCallback
from laser_lightning.data.module import data_module
from laser_lightning.errors import UserError
from laser_lightning.inference.vote import alike, candidates_of, chosen_by, count
from laser_lightning.metrics.votes import VoteRule
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.records.rollout import Rollout
from laser_lightning.runs.files import set_aside
from laser_lightning.verifiers import VerifierPool

SOLUTION = pa.struct(
    [
        ("text", pa.string()),
        ("answer", pa.string()),
        ("reward", pa.float32()),
        ("self_reward", pa.float32()),
        ("verdict", pa.bool_()),
        ("finished", pa.bool_()),
        ("tokens", pa.int32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("index", pa.int64()),
        ("kind", pa.string()),
        ("problem", pa.string()),
        ("gold", pa.string()),
        ("k", pa.int32()),
        ("majority", pa.string()),
        ("weighted_majority", pa.string()),
        ("best", pa.string()),
        ("solutions", pa.list_(SOLUTION)),
    ]
)
"""The columns of a Parquet file, and the keys of a JSON line."""


class Predictions(RunCallback):
    """Writes a record for each problem of ``predict``: k solutions with their scores, and three answers.

    The files are ``<run>/<filename>/<set>.jsonl`` or ``.parquet``; with several processes each writes its own,
    ``<set>.rank1.jsonl``. A record has these keys:

    - ``dataset``, ``index``, ``kind``, ``problem``, ``gold``: the problem.
    - ``k``: number of solutions; ``solutions``: of each its ``text``, its extracted ``answer`` (null if there is none),
      the verifier's ``reward``, the ``self_reward`` (0 if truncated, null if not finite), the ``verdict`` (whether the
      model takes it for correct), ``finished``, and its length in ``tokens``.
    - ``majority``, ``weighted_majority``, ``best``: the answers that the solutions give together (see
      ``laser_lightning.inference.vote.Vote``).
    - ``votes``: the answer by each rule of ``evaluation.votes``, by its name; left out where there is none.

    Records are written batch by batch (a row group each in Parquet), to ``<set>.jsonl.partial``; a file has its name
    once it is complete. A killed run that is repeated in its directory begins that file anew, from the solutions that
    the evaluation kept. A complete file of an earlier run is kept under another name (``<set>.1.jsonl``).

    Args:
        format: ``jsonl`` or ``parquet``.
        filename: name of the folder in the run's directory.
    """

    def __init__(self, format: Literal["jsonl", "parquet"] = "jsonl", filename: str = "predictions") -> None:
        if format not in ("jsonl", "parquet"):
            raise UserError(f"predictions.format is '{format}', and must be jsonl or parquet.")
        if not filename:
            raise UserError("predictions.filename is empty: name the folder of the predictions.")
        self.format, self.filename = format, filename
        self._writers: dict[str, _JsonLines | _Parquet] = {}

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self.run_directory / self.filename

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module without solutions, and begin a file for each set."""
        module = self.needs_laser_module(pl_module, "predictions")
        rank = f".rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        columns = schema(module.evaluator.votes)

        def begin() -> None:
            for dataset in data_module(trainer, type(self).__name__).evaluation_problems:
                path = self.directory / f"{dataset}{rank}.{self.format}"
                path.parent.mkdir(parents=True, exist_ok=True)
                self._writers[dataset] = _JsonLines(path) if self.format == "jsonl" else _Parquet(path, columns)

        self.write_own(trainer, "Predictions in", self.directory, begin)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the records of a batch."""
        module = self.needs_laser_module(pl_module, "predictions")

        def write() -> None:
            if batch:  # a rank's batch is empty where a set has too few problems
                assert module.last_rollout is not None
                found = records(module.last_rollout, module.verifier_pool, module.evaluator.votes)
                self._writers[batch[0].dataset].write(list(found))

        self.write_own(trainer, "Predictions in", self.directory, write)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the files their names."""

        def end() -> None:
            for writer in self._writers.values():
                writer.close()
                set_aside(writer.path)
                writer.partial.rename(writer.path)

        self.write_own(trainer, "Predictions in", self.directory, end)
        self._writers.clear()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close what an error left open."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def schema(votes: Sequence[VoteRule]) -> pa.Schema:
    """The columns of a Parquet file with the answers by these rules too."""
    if not votes:
        return SCHEMA
    by_rule = pa.struct([(rule.name, pa.string()) for rule in votes])
    return SCHEMA.insert(SCHEMA.get_field_index("solutions"), pa.field("votes", by_rule))


def records(rollout: Rollout, pool: VerifierPool, votes: Sequence[VoteRule] = ()) -> Iterable[dict[str, Any]]:
    """The record of each problem of a round.

    Args:
        rollout: P problems with k solutions each.
        pool: says which answers are equivalent.
        votes: rules beside those that are always there.
    """
    k = rollout.rollouts.group_size
    answers = [verification.answer for verification in rollout.verifications]
    groups = [answers[start : start + k] for start in range(0, len(answers), k)]
    voting = alike(groups, pool, [problem.verifier for problem in rollout.problems])
    # A score that is not a number has no weight, and is no best one.
    scores = [-math.inf if math.isnan(score) else score for score in rollout.self_rewards.tolist()]
    finished = rollout.rollouts.finished.tolist()
    lengths, rewards = rollout.rollouts.response_lengths.tolist(), rollout.rewards.tolist()
    for number, problem in enumerate(rollout.problems):
        rows = range(number * k, (number + 1) * k)
        chosen = count(voting[number], [scores[row] for row in rows])
        yield {
            "dataset": problem.dataset,
            "index": problem.index,
            "kind": problem.kind,
            "problem": problem.problem,
            "gold": problem.answer,
            "k": k,
            "majority": chosen.majority,
            "weighted_majority": chosen.weighted_majority,
            "best": chosen.best,
            **({"votes": _by_rule(votes, rollout, rows, voting[number], scores)} if votes else {}),
            "solutions": [
                {
                    "text": rollout.texts[row],
                    "answer": answers[row],
                    "reward": rewards[row],
                    "self_reward": scores[row] if math.isfinite(scores[row]) else None,
                    "verdict": finished[row] and scores[row] > CORRECT_THRESHOLD,
                    "finished": finished[row],
                    "tokens": lengths[row],
                }
                for row in rows
            ],
        }


def _by_rule(
    votes: Sequence[VoteRule], rollout: Rollout, rows: range, answers: list[str | None], scores: list[float]
) -> dict[str, str | None]:
    """The answer that each rule gives to one problem, from the solutions of these rows."""
    candidates = candidates_of(
        answers,
        scores[rows.start : rows.stop],
        rollout.rollouts.finished[rows.start : rows.stop].tolist(),
        None if rollout.scores is None else rollout.scores[rows.start : rows.stop].tolist(),
    )
    chosen = {rule.name: chosen_by(rule, candidates) for rule in votes}
    return {name: None if row is None else answers[row] for name, row in chosen.items()}


class _JsonLines:
    """A file of JSON lines that is being written."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(f"{path.name}.partial")
        # What UTF-8 cannot hold (half a surrogate pair in the data) becomes the escape that JSON has for it.
        self._file = self.partial.open("w", encoding="utf-8", errors="backslashreplace")

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Add records, and hand them to the operating system."""
        self._file.write("".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Parquet:
    """A Parquet file that is being written; it can be read once it is closed."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.path, self.partial = path, path.with_name(f"{path.name}.partial")
        self.partial.unlink(missing_ok=True)  # an interrupted run of this process may hold it open, and write its end
        self._writer = pq.ParquetWriter(self.partial, schema)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Add records as a row group."""
        self._writer.write_table(pa.Table.from_pylist(_encodable(rows), schema=self.schema))

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()


def _encodable(value: Any) -> Any:
    """The same records, with an escape for what UTF-8 cannot hold (half a surrogate pair in the data)."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value
