"""What a run prints while it goes on; the values are those of the scripted solutions."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from laser_lightning.callbacks import ConsoleProgress
from laser_lightning.callbacks.bar import StepBar
from laser_lightning.callbacks.progress import describe_parameters, evaluation_line
from laser_lightning.distributed.progress import Progress
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.objective.objective import UpdateSettings
from laser_lightning.policy.model import PolicySettings

SHOWN: dict[str, Any] = {"enable_progress_bar": True}


def drawn(text: str) -> list[str]:
    """Every state of the bar, without the blanks that erase an earlier one."""
    return [state.rstrip() for state in re.split(r"[\r\n]", text) if re.match(r"(step|batch) \d", state)]


def lines_of_steps(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("step ")]


def test_without_a_terminal_there_are_lines(make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    options = SHOWN | {"log_every_n_steps": 2}
    make_run(ConsoleProgress(), max_steps=5, val_check_interval=4, trainer_options=options).fit()
    shown, errors = capsys.readouterr()

    # steps 2 and 4, which 2 divides, and the last one; half of the scripted solutions are right, and 4 tokens long
    lines = lines_of_steps(shown)
    assert [line.split(":")[0] for line in lines] == ["step 2/5", "step 4/5", "step 5/5"]
    assert lines[0].startswith("step 2/5: reward 0.500, f1 1.000, length 4.000, tokens/s ")
    assert re.search(r", \d+\.\d s, 00:\d\d left$", lines[0])
    assert re.search(r", \d+\.\d s$", lines[2])  # nothing is left
    # self-rewards of the right ones: 1.0 and 0.8; of the wrong ones: 0.0, and 0 for the truncated one
    measured = "val/sums: pass@1 0.500, F1 1.000, AUROC 1.000, within problems 1.000, length 4.0"
    evaluations = [line for line in shown.splitlines() if line.startswith("evaluation")]
    assert evaluations == [f"evaluation at step {step}, {measured}" for step in (0, 4, 5)]
    assert drawn(errors) == []


def test_a_terminal_has_a_bar(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    progress = ConsoleProgress(bar=True, lines=False)
    make_run(progress, max_steps=2, trainer_options=SHOWN).fit()
    shown, errors = capsys.readouterr()

    states = drawn(errors)
    counters = [state.split(" |")[0] for state in states]
    assert list(dict.fromkeys(counters)) == ["step 0/2", "step 1/2", "step 2/2"]
    parts = [match[1] for state in states if (match := re.search(r"<[\d:?]+, ([a-z /\d]+)", state))]
    for part in ("rollout", "verification", "update 0/1", "rollout of the evaluation", "evaluation 1/2"):
        assert part in parts
    assert re.search(r"\d\d:\d\d<00:00, reward 0\.500, f1 1\.000, length 4\.000, tokens/s \d+$", states[-1])
    assert "v_num" not in errors
    assert "Epoch" not in errors
    assert lines_of_steps(shown) == []
    assert shown.count("evaluation at step") == 3


def test_a_resumed_run_counts_on(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    make_run(ConsoleProgress(), checkpoint, max_steps=2, trainer_options=SHOWN).fit()
    capsys.readouterr()
    make_run(ConsoleProgress(bar=True, lines=True), max_steps=4, trainer_options=SHOWN).fit(tmp_path / "step=2.ckpt")
    shown, errors = capsys.readouterr()

    assert "going on behind step 2." in shown.splitlines()[0]
    assert [line.split(":")[0] for line in lines_of_steps(shown)] == ["step 3/4", "step 4/4"]
    assert drawn(errors)[0].startswith("step 2/4 |██████████          |")


def test_several_optimizer_steps_of_a_round_are_counted(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    # 2 rounds of 2 mini-batches, 2 epochs each: 8 steps, with a line behind each round
    update = UpdateSettings(mini_batches=2, epochs=2)
    options = SHOWN | {"max_steps": -1, "max_epochs": 1, "limit_train_batches": 2, "val_check_interval": 2}
    make_run(ConsoleProgress(), update=update, trainer_options=options).fit()
    lines = lines_of_steps(capsys.readouterr().out)
    assert [line.split(":")[0] for line in lines] == ["step 4/8", "step 8/8"]


@pytest.mark.parametrize(
    ("stderr", "stdout", "bar", "lines"),
    [(True, True, True, False), (True, False, True, True), (False, True, False, True), (False, False, False, True)],
)
def test_what_is_shown_where(
    monkeypatch: pytest.MonkeyPatch, stderr: bool, stdout: bool, bar: bool, lines: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: stderr)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: stdout)
    progress = ConsoleProgress()
    assert (progress.draws_bar, progress.prints_lines) == (bar, lines)


def test_a_stand_alone_evaluation(make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(ConsoleProgress(bar=True), evaluation_problems=3, trainer_options=SHOWN)
    run.test()
    shown, errors = capsys.readouterr()
    measured = "pass@1 0.500, F1 1.000, AUROC 1.000, within problems 1.000, length 4.0"
    assert shown == f"evaluation at step 0, test/sums: {measured}\n"
    # 3 problems, 2 in a batch
    counters = dict.fromkeys(state.split(" |")[0] for state in drawn(errors))
    assert list(counters) == ["batch 0/2", "batch 1/2", "batch 2/2"]
    run.predict()
    assert drawn(capsys.readouterr().err)[-1].startswith("batch 2/2 |")


def test_a_supervised_run(make_run: Callable[..., Any], policy_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = SupervisedModule(PolicySettings(path=str(policy_dir)))
    make_run(ConsoleProgress(bar=True, lines=True), module=module, max_steps=1, trainer_options=SHOWN).fit()
    shown = capsys.readouterr().out.splitlines()
    assert re.match(r"step 1/1: loss \d\.\d{3}, tokens_per_second \d+", shown[1])
    assert re.match(r"evaluation at step 1, val/sums: loss \d\.\d{3}$", shown[2])


def test_messages_stand_above_the_bar(make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    class Speaker(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            rank_zero_info("something happened")
            with pytest.warns(UserWarning, match="something else"):
                rank_zero_warn("something else")

    make_run(ConsoleProgress(bar=True), Speaker(), max_steps=1, trainer_options=SHOWN).fit()
    errors = capsys.readouterr().err
    assert re.search(r"(^|[\r\n]) *\rsomething happened\n", errors)


def test_an_error_leaves_the_terminal_usable(make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            raise RuntimeError("broken")

    progress = ConsoleProgress(bar=True)
    with pytest.raises(RuntimeError, match="broken"):
        make_run(progress, Broken(), max_steps=1, trainer_options=SHOWN).fit()
    errors = capsys.readouterr().err
    assert errors.endswith("\n")
    time.sleep(0.01)
    assert capsys.readouterr().err == ""


def test_a_disabled_bar_shows_nothing(make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    progress = ConsoleProgress(bar=True, lines=True)
    progress.disable()
    make_run(progress, max_steps=1, trainer_options=SHOWN).fit()
    shown, errors = capsys.readouterr()
    assert shown == ""
    assert drawn(errors) == []


def test_a_part_that_lasts_is_seen_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laser_lightning.callbacks.bar.TICK_SECONDS", 0.05)
    bar = StepBar("step 0/2", 0, 2)
    bar.show_part("rollout")
    deadline = time.monotonic() + 5
    before = capsys.readouterr().err
    while "rollout 0s" not in (before := before + capsys.readouterr().err) and time.monotonic() < deadline:
        time.sleep(0.01)
    bar.close()
    assert "rollout 0s" in before


def test_the_part_under_way_in_words() -> None:
    progress, told = Progress(), []
    progress.listener = told.append
    with progress.part("evaluation"):
        with progress.part("old_log_probs_pass"):
            progress.advance(3, 8)
        progress.advance(1, 2)
    assert told == [
        "evaluation",
        "old log probs pass of the evaluation",
        "old log probs pass 3/8 of the evaluation",
        "evaluation",
        "evaluation 1/2",
        "",
    ]


def test_parameters_in_words() -> None:
    layer = nn.Linear(1000, 2)  # 2,000 weights and 2 biases
    assert describe_parameters(layer) == "Training all 2,002 parameters"
    layer.weight.requires_grad = False
    assert describe_parameters(layer) == "Training 2 of 2,002 parameters"
    layer.weight = nn.Parameter(torch.empty(0))  # sharded
    layer.weight.ds_numel = 2000  # type: ignore[attr-defined]
    assert describe_parameters(layer) == "Training all 2,002 parameters"


def test_an_evaluation_in_a_line() -> None:
    values = {"response/length_tokens": 18.04, "self_verification/f1": 0.61149, "pass@1": 0.5, "reward": 0.4}
    assert evaluation_line(values) == "pass@1 0.500, F1 0.611, length 18.0"
    assert evaluation_line({"self_verification/auroc": float("nan")}) == "AUROC -"
    assert evaluation_line({"accuracy": 0.25, "other": 1.0}) == "accuracy 0.250, other 1.000"
