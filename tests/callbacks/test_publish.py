"""What TensorBoard, W&B and MLflow are given besides metrics, read back from their own files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laser_lightning.callbacks import EvaluationReport, RunSummary, SelfRewardFigures, SolutionLog
from laser_lightning.callbacks.publish import as_markdown

COLUMNS = ["problem", "response", "answer", "gold", "reward", "self_reward", "finished"]
# The first and the third of the first problem's scripted solutions, which an even choice of 4 among 8 takes; of the
# second problem those again.
CHOSEN = [["a#2", "2", 1.0, 1.0], ["#2", "2", 1.0, 0.8]] * 2


def chosen(columns: list[str], rows: list[list[Any]]) -> list[list[Any]]:
    """Response, answer, reward and rounded self-reward of each row."""
    assert columns == COLUMNS
    return [[row[1], row[2], row[4], round(row[5], 5)] for row in rows]


def callbacks() -> list[Any]:
    return [SolutionLog(console_rows=0, table_rows=4, table_every_n_steps=2), SelfRewardFigures(dpi=30), RunSummary()]


def test_tensorboard(make_run: Callable[..., Any], tmp_path: Path) -> None:
    make_run(*callbacks(), max_steps=3, val_check_interval=2, tensorboard=True).fit()
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"tensors": 0, "images": 0}).Reload()
    texts = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    # steps 0 and 2 of training; evaluations before the first step, behind the second and at the end
    steps = {tag.removesuffix("/text_summary"): [event.step for event in found] for tag, found in texts.items()}
    assert steps == {"solutions/train": [0, 2], "solutions/val/sums": [0, 2, 3]}
    table = texts["solutions/train/text_summary"][0].tensor_proto.string_val[0].decode().splitlines()
    assert table[0] == f"| {' | '.join(COLUMNS)} |"
    assert table[2] == r"| 0? | a\#2 | 2 | 2 | 1 | 1 | True |"
    assert len(table) == 2 + 4
    assert sorted(events.Tags()["images"]) == ["figures/sums_self_reward", "figures/sums_votes", "figures/training"]


@pytest.mark.slow
def test_mlflow_on_sqlite(make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'laser-lightning[loggers]'")
    place = f"sqlite:///{tmp_path / 'runs.db'}"
    logger = MLFlowLogger("tests", tracking_uri=place, artifact_location=str(tmp_path / "artifacts"))
    make_run(*callbacks(), max_steps=2, val_check_interval=2, other_loggers=[logger]).fit()

    client, run_id = logger.experiment, logger.run_id
    assert f"MLflow: run {run_id} in {place}" in capsys.readouterr().out
    history = client.get_metric_history(run_id, "train/reward")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.5)]
    assert client.get_run(run_id).data.metrics["val/sums/pass1"] == 0.5  # its names have no @
    artifacts = tmp_path / "artifacts" / str(run_id) / "artifacts"
    assert sorted(path.name for path in (artifacts / "solutions/val/sums").iterdir()) == [
        "step_000000.json",
        "step_000002.json",
    ]
    table = json.loads((artifacts / "solutions/train/step_000000.json").read_text())
    assert chosen(table["columns"], table["data"]) == CHOSEN
    images = [path.name.split("+timestamp")[0] for path in (artifacts / "images").glob("*.png")]
    assert set(images) == {
        f"figures~{name}+step+{step}" for name in ("training", "sums_self_reward", "sums_votes") for step in (0, 2)
    }


@pytest.mark.slow
def test_wandb_offline(make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wandb = pytest.importorskip("wandb", reason="W&B is not installed: pip install 'laser-lightning[loggers]'")
    settings = wandb.Settings(silent=True, console="off")
    logger = WandbLogger(save_dir=tmp_path, offline=True, settings=settings)
    make_run(*callbacks(), EvaluationReport(), max_steps=1, other_loggers=[logger]).fit()
    files = Path(logger.experiment.dir)
    assert f"W&B: {files.parent}" in capsys.readouterr().out
    assert logger.experiment.summary["val/sums/pass@1"] == 0.5
    assert logger.experiment.summary["train/reward"] == 0.5
    logger.experiment.finish()

    tables = {path.parent.name: json.loads(path.read_text()) for path in files.rglob("*.table.json")}
    assert tables.keys() == {"solutions", "val"}
    assert chosen(tables["solutions"]["columns"], tables["solutions"]["data"]) == CHOSEN
    images = {path.name.split("_")[0] for path in (files / "media/images/figures").iterdir()}
    assert images == {"training", "sums"}


def test_no_table_where_none_is_wanted(make_run: Callable[..., Any], tmp_path: Path) -> None:
    make_run(SolutionLog(console_rows=0, table_rows=0), max_steps=1, tensorboard=True).fit()
    assert EventAccumulator(str(tmp_path / "run")).Reload().Tags()["tensors"] == []


def test_the_report_of_an_evaluation_has_its_figures(make_run: Callable[..., Any], tmp_path: Path) -> None:
    make_run(EvaluationReport(), tensorboard=True).test()
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["figures/test_curves", "figures/test_tokens"]


def test_markdown_shows_texts_as_they_are() -> None:
    rows = [{"text": "a|b\n*c* <b> $x_1$ & \\frac", "score": 0.123456, "none": None, "ok": True}]
    cell = r"a\|b<br>\*c\* &lt;b> \$x\_1\$ &amp; \\frac"
    assert (
        as_markdown(rows) == f"| text | score | none | ok |\n| --- | --- | --- | --- |\n| {cell} | 0.1235 |  | True |"
    )
