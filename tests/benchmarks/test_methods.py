"""The table of methods: names of its rows, commands that are brought to their end once, and values from solutions."""

import csv
import json
import math
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from laser_lightning.arguments import plain_form
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.metrics import BestRule, WeightedMajority
from laser_lightning.verifiers import ExactVerifier

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OVERLAY = "model: {init_args: {group_size: 4}}\n"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def phase() -> ModuleType:
    import methods_phase

    return methods_phase


# ------------------------------------------------------------------------ names


def test_items_are_short_names_overlays_and_names_given(tmp_path: Path) -> None:
    from methods_named import NAMED, Method, read_methods

    own = tmp_path / "own.yaml"
    own.write_text(OVERLAY)
    assert read_methods("laser, baselines/grpo,dapo") == [
        NAMED["laser"],
        NAMED["grpo"],
        Method("dapo", ("baselines/dapo",)),
    ]
    assert read_methods(f"Both of them=dapo+{own},start=") == [
        Method("Both of them", ("baselines/dapo", str(own))),
        Method("start"),
    ]
    assert read_methods("both=grpo+dapo,other=laser+dapo") == [
        Method("both", ("baselines/grpo", "baselines/dapo")),
        Method("other", ("baselines/dapo",)),
    ]
    assert read_methods("gspo+dr_grpo")[0].name == "gspo+dr_grpo"
    assert Method("LaSeR, as published").slug == "laser_as_published"


def test_files_may_have_signs_of_the_list_in_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from methods_named import Method, read_methods

    monkeypatch.chdir(tmp_path)
    for name in ("tau=1", "a+b"):
        (tmp_path / f"{name}.yaml").write_text(OVERLAY)
    assert read_methods("tau=1.yaml,m=tau=1.yaml,both=a+b.yaml") == [
        Method("tau=1", ("tau=1.yaml",)),
        Method("m", ("tau=1.yaml",)),
        Method("both", ("a+b.yaml",)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("laser,dapoo", r"--methods: config 'dapoo'.*baselines/dapo"),
        ("grpo,GRPO=baselines/grpo", "names 'GRPO' twice"),
        ("laser,", "item 2 of 'laser,' has no name"),
    ],
)
def test_an_item_that_names_nothing_is_refused(text: str, message: str) -> None:
    from methods_named import read_methods

    with pytest.raises(UserError, match=message):
        read_methods(text)


def test_every_default_row_has_its_overlays() -> None:
    from methods_named import NAMED, read_methods

    assert read_methods(",".join(NAMED)) == list(NAMED.values())


# ------------------------------------------------------------------------- runs


def test_a_run_has_a_training_that_resumes_and_two_evaluations_of_its_end(tmp_path: Path) -> None:
    from methods_named import NAMED
    from methods_runs import Budget, Run

    run = Run(NAMED["grpo"], 2, Budget("quickstart", 7, 32, ("--data.prompts_per_step=4",)), tmp_path)
    common = "--config quickstart --config eval/votes --config baselines/grpo --seed_everything=2 --torch_threads=1"
    assert " ".join(run.training.arguments) == (
        f"fit {common} --trainer.max_steps=7 --data.prompts_per_step=4 --run_dir {tmp_path} --ckpt_path auto"
    )
    assert " ".join(run.evaluations["test"].arguments) == (
        f"test {common} --model.evaluation.samples=32 --data.prompts_per_step=4 --run_dir {tmp_path}/test_32 "
        f"--ckpt_path {tmp_path}/checkpoints/last.ckpt"
    )
    assert run.evaluations["val"].arguments[0] == "validate"
    assert not run.training.done
    moved = Run(NAMED["grpo"], 2, run.budget, tmp_path / "moved")
    assert moved.training.settings == run.training.settings  # a directory may be moved or spelled otherwise


