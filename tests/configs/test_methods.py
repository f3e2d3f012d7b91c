"""Every packaged method overlays the quickstart, and takes two steps of it."""

import re
from pathlib import Path

import pytest

from laser_lightning.cli.command_line import main

METHODS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "methods").glob("*.yaml"))

CONSTANT = "model: {init_args: {self_reward: {init_args: {reference: -6.0}}}}"
"""In place of a calibration, for the methods that have LaSeR's score."""

SMALL = [
    "--data.prompts_per_step=4",
    "--data.train.init_args.size=640",
    "--model.group_size=4",
    "--model.evaluation.at_start=false",
    "--model.evaluation.at_end=false",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=0",
    "--trainer.logger=false",
    *(f"--{slot}=null" for slot in ("checkpoint", "export", "figures", "summary")),
]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_two_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "constant.yaml").write_text(CONSTANT)
    overlays = ["--config=quickstart", "--config=constant.yaml", f"--config=methods/{name}"]
    assert main(["fit", *overlays, *SMALL, "--run_dir=run"]) == 0, capsys.readouterr()
    assert re.search(r"step [24]/2:", capsys.readouterr().out)  # 4 with as many mini-batches in a round
