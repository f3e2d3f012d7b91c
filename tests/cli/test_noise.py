"""What others say of every run is left out; what they say of this one is shown."""

import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer, seed_everything
from transformers.utils import logging as transformers_logging

from laser_lightning.cli.noise import LOG_MESSAGES, WARNINGS, leave_out_noise, shorten_library_bars

PATTERNS = [
    r"Training all [\d,]+ parameters on cpu\.",
    r"Reference constant of .*",
    r"step \d/2: reward \d\.\d{3}, f1 \d\.\d{3}, length \d+\.\d+, tokens/s \d+, \d+\.\d s(, \d\d:\d\d left)?",
    r"evaluation at step [012], val/arithmetic: pass@1 \d\.\d{3}, F1 \d\.\d{3}, AUROC [-\d.]+, "
    r"within problems [-\d.]+, length \d+\.\d",
    r"Solutions of step 0 *",
    r"arithmetic, from step 0 to step 2 *",
    r"[│┃┏┡└].*",  # the rows of tables
    r"2 optimizer steps, \d+ s of training, \d+ s of evaluation\.",
    r"(metrics|TensorBoard|exported models|solutions|figures|checkpoints|summary): .*",
]


@pytest.fixture
def quiet() -> Iterator[None]:
    """A process whose noise is left out."""
    loggers = [logging.getLogger(name) for name in LOG_MESSAGES]
    before = [list(logger.filters) for logger in loggers]
    with warnings.catch_warnings():
        leave_out_noise()
        leave_out_noise()  # a second time changes nothing
        assert [len(logger.filters) <= len(old) + 1 for logger, old in zip(loggers, before, strict=True)] == [
            True
        ] * len(loggers)
        yield
    for logger, old in zip(loggers, before, strict=True):
        logger.filters[:] = old


def test_lightning_starts_without_a_word(quiet: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        seed_everything(3)
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert caplog.messages == []


def test_what_a_user_should_know_is_shown(quiet: None, caplog: pytest.LogCaptureFixture) -> None:
    messages = ("GPU available: True (cuda), used: False", "`Trainer.fit` stopped: `max_time=00:01` reached.")
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO):
        for message in messages:
            logger.info(message)
    assert caplog.messages == list(messages)
    with pytest.warns(UserWarning, match="Checkpoint directory x is full"):
        warnings.warn("Checkpoint directory x is full", stacklevel=1)


@pytest.mark.parametrize(
    "text",
    [
        "Checkpoint directory /a/b exists and is not empty.",
        "The dirpath has changed from",
        "`isinstance(treespec, LeafSpec)` is deprecated, use another",
        "torch.distributed.nn.functional.all_gather is deprecated, use another",
    ],
)
def test_known_warnings_are_left_out(quiet: None, text: str) -> None:
    with warnings.catch_warnings(record=True) as shown:
        for message in WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        warnings.warn(text, stacklevel=1)
    assert shown == []


def test_bars_of_libraries_wait_for_a_second_and_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(transformers_logging, "_tqdm_hook", None)
    monkeypatch.setattr("datasets.disable_progress_bars", lambda: kept.append({"datasets": "off"}))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    shorten_library_bars()
    assert kept == [{"datasets": "off"}]
    bar = transformers_logging.tqdm([1, 2], desc="Loading weights", leave=True)
    assert bar.disable
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = transformers_logging.tqdm([1, 2], desc="Loading weights", leave=True)
    assert (bar.delay, bar.leave, bar.desc) == (1.0, False, "Loading weights")
    assert not bar.disable
    assert transformers_logging.tqdm([1], disable=True).disable


@pytest.mark.slow
def test_a_run_in_a_pipe_prints_nothing_foreign(tmp_path: Path) -> None:
    options = [
        "--config=quickstart",
        "--data.train.init_args.size=16",
        "--data.val.arithmetic.init_args.size=4",
        "--data.prompts_per_step=4",
        "--model.init_args.evaluation.samples=2",
        "--calibration.prompts=4",
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=1",
        f"--run_dir={tmp_path / 'run'}",
    ]
    command = [sys.executable, "-m", "laser_lightning", "fit", *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
    assert [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in PATTERNS)] == []
    assert [line[:8] for line in lines if line.startswith("step ")] == ["step 1/2", "step 2/2"]
    assert sum(line.startswith("evaluation") for line in lines) == 3