def test_the_order_of_overlays_is_a_setting(tmp_path: Path) -> None:
    """The later one of two wins. Records of earlier versions have the same contents by their names."""
    from methods_named import Method
    from methods_runs import Budget, Run

    paths = [str(tmp_path / f"{size}.yaml") for size in (4, 8)]
    for size, path in zip((4, 8), paths, strict=True):
        Path(path).write_text(f"model: {{init_args: {{group_size: {size}}}}}")
    budget = Budget("quickstart", 2, 4)
    run, other = (Run(Method("m", tuple(order)), 0, budget, tmp_path / "run") for order in (paths, paths[::-1]))
    finish(run)
    assert run.training.done
    with pytest.raises(UserError, match="had other settings"):
        _ = other.training.done
    names = ["quickstart", "eval/votes", *paths]
    earlier = run.training.settings | {"configs": dict(zip(names, run.training.settings["configs"], strict=True))}
    lines = [{"started": "t", "settings": earlier}, {"status": 0, "cpu_seconds": 1.0, "peak_gb": 0.5}]
    (tmp_path / "run/phases/fit.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run.training.done


# ----------------------------------------------------------------------- phases


def script(text: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", text)


def test_a_command_that_came_to_its_end_is_not_run_again(phase: ModuleType, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    one = phase.Phase("fit", tmp_path / "phases", (str(seen),), {"seed": 1})
    program = script("import sys; open(sys.argv[1], 'a').write('x'); print('said')")
    assert not one.done
    one.run(phase.Children(), program)
    one.run(phase.Children(), program)
    assert one.done
    assert seen.read_text() == "x"
    assert (tmp_path / "phases/fit.log").read_text() == "said\n"
    taken = one.taken
    assert taken.cut == 0
    assert 0 < taken.cpu_seconds < 10
    assert 0.001 < taken.peak_gb < 1


def test_a_command_that_was_broken_off_goes_on_and_the_table_knows(phase: ModuleType, tmp_path: Path) -> None:
    one = phase.Phase("fit", tmp_path / "phases", (str(tmp_path / "seen"),), {})
    program = script("import os, sys; new = not os.path.exists(sys.argv[1]); open(sys.argv[1], 'w'); sys.exit(3 * new)")
    with pytest.raises(UserError, match=r"fit ended with status 3; see fit\.log in phases"):
        one.run(phase.Children(), program)
    assert not one.done
    one.run(phase.Children(), program)
    assert one.done
    ends = [json.loads(line) for line in (tmp_path / "phases/fit.jsonl").read_text().splitlines()][1::2]
    assert one.taken.cut == 1
    assert one.taken.cpu_seconds == ends[0]["cpu_seconds"] + ends[1]["cpu_seconds"]


def test_a_start_without_an_end_was_cut(phase: ModuleType, tmp_path: Path) -> None:
    """As when the script is killed, and its process with it."""
    lines = [{"started": "t", "settings": {}}, {"started": "t", "settings": {}}]
    lines.append({"status": 0, "cpu_seconds": 2.5, "peak_gb": 0.5})
    (tmp_path / "fit.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert phase.Phase("fit", tmp_path, (), {}).taken == phase.Taken(2.5, 0.5, 1)


def test_half_a_line_of_a_killed_process_is_passed_over(phase: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "fit.jsonl").write_text('{"started": "t", "settings": {}}\n{"status": 0, "cpu_sec')
    one = phase.Phase("fit", tmp_path, (), {})
    assert not one.done
    one.run(phase.Children(), script(""))
    assert one.done
    assert one.taken.cut == 1


def test_a_run_with_other_settings_is_refused(phase: ModuleType, tmp_path: Path) -> None:
    phase.Phase("fit", tmp_path / "phases", (), {"steps": 1}).run(phase.Children(), script(""))
    with pytest.raises(UserError, match=r"holds a run whose fit had other settings .* give another --out"):
        _ = phase.Phase("fit", tmp_path / "phases", (), {"steps": 2}).done


def until(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.005)
    raise AssertionError(f"{path} did not appear")


def test_the_next_command_waits_for_what_the_last_one_left_running(phase: ModuleType, tmp_path: Path) -> None:
    lingering = "import subprocess, sys; subprocess.Popen(['sleep', '0.7'], close_fds=False)"  # it holds the lock
    phase.Phase("fit", tmp_path / "phases", (), {}).run(phase.Children(), script(lingering))
    began = time.monotonic()
    phase.Phase("evaluate", tmp_path / "phases", (), {}).run(phase.Children(), script(""))
    assert time.monotonic() - began > 0.3


def test_a_process_that_runs_is_not_started_twice_and_stops_when_told(
    phase: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase, "PATIENCE", 0.3)
    started = tmp_path / "started"
    one = phase.Phase("fit", tmp_path / "phases", (str(started),), {})
    waits = script("import sys, time; open(sys.argv[1], 'w'); time.sleep(60)")
    children = phase.Children()
    said: list[str] = []

    def run() -> None:
        try:
            one.run(children, waits)
        except UserError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    until(started)
    with pytest.raises(UserError, match="the process of an earlier call still runs there"):
        one.run(phase.Children(), script(""))
    children.stop()
    thread.join(timeout=30)
    assert len(said) == 1
    assert "fit ended with status -15" in said[0]
    with pytest.raises(UserError, match="stopped before it began"):
        one.run(children, script(""))
    assert not one.done


# ----------------------------------------------------------------------- values

VERIFIER = ExactVerifier(r"#(\d+)$")
"""Of the run below: equal texts are equal answers."""


def solution(index: int, answer: str | None, reward: float, score: float, step: int = 2) -> dict[str, Any]:
    row = {"dataset": "arithmetic", "step": step, "index": index, "answer": answer, "verifier": None, "finished": True}
    return row | {"reward": reward, "self_reward": score}


# Two problems with four solutions each. The majority is wrong on the first and right on the second; the weighted vote
# is right on both (1.4 to 0.2; 1.5 to 0.9), and so is the highest score.
SOLUTIONS = [
    solution(0, "5", 1.0, 0.8),
    solution(0, "6", 0.0, 0.1),
    solution(0, "6", 0.0, 0.1),
    solution(0, None, 0.0, 0.6),
    solution(1, "7", 1.0, 0.9),
    solution(1, "7", 1.0, 0.6),
    solution(1, "7", 1.0, 0.0),
    solution(1, "8", 0.0, 0.7),
]
VALUES = {
    "pass@1": 0.5,  # (1/4 + 3/4) / 2
    "maj": 0.5,
    "weighted": 1.0,
    "best rule": 1.0,
    "best rule - maj": 0.5,
    "paired s.e.": 0.5,  # of 1 and 0: std sqrt(1/2), over sqrt(2)
    "best of k": 1.0,
    "best of k - pass@1": 0.5,
    "F1": 2 * 0.75 * 0.5 / 1.25,  # 3 of 4 right ones above 0.5, 2 of 4 wrong ones not
    "AUROC": (4 + 4 + 2.5 + 0) / 16,  # of the right 0.8, 0.9, 0.6 (which ties once) and 0.0 over 0.1, 0.1, 0.6, 0.7
    "AUROC within": (3 / 3 + 1 / 3) / 2,  # 0.8 over all three of the first problem; 0.9 alone over 0.7
    "mixed problems": 2.0,
}


def write_run(
    directory: Path, seed: int, values: dict[str, float], solutions: list[dict[str, Any]] = SOLUTIONS
) -> None:
    """A finished run, as the program leaves it, with one rule to choose among: the weighted vote."""
    (directory / "solutions").mkdir(parents=True)
    (directory / "checkpoints").mkdir()
    rows = [solution(0, "5", 0.0, 0.0, step=0), *solutions]
    (directory / "solutions/val.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    end = {"pass@1": values["pass@1"], "maj@4": values["maj"], "best_rule@4": values["best rule"]}
    end |= {"self_verification/auroc_within_mean": values["AUROC within"]}
    summary = {"training_seconds": 12.0, "start": {"step": 0, "sets": {"arithmetic": {"pass@1": 0.25}}}}
    summary["end"] = {"step": 2, "sets": {"arithmetic": end}}
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "metrics.csv").write_text(
        "step,train/generated_tokens,val/arithmetic/pass@1\n0,,0.25\n1,100,\n2,200,\n2,,0.5\n"
    )
    plain = {
        "verifier": plain_form(VERIFIER),
        "evaluation": plain_form(EvaluationSettings(votes=[BestRule([WeightedMajority()])])),
    }
    torch.save({"laser_arguments": {"plain": plain}, "laser_votes": {}}, directory / "checkpoints/last.ckpt")


def finish(run: Any, cut: bool = False) -> None:
    phase = run.training
    phase.folder.mkdir(parents=True, exist_ok=True)
    start = {"started": "t", "settings": phase.settings}
    lines = [start] * (1 + cut) + [{"status": 0, "cpu_seconds": 30.0, "peak_gb": 0.75}]
    (phase.folder / "fit.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture
def runs(tmp_path: Path) -> list[Any]:
    """LaSeR with two seeds, and GRPO with one of them: the same solutions, but for the second seed of LaSeR, in which
    a wrong solution of the second problem became right and the first problem's scores are upside down."""
    from methods_named import NAMED
    from methods_runs import Budget, Run

    budget = Budget("quickstart", 2, 4)
    found = [Run(NAMED[name], seed, budget, tmp_path / f"{name}_{seed}") for name, seed in RUNS]
    for run in found:
        finish(run, cut=run.seed == 1)
    second = [*SOLUTIONS[:7], solution(1, "7", 1.0, 0.7)]
    write_run(found[0].directory, 0, VALUES)
    changed = VALUES | {"pass@1": 0.625, "AUROC within": 1.0}  # only the first problem is mixed
    write_run(found[1].directory, 1, changed, second)
    write_run(found[2].directory, 0, VALUES)
    return found


RUNS = [("laser", 0), ("laser", 1), ("grpo", 0)]


def test_values_are_those_of_the_solutions(runs: list[Any]) -> None:
    from methods_table import read_entry

    entry = read_entry(runs[0], "arithmetic")
    measured = entry.measured["training"]
    assert measured.samples == 4
    assert {name: measured.values[name] for name in VALUES} == pytest.approx(VALUES)
    assert measured.curves["maj"] == {1: 0.5, 2: pytest.approx(0.5), 4: 0.5}
    assert entry.rule == "weighted_maj"
    assert entry.values == {
        "pass@1 before": 0.25,
        "gain": 0.25,
        "tokens per step": 150.0,
        "training s": 12.0,
        "CPU s": 30.0,
        "GB": 0.75,
    }


def test_several_scores_of_a_solution_reach_the_rules(tmp_path: Path) -> None:
    from methods_values import logged_solutions

    log = tmp_path / "val.jsonl"
    rows = [solution(0, "5", 1.0, 0.5) | {"scores": [0.0, 1.0]}, solution(0, "6", 0.0, 1.0) | {"scores": [1.0, None]}]
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    scores = logged_solutions(log, "arithmetic", 2).scores
    assert scores[0].tolist() == [0.0, 1.0]
    assert scores[1, 0] == 1.0
    assert scores[1, 1].isnan()


def test_solutions_that_are_not_those_of_the_runs_end_are_refused(runs: list[Any]) -> None:
    from methods_table import read_entry

    log = runs[0].directory / "solutions/val.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows[-2]["reward"] = 0.0
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(UserError, match=r"give pass@1 = 0.375, and the run logged 0.5"):
        read_entry(runs[0], "arithmetic")


def test_the_table_has_means_paired_errors_and_says_what_was_cut(runs: list[Any], tmp_path: Path) -> None:
    from methods import read_entries
    from methods_table import Mean, write_tables

    methods, left_out = read_entries(runs, "arithmetic")
    assert left_out == []
    text = write_tables(methods, tmp_path, per_seed=True)
    heads, _, first, second, mean, other = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:8]
    )
    rows = [dict(zip(heads, row, strict=True)) for row in (first, second, mean, other)]
    assert [(row["method"], row["seeds"]) for row in rows] == [
        ("LaSeR", "0"),
        ("LaSeR", "1"),
        ("LaSeR", "mean of 0, 1"),
        ("GRPO", "0"),
    ]
    assert [row["pass@1"] for row in rows] == ["0.500", "0.625", "0.562 ± 0.062", "0.500"]  # s.e. 0.125 / 2
    # The first problem is gained by both seeds and the second by none: 1 and 0, as in each seed.
    assert [row["best rule - maj"] for row in rows] == ["+0.500 ± 0.500"] * 4
    assert [row["CPU s"] for row in rows] == ["30", "30*", "30*", "30"]
    assert "* of a run that was broken off" in text
    assert "| GRPO | 0 | +0.000 ± 0.000 |" in text  # against LaSeR's seed 0 alone
    assert Mean(methods["LaSeR"]).value("training", "AUROC within") == pytest.approx((2 / 3 + 1) / 2)
    assert math.isnan(Mean(methods["GRPO"]).error("training", "pass@1"))

    written = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["method"], row["seed"]) for row in written][:4] == [
        ("LaSeR", "0"),
        ("LaSeR", "1"),
        ("LaSeR", "mean"),
        ("LaSeR", "standard error"),
    ]
    assert float(written[2]["training/pass@1"]) == 0.5625
    assert written[1]["cut"] == "1"
    assert written[-1]["training/pass@1"] == ""  # one seed has no standard error
    assert json.loads((tmp_path / "table.json").read_text())[0]["training/best of k"] == 1.0
    assert (tmp_path / "table.md").read_text() == text + "\n"


def test_a_run_that_cannot_be_measured_is_left_out_in_a_sentence(runs: list[Any]) -> None:
    from methods import read_entries

    (runs[0].directory / "phases/fit.jsonl").unlink()
    methods, left_out = read_entries([runs[0], runs[2]], "arithmetic")
    assert list(methods) == ["GRPO"]
    assert left_out == ["LaSeR, seed 0, is not in the table, since its training is not finished."]
    finish(runs[0])
    (runs[0].directory / "checkpoints/last.ckpt").write_bytes(b"half")
    methods, left_out = read_entries([runs[0], runs[2]], "arithmetic")
    assert list(methods) == ["GRPO"]
    assert "last.ckpt is not a whole checkpoint" in left_out[0]


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("summary.json", None, "summary.json cannot be read"),
        ("summary.json", '{"training_se', "summary.json cannot be read"),
        ("summary.json", '{"start": null, "end": {"step": 2}}', "has no evaluation of the run's start"),
        ("summary.json", '{"start": null, "end": null}', "has no evaluation of the run's start and end"),
        ("metrics.csv", None, "metrics.csv"),
    ],
)
def test_what_is_missing_of_a_run_does_not_take_the_table_with_it(
    runs: list[Any], file: str, content: str | None, told: str
) -> None:
    from methods import read_entries

    (runs[0].directory / file).unlink()
    if content is not None:
        (runs[0].directory / file).write_text(content)
    methods, left_out = read_entries([runs[0], runs[2]], "arithmetic")
    assert list(methods) == ["GRPO"]
    assert len(left_out) == 1
    assert left_out[0].startswith("LaSeR, seed 0, is not in the table: ")
    assert told in left_out[0]


