"""The recipes for a pretrained model, on a tiny one and a dozen problems, given the path of the model alone."""

import csv
from pathlib import Path

import pytest
import yaml

from laser_lightning.cli.command_line import main
from laser_lightning.cli.config_files import load_configs

BASELINES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs/baselines").glob("*.yaml"))
QUICK = ["--calibration=null", "--export=null", "--checkpoint=null", "--torch_threads=1", "--run_dir=run"]
QUICK += ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--model.policy.dtype=float32"]
VERIFIER = "model: {init_args: {verifier: {class_path: length_verifier.LengthVerifier}}}"
"""A random model's answers are all wrong; their lengths differ."""


@pytest.fixture
def in_folder(word_problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the problems."""
    for path in word_problems.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader(Path("run/metrics.csv").open()))


def fit(*words: str) -> int:
    return main(["fit", *words, *QUICK])


def test_the_supervised_stage(in_folder: Path, chat_model_dir: Path) -> None:
    words = ["--config=recipes/word_problems_warm_start", "--model.optimizer.warmup_steps=0"]
    assert fit(*words, f"--model.policy.path={chat_model_dir}") == 0
    assert [row["step"] for row in rows() if row["train/loss"]] == ["1"]


@pytest.mark.parametrize(
    "overlays",
    [
        (),
        ("recipes/word_problems_lora",),
        ("recipes/word_problems_judging",),
        ("baselines/rise", "recipes/word_problems_rise"),
    ],
)
def test_a_step_of_reinforcement_learning(
    overlays: tuple[str, ...],
    in_folder: Path,
    chat_model_dir: Path,
    tiny_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tiny_run)
    Path("verifier.yaml").write_text(VERIFIER)
    configs = [f"--config={name}" for name in ("recipes/word_problems", *overlays, "verifier.yaml")]
    reference = "--model.self_reward.init_args.reference=-5"
    assert fit(*configs, f"--model.policy.path={chat_model_dir}", reference) == 0
    assert [row["step"] for row in rows() if row["train/reward"]] == ["1"]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("below", [(), ("recipes/word_problems_gpu",), ("recipes/word_problems_judging",)])
def test_baselines_overlay_the_recipe(name: str, below: tuple[str, ...]) -> None:
    """What a baseline sets is there, and what it leaves out (judging updates) is out."""
    own = yaml.safe_load(load_configs([f"baselines/{name}"]).text)
    merged = yaml.safe_load(load_configs(["recipes/word_problems", *below, f"baselines/{name}"]).text)
    assert contains(merged, own)
    assert merged["data"]["init_args"]["template"] == {"chat": True, "system": "Answer briefly."}


def contains(whole: object, part: object) -> bool:
    """Whether every value of nested mappings is in the other one."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    return whole == part


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"model.policy.path \(recipes/word_problems, line \d+\): required; set it in a config"),
        (["--model.policy.path=MODEL"], r"There is no file 'word_problems_train\.jsonl'"),
        (["--model.policy.path=MODEL", "--data.train.path=TRAIN"], r"There is no file 'word_problems_val\.jsonl'"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str],
    message: str,
    chat_model_dir: Path,
    word_problems: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    train = word_problems / "word_problems_train.jsonl"
    given = [word.replace("MODEL", str(chat_model_dir)).replace("TRAIN", str(train)) for word in words]
    assert fit("--config=recipes/word_problems", *given) != 0
    assert re.search(message, capsys.readouterr().err)
