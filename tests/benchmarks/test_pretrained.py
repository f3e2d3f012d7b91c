"""The table of a pretrained model, on a tiny one and a dozen problems: rows, resume, exports, and what is refused."""

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from laser_lightning.cli.command_line import main as program
from laser_lightning.errors import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LEARNS = "--trainer.max_steps=40 --trainer.val_check_interval=40 --model.optimizer.learning_rate=1e-2"
"""A supervised stage behind which the tiny model solves some of the problems, so that groups are mixed."""

SHORT = ["--data.prompts_per_step=4", "--calibration.prompts=4", "--checkpoint.every_n_train_steps=1", "--figures=null"]

Command = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def command(chat_model_dir: Path, word_problems: Path, tmp_path: Path) -> Command:
    """``command(rows, *options)``: the words of the benchmark, two steps of each row, one seed."""
    problems = [str(word_problems / f"word_problems_{name}.jsonl") for name in ("train", "val")]

    def words(rows: str, *options: str) -> list[str]:
        files = ["--model", str(chat_model_dir), "--problems", *problems, "--out", str(tmp_path / "out")]
        return [*files, "--rows", rows, "--seeds", "0", "--steps", "2", "--warm_start", LEARNS, *options]

    return words


# ------------------------------------------------------------------------ rows


def test_a_wrong_solution_is_another_calculation_done_rightly() -> None:
    from pretrained_checks import wrong_solution

    def found(solution: str) -> set[str | None]:
        return {wrong_solution(solution, random.Random(seed)) for seed in range(20)}

    assert found("4*7+2=30") == {"4*7-2=26"}  # 4/7+2 is no whole number
    assert found("6*3+2=20") == {"6*3-2=16", "6/3+2=4"}
    assert found("5-2=3") == {"5+2=7"}
    assert found("2+5=7") == {None}  # 2-5 is below 0
    assert found("2*2=4") == {"2/2=1"}
    assert found("5-0=5") == {None}  # 5+0 is the same
    assert found("seven=7") == {None}


def test_questions_stand_among_the_worked_solutions_and_are_as_often_right() -> None:
    from pretrained_checks import supervised_rows

    rows = [{"problem": f"P{n}", "answer": "3", "kind": "k", "solution": "5-2=3"} for n in range(1, 17)]
    made = list(supervised_rows(rows))
    questions = [row for row in made if "Is that right" in row["problem"]]
    assert [row["problem"].splitlines() for row in questions] == [
        ["P4", "5-2=3", "Is that right?"],
        ["P8", "5+2=7", "Is that right?"],
        ["P12", "5-2=3", "Is that right?"],
        ["P16", "5+2=7", "Is that right?"],
    ]
    assert [row["solution"] for row in questions] == ["yes", "no", "yes", "no"]
    assert made[4] == questions[0]  # behind its problem's own solution
    assert [row["solution"] for row in made if row not in questions] == ["5-2=3"] * 16


def test_the_question_is_that_of_rise() -> None:
    """What the supervised stage teaches is, token for token, what RISE asks."""
    import yaml
    from pretrained_checks import question

    from laser_lightning.cli.config_files import read_config

    for recipe in ("word_problems_warm_start", "word_problems"):
        template = yaml.safe_load(read_config(f"recipes/{recipe}"))["data"]["init_args"]["template"]
        assert template == {"chat": question()["chat"], "system": question()["system"]}


# ------------------------------------------------------------------------ plan


def test_a_run_starts_from_the_supervised_model_and_its_files_may_move(command: Command, tmp_path: Path) -> None:
    from pretrained import parse, plan_of

    plan = plan_of(parse(command("grpo,rise", "--", "--data.prompts_per_step=4")))
    grpo, rise = plan.runs
    words = " ".join(grpo.training.arguments)
    overlays = "--config recipes/word_problems --config eval/votes --config baselines/grpo"
    assert words.startswith(f"fit {overlays} --seed_everything=0 --torch_threads=2 --trainer.max_steps=2")
    assert f"--model.policy.path={tmp_path}/out/warm_start/export/last" in words
    assert "baselines/rise --config recipes/word_problems_rise" in " ".join(rise.training.arguments)
    assert str(tmp_path) not in json.dumps(grpo.training.settings)
    assert list(plan.left()) == ["supervised stage: not begun", "GRPO, seed 0: not begun", "RISE, seed 0: not begun"]


def test_the_gpu_preset_lies_below_the_overlays_of_the_rows(command: Command) -> None:
    """So that an overlay without judging updates stays so."""
    from pretrained import parse, plan_of

    words = plan_of(parse(command("grpo", "--preset", "gpu"))).runs[0].training.arguments
    configs = [words[place + 1] for place, word in enumerate(words) if word == "--config"]
    assert configs == ["recipes/word_problems", "recipes/word_problems_gpu", "eval/votes", "baselines/grpo"]


