"""Seeds that were not given follow ``seed_everything``; given ones win, and held-out problems stay what they are."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from laser_lightning.cli.command_line import main
from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.data.seeds import seed_or_global


@pytest.mark.parametrize(("set_one", "given", "expected"), [("7", None, 7), ("7", 3, 3), ("7", 0, 0), (None, None, 0)])
def test_a_given_seed_wins_over_that_of_seed_everything(
    monkeypatch: pytest.MonkeyPatch, set_one: str | None, given: int | None, expected: int
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    if set_one is not None:
        monkeypatch.setenv("PL_GLOBAL_SEED", set_one)  # what lightning.seed_everything(7) leaves
    assert seed_or_global(given) == expected
    assert PromptDataModule(seed=given).seed == expected
    assert ArithmeticSource("train", seed=given).seed == expected


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_problems_do_not_follow_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert ArithmeticSource(split, size=5).load().to_list() == ArithmeticSource(split, size=5, seed=0).load().to_list()
    assert ArithmeticSource(split, size=5, seed=7).seed == 7


def test_runs_with_one_seed_agree_byte_for_byte_and_with_two_differ(
    tmp_path: Path, tiny_run: Path, policy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(Path("run.yaml").read_text())
    # Weights that exist: random ones would follow seed_everything by themselves.
    config["model"]["init_args"]["policy"] = {"path": str(policy_dir)}
    config["trainer"]["max_steps"], config["checkpoint"] = 6, None
    config["solution_log"] = {"class_path": "laser_lightning.callbacks.SolutionLog", "init_args": {"console_rows": 0}}
    Path("run.yaml").write_text(yaml.safe_dump(config))
    for name, seed in {"one": "1", "again": "1", "two": "2"}.items():
        options = ["--run_dir", name, "--seed_everything", seed]
        assert main(["fit", "--config", "run.yaml", *options]) == 0

    for file in ("solutions/train.jsonl", "solutions/val.jsonl", "export/last/model.safetensors"):
        one, again, two = ((Path(name) / file).read_bytes() for name in ("one", "again", "two"))
        assert one == again
        assert one != two

    def column(name: str, file: str, key: str) -> list[str]:
        return [json.loads(line)[key] for line in (Path(name) / "solutions" / file).read_text().splitlines()]

    assert column("one", "val.jsonl", "problem") == column("two", "val.jsonl", "problem")
    assert column("one", "val.jsonl", "response") != column("two", "val.jsonl", "response")  # model.seed
    assert set(column("one", "train.jsonl", "problem")) != set(column("two", "train.jsonl", "problem"))  # the source's
