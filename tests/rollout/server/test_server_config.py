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


def test_ways_of_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = "--model.engine.weight_transfer=NCCLTransfer"
    with pytest.raises(SystemExit):
        main([*OVERLAYS, chosen, "--model.engine.weight_transfer.port=29600", "--print_config"])
    engine = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["engine"]
    assert engine["init_args"]["weight_transfer"]["init_args"] == {
        "master_address": None,
        "port": 29600,
        "join_seconds": 120.0,
        "dtype": None,
        "buffer_bytes": 2**30,
    }
    # There is no GPU here, or no vLLM: refused before anything is loaded.
    assert main([*OVERLAYS, chosen]) == 2
    assert "NCCLTransfer" in (said := capsys.readouterr().err)
    assert "hand weights over as files (engine.weight_transfer: FileTransfer)" in said
    # Typos, on the command line and in a file.
    assert main([*OVERLAYS, "--model.engine.weight_transfer.directry=here"]) == 2
    assert "did you mean directory?" in capsys.readouterr().err
    path = tmp_path / "typo.yaml"
    path.write_text("model: {init_args: {engine: {init_args: {weight_transfer: {init_args: {directry: here}}}}}}\n")
    assert main([*OVERLAYS, "--config", str(path)]) == 2
    assert "did you mean directory?" in capsys.readouterr().err
