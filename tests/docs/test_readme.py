"""What the README shows works as it stands there."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from laser_lightning.cli.command_line import main
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.policy.model import model_path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


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
    # 1e-6 steps of bfloat16 weights are lost: the passes are bfloat16, and what is stepped is not.
    assert "dtype: float32" in printed
    assert "precision: bf16-mixed" in printed


def test_the_overlay_of_the_hyper_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/hyperparameters.md").read_text()
    (overlay,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "small.yaml").write_text(overlay)
    (tmp_path / "gsm8k.yaml").write_text(block("yaml", "openai/gsm8k"))
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", "gsm8k.yaml", "--config", "small.yaml", "--print_config"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    for line in ("path: Qwen/Qwen2.5-1.5B-Instruct", "dtype: float32", "max_cached_tokens: 200000", "group_size: 8"):
        assert f" {line}\n" in printed


def test_the_use_of_a_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    export = shutil.copytree(model_path("embedded"), tmp_path / "runs/version_0/export/last")
    SelfRewardSettings("<|reward|>", 3, beta=0.25, reference_constant=-21.4, step=0).save(export)
    names: dict[str, Any] = {}
    exec(block("python", "LaSeRScorer"), names)
    *solutions, votes, scores = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in solutions] == [
        [str(s.self_reward), str(s.verdict)] for s in names["solutions"]
    ]
    assert len(solutions) == 8
    vote = names["vote"]
    assert votes.split() == [str(vote.majority), str(vote.weighted_majority), str(vote.best)]
    assert vote.majority == "5,6,18>29"
    # The model is not trained to grade: its log-probs are -21.4 +- 0.7, so that scores are near 0.
    assert all(abs(float(score)) < 0.5 for score in scores.split())


def test_packaged_configs_are_all_named() -> None:
    root = ROOT / "configs"
    names = {str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml")}
    assert names
    pages = README + (ROOT / "docs/methods.md").read_text()
    missing = {name for name in names if f"`{name}`" not in (pages if name.startswith("methods/") else README)}
    assert not missing, f"neither the README nor the page of methods names the packaged configs {sorted(missing)}"


def test_it_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 200
    commands = ["pip install -e . && laser-lightning fit --config quickstart", 'pip install -e ".[test]" && pytest']
    for command in commands:
        assert f"```bash\n{command}\n```" in README
    for target, anchor in re.findall(r"\]\((?!http)([^)#]+)#?([^)]*)\)", README):
        page = ROOT / target
        assert page.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, anchor


def test_the_table_is_that_of_the_results() -> None:
    """The numbers of docs/results.md, from its tables of 8 and of 32 samples."""
    results = (ROOT / "docs/results.md").read_text()
    of_8, of_32 = (cells(results.split(f"(k = {k}):")[1].split("\n\n")[1]) for k in (8, 32))
    names = {"AUROC within problems": "AUROC within", "weighted maj@8": "weighted", "best of 8": "best of k"}
    names |= {"maj@8": "maj", "maj@32": "maj", "weighted maj@32": "weighted"}
    ours, *rows = cells(README.split("## What the score is good for")[1].split("\n## ")[0])
    assert {row[0] for row in rows} == {row[0] for row in of_8[1:]}
    for row in rows:
        for column, value in zip(ours, row, strict=True):
            head, *theirs = of_32 if "32" in column else of_8
            of_method = [dict(zip(head, their, strict=True)) for their in theirs if their[0] == row[0]]
            mean = of_method[-1][names.get(column, column)] if of_method else "-"  # it stands behind the seeds
            assert value == mean, f"{row[0]}, {column}"


def cells(text: str) -> list[list[str]]:
    """The rows of the first table, its head first."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [rows[0], *rows[2:]]
