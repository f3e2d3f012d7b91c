"""Checkpoint files are whole or not there, and the newest whole one is found."""

import errno
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from laser_lightning.cli.command_line import main
from laser_lightning.errors import UserError
from laser_lightning.runs import checkpoints
from laser_lightning.runs.checkpoints import WholeFiles, check_writable, newest_complete, put_in_place, read_checkpoint


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the kernel refuses a write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "checkpoints/a.ckpt"
    WholeFiles().save_checkpoint({"value": torch.arange(3)}, target)
    seen: list[dict[str, int]] = []
    save = torch.save

    def watched(*args: object) -> None:
        save(*args)
        seen.append({path.name: len(read_checkpoint(path)["value"]) for path in target.parent.glob("*.ckpt")})

    monkeypatch.setattr(torch, "save", watched)
    WholeFiles().save_checkpoint({"value": torch.arange(5)}, target)
    assert seen == [{"a.ckpt": 3}]  # while the new one is written, the old one is there
    assert [path.name for path in target.parent.iterdir()] == ["a.ckpt"]
    assert len(read_checkpoint(target)["value"]) == 5


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.ckpt"
    WholeFiles().save_checkpoint({"value": torch.arange(3)}, target)
    with small_files(1 << 20), pytest.raises(UserError, match=r"a\.ckpt could not be saved: .*File too large"):
        WholeFiles().save_checkpoint({"value": torch.zeros(1 << 20)}, target)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"could not be saved: .*No space left on device.*resume with --ckpt_path last"):
        WholeFiles().save_checkpoint({}, target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
    assert len(read_checkpoint(target)["value"]) == 3


def test_the_newest_complete_one_is_found(tmp_path: Path) -> None:
    def make(name: str, age: int) -> None:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "latest").write_text("checkpoint")
        os.utime(directory / "latest", (time.time() - age, time.time() - age))

    assert newest_complete(tmp_path) is None
    make("old.ckpt", 100)
    make("last.ckpt", 50)
    (tmp_path / "unfinished.ckpt").mkdir()
    make(".other.ckpt.partial", 10)
    with pytest.warns(UserWarning, match=r"unfinished\.ckpt was never finished"):
        assert newest_complete(tmp_path) == tmp_path / "last.ckpt"
    (tmp_path / "unfinished.ckpt").rmdir()
    # A run was killed between the renames that replace last.ckpt.
    (tmp_path / "last.ckpt").rename(tmp_path / ".last.ckpt.previous")
    assert newest_complete(tmp_path) == tmp_path / ".last.ckpt.previous"
    make("new", 0)
    put_in_place(tmp_path / "new", tmp_path / "last.ckpt")
    assert newest_complete(tmp_path) == tmp_path / "last.ckpt"
    assert not (tmp_path / ".last.ckpt.previous").exists()


def test_a_directory_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_writable(tmp_path / "new/checkpoints")
    assert list((tmp_path / "new/checkpoints").iterdir()) == []

    def forbidden(**options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # root may write everywhere

    monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", forbidden)
    with pytest.raises(UserError, match=r"cannot be written to .*checkpoints \(Permission denied\): give another run_"):
        check_writable(tmp_path / "new/checkpoints")

    # The command line looks before the first step.
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "quickstart", "--run_dir", "run"]) == 2
    assert "Checkpoints cannot be written to run/checkpoints (Permission denied)" in capsys.readouterr().err
    assert not Path("run/metrics.csv").exists()