def test_what_was_begun_goes_on_with_the_same_files_alone(command: Command, tmp_path: Path) -> None:
    from pretrained import parse, plan_of
    from pretrained_runs import WARM_START

    options = parse(command("grpo"))
    plan = plan_of(options)
    stage, run = plan.warm_start.training, plan.runs[0].training
    by_name = stage.settings | {"configs": {WARM_START: stage.settings["configs"][0]}}  # as earlier versions wrote it
    for phase, settings in ((stage, stage.settings), (stage, by_name), (run, run.settings)):
        phase.folder.mkdir(parents=True, exist_ok=True)
        (phase.folder / "fit.jsonl").write_text(json.dumps({"started": "t", "settings": settings}) + "\n")
        plan_of(options)
    changed = tmp_path / "val.jsonl"
    changed.write_text(options.problems[1].read_text() + "\n")
    options.problems[1] = changed
    with pytest.raises(UserError, match="holds a run whose fit had other settings"):
        plan_of(options)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("--model", "nowhere", r"--model: .*nowhere is no directory of a transformers model"),
        ("--problems", "nowhere.jsonl", r"--problems: there is no file .*nowhere\.jsonl"),
        ("--rows", "laser,dapo", "--rows: there is no row 'dapo': name some of laser, judging, grpo, rise, lora"),
        ("--out", __file__, r"--out: .*test_pretrained\.py is a file: name a directory"),
    ],
)
def test_what_is_not_there_is_refused(command: Command, place: str, value: str, message: str) -> None:
    from pretrained import parse, plan_of

    words = command("laser")
    words[words.index(place) + 1] = value
    with pytest.raises(UserError, match=message):
        plan_of(parse(words))


# ------------------------------------------------------------------- the whole


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs commands in this process and its main thread, which signals need; a list of what they were."""
    import pretrained
    import pretrained_exports
    from methods import do_run
    from methods_phase import Children

    done: list[str] = []

    def run(self: Any, words: Sequence[str], log: Path, held: int) -> dict[str, Any]:
        script, arguments = ("exports", words[2:]) if words[1].endswith(".py") else (words[3], words[3:])
        done.append(f"{script} {log.parents[1].name}")
        status = pretrained_exports.main(arguments) if script == "exports" else program(list(arguments))
        return {"status": status, "cpu_seconds": 1.0, "peak_gb": 0.5}

    def do_runs(jobs: Sequence[Any], phases: Sequence[str], workers: int, threads: int) -> list[str]:
        for job in jobs:
            do_run(job, phases, Children(threads))
        return []

    monkeypatch.setattr(Children, "run", run)
    monkeypatch.setattr(pretrained, "do_runs", do_runs)
    return done


@pytest.mark.slow
def test_from_a_model_to_the_table(
    command: Command,
    in_this_process: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Broken off behind the first of two steps, and called again, and once more when nothing is left."""
    from pretrained import main

    from laser_lightning import LaSeRModule

    words = command("grpo", "--", *SHORT, "--torch_threads=1")
    update = LaSeRModule.update_policy

    def update_once(self: LaSeRModule, *args: Any) -> Any:
        if self.global_step:
            raise UserError("broken off")
        return update(self, *args)

    monkeypatch.setattr(LaSeRModule, "update_policy", update_once)
    with pytest.raises(UserError, match="grpo_0: fit ended with status"):
        main(words)
    monkeypatch.setattr(LaSeRModule, "update_policy", update)
    capsys.readouterr()
    assert main(words) == 0
    assert in_this_process == ["fit warm_start", "fit grpo_0", "fit grpo_0"]
    with (tmp_path / "out/grpo_0/metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train/reward"]] == ["1", "2"]
    shown = capsys.readouterr()
    assert "GRPO, seed 0: step 1 of 2" in shown.err.splitlines()  # what was left, and what is done
    assert "GRPO, seed 0: done" in shown.err.splitlines()
    assert "* of a run that was broken off" in shown.out
    (heads,) = (line for line in shown.out.splitlines() if line.startswith("| method | seeds | best rule is"))
    for column in ("pass@1", "maj", "weighted", "best of k", "F1", "AUROC", "AUROC within", "ECE", "training s", "GB"):
        assert f"| {column} |" in heads
    assert shown.out.split("(k = 8):")[1].split("\n\n")[1].splitlines()[2].startswith("| GRPO | 0 |")
    assert "| method | less | more |" in shown.out
    report = (tmp_path / "out/report.md").read_text()
    assert shown.out.endswith(report)

    in_this_process.clear()
    assert main([*words[: words.index("--")], "--status", *words[words.index("--") :]]) == 0
    assert in_this_process == []
    assert capsys.readouterr().out == report


def test_exports_of_adapters_agree_with_plain_transformers(
    chat_model_dir: Path, word_problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pretrained_exports

    monkeypatch.chdir(word_problems)
    configs = ["--config=recipes/word_problems", "--config=recipes/word_problems_lora"]
    quick = ["--calibration=null", "--model.self_reward.init_args.reference=-5", "--figures=null", "--torch_threads=1"]
    steps = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--export.init_args.monitor=null", *SHORT[:1]]
    run = tmp_path / "run"
    words = [*configs, *quick, *steps, f"--model.policy.path={chat_model_dir}", f"--run_dir={run}"]
    assert program(["fit", *words]) == 0
    assert pretrained_exports.main([str(run), "word_problems_val.jsonl", "--adapter"]) == 0
    whole, half, adapter = json.loads((run / "exports.json").read_text())
    assert [one["form"] for one in (whole, half, adapter)] == ["float32", "bfloat16", "adapter"]
    assert whole["solutions"] == half["solutions"] == adapter["solutions"] > 0
    for one in (whole, adapter):
        assert max(one["plain"], one["plain_float32_head"], one["float32"]) < 1e-4
        assert one["verdicts"] == 1.0
    # beta is 0.25, and a log-prob of -5 to -8 in bfloat16 is right to 1/64; a head in float32 is right to its weights.
    assert half["plain_float32_head"] < 0.01
    assert 0 < half["float32"] < 0.05
