"""What a stand-alone evaluation leaves on the console and in files, and that it is what was logged."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.image import imread
from rich.console import Console

from laser_lightning.callbacks import EvaluationReport
from laser_lightning.callbacks.report import tables
from laser_lightning.callbacks.results import Estimate, EvaluationResult, SetResult
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.metrics.votes import BestRule, Majority, MeanScoreVote
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.policy.model import PolicySettings


def row_of(text: str, name: str, number: int) -> list[str]:
    """The cells of the line that begins with a name, in one of several tables."""
    return [line.split() for line in text.splitlines() if line.strip().startswith(f"{name} ")][number]


@pytest.mark.parametrize(("command", "stage"), [("validate", "val"), ("test", "test")])
def test_files_hold_what_was_logged(
    command: str, stage: str, make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(ModelCheckpoint(tmp_path, "last"), max_steps=1, directory="first").fit()
    capsys.readouterr()
    run = make_run(EvaluationReport())
    getattr(run, command)(tmp_path / "last.ckpt")
    shown = capsys.readouterr().out
    folder = tmp_path / "run" / "evaluation"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{stage}.csv",
        f"{stage}.json",
        f"{stage}_curves.csv",
        f"{stage}_curves.png",
        f"{stage}_tokens.png",
    ]

    prefix = f"{stage}/sums/"
    metrics = run.trainer.callback_metrics
    logged = {key.removeprefix(prefix): float(metrics[key]) for key in metrics if key.startswith(prefix)}
    with (folder / f"{stage}.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["set"], row["problems"], row["samples"]) == ("sums", "3", "4")
    assert {name: float(row[name]) for name in logged} == logged
    assert logged["seconds"] > 0
    # Solutions of 4, 5, 3 and 4 tokens to 3 problems: 48. Two of four are right, and both answer 2, against 3.
    assert (logged["response/tokens"], logged["reward"], logged["maj@4"]) == (48, 0.5, 1.0)
    assert logged["response/judging_tokens"] == 0.75  # of four one is truncated, and has no score

    content = json.loads((folder / f"{stage}.json").read_text())
    assert (content["stage"], content["step"]) == (stage, 1)
    assert metrics["step"] == 1  # of the checkpoint: this trainer has taken none
    assert content["sets"]["sums"]["values"] == logged
    for name in ("pass", "maj", "weighted_maj", "best_of"):
        last = content["sets"]["sums"]["curves"][name][-1]
        assert last["k"] == 4
        assert last["value"] == pytest.approx(logged[f"{name}@4"])
        # Four solutions of 4 tokens, and three scores, which majority and pass@k do not look at.
        assert last["tokens"] == (16.0 if name in ("pass", "maj") else 19.0)
    assert imread(folder / f"{stage}_curves.png").ndim == 3

    assert f"{stage} at step 1" in shown
    # Every problem has the same solutions, so the intervals have no width.
    accuracy = ["sums", "3", "x", "4", "0.500", "0.500-0.500", "1.000", "1.000", "1.000", "1.000"]
    assert row_of(shown, "sums", 0) == accuracy
    assert row_of(shown, "sums", 1)[1] == "1.000"  # F1
    assert f"evaluation: {folder}" in shown.replace("\n", "")


def test_fit_reports_nothing(make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(EvaluationReport(), max_steps=1).fit()
    assert not (tmp_path / "run" / "evaluation").exists()
    assert "pass@k" not in capsys.readouterr().out


def test_one_sample_has_no_votes(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(EvaluationReport(), evaluation=EvaluationSettings(samples=1)).validate()
    # Scripted solutions in turn: to the first problem of each pair a right one, to the second a wrong one.
    shown = capsys.readouterr().out
    cells = row_of(shown, "sums", 0)
    assert cells[:5] == ["sums", "3", "x", "1", "0.667"]
    assert len(cells) == 6  # the interval is the last
    assert "maj@" not in (tmp_path / "run/evaluation/val.csv").read_text()
    assert (tmp_path / "run/evaluation/val_curves.png").exists()


def test_votes_by_rules_of_the_users(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "metrics")
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    rules = [MeanOfScores("own"), MeanOfScores("other"), BestRule([Majority(), MeanScoreVote()])]
    run = make_run(EvaluationReport(), evaluation=EvaluationSettings(samples=4, votes=rules))
    run.validate()
    # Answers 2, 3, 2 and none, with the scores 1, 0, 0.8 and 0.
    assert run.trainer.callback_metrics["val/sums/own@4"] == 1
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines() if "own@k" in line] == [
        ["set", "own@k", "other@k", "best_rule@k"]
    ]
    assert row_of(shown, "sums", 1) == ["sums", "1.000", "1.000", "1.000"]
    assert "best_rule votes by maj" in shown.splitlines()
    with (tmp_path / "run/evaluation/val.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["own@4"], row["own@4_low"], row["other@4"]) == ("1.0", "1.0", "1.0")
    curves = json.loads((tmp_path / "run/evaluation/val.json").read_text())["sets"]["sums"]["curves"]
    assert [point["k"] for point in curves["own"]] == [1, 2, 4]
    # Four solutions of 4 tokens, and three scores; those the majority does not look at.
    assert [curves[name][-1]["tokens"] for name in ("own", "best_rule")] == [19.0, 16.0]


def test_other_modules_are_refused(make_run: Callable[..., Any], policy_dir: Path) -> None:
    module = SupervisedModule(PolicySettings(path=str(policy_dir)))
    with pytest.raises(UserError, match="set `report: null`"):
        make_run(EvaluationReport(), module=module).validate()


def wide(samples: int | None, problems: int | None) -> SetResult:
    names = ("pass", "maj", "weighted_maj", "best_of")
    values = {f"{name}@{samples}": 0.5 for name in names} | {"pass@1": 0.5, "pass@1/add": 0.25, "seconds": 12345.6}
    values |= {
        f"self_verification/{name}": 0.5 for name in ("f1", "accuracy_on_correct", "accuracy_on_incorrect", "ece")
    }
    values |= {
        f"self_verification/{name}": value
        for metric, value in (
            ("auroc_within", 0.5),
            ("auroc_within_mean", 0.75),
            ("mixed_problems", 674.0),
            ("brier", 0.25),
        )
        for name in (metric, f"{metric}/add")
    }
    values |= {"self_verification/correct": 123456.0, "response/tokens": 123456789.0}
    curves = {name: {1: Estimate(0.5, 0.4, 0.6)} for name in names}
    return SetResult(problems, samples, values, {"pass@1": (0.4, 0.6)}, curves)


def test_tables_fit_into_80_columns_and_leave_out_what_is_not_there() -> None:
    sets = {"olympiadbench": wide(2, 674), "aime24": wide(32, 30)}
    result = EvaluationResult("test", 1600, sets, wide(None, None))
    console = Console(width=200)
    with console.capture() as capture:
        for table in tables(result):
            console.print(table)
    shown = capture.get()
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    for name in ("aime24", "olympiadbench"):
        assert row_of(shown, name, 0)[-4:] == ["0.500"] * 4
    # The average over sets of different k has no pass@k and no votes.
    assert row_of(shown, "average", 0) == ["average", "0.500", "0.400-0.600"]
    assert row_of(shown, "add", 0) == ["add", "0.250", "0.250"]
    assert "123456789" in shown
    assert row_of(shown, "aime24", 2) == ["aime24", "0.500", "0.750", "674", "0.250"]  # behind accuracy and verdicts
    assert [row_of(shown, "add", number)[1] for number in range(5)] == ["0.250", "0.500", "0.750", "674", "0.250"]
