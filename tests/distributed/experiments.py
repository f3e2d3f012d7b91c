"""What jobs of several processes run, and in which environment."""

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}

TINY_RUN = Path(__file__).parents[1] / "tiny_run"

TWO: dict[str, Any] = {
    "devices": 2,
    # By default tiny parameters are kept whole, and ZeRO-3 would not be tested.
    "strategy": {"init_args": {"zero_options": {"stage3_param_persistence_threshold": 0}}},
}

SINGLE = "trainer: {strategy: auto, devices: 1}\n"


def write_experiment(directory: Path) -> None:
    """Write ``run.yaml``, the tiny run on two processes, and ``single.yaml``, which makes it one."""
    shutil.copytree(TINY_RUN, directory, dirs_exist_ok=True)
    config = yaml.safe_load((directory / "run.yaml").read_text())
    config["trainer"] |= TWO
    (directory / "run.yaml").write_text(yaml.safe_dump(config))
    (directory / "single.yaml").write_text(SINGLE)