def test_figures_are_drawn_of_what_is_there(runs: list[Any], tmp_path: Path) -> None:
    from methods import read_entries
    from methods_figures import training_figure, votes_figure

    methods, _ = read_entries(runs, "arithmetic")
    assert not votes_figure(methods["LaSeR"], methods["GRPO"], tmp_path / "votes.png")  # no evaluation yet
    for entries in methods.values():
        for entry in entries:
            entry.measured["test"] = entry.measured["training"]
    assert votes_figure(methods["LaSeR"], methods["GRPO"], tmp_path / "votes.png")
    training_figure(methods, "arithmetic", tmp_path / "training.png")
    assert (tmp_path / "votes.png").read_bytes()[:4] == (tmp_path / "training.png").read_bytes()[:4] == b"\x89PNG"


# -------------------------------------------------------------------- the whole


def test_options_behind_two_dashes_go_to_every_command() -> None:
    from methods import parse

    options = parse(["--out", "x", "--seeds", "0,3", "--workers", "2", "--", "--data.prompts_per_step=4"])
    assert (options.seeds, options.workers, options.options) == ([0, 3], 2, ("--data.prompts_per_step=4",))
    assert parse(["--out", "x"]).options == ()


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--seeds", "0,1,0"], "has a seed twice"), (["--workers", "0"], "at least 1"), (["--seeds", "a"], "invalid")],
)
def test_numbers_that_make_no_sense_are_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from methods import parse

    with pytest.raises(SystemExit):
        parse(["--out", "x", *words])
    assert told in capsys.readouterr().err


