import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laser_lightning.cli.command_line import main
from laser_lightning.cli.compare import STATISTICS, Solutions, difference, read_run


def solved(*rewards: float, self_rewards: tuple[float, ...] | None = None, tokens: int = 5) -> Solutions:
    scores = self_rewards or rewards
    return Solutions(np.array(rewards) > 0.5, np.array(scores, dtype=float), np.full(len(rewards), float(tokens)))


def write_run(directory: Path, rewards: dict[str, list[float]], step: int = 3, **more: Any) -> Path:
    """A run with two solutions of each problem at a last evaluation, and others at one before it."""
    (directory / "solutions").mkdir(parents=True)
    rows = []
    for problem, values in rewards.items():
        for reward in values:
            row = {
                "dataset": "easy",
                "problem": problem,
                "gold": "1",
                "response_tokens": 4,
                "self_reward": 0.9 * reward,
            }
            rows += [{**row, "step": 0, "reward": 0.0}, {**row, "step": step, "reward": reward}]
    (directory / "solutions/val.jsonl").write_text("".join(json.dumps({**row, **more}) + "\n" for row in rows))
    return directory


def test_the_paired_error_of_a_mean_is_that_of_the_differences_by_problem() -> None:
    first = {"a": solved(0, 1), "b": solved(0, 0), "c": solved(1, 1), "only here": solved(1, 1)}
    run = {"a": solved(1, 1), "b": solved(0, 1), "c": solved(1, 1), "only there": solved(0, 0)}
    # Differences of a, b and c: 0.5, 0.5, 0. Their mean is 1/3, and their variance (1/36 + 1/36 + 1/9) / 2 = 1/12.
    found = difference(run, first, STATISTICS["pass@1"])
    assert found is not None
    assert found.problems == 3
    assert found.value == pytest.approx(1 / 3, abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 12 / 3), abs=1e-12)
    assert difference(run, {"a": solved(1, 1)}, STATISTICS["pass@1"]) is None  # one problem has no spread


def test_statistics_of_self_verification() -> None:
    # Correct ones score 0.9 and 0.4, incorrect ones 0.6 and 0.4: of 4 pairs the correct one wins 2, and ties 1.
    one = [solved(1, 1, self_rewards=(0.9, 0.4)), solved(0, 0, self_rewards=(0.6, 0.4), tokens=7)]
    assert STATISTICS["AUROC"](one) == 2.5 / 4
    assert math.isnan(STATISTICS["AUROC within"](one))  # no problem has both
    # Three pairs within problems: 0.9 against 0.6 is won, 0.4 ties with 0.4, and loses to 0.6.
    two = [solved(1, 0, self_rewards=(0.9, 0.6)), solved(1), solved(0, 1, 0, self_rewards=(0.6, 0.4, 0.4))]
    assert STATISTICS["AUROC within"](two) == 1.5 / 3
    assert STATISTICS["F1"](one) == 0.5  # half of each class is judged right
    assert STATISTICS["length"](one) == 6
    assert math.isnan(STATISTICS["AUROC"]([solved(1, 1)]))
    assert (
        STATISTICS["F1"]([solved(1, 1)]) == 0
    )  # as in the metrics: there is no class of incorrect ones to be right on


def test_runs_are_put_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_run(tmp_path / "first", {"a": [0, 1], "b": [0, 0], "c": [1, 1], "d": [0, 0]})
    other = write_run(tmp_path / "other", {"a": [1, 1], "b": [0, 1], "c": [1, 1], "d": [0, 0]}, step=7)
    third = tmp_path / "third"
    third.mkdir()
    csv = "step,train/reward,val/easy/pass@1,val/easy/self_verification/f1,val/easy/response/length_tokens\n"
    (third / "metrics.csv").write_text(f"{csv}0,,0.1,0.2,9\n1,0.5,,,\n2,,0.25,0.5,8\n")
    figure = tmp_path / "figure.png"
    assert main(["compare", str(first), str(other), str(third), "--figure", str(figure)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| easy | pass@1 | F1 | AUROC | AUROC within | length |"
    # Differences of pass@1: 0.5, 0.5, 0 and 0, with a mean of 1/4, a variance of 1/12, and so an error of 0.144.
    assert lines[2] == f"| {first} | 0.375 | 1.000 | 1.000 | 1.000 | 4.0 |"
    unchanged = "1.000 (+0.000 ± 0.000)"
    within = "1.000 (+0.000 ± ?)"  # one problem in the first run has both classes, and none without it
    judged = f"{unchanged} | {unchanged} | {within}"
    assert lines[3] == f"| {other} | 0.625 (+0.250 ± 0.144) | {judged} | 4.0 (+0.0 ± 0.0) |"
    assert lines[4] == f"| {third} | 0.250 | 0.500 | - | - | 8.0 |"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "figure_votes.png").exists()  # none has curves


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", {"a": [1]})
    (tmp_path / "empty").mkdir()
    for args, message in [
        ([run], "compare needs two runs or more."),
        ([run, tmp_path / "none"], f"There is no run at '{tmp_path / 'none'}'."),
        ([run, tmp_path / "empty"], f"{tmp_path / 'empty'} has no evaluation: neither metrics.csv nor solutions/"),
    ]:
        assert main(["compare", *map(str, args)]) == 2
        assert message in capsys.readouterr().err


def test_logs_of_earlier_runs_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": [1]})
    (run / "solutions/val.1.jsonl").write_text("of a run before\n")
    assert list(read_run(run).solutions) == ["easy"]
    (run / "solutions/test.jsonl").write_text("not JSON\n")
    with pytest.raises(ValueError, match=r"Line 1 of .*test\.jsonl is not a solution"):
        read_run(run)
