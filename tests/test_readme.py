"""What the README shows works as it stands there."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from laser_lightning.cli import main
from laser_lightning.policy import model_path
from laser_lightning.self_reward_settings import SelfRewardSettings

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


def test_the_use_of_a_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    export = shutil.copytree(model_path("embedded"), tmp_path / "runs/version_0/export/last")
    SelfRewardSettings("<|reward|>", 3, beta=0.25, reference_constant=-16.8, step=0).save(export)
    names: dict[str, Any] = {}
    exec(block("python", "LaSeRScorer"), names)
    *solutions, votes, scores = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in solutions] == [
        [str(s.self_reward), str(s.verdict)] for s in names["solutions"]
    ]
    assert len(solutions) == 8
    vote = names["vote"]
    assert votes.split() == [str(vote.majority), str(vote.weighted_majority), str(vote.best)]
    assert vote.majority == "85"
    # The model is not trained to grade: its log-probs are -16.8 +- 0.4, so that scores are near 0.
    assert all(abs(float(score)) < 0.5 for score in scores.split())


def test_packaged_configs_are_all_named() -> None:
    root = Path(__file__).parents[1] / "configs"
    names = {str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml")}
    assert names
    missing = {name for name in names if f"`{name}`" not in README}
    assert not missing, f"the README does not name the packaged configs {sorted(missing)}"
