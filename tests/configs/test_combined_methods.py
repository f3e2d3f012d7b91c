"""Overlays of methods that set different keys go together, and lists of shapers grow."""

from pathlib import Path

import pytest

from laser_lightning.cli.command_line import main
from laser_lightning.cli.trainer import LaSeRCLI

METHODS = ("mopps", "balanced_filtering", "cosine_reward", "kimi_length", "format_reward")


def test_methods_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[LaSeRCLI] = []
    monkeypatch.setattr(LaSeRCLI, "_run_subcommand", lambda cli, command: made.append(cli))
    assert main(["fit", "--config=quickstart", *(f"--config=methods/{name}" for name in METHODS), "--run_dir=run"]) == 0
    module, data = made[0].model, made[0].datamodule
    shapers = [type(shaper).__name__ for shaper in module.advantage.shaping]
    assert shapers == ["CosineReward", "RepetitionPenalty", "KimiLengthReward", "FormatReward"]
    assert (type(data.curriculum).__name__, data.curriculum.candidates) == ("MoPPS", 16)
    assert (data.accuracy_bounds.low, data.accuracy_bounds.high, module.sampling_rounds) == (0.25, 0.75, 4)
