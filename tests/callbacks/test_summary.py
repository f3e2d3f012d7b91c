"""The table at the end shows what the run's own evaluations measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from laser_lightning.callbacks import EvaluationReport, HuggingFaceExport, RunSummary, SelfRewardFigures, SolutionLog
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.policy.model import PolicySettings


def table(text: str) -> dict[str, list[str]]:
    """The cells of each row by its first one."""
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in rows}


def test_a_run_is_summed_up(
    make_run: Callable[..., Any],
    learning: Callable[..., Callback],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    others = SolutionLog(console_rows=0), SelfRewardFigures(dpi=30), HuggingFaceExport()
    make_run(learning({0: 1, 1: 4, 2: 3}), *others, RunSummary(), max_steps=2).fit()
    shown = capsys.readouterr().out
    rows = table(shown)

    # 1 of 4 right before, 3 of 4 at the end; the evaluation in between does not matter
    assert "sums, from step 0 to step 2" in shown
    assert rows["pass@1"] == ["0.250", "0.750", "+0.500"]
    assert rows["pass@1/product"] == ["0.250", "0.750", "+0.500"]
    assert rows["maj@4"] == ["0.000", "1.000", "+1.000"]
    assert rows["weighted_maj@4"] == ["0.000", "1.000", "+1.000"]
    # all self-rewards are 1, so ties make best-of-4 a draw among all
    assert rows["best_of@4"] == ["0.250", "0.750", "+0.500"]
    assert rows["self_verification/f1"] == ["0.000", "0.000", "+0.000"]
    assert rows["self_verification/auroc"] == ["0.500", "0.500", "+0.000"]
    assert rows["self_verification/ece"] == ["0.750", "0.250", "-0.500"]
    assert rows["self_verification/incorrect"] == ["9", "3", "-6"]  # of 3 problems, 4 solutions each
    assert rows["response/length_tokens"] == ["3.0", "3.0", "+0.0"]
    assert rows["response/truncation_rate"] == ["0.000", "0.000", "+0.000"]
    run = tmp_path / "run"
    assert "2 optimizer steps" in shown
    for place in ("metrics.csv", "figures", "solutions", "export", "summary.json"):
        assert str(run / place) in shown

    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["start"]["step"], summary["end"]["step"]) == (2, 0, 2)
    assert summary["start"]["sets"]["sums"]["pass@1"] == 0.25
    assert summary["end"]["sets"]["sums"]["maj@4"] == 1.0
    assert summary["files"]["figures"] == str(run / "figures")
    assert summary["training_seconds"] > 0
    assert summary["evaluation_seconds"] > 0


def test_undefined_values_are_null(
    make_run: Callable[..., Any],
    learning: Callable[..., Callback],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(learning({0: 4, 1: 3}), RunSummary(), max_steps=1).fit()
    assert table(capsys.readouterr().out)["self_verification/auroc"] == ["-", "0.500", "-"]
    text = (tmp_path / "run" / "summary.json").read_text()
    assert json.loads(text)["start"]["sets"]["sums"]["self_verification/auroc"] is None


def test_a_resumed_run_is_summed_up_whole(
    make_run: Callable[..., Any], learning: Callable[..., Callback], tmp_path: Path
) -> None:
    def callbacks(right: dict[int, int]) -> list[Callback]:
        checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        return [learning(right), RunSummary(), checkpoint]

    make_run(*callbacks({0: 1, 3: 2}), max_steps=3, val_check_interval=3).fit()
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    resumed = callbacks({3: 4})
    make_run(*resumed, max_steps=3, val_check_interval=3).fit(tmp_path / "step=2.ckpt")
    second = json.loads((tmp_path / "run" / "summary.json").read_text())

    assert second["start"] == first["start"]
    assert second["start"]["step"] == 0
    assert (first["end"]["sets"]["sums"]["pass@1"], second["end"]["sets"]["sums"]["pass@1"]) == (0.5, 1.0)
    # the time of the two steps before the checkpoint counts too
    state = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["callbacks"]["RunSummary"]
    assert second["training_seconds"] > state["training_seconds"] > 0


def test_stand_alone_evaluations_show_their_values(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(RunSummary(), ModelCheckpoint(tmp_path, "last"), max_steps=1, directory="first").fit()
    capsys.readouterr()
    run = make_run(RunSummary())
    run.validate(tmp_path / "last.ckpt")
    validated = capsys.readouterr().out
    run.test()
    tested = capsys.readouterr().out

    # 2 of the 4 scripted solutions are right: the first and the third; both have their verdict
    for shown, step in ((validated, 1), (tested, 0)):
        assert f"sums at step {step} " in shown
        rows = table(shown)
        assert rows["pass@1"] == ["0.500"]
        assert rows["self_verification/f1"] == ["1.000"]
        assert rows["response/truncation_rate"] == ["0.250"]
    assert not (tmp_path / "run" / "summary.json").exists()


def test_without_an_evaluation_there_are_times(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(RunSummary(), max_steps=1, trainer_options={"limit_val_batches": 0}).fit()
    assert "1 optimizer steps" in capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["start"], summary["end"], summary["evaluation_seconds"]) == (None, None, 0)


def test_a_supervised_run_is_summed_up(
    make_run: Callable[..., Any], tmp_path: Path, policy_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = SupervisedModule(PolicySettings(path=str(policy_dir)))
    make_run(RunSummary(), module=module, max_steps=3).fit()
    start, end, change = map(float, table(capsys.readouterr().out)["loss"])
    # the module has no evaluation of its own at the start: the first is behind step 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["start"]["step"] == 1
    assert change == pytest.approx(end - start, abs=2e-3)
    assert change < 0


def test_values_are_left_to_the_report_where_there_is_one(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(EvaluationReport(), RunSummary()).validate()
    assert "sums at step" not in capsys.readouterr().out
