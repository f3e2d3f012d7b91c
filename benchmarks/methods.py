"""Methods beside each other on the embedded task: one table, and what the score is good for in one figure.

    python benchmarks/methods.py --out runs/methods --workers 2
    python benchmarks/methods.py --out runs/methods --methods laser,ngrpo,both=methods/ngrpo+methods/credo --seeds 0

Every method is the quickstart with an overlay, so all have the same steps, problems and samples; `eval/votes` adds the
vote rules. Without --methods: LaSeR, LaSeR as published (without judging updates), LaSeR without the self-rewards in
the advantages, GRPO, the supervised variant (cross-entropy on a "yes" and a "no" token behind <eos>), the two-token
head, and RISE (the policy writes a verification of each of its solutions).

A seed sets the training problems and all sampling; the held-out problems are the same for all, and training cannot
contain them. Behind the training each policy solves them again with more solutions, and so it does problems of the
split `test`, which nothing else looks at. The best vote rule is chosen on training problems. The table is written from
the solutions that the runs kept, by the project's own metrics.

All of it can be broken off and called again: what is finished is kept, and the rest goes on where it was. A run whose
settings have changed since is refused. Words behind -- go to every command: -- --data.prompts_per_step=8
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NoReturn

from methods_figures import training_figure, votes_figure
from methods_named import NAMED, read_methods
from methods_phase import Children, Phase
from methods_runs import Budget, Run
from methods_table import Entry, read_entry, write_tables

from laser_lightning.errors import UserError

PHASES = ("train", "evaluate", "table")


def do_run(run: Run, phases: Sequence[str], children: Children) -> None:
    """Bring the phases of a run to their end.

    Args:
        run: what is trained and evaluated.
        phases: some of ``PHASES``.
        children: run the processes.

    Raises:
        UserError: if one fails, or there is no trained policy to evaluate.
    """
    wanted: list[Phase] = [run.training] if "train" in phases else []
    if "evaluate" in phases:
        if not run.training.done and not wanted:
            raise UserError(f"{run.name}, is not evaluated, since its training is not finished.")
        wanted += run.evaluations.values()
    for phase in wanted:
        if not phase.done:
            print(f"{run.name}: {phase.name} ...", file=sys.stderr)
            phase.run(children)
            print(f"{run.name}: {phase.name} done", file=sys.stderr)


def do_runs(runs: Sequence[Run], phases: Sequence[str], workers: int, threads: int = 1) -> list[str]:
    """Bring all runs to their end; one that fails does not keep the others from it.

    Args:
        runs: in the order in which they begin.
        phases: some of ``PHASES``.
        workers: runs at a time.
        threads: of each process.

    Returns:
        What failed, as sentences.
    """
    children = Children(threads)
    failed: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        futures: list[Future[None]] = [pool.submit(do_run, run, phases, children) for run in runs]
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except UserError as error:
                    failed.append(str(error))
                    print(error, file=sys.stderr)  # now, and again behind the table
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            print("Stopped: the same command goes on.", file=sys.stderr)
            raise
    return failed


def read_entries(runs: Sequence[Run], dataset: str) -> tuple[dict[str, list[Entry]], list[str]]:
    """Measure the runs whose training is finished.

    Args:
        runs: in the order of the table.
        dataset: name of the set of problems.

    Returns:
        The runs by method, and why others are left out, as sentences.
    """
    methods: dict[str, list[Entry]] = {}
    left_out: list[str] = []
    for run in runs:
        if not run.training.done:
            left_out.append(f"{run.name}, is not in the table, since its training is not finished.")
            continue
        try:
            methods.setdefault(run.method.name, []).append(read_entry(run, dataset))
        except (UserError, OSError) as error:
            left_out.append(f"{run.name}, is not in the table: {error}")
    return {name: entries for name, entries in methods.items() if entries}, left_out


def seeds(text: str) -> list[int]:
    """The seeds of a list such as ``0,1,2``, each of them once."""
    found = [int(item) for item in text.split(",")]
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text} has a seed twice, which would count as two runs: name each once")
    return found


def at_least_one(text: str) -> int:
    """A number of workers."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few: at least 1")
    return int(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs; finished ones are kept")
    parser.add_argument(
        "--methods",
        default=",".join(NAMED),
        help="rows: short names, overlays (baselines/dapo, or dapo), or NAME=OVERLAY+OVERLAY; default: %(default)s",
    )
    parser.add_argument("--seeds", type=seeds, default=[0, 1, 2], metavar="0,1,2")
    parser.add_argument("--workers", type=at_least_one, default=1, help="runs at a time, of one thread each")
    parser.add_argument("--config", default="quickstart", help="the config below all overlays; default: %(default)s")
    parser.add_argument("--steps", type=int, help="optimizer steps; default: the config's")
    parser.add_argument("--samples", type=int, default=32, help="solutions per problem behind the training")
    parser.add_argument("--set", default="arithmetic", help="name of the set of problems; default: %(default)s")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES), help="what to do; default: all")
    parser.add_argument("--per_seed", action="store_true", help="a row for each seed too")
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.options = tuple(arguments[end + 1 :])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and evaluate what is missing; print the table and write the figures.

    Returns:
        The exit status: 1 if a run failed, or is not in the table.
    """
    options = parse(sys.argv[1:] if arguments is None else arguments)
    budget = Budget(options.config, options.steps, options.samples, options.options)
    methods = read_methods(options.methods)
    runs = [
        Run(method, seed, budget, options.out / f"{method.slug}_{seed}") for seed in options.seeds for method in methods
    ]
    for run in runs:
        for phase in (run.training, *run.evaluations.values()):
            assert phase.done in (True, False)  # refuses other settings before anything begins
    failed = do_runs(runs, options.phases, options.workers)
    if "table" in options.phases:
        ordered = sorted(runs, key=lambda run: (methods.index(run.method), run.seed))
        entries, left_out = read_entries(ordered, options.set)
        failed += left_out
        if entries:
            print(write_tables(entries, options.out, options.per_seed))
            training_figure(entries, options.set, options.out / "training.png")
            votes_figure(next(iter(entries.values())), entries.get("GRPO", []), options.out / "votes.png")
    for sentence in failed:
        print(sentence, file=sys.stderr)
    return 1 if failed else 0


def run_script(name: str, main: Callable[[], int]) -> NoReturn:
    """Run a benchmark as a program: SIGTERM stops it as Ctrl-C does, and an error of the user is one sentence."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"benchmarks/{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run_script("methods.py", main)
