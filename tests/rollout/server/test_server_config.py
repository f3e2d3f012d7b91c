"""The overlay for servers, on the command line."""

from pathlib import Path

import pytest
import yaml

from laser_lightning.cli.command_line import main

OVERLAYS = ["fit", "--config", "quickstart", "--config", "engine/server", "--run_dir", "run"]


def test_the_overlay_holds_the_defaults(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def engine_of(*options: str) -> dict:
        with pytest.raises(SystemExit) as end:
            main([*options, "--print_config"])
        assert end.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["engine"]

    plain = [
        *OVERLAYS[:3],
        *OVERLAYS[5:],
        "--model.engine=VLLMServerEngine",
        "--model.engine.urls=[http://localhost:8000]",
    ]
    assert engine_of(*OVERLAYS)["init_args"] == engine_of(*plain)["init_args"]
    assert engine_of(*OVERLAYS, "--model.engine.limits.attempts=7")["init_args"]["limits"] == {
        "connect_seconds": 10.0,
        "answer_seconds": 600.0,
        "attempts": 7,
        "pause_seconds": 0.5,
    }


def test_a_typo_below_it(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*OVERLAYS, "--model.engine.perseverance.atempts=2"]) == 2
    assert "did you mean perseverance.attempts?" in capsys.readouterr().err
