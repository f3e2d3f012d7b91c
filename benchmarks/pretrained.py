"""From a pretrained model to a table: the supervised stage, then GRPO, LaSeR, RISE and LoRA on word problems.

    python benchmarks/pretrained.py --model DIR --problems TRAIN.jsonl VAL.jsonl --out runs/pretrained
    python benchmarks/pretrained.py ... --rows laser,grpo --seeds 0 --status

The recipes `recipes/word_problems_warm_start` and `recipes/word_problems` are trained with the overlay of each row. All
rows start from the same supervised model, and have the same steps, problems and samples. At the end of training the
held-out problems are solved 8 times each, and the table is written from these solutions by the project's own metrics.

All of it can be broken off, by Ctrl-C or a kill, and called again: what is finished is kept, and a run goes on from its
last checkpoint. A run whose settings or files have changed since is refused. The table is of the runs that are done.
Words behind -- go to every run of the table: -- --data.prompts_per_step=4
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from methods import do_runs, read_entries, run_script, seeds
from methods_figures import training_figure
from methods_table import write_tables
from pretrained_exports import Agreement
from pretrained_exports import table as exports_table
from pretrained_runs import PRESETS, ROWS, SET, Inputs, Job, Plan, by_kind

from laser_lightning.errors import UserError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory of the pretrained chat model")
    parser.add_argument("--problems", type=Path, nargs=2, required=True, metavar=("TRAIN", "VAL"))
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs; 2 to 3 GB each for 135M")
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu", help="default: %(default)s, for two cores")
    parser.add_argument("--rows", default=",".join(ROWS), help="default: %(default)s")
    parser.add_argument("--seeds", type=seeds, default=[0, 1, 2], metavar="0,1,2")
    parser.add_argument("--steps", type=int, help="optimizer steps of each run; default: the recipe's")
    parser.add_argument("--warm_start", default="", help="further options of the supervised stage, in one word")
    parser.add_argument("--status", action="store_true", help="say what is done and what is left, and print the table")
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.options = tuple(arguments[end + 1 :])
    if unknown := [name for name in options.rows.split(",") if name not in ROWS]:
        raise UserError(f"--rows: there is no row '{unknown[0]}': name some of {', '.join(ROWS)}.")
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """All that is to be done; other settings than those of what is there are refused."""
    if options.out.is_file():
        raise UserError(f"--out: {options.out} is a file: name a directory.")
    train, val = (path.resolve() for path in options.problems)
    plan = Plan(
        Inputs(options.model.resolve(), train, val),
        options.out.resolve(),
        PRESETS[options.preset],
        [ROWS[name] for name in options.rows.split(",")],
        options.seeds,
        options.steps,
        tuple(shlex.split(options.warm_start)),
        options.options,
    )
    for job in (plan.warm_start, *plan.runs, *plan.exports):
        assert job.training.done in (True, False)  # refuses other settings before anything begins
    return plan


def train(plan: Plan) -> list[str]:
    """Bring everything to its end that is not there; what failed, as sentences."""
    threads = plan.preset.threads
    if failed := do_runs([plan.warm_start], ("train",), 1, threads):
        return failed
    failed = do_runs(plan.runs, ("train",), 1, threads)
    trained = {run.directory for run in plan.runs if run.training.done}
    return failed + do_runs([job for job in plan.exports if job.directory in trained], ("train",), 1, threads)


def write_report(plan: Plan) -> str:
    """Write the tables and the figure of the runs that are done; the tables in Markdown, empty if there is none."""
    trained = [run for row in plan.rows for run in plan.runs if run.method == row and run.training.done]
    entries, left_out = read_entries(trained, SET)
    parts = left_out
    if entries:
        parts.append(write_tables(entries, plan.out, per_seed=len(plan.seeds) > 1))
        parts.append(by_kind({name: [entry.run for entry in of] for name, of in entries.items()}))
        training_figure(entries, SET, plan.out / "training.png")
    for job in plan.exports:
        if job.training.done:
            parts.append(f"{job.name}. {_exports(job)}")
    text = "\n\n".join(parts)
    (plan.out / "report.md").write_text(text + "\n", encoding="utf-8")
    return text


def _exports(job: Job) -> str:
    rows = json.loads((job.directory / "exports.json").read_text(encoding="utf-8"))
    return exports_table([Agreement(**row) for row in rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, print the table, and say what is left.

    Returns:
        The exit status: 1 if something failed.
    """
    options = parse(sys.argv[1:] if arguments is None else arguments)
    plan = plan_of(options)
    print("\n".join(plan.left()), file=sys.stderr)
    failed = [] if options.status else train(plan)
    if text := write_report(plan):
        print(text)
    if not options.status:
        print("\n".join(plan.left()), file=sys.stderr)
    for sentence in failed:
        print(sentence, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_script("pretrained.py", main)
