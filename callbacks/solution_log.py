"""A log of sampled solutions, as JSON lines, for the loggers, and on the console."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from rich.table import Table
from rich.text import Text

from laser_lightning.callbacks.base import RunCallback, finite, fits, show
from laser_lightning.callbacks.publish import publish_table
from laser_lightning.errors import UserError
from laser_lightning.records.rollout import Rollout
from laser_lightning.runs.files import set_aside
from laser_lightning.verifiers import Verification

T = TypeVar("T")
TABLE_COLUMNS = ("problem", "response", "answer", "gold", "reward", "self_reward", "finished")
PROBLEM_CHARACTERS, RESPONSE_CHARACTERS, ANSWER_CHARACTERS = 40, 60, 20


class SolutionLog(RunCallback):
    """Writes every sampled solution with its reward and self-reward, and shows a few of them on the console and as a
    table in TensorBoard, W&B and MLflow, where the run logs to them.

    The files are ``<run>/<filename>/train.jsonl`` and ``val.jsonl`` (the evaluations of ``fit``), or
    ``validate.jsonl``, ``test.jsonl`` and ``predict.jsonl`` (those that stand alone); with several processes each
    writes its own, ``train.rank1.jsonl``. A line is an object with these keys:

    - ``stage``: the file's name; ``dataset``, ``index``, ``kind``, ``problem``, ``gold``: the problem; ``verifier``:
      name of the verifier that judged it, null if it names none.
    - ``step``: optimizer steps behind the weights that wrote the solution; the first training step has 0.
    - ``response``: text without special tokens; ``response_tokens``: its length, ``<eos>`` included.
    - ``answer``: extracted final answer, null if there is none; ``error``: why the verifier failed, else null.
    - ``reward``, ``self_reward``: as they were used (0 for a self-reward of a truncated solution); null if not finite.
    - ``rewards``: with several reward functions what each said, null for one that failed; ``policy_reward``: their
      weighted sum.
    - ``scores``: with several scores of each solution, as of several verifications, all of them, null for absent ones.
    - ``finished``: false if the response was cut at the length limit.

    Lines are on disk after each step, so a killed run keeps them. A resumed run in the same directory appends, and
    first removes the lines that it writes anew: training solutions from the checkpoint's step on, and evaluations from
    its own first one on. Files of an earlier run that is not resumed are kept under another name (``train.1.jsonl``).

    Args:
        every_n_steps: log training solutions of every n-th optimizer step.
        evaluation: log the solutions of evaluations too.
        console_rows: solutions in the table on the console; 0 shows none.
        console_every_n_steps: show the table at every n-th optimizer step; a stand-alone evaluation shows one for
            each set.
        table_rows: solutions in the tables of the loggers, in full length; 0 makes none.
        table_every_n_steps: make a table at every n-th optimizer step; each evaluation makes one for each set.
        filename: name of the folder in the run's directory.
    """

    def __init__(
        self,
        every_n_steps: int = 1,
        evaluation: bool = True,
        console_rows: int = 3,
        console_every_n_steps: int = 50,
        table_rows: int = 16,
        table_every_n_steps: int = 50,
        filename: str = "solutions",
    ) -> None:
        if min(every_n_steps, console_every_n_steps, table_every_n_steps) < 1 or min(console_rows, table_rows) < 0:
            raise UserError(
                f"solution_log.every_n_steps ({every_n_steps}), console_every_n_steps ({console_every_n_steps}) and "
                f"table_every_n_steps ({table_every_n_steps}) must be at least 1, and console_rows ({console_rows}) "
                f"and table_rows ({table_rows}) at least 0."
            )
        if not filename:
            raise UserError("solution_log.filename is empty: name the folder of the solutions.")
        self.every_n_steps, self.evaluation = every_n_steps, evaluation
        self.console_rows, self.console_every_n_steps = console_rows, console_every_n_steps
        self.table_rows, self.table_every_n_steps = table_rows, table_every_n_steps
        self.filename = filename

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self.run_directory / self.filename

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without solutions."""
        super().setup(trainer, pl_module, stage)
        self.needs_laser_module(pl_module, "solution_log")
        self._shown: set[str] = set()  # sets of the evaluation that is under way

    # ---------------------------------------------------------------- training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room for the lines of this run."""
        train, val = self._path(trainer, "train"), self._path(trainer, "val")
        self._repeats_evaluations = self.checkpoint_step is not None
        step = self.checkpoint_step

        def make_room() -> None:
            if step is None:
                set_aside(train)
                set_aside(val)
            else:
                drop_steps_from(train, step)

        self.write_own(trainer, "Solutions in", self.directory, make_room)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the step: the solutions are those of the weights as they are now."""
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the round."""
        # A round may be several optimizer steps, or none when its step was skipped.
        steps = range(self._first_step, max(trainer.global_step, self._first_step + 1))
        rollout = self.needs_laser_module(pl_module, "solution_log").last_rollout
        assert rollout is not None
        if _any_multiple(steps, self.every_n_steps):
            self._write(trainer, rollout, "train", self._first_step)
        if _any_multiple(steps, self.console_every_n_steps):
            self._show(trainer, rollout, f"Solutions of step {self._first_step}")
        if _any_multiple(steps, self.table_every_n_steps):
            self._publish(trainer, rollout, "train", self._first_step)

    # -------------------------------------------------------------- evaluation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make room for the lines of an evaluation that stands alone, or that a resumed run repeats."""
        self._shown = set()
        path = self._path(trainer, _stage(trainer))
        if not fits(trainer):
            self.write_own(trainer, "Solutions in", self.directory, lambda: set_aside(path))
        elif not trainer.sanity_checking and self._repeats_evaluations:
            step = trainer.global_step
            self.write_own(trainer, "Solutions in", self.directory, lambda: drop_steps_from(path, step))
            self._repeats_evaluations = False

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log an evaluation's solutions."""
        if trainer.sanity_checking:
            return
        # A rank's batch is empty where a set has too few problems; it takes part in the others' end.
        rollout = self.needs_laser_module(pl_module, "solution_log").last_rollout if batch else None
        if self.evaluation:
            self._write(trainer, rollout, _stage(trainer), self.step(trainer))
        if rollout is None:
            return
        dataset = batch[0].dataset
        if dataset in self._shown:
            return
        self._shown.add(dataset)
        self._publish(trainer, rollout, f"{_stage(trainer)}/{dataset}", self.step(trainer))
        if not fits(trainer):
            self._show(trainer, rollout, f"Solutions of '{dataset}'")

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    # ------------------------------------------------------------------ output

    def _path(self, trainer: Trainer, stage: str) -> Path:
        rank = f".rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        return self.directory / f"{stage}{rank}.jsonl"

    def _write(self, trainer: Trainer, rollout: Rollout | None, stage: str, step: int) -> None:
        path = self._path(trainer, stage)

        def write() -> None:
            if rollout is None:
                return
            lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows(rollout, stage, step))
            path.parent.mkdir(parents=True, exist_ok=True)
            # What UTF-8 cannot hold (half a surrogate pair in the data) becomes the escape that JSON has for it.
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(f"{line}\n" for line in lines))

        self.write_own(trainer, "Solutions in", self.directory, write)

    def _show(self, trainer: Trainer, rollout: Rollout, title: str) -> None:
        if self.console_rows and trainer.is_global_zero:
            show(solution_table(rollout, self.console_rows, title))

    def _publish(self, trainer: Trainer, rollout: Rollout, name: str, step: int) -> None:
        if self.table_rows and trainer.is_global_zero:
            chosen = spread(list(rows(rollout, "", step)), self.table_rows)
            table = [{column: row[column] for column in TABLE_COLUMNS} for row in chosen]
            publish_table(trainer, f"solutions/{name}", table, step)


