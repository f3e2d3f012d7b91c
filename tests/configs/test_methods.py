"""Every packaged method overlays the quickstart, sets keys that exist, and can be made."""

from pathlib import Path
from typing import Any

import pytest

from laser_lightning.cli.command_line import main
from laser_lightning.cli.trainer import LaSeRCLI

METHODS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "methods").glob("*.yaml"))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_can_be_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[Any] = []
    monkeypatch.setattr(LaSeRCLI, "_run_subcommand", lambda cli, command: made.append(cli.model))
    assert main(["fit", "--config=quickstart", f"--config=methods/{name}", "--run_dir=run"]) == 0, capsys.readouterr()
    assert len(made) == 1
