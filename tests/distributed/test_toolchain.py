"""What DeepSpeed needs of a machine without GPUs."""

import os
import shutil
import time
from pathlib import Path

import pytest

from laser_lightning.distributed.toolchain import check_cpu_toolchain
from laser_lightning.errors import UserError


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"ninja and g\+\+ are not on the PATH: install ninja and g\+\+"):
        check_cpu_toolchain()
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "ninja" else f"/bin/{name}")
    with pytest.raises(UserError, match="ninja is not on the PATH: install ninja"):
        check_cpu_toolchain()


def test_a_lock_that_was_left_behind_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    lock = tmp_path / "py311_cpu/deepspeed_shm_comm/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    check_cpu_toolchain()  # someone is compiling
    old = time.time() - 3600
    os.utime(lock, (old, old))
    with pytest.raises(UserError, match=r"deepspeed_shm_comm/lock, left by a process that was killed"):
        check_cpu_toolchain()
