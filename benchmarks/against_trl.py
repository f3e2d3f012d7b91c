"""One step of LaSeR here against one step of GRPO in TRL: solutions per second and peak memory, in turn in one run.

    pip install 'trl==1.16.*' 'torch<2.14'   # in the environment of this project, or a copy of it
    python benchmarks/against_trl.py
    python benchmarks/against_trl.py --model DIR --problems FILE

Both train the same random weights on the same 16 prompts x 8 solutions of at most 64 tokens at temperature 1, with the
same reward, AdamW, learning rate, type of numbers and threads; TRL generates with `generate` of transformers, has no
reference model (beta 0) and is set up for speed (`trl_step.py`). Ours does more: it reads the score of every finished
solution, mixes it into the advantages and trains the self-rewarding loss. Responses have all 64 tokens (<eos> is never
drawn, so that no solution has a score), or end with probability 1/24 at each token. For each case and trainer there is
a fresh process; the two take steps in turn, and ratios are of neighbouring steps. Memory is the process's peak
resident memory with its libraries (on CUDA the peak of allocated device memory). Ours leaves out the solutions of
groups whose rewards are all equal and that have no score: 1 group in 128 here, and none where responses end.

The device and dtype options are there for GPUs; they were not tried on one.

With a model, it is the recipe `word_problems` as its config has it, in float32: the problems of the file in their order
in its chat template, its verifier's reward and its learning rate for both. TRL's settings are found in a trial first.
Behind them stand LaSeR, LaSeR with judging updates, which TRL has nothing like, and the recipe with
LoRA, whose time and memory so stand beside those of full fine-tuning; all of them and TRL take steps in turn.
"""

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from against_trl_recipe import Settings, fastest
from against_trl_recipe import compare as compare_recipe
from common import Case, Worker, machine, median_ratio, table, write_model
from pretrained_runs import ROWS
from recipe_case import RecipeCase
from turns import take_turns

MODELS = {"5M, vocabulary 80": ("5M", 80), "21M, vocabulary 32,000": ("5M", 32_000)}
LENGTHS = {"all of 64 tokens": 0.0, "1 to 64 tokens": 1 / 24}
ACCUMULATION = {80: 4, 32_000: 8}
"""Parts of TRL's step, by vocabulary: the fastest of 1, 2, 4, 8 and 16 in a trial on 2 CPU cores."""
HEADS = ["model", "responses", "solutions/s, ours", "TRL", "ratio (range)", "ratio of CPU time", "mean length, ours"]
HEADS += ["TRL", "peak GB, ours", "TRL", "before the first step, ours", "TRL", "pairs"]


def compare(name: str, lengths: str, case: Case, least_pairs: int, seconds: float) -> list[str]:
    """A row of the table: pairs of steps until the time is up."""
    with tempfile.TemporaryDirectory() as directory:
        model = write_model(case, Path(directory))
        workers = {"ours": Worker("our_step.py", case, model), "trl": Worker("trl_step.py", case, model)}
        results = take_turns(workers, least_pairs, seconds, case.steps - 1)
    first = {side: steps.pop(0) for side, steps in results.items()}
    if any(step["solutions"] != case.solutions for steps in results.values() for step in steps):
        raise SystemExit("A step had another number of solutions than asked for.")

    def median(side: str, key: str) -> float:
        return statistics.median(step[key] for step in results[side])

    def all_of(side: str, key: str) -> list[float]:
        return [step[key] for step in results[side]]

    def mean_length(side: str) -> float:
        return sum(all_of(side, "tokens")) / (len(results[side]) * case.solutions)

    ours, theirs = all_of("ours", "seconds"), all_of("trl", "seconds")
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    speeds = [f"{case.solutions / median(side, 'seconds'):.1f}" for side in ("ours", "trl")]
    return [
        name,
        lengths,
        *speeds,
        f"{median_ratio(theirs, ours):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{median_ratio(all_of('trl', 'cpu_seconds'), all_of('ours', 'cpu_seconds')):.2f}",
        *(f"{mean_length(side):.1f}" for side in ("ours", "trl")),
        *(f"{results[side][-1]['memory']:.2f}" for side in ("ours", "trl")),
        *(f"{first[side]['loaded']:.2f}" for side in ("ours", "trl")),
        str(len(ratios)),
    ]