def rows(rollout: Rollout, stage: str, step: int) -> Iterable[dict[str, Any]]:
    """The solutions of a round as objects for JSON.

    Args:
        rollout: N solutions.
        stage: what they were sampled for.
        step: optimizer steps behind the weights.
    """
    rollouts = rollout.rollouts
    columns = (
        rollout.texts,
        rollout.verifications,
        rollout.rewards.tolist(),
        rollout.self_rewards.tolist(),
        rollouts.finished.tolist(),
        rollouts.response_lengths.tolist(),
        [None] * len(rollouts) if rollout.scores is None else rollout.scores.tolist(),
    )
    for row, (text, verification, reward, self_reward, finished, tokens, scores) in enumerate(
        zip(*columns, strict=True)
    ):
        problem = rollout.problem_of(row)
        yield {
            "stage": stage,
            "dataset": problem.dataset,
            "step": step,
            "index": problem.index,
            "kind": problem.kind,
            "problem": problem.problem,
            "response": text,
            "answer": verification.answer,
            "gold": problem.answer,
            "verifier": problem.verifier,
            "reward": finite(reward),
            "self_reward": finite(self_reward),
            "finished": finished,
            "response_tokens": tokens,
            "error": verification.error,
            **_rewards(verification),
            **({} if scores is None else {"scores": [finite(score) for score in scores]}),
        }


