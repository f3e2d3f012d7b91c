"""A newcomer's run: six parts of one's own in one config, on two processes, interrupted and resumed."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
CONFIG = EXAMPLES / "all_at_once.yaml"
FILES = sorted(set(re.findall(r"class_path: (my_\w+)\.", CONFIG.read_text())))
SMALL = [
    *("--config", "quickstart", "--config", "all_at_once.yaml", "--config", "small.yaml"),
    *("--trainer.strategy", "laser_ddp", "--trainer.devices", "2", "--trainer.max_steps", "2"),
]
SMALL_RUN = {
    "data": {"init_args": {"prompts_per_step": 8, "train": {"init_args": {"size": 64}}}},
    "trainer": {"enable_progress_bar": False, "limit_val_batches": 1, "val_check_interval": 2},
    "checkpoint": {"init_args": {"every_n_train_steps": 1, "save_top_k": -1, "save_last": False}},
    "figures": None,
}


def test_each_part_is_a_short_file() -> None:
    assert FILES == ["my_curriculum", "my_estimator", "my_head", "my_optimizer", "my_shaper", "my_vote_rule"]
    assert all(len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 40 for name in FILES)


@pytest.mark.distributed
def test_a_run_of_own_parts_goes_on_where_it_was(
    tmp_path: Path, command: Callable[..., str], difference: Callable[[Path, Path], list[str]]
) -> None:
    for path in (CONFIG, *(EXAMPLES / f"{name}.py" for name in FILES)):
        shutil.copy(path, tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL_RUN))
    command(tmp_path, "fit", *SMALL, "--run_dir", "whole")
    rows = list(csv.DictReader((tmp_path / "whole/metrics.csv").open()))
    assert sum(bool(row["train/reward"]) for row in rows) == 2
    assert any(row["val/arithmetic/mean_score@8"] for row in rows)

    first = tmp_path / "whole/checkpoints/step=1.ckpt"
    saved = torch.load(first, weights_only=False)
    assert saved["laser_objective_parts"]["advantage.estimator"]["baseline"] > 0
    assert max(saved["PromptDataModule"]["learned"]["taught"].values()) > 0
    command(tmp_path, "fit", *SMALL, "--run_dir", "again", "--ckpt_path", str(first))
    assert difference(tmp_path / "again/checkpoints/step=2.ckpt", tmp_path / "whole/checkpoints/step=2.ckpt") == []