def random_models(given: argparse.Namespace) -> None:
    """Print the table of the random models, a row when it is ready."""
    print(table(HEADS, []), flush=True)
    for name in given.models:
        size, vocabulary = MODELS[name]
        case = Case(
            size=size,
            vocabulary=vocabulary,
            threads=given.threads,
            device=given.device,
            dtype=given.dtype,
            steps=1000,
            micro_batch_tokens=given.micro_batch_tokens,
            accumulation=given.accumulation or ACCUMULATION[vocabulary],
        )
        for lengths in given.lengths:
            varied = dataclasses.replace(case, end_probability=LENGTHS[lengths])
            print(f"| {' | '.join(compare(name, lengths, varied, given.pairs, given.seconds))} |", flush=True)


def recipe_on_model(given: argparse.Namespace) -> None:
    """Print TRL's trial, unless its parts are given, and the table of the recipe."""
    case = RecipeCase(
        prompts=given.prompts,
        group_size=given.group_size,
        response_tokens=given.response_tokens,
        threads=given.threads,
        steps=1000,
        problems=str(given.problems.resolve()),
    )
    model, say = given.model.resolve(), partial(print, flush=True)
    settings = Settings(given.accumulation) if given.accumulation else fastest(case, model, given.trial_steps, say)
    say(f"\nTRL with {settings}:\n")
    say(compare_recipe(case, model, settings, given.rows.split(","), given.pairs, given.seconds, given.warm_up))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40, help="time for the steps of a case")
    parser.add_argument("--pairs", type=int, default=3, help="least pairs of steps of a case, however long they take")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--accumulation", type=int, help="parts of TRL's step; default: the fastest in a trial")
    random = parser.add_argument_group("random models")
    random.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    random.add_argument("--lengths", nargs="+", default=list(LENGTHS), choices=list(LENGTHS))
    random.add_argument("--micro_batch_tokens", type=int, default=2048, help="ours")
    random.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    random.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    recipe = parser.add_argument_group("the recipe word_problems on a model, on CPU in float32")
    recipe.add_argument("--model", type=Path, metavar="DIR", help="directory of a chat model")
    recipe.add_argument("--problems", type=Path, metavar="FILE", help="JSON lines with the columns problem and answer")
    recipe.add_argument("--prompts", type=int, default=8, help="of a step; default: %(default)s")
    recipe.add_argument("--group_size", type=int, default=8, help="solutions of each; default: %(default)s")
    recipe.add_argument("--response_tokens", type=int, default=32, help="length limit; default: %(default)s")
    recipe.add_argument("--rows", default="laser,judging,lora", help=f"some of {','.join(ROWS)}; default: %(default)s")
    recipe.add_argument("--trial_steps", type=int, default=2, help="of each of TRL's settings; default: %(default)s")
    recipe.add_argument("--warm_up", type=int, default=2, help="steps that do not count; default: %(default)s")
    given = parser.parse_args(arguments)
    if (given.model is None) != (given.problems is None):
        parser.error("--model and --problems belong together: give both, or none for random models")
    if given.model is not None:
        if not (given.model / "config.json").is_file():
            parser.error(f"--model: {given.model} is no directory of a transformers model (it has no config.json)")
        if not given.problems.is_file():
            parser.error(f"--problems: there is no file {given.problems}")
        if unknown := [name for name in given.rows.split(",") if name not in ROWS]:
            parser.error(f"--rows: there is no row '{unknown[0]}': name some of {', '.join(ROWS)}")
        if (given.device, given.dtype) != ("cpu", "float32"):
            parser.error("--device and --dtype are for the random models: the recipe is measured on CPU in float32")
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    given = parse(arguments)
    print(machine(given.threads, given.device) + "\n", flush=True)
    random_models(given) if given.model is None else recipe_on_model(given)


if __name__ == "__main__":
    main()
