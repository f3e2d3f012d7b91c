"""What DeepSpeed needs of a machine without GPUs."""

import importlib
import os
import shutil
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

from laser_lightning.errors import UserError

LONGEST_BUILD_SECONDS = 600
"""A lock of DeepSpeed's compiler that is older was left behind."""


def import_deepspeed() -> None:
    """Import DeepSpeed with its messages on stderr: its logger keeps the stream that it finds at its import."""
    with redirect_stdout(sys.stderr):
        importlib.import_module("deepspeed")


def check_cpu_toolchain() -> None:
    """Refuse what would stop DeepSpeed, or make it wait for ever, when it compiles a small operator at its start.

    Raises:
        UserError: if a tool is missing, a build was killed half-way, or DeepSpeed has chosen another accelerator.
    """
    missing = [name for name in ("ninja", "g++") if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"DeepSpeed on CPU compiles its communication operator when it starts, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not on the PATH: install {' and '.join(missing)}."
        )
    import deepspeed
    from torch.utils.cpp_extension import get_default_build_root

    builds = Path(os.environ.get("TORCH_EXTENSIONS_DIR", get_default_build_root()))
    for lock in (*builds.glob("*/lock"), *builds.glob("*/*/lock")):
        if time.time() - lock.stat().st_mtime > LONGEST_BUILD_SECONDS:
            raise UserError(
                f"DeepSpeed would wait for ever for the file {lock}, left by a process that was killed while it "
                "compiled: delete it."
            )
    device = deepspeed.accelerator.get_accelerator().device_name()
    if device != "cpu":
        raise UserError(
            f"trainer.accelerator is cpu, and DeepSpeed has chosen {device}: start with DS_ACCELERATOR=cpu in the "
            "environment."
        )
