"""The JSON lines of a run, and what of them outlives a resume."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from laser_lightning.callbacks import SolutionLog
from laser_lightning.callbacks.solution_log import drop_steps_from, rows, set_aside, shortened, solution_table
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.objective.objective import UpdateSettings
from laser_lightning.policy.model import PolicySettings
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import Verification


def read(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def make_round(make_rollouts: Callable[..., Any]) -> Callable[..., Rollout]:
    """``make_round(texts, self_rewards, errors)``: solutions of one problem, each of reward 1."""

    def make(texts: list[str], self_rewards: list[float], errors: list[str | None]) -> Rollout:
        count = len(texts)
        return Rollout(
            [Problem("hard", 7, "[red]a\nb[/red]", "", [5], "4")],
            make_rollouts(prompts=1, group_size=count),
            texts,
            [Verification(1.0, "4", error) for error in errors],
            torch.ones(count),
            None,
            torch.tensor(self_rewards),
        )

    return make


def test_every_solution_is_a_line(make_run: Callable[..., Any], tmp_path: Path) -> None:
    make_run(SolutionLog(console_rows=0), max_steps=2).fit()
    train, val = (read(tmp_path / "run" / "solutions" / f"{stage}.jsonl") for stage in ("train", "val"))

    # 2 steps of 2 prompts, and evaluations at 0, 1 and 2 of 3 prompts; 4 solutions each
    assert [line["step"] for line in train] == [0] * 8 + [1] * 8
    assert [line["step"] for line in val] == [0] * 12 + [1] * 12 + [2] * 12
    first, second, _, last = val[:4]
    assert first == {
        "stage": "val",
        "dataset": "sums",
        "step": 0,
        "index": 0,
        "kind": "sum",
        "problem": "0?",
        "response": "a#2",
        "answer": "2",
        "gold": "2",
        "verifier": None,
        "reward": 1.0,
        "self_reward": pytest.approx(1.0),  # 0.1 * (-10 + 20)
        "finished": True,
        "response_tokens": 4,  # a, #, 2 and <eos>
        "error": None,
    }
    assert (second["answer"], second["reward"], second["self_reward"]) == ("3", 0.0, 0.0)
    assert (last["answer"], last["finished"], last["self_reward"], last["response_tokens"]) == (None, False, 0.0, 4)
    assert {(line["stage"], line["dataset"]) for line in train} == {("train", "train")}
    assert [line["index"] for line in val[:12]] == [0] * 4 + [1] * 4 + [2] * 4


def test_values_that_json_lacks_are_null(make_round: Callable[..., Rollout]) -> None:
    rollout = make_round(["a", "b"], [float("nan"), float("-inf")], [None, "timed out after 3 s"])
    lines = list(rows(rollout, "train", 3))

    assert [line["self_reward"] for line in lines] == [None, None]
    assert [line["error"] for line in lines] == [None, "timed out after 3 s"]
    assert [line["kind"] for line in lines] == [None, None]


def test_several_scores_of_a_solution_are_all_there(make_round: Callable[..., Rollout]) -> None:
    rollout = make_round(["a", "b"], [0.5, 1.0], [None, None])
    rollout.scores = torch.tensor([[0.0, 1.0], [1.0, float("nan")]])  # of the second a verification has no verdict
    assert [line["scores"] for line in rows(rollout, "val", 3)] == [[0.0, 1.0], [1.0, None]]


def test_half_a_surrogate_pair_is_still_json(make_round: Callable[..., Rollout], tmp_path: Path) -> None:
    log = SolutionLog()
    log.run_directory = tmp_path
    trainer: Any = SimpleNamespace(world_size=2, global_rank=1, strategy=None)
    log._write(trainer, make_round(["ä\ud83d"], [0.0], [None]), "train", 0)

    # one file per rank, and the text as it was
    assert read(tmp_path / "solutions" / "train.rank1.jsonl")[0]["response"] == "ä\ud83d"


def test_every_n_steps_counts_optimizer_steps(make_run: Callable[..., Any], tmp_path: Path) -> None:
    # Rounds of two optimizer steps: 0 and 1, 2 and 3, 4 and 5. Those of the steps 0 and 3 are logged.
    log = SolutionLog(every_n_steps=3, evaluation=False, console_rows=0)
    make_run(log, max_steps=6, update=UpdateSettings(mini_batches=2)).fit()
    assert sorted({line["step"] for line in read(tmp_path / "run/solutions/train.jsonl")}) == [0, 2]
    assert not (tmp_path / "run/solutions/val.jsonl").exists()


def test_lines_are_on_disk_after_each_step(make_run: Callable[..., Any], tmp_path: Path) -> None:
    class Killer(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 1:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        make_run(SolutionLog(console_rows=0), Killer(), max_steps=3).fit()
    assert [line["step"] for line in read(tmp_path / "run/solutions/train.jsonl")] == [0] * 8


def test_a_resumed_run_leaves_the_lines_of_one_that_was_not_killed(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    def callbacks(directory: str) -> tuple[Callback, Callback]:
        checkpoint = ModelCheckpoint(tmp_path / directory, "{step}", every_n_train_steps=2, save_top_k=-1)
        return SolutionLog(console_rows=0), checkpoint

    make_run(*callbacks("whole"), directory="whole", max_steps=5).fit()
    make_run(*callbacks("run"), max_steps=5).fit()
    train, val = (tmp_path / "run" / "solutions" / name for name in ("train.jsonl", "val.jsonl"))
    with train.open("a") as file:
        file.write('{"stage": "train", "st')  # killed in the middle of a write
    make_run(*callbacks("run"), max_steps=5).fit(tmp_path / "run" / "step=2.ckpt")

    assert [line["step"] for line in read(train)[::8]] == [0, 1, 2, 3, 4]
    assert train.read_text() == (tmp_path / "whole" / "solutions" / "train.jsonl").read_text()
    assert val.read_text() == (tmp_path / "whole" / "solutions" / "val.jsonl").read_text()


def test_a_repeated_evaluation_is_logged_once(tmp_path: Path) -> None:
    log = SolutionLog()
    log.run_directory, log.checkpoint_step = tmp_path, 2
    path = tmp_path / "solutions" / "val.jsonl"
    path.parent.mkdir()
    path.write_text('{"step": 0}\n{"step": 2}\n{"step": 4}\n')
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    trainer: Any = SimpleNamespace(
        world_size=1, global_rank=0, global_step=2, sanity_checking=False, state=state, strategy=None
    )
    module: Any = None

    log.on_train_start(trainer, module)
    assert path.read_text() == '{"step": 0}\n{"step": 2}\n{"step": 4}\n'  # perhaps step 2 is not evaluated again
    log.on_validation_start(trainer, module)
    assert path.read_text() == '{"step": 0}\n'
    path.write_text('{"step": 0}\n{"step": 2}\n')
    log.on_validation_start(trainer, module)
    assert path.read_text() == '{"step": 0}\n{"step": 2}\n'


def test_another_runs_lines_are_kept(make_run: Callable[..., Any], tmp_path: Path) -> None:
    for _ in range(3):
        make_run(SolutionLog(console_rows=0), max_steps=1).fit()
    names = sorted(path.name for path in (tmp_path / "run/solutions").iterdir())
    assert names == ["train.1.jsonl", "train.2.jsonl", "train.jsonl", "val.1.jsonl", "val.2.jsonl", "val.jsonl"]
    assert len(read(tmp_path / "run/solutions/train.jsonl")) == 8


def test_stand_alone_evaluations_have_files_of_their_own(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(SolutionLog(console_rows=0), ModelCheckpoint(tmp_path, "last"), max_steps=1).fit()
    before = (tmp_path / "run/solutions/val.jsonl").read_text()
    run = make_run(SolutionLog(console_rows=1))
    run.validate(tmp_path / "last.ckpt")
    run.test()
    run.predict()

    folder = tmp_path / "run" / "solutions"
    # the weights of the checkpoint are those of step 1; without one they are the initial ones
    for stage, step in (("validate", 1), ("test", 0), ("predict", 0)):
        lines = read(folder / f"{stage}.jsonl")
        assert [(line["stage"], line["step"]) for line in lines] == [(stage, step)] * 12
    assert (folder / "val.jsonl").read_text() == before
    # one table for each stage, although the 3 problems come in 2 batches
    assert capsys.readouterr().out.count("Solutions of 'sums'") == 3


def test_an_empty_batch_does_not_log_the_last_round_again(make_run: Callable[..., Any], tmp_path: Path) -> None:
    log = SolutionLog(console_rows=0)
    run = make_run(log, max_steps=1)
    run.fit()
    before = (tmp_path / "run/solutions/val.jsonl").read_text()
    log.on_validation_batch_end(run.trainer, run.module, None, [], 0)
    assert (tmp_path / "run/solutions/val.jsonl").read_text() == before


def test_the_console_shows_some_now_and_then(make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    make_run(SolutionLog(console_rows=2, console_every_n_steps=2), max_steps=3).fit()
    shown = capsys.readouterr().out
    assert [f"Solutions of step {step}" in shown for step in (0, 1, 2)] == [True, False, True]


def test_the_table_shortens_and_takes_nothing_for_markup(make_round: Callable[..., Rollout]) -> None:
    rollout = make_round(["x" * 500 + "END", "middle", "late"], [0.25, 0.5, 0.75], [None] * 3)
    rollout.rollouts.finished[:] = torch.tensor([True, True, False])
    console = Console(width=120)
    with console.capture() as capture:
        console.print(solution_table(rollout, 2, "Solutions"))
    text = capture.get()

    assert "[red]a b[/red]" in text
    assert "xEND" in text
    assert "middle" in text
    assert "late" not in text  # 2 of 3, evenly: the first and the second
    assert max(len(line) for line in text.splitlines()) <= 120
    with console.capture() as capture:
        console.print(solution_table(rollout, 9, "Solutions"))
    assert "truncated" in capture.get()


@pytest.mark.parametrize(("keep_end", "expected"), [(False, "one t…"), (True, "…three")], ids=["beginning", "end"])
def test_shortened(keep_end: bool, expected: str) -> None:
    assert shortened("one\n two   three", 6, keep_end) == expected
    assert shortened("one\n two", 7, keep_end) == "one two"


def test_drop_steps_from(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    drop_steps_from(path, 0)  # nothing there, nothing to do
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"step": 3')
    drop_steps_from(path, 5)
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'
    drop_steps_from(path, 1)
    assert path.read_text() == '{"step": 0}\n'


@pytest.mark.parametrize("line", ["hello", "[1]", '{"index": 1}'])
def test_drop_steps_from_another_kind_of_file(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}\n')
    with pytest.raises(UserError, match=r"Line 2 of .*train\.jsonl is not a logged solution"):
        drop_steps_from(path, 1)
    assert path.read_text() == f'{{"step": 0}}\n{line}\n'


def test_set_aside(tmp_path: Path) -> None:
    set_aside(tmp_path / "a.jsonl")
    assert not list(tmp_path.iterdir())


def test_refusals(make_run: Callable[..., Any], policy_dir: Path) -> None:
    with pytest.raises(UserError, match="every_n_steps"):
        SolutionLog(every_n_steps=0)
    with pytest.raises(UserError, match="console_rows"):
        SolutionLog(console_rows=-1)
    with pytest.raises(UserError, match="filename is empty"):
        SolutionLog(filename="")
    supervised = SupervisedModule(PolicySettings(path=str(policy_dir)))
    with pytest.raises(UserError, match="SupervisedModule: set `solution_log: null`"):
        make_run(SolutionLog(), module=supervised).fit()
