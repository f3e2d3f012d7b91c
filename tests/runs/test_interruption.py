"""A run that is told to stop in the middle of anything leaves within seconds, and goes on as if nothing had been."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from laser_lightning.runs.interruption import REPEAT_SECONDS, Interruption, Stopped

LIMIT_SECONDS = 10
FIT = ["fit", "--trainer.max_steps=8", "--trainer.val_check_interval=3", "--checkpoint.every_n_train_steps=8"]
SLOW = [
    "--config=run.yaml",
    "--model.engine=slow.SlowEngine",
    "--model.policy_loss=slow.SlowLoss",
    "--model.verifier=slow.SlowVerifier",
    "--model.verification.timeout_seconds=1000",
    "--trainer.callbacks=slow.SlowCallback",
]
ONE_STEP = ["--model.update.mini_batches=1"]  # of the optimizer, in each round
# (part and its number in the session, signal, step that is behind it)
STOPS = [
    ("calibration 1", signal.SIGTERM, 0),
    ("rollout 2", signal.SIGINT, 1),
    ("verification 5", signal.SIGTERM, 1),  # in the first round of a resumed run
    ("update 2", signal.SIGINT, 2),
    ("evaluation 1", signal.SIGUSR1, 3),
]


# ------------------------------------------------------------- within a process


@pytest.fixture
def interruption() -> Iterator[Interruption]:
    """Hears SIGUSR1 and, above it, SIGUSR2."""
    interruption = Interruption()
    interruption.listen((signal.SIGUSR1, signal.SIGUSR2), SingleDeviceStrategy("cpu"), lambda: "at home")
    yield interruption
    interruption.close()


def tell(number: int = signal.SIGUSR1) -> None:
    os.kill(os.getpid(), number)


def wait() -> None:
    """Wait for a signal as the verifier's pool does, and fail without one."""
    with selectors.DefaultSelector() as selector:
        selector.select(30)
    pytest.fail("nothing broke the waiting off")


def test_a_part_is_broken_off_wherever_it_is(interruption: Interruption) -> None:
    threading.Timer(0.2, tell).start()
    with pytest.raises(Stopped) as stopped, interruption.interruptible():
        wait()
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert stopped.value.sentence == "stopped by SIGUSR1 at home"


def test_outside_of_parts_it_takes_a_note(interruption: Interruption) -> None:
    assert interruption.agreed() is None
    tell(signal.SIGUSR2)
    tell()
    assert interruption.agreed() == signal.SIGUSR2  # the more important one
    with pytest.raises(Stopped), interruption.interruptible():
        pytest.fail("a part began")


def test_nothing_is_broken_off_between_the_steps_of_a_round(interruption: Interruption) -> None:
    interruption.hold()
    with interruption.interruptible():
        tell()
    interruption.release()
    with pytest.raises(Stopped), interruption.interruptible():
        pytest.fail("a part began")


def test_a_part_of_a_part_is_one_with_it(interruption: Interruption) -> None:
    def inner_and_outer() -> None:
        with interruption.interruptible():
            pass
        tell()
        pytest.fail("the outer part went on")

    with pytest.raises(Stopped), interruption.interruptible():
        inner_and_outer()


def test_a_part_whose_code_swallows_the_exception_is_told_again(interruption: Interruption) -> None:
    def swallow() -> None:
        with suppress(BaseException):
            tell()
        wait()

    began = time.monotonic()
    with pytest.raises(Stopped), interruption.interruptible():
        swallow()
    assert REPEAT_SECONDS <= time.monotonic() - began < 3 * REPEAT_SECONDS


def test_an_error_in_a_part_is_that_error(interruption: Interruption) -> None:
    with pytest.raises(ValueError, match="defect"), interruption.interruptible():
        raise ValueError("defect")
    with interruption.interruptible():
        pass


def test_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    interruption = Interruption()
    interruption.listen((signal.SIGUSR1, signal.SIGUSR2), SingleDeviceStrategy("cpu"), str)
    interruption.close()
    assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)] == before
    with interruption.interruptible():  # does nothing
        assert interruption.agreed() is None


# ------------------------------------------------------------------ whole runs


@pytest.fixture
def experiment(tmp_path: Path, tiny_run: Path) -> Path:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


def start(directory: Path, run: str, command: list[str], *options: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "laser_lightning", command[0], *SLOW, *command[1:], "--run_dir", run, *options]
    return subprocess.Popen(line, cwd=directory, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def stop(
    directory: Path, part: str, *numbers: int, command: list[str] = FIT, options: Sequence[str] = ()
) -> tuple[int, str, float]:
    """Send signals to a run, two seconds apart, when it has come to a part; its status, its errors, and the seconds."""
    (directory / "inside").unlink(missing_ok=True)
    (directory / "slow").write_text(part)
    process = start(directory, "told", command, *options)
    deadline = time.monotonic() + 120
    while not (directory / "inside").exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline, f"{part} was not reached"
        time.sleep(0.01)
    for place, number in enumerate(numbers):
        time.sleep(2.0 if place else 0.3)
        assert process.poll() is None
        told = time.monotonic()
        process.send_signal(number)
    try:
        process.wait(timeout=60)
        seconds = time.monotonic() - told
        errors = process.communicate(timeout=60)[1]  # when the verifier's process has ended too
    finally:
        process.kill()
    (directory / "slow").unlink()
    return process.returncode, errors, seconds


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(same(one, other) for one, other in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


def assert_same_end(directory: Path) -> None:
    whole, told = (
        torch.load(directory / run / "checkpoints/step=8.ckpt", weights_only=True) for run in ("whole", "told")
    )
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "laser_random_states", "PromptDataModule"):
        assert same(told[part], whole[part]), part


@pytest.mark.slow
def test_a_run_stopped_in_every_part_is_the_run_that_was_not(experiment: Path) -> None:
    whole = start(experiment, "whole", FIT, *ONE_STEP)
    _, errors = whole.communicate(timeout=240)
    assert whole.returncode == 0, errors[-3000:]
    for part, number, step in STOPS:
        options = [*ONE_STEP, *(["--ckpt_path=last"] if (experiment / "told").exists() else [])]
        code, errors, seconds = stop(experiment, part, number, options=options)
        assert code == 128 + number, errors[-3000:]
        assert f"stopped by {signal.Signals(number).name} behind step {step}, with a checkpoint" in errors
        assert seconds < LIMIT_SECONDS
    last = start(experiment, "told", FIT, *ONE_STEP, "--ckpt_path=last")
    _, errors = last.communicate(timeout=240)
    assert last.returncode == 0, errors[-3000:]
    assert_same_end(experiment)


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once(experiment: Path) -> None:
    code, errors, seconds = stop(experiment, "callback 1", signal.SIGINT, signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert "left at once, without saving" in errors
    assert seconds < 2


def test_a_stand_alone_evaluation_leaves_too(experiment: Path) -> None:
    validate = ["validate", "--model.self_reward.reference=-20"]
    code, errors, seconds = stop(experiment, "evaluation 1", signal.SIGTERM, command=validate)
    assert code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM in the evaluation; the same command" in errors
    assert not list(experiment.glob("told/checkpoints/*"))
    assert seconds < LIMIT_SECONDS