def _rewards(verification: Verification) -> dict[str, Any]:
    """What each of several reward functions said, and their weighted sum; nothing for a single one."""
    if not verification.rewards:
        return {}
    return {"rewards": dict(verification.rewards), "policy_reward": verification.policy_reward}


def solution_table(rollout: Rollout, count: int, title: str) -> Table:
    """Some solutions for the console, spread evenly over the round, long texts shortened.

    Args:
        rollout: N solutions.
        count: how many to show, at most.
        title: heading of the table.
    """
    table = Table(title=title, title_justify="left")
    for heading in ("problem", "end of response", "answer", "gold"):
        table.add_column(heading, overflow="fold")
    for heading in ("reward", "self-reward"):
        table.add_column(heading, justify="right")
    for row in spread(list(rows(rollout, "", 0)), count):
        table.add_row(
            Text(shortened(row["problem"], PROBLEM_CHARACTERS)),
            Text(shortened(row["response"], RESPONSE_CHARACTERS, keep_end=True)),
            Text("-" if row["answer"] is None else shortened(row["answer"], ANSWER_CHARACTERS)),
            Text(shortened(row["gold"], ANSWER_CHARACTERS)),
            _number(row["reward"]),
            _number(row["self_reward"]) if row["finished"] else "truncated",
        )
    return table


def spread(items: Sequence[T], count: int) -> list[T]:
    """Some of the items, spread evenly over all.

    Args:
        items: to choose from.
        count: how many, at most.
    """
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def shortened(text: str, limit: int, keep_end: bool = False) -> str:
    """The text in one line of at most ``limit`` characters, with an ellipsis where something is left out.

    Args:
        text: any text.
        limit: number of characters, at least 1.
        keep_end: leave out the beginning rather than the end.
    """
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    return "…" + line[len(line) - limit + 1 :] if keep_end else line[: limit - 1] + "…"


def drop_steps_from(path: Path, step: int) -> None:
    """Cut off the lines of ``step`` and later ones, and a last line that a killed run left unfinished.

    Args:
        path: a file of lines in the order of their steps; it need not exist.
        step: first step to drop.

    Raises:
        UserError: if a line is not a solution.
    """
    if not path.exists():
        return
    with path.open("rb+") as file:
        kept = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or _step_of(line, path, number) >= step:
                break
            kept += len(line)
        file.truncate(kept)


def _step_of(line: bytes, path: Path, number: int) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"Line {number} of {path} is not a logged solution, so the resumed run cannot append to the file: "
            "move it away, or mend the line."
        ) from error


def _stage(trainer: Trainer) -> str:
    assert trainer.state.fn is not None
    return "val" if fits(trainer) else trainer.state.fn.value


def _any_multiple(steps: range, n: int) -> bool:
    return any(step % n == 0 for step in steps)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
