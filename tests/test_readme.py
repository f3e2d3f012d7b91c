"""What the README shows works as it stands there."""

import re
import sys
from pathlib import Path

import pytest

from laser_lightning.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(text for text in blocks if containing in text)


def test_the_config_for_another_model_and_data_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm8k.yaml").write_text(block("yaml", "openai/gsm8k"))
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", "gsm8k.yaml", "--print_config"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert r"answer_pattern: '####\s*(.+)'" in printed or r"answer_pattern: ####\s*(.+)" in printed
    assert "token: <|vision_start|>" in printed


def test_the_verifier_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_verifier.py").write_text(block("python", "class LastNumber"))
    monkeypatch.syspath_prepend(tmp_path)
    import my_verifier

    verifier = my_verifier.LastNumber()
    assert verifier.reward("6 times 7 is 42", "42") == 1.0
    assert verifier.reward("6 times 7 is 41", "42") == 0.0
    assert verifier.reward("no idea", "42") == 0.0
    del sys.modules["my_verifier"]


def test_packaged_configs_are_all_named() -> None:
    root = Path(__file__).parents[1] / "configs"
    names = {str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml")}
    assert names
    missing = {name for name in names if f"`{name}`" not in README}
    assert not missing, f"the README does not name the packaged configs {sorted(missing)}"