def test_one_that_fails_does_not_keep_the_others_from_their_end(
    phase: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from methods import do_runs
    from methods_named import NAMED
    from methods_runs import Budget, Run

    started: list[str] = []

    def run(self: Any, children: Any) -> None:
        started.append(f"{self.folder.parent.name} {self.name}")
        if "laser" in str(self.folder):
            raise UserError("it failed")

    monkeypatch.setattr(phase.Phase, "run", run)
    budget = Budget("quickstart", None, 32)
    runs = [Run(NAMED[name], 0, budget, tmp_path / name) for name in ("laser", "grpo")]
    assert do_runs(runs, ("train", "evaluate"), 1) == ["it failed"]
    assert started == ["laser fit", "grpo fit", "grpo val_32", "grpo test_32"]
    started.clear()
    assert sorted(do_runs(runs, ("evaluate",), 1)) == [
        f"{name}, seed 0, is not evaluated, since its training is not finished." for name in ("GRPO", "LaSeR")
    ]
    assert started == []


@pytest.mark.slow
def test_the_whole_with_the_program_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps of LaSeR and GRPO on twelve problems: trained, evaluated, and in the table; nothing is done twice."""
    from methods import main

    tiny = ["--data.prompts_per_step=4", "--data.train.init_args.size=64"]
    tiny += [f"--data.{split}.arithmetic.init_args.size=12" for split in ("val", "test")]
    command = ["--out", str(tmp_path), "--methods", "laser,grpo", "--seeds", "0", "--steps", "2", "--samples", "16"]
    assert main([*command, "--", *tiny]) == 0
    first = capsys.readouterr()
    assert "LaSeR, seed 0: fit done" in first.err
    assert first.out.count("| GRPO |") == 4
    assert (tmp_path / "votes.png").exists()
    assert main([*command, "--", *tiny]) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err == ""
