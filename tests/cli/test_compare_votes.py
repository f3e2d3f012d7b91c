"""Votes of several runs, from the curves that their reports and figures left."""

import math
from pathlib import Path

import pytest

from laser_lightning.cli.command_line import main
from laser_lightning.cli.compare_votes import Point, read_curves, votes_table
from laser_lightning.errors import UserError

HEAD = "set,metric,k,tokens,value,low,high\n"


def write(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return path.parents[1]


def test_the_report_comes_before_the_figures(tmp_path: Path) -> None:
    write(tmp_path / "figures/votes.csv", "sums,maj,1,9.0,0.1,,", "more,maj,1,5.0,0.2,,", "average,maj,1,5.0,0.2,,")
    run = write(
        tmp_path / "evaluation/test_curves.csv",
        "sums,pass,1,10.0,0.5,0.4,0.6",
        "sums,maj,2,20.0,0.6,0.5,0.7",
        "sums,maj,1,10.0,0.5,0.4,0.6",
        "sums,weighted_maj,1,,0.5,0.4,0.6",
    )
    found = read_curves(run)
    assert found["sums"]["maj"] == [Point(1, 10.0, 0.5), Point(2, 20.0, 0.6)]
    (weighted,) = found["sums"]["weighted"]
    assert math.isnan(weighted.tokens)
    assert found["more"] == {"maj": [Point(1, 5.0, 0.2)]}
    assert list(found) == ["sums", "more"]


def test_the_weighted_vote_is_that_of_the_best_rule(tmp_path: Path) -> None:
    rows = ("sums,best_rule,1,11.0,0.7,,", "sums,weighted_maj,1,11.0,0.6,,")
    assert read_curves(write(tmp_path / "evaluation/val_curves.csv", *rows))["sums"]["weighted"] == [Point(1, 11, 0.7)]


def test_damaged_curves_are_refused(tmp_path: Path) -> None:
    run = write(tmp_path / "figures/votes.csv", "sums,maj,one,,,,")
    with pytest.raises(UserError, match=r"Line 2 of .*votes\.csv is not a point of a curve as the report writes it"):
        read_curves(run)


def test_a_table_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Of the same 40 tokens, judged for one more each, or for 20 more.
    for name, judging in (("laser", 11), ("rise", 30)):
        rows = [
            f"sums,{rule},{k},{k * cost},{0.5 + k / 100},,"
            for k in (1, 4)
            for rule, cost in (("maj", 10), ("best_of", judging))
        ]
        run = write(tmp_path / name / "figures/votes.csv", *rows)
        (run / "metrics.csv").write_text("step,val/sums/pass@1\n0,0.5\n")
    runs = [str(tmp_path / name) for name in ("laser", "rise")]
    assert main(["compare", *runs, "--figure", str(tmp_path / "both.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| sums | k | majority (tokens) | weighted vote (tokens) | best of k (tokens) |" in lines
    assert f"| {runs[0]} | 4 | 0.540 (40) | - | 0.540 (44) |" in lines
    assert f"| {runs[1]} | 4 | 0.540 (40) | - | 0.540 (120) |" in lines
    assert lines[-1] == f"Votes against samples and tokens: {tmp_path / 'both_votes.png'}"
    assert (tmp_path / "both_votes.png").read_bytes().startswith(b"\x89PNG")
    assert votes_table("other", {run: read_curves(Path(run)) for run in runs}) is None
