"""Every packaged overlay of a method makes the parts that it names."""

import re
from pathlib import Path
from typing import Any

import lightning
import pytest

from laser_lightning.cli.command_line import main

METHODS = Path(__file__).parents[2] / "configs" / "methods"


@pytest.mark.parametrize("name", sorted(path.stem for path in METHODS.glob("*.yaml")))
def test_a_method_is_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def fit(trainer: lightning.Trainer, model: Any, datamodule: Any = None, **options: Any) -> None:
        made.extend((model, datamodule))

    monkeypatch.setattr(lightning.Trainer, "fit", fit)
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config=quickstart", f"--config=methods/{name}", "--run_dir=run"]) == 0
    module, data = made
    named = re.findall(r"^\s*(?:- )?class_path: \S*?(\w+)$", (METHODS / f"{name}.yaml").read_text(), re.MULTILINE)
    parts = {type(module).__name__, type(data.curriculum).__name__, type(data.train).__name__}
    parts |= set(re.findall(r"'class_path': '[\w.]*?(\w+)'", repr(module.plain_arguments)))
    assert set(named) <= parts
