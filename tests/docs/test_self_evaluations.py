"""The source of the page on methods writes the forms of the packaged overlays, and a supervised stage takes it."""

import csv
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from laser_lightning.cli.command_line import main
from laser_lightning.modules.self_correction import SelfCorrection
from laser_lightning.modules.self_evaluation import SelfEvaluation

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "my_self_evaluations.py"


def form(overlay: str, key: str) -> dict[str, Any]:
    text = (ROOT / "configs" / "methods" / f"{overlay}.yaml").read_text()
    return dict(yaml.safe_load(text)["model"]["init_args"][key])


def test_its_solutions_have_the_forms_of_the_overlays() -> None:
    spec = importlib.util.spec_from_file_location("my_self_evaluations", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    source = {"size": 40, "seed": 1, "kinds": {"add2": 1.0}, "solution_noise": 0.3}
    turns, evaluated = (
        SelfCorrection(**form("spoc", "self_correction")),
        SelfEvaluation(**form("deepseekmath_v2", "self_evaluation")),
    )
    verdicts = []
    for row in example.SelfEvaluated(**source).load():
        messages = turns.read(row["solution"])
        verdicts.append([message.verdict for message in messages if message.verdict is not None])
        first = row["solution"][messages[0].start : messages[0].end]
        assert first.endswith(f"#{row['answer']}") == verdicts[-1][0]
        assert turns.solution(row["solution"]).endswith(f"#{row['answer']}")
        assert turns.accepts(row["solution"])
    assert {tuple(said) for said in verdicts} == {(True,), (False, True)}
    scores = [evaluated.read(row["solution"]).score for row in example.SelfEvaluated(corrects=False, **source).load()]
    assert scores == [float(said[0]) for said in verdicts]


def test_a_supervised_stage_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = "fit --config warm_start --data.train my_self_evaluations.SelfEvaluated --data.train.solution_noise 0.15"
    words += " --data.train.size 64 --data.prompts_per_step 8 --trainer.max_steps 2 --trainer.limit_val_batches 0"
    words += " --model.optimizer.warmup_steps 0"
    words += " --trainer.enable_progress_bar false --figures null --export null --checkpoint null --run_dir run"
    status = main(words.split())
    assert status == 0, capsys.readouterr()
    assert "my_self_evaluations.SelfEvaluated" in (tmp_path / "run" / "config.yaml").read_text()
    assert sum(bool(row["train/loss"]) for row in csv.DictReader((tmp_path / "run/metrics.csv").open())) == 2
