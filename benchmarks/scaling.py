"""How the time per response token grows with group size, response length and model size, and 2 processes against 1.

    python benchmarks/scaling.py --out docs/scaling.png

From one base case (8 prompts x 8 solutions of 64 tokens, 5M parameters) one size is varied at a time. Every case has a
process with LaSeRModule, all processes take a step in turn, and a case's ratio to the base is of the same turn. No
<eos> is drawn, so that all responses have the full length. The growth exponent is the slope of the time per token
against the size, both as logarithms: 0 where a token costs the same however many there are, 1 where it grows in
proportion. Attention, and with it the time per token, grows with the length; weights grow with the model. Weak scaling
compares data-parallel processes of one thread: twice the prompts on 2 processes, by `torchrun`, against 1.

The device and dtype options are there for GPUs (one process of each case then shares the GPU); they were not tried.
"""

import argparse
import dataclasses
import math
import statistics
import tempfile
from pathlib import Path

from common import SIZES, Case, Worker, machine, table, write_model
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

AXES = {
    "group size": {"group_size": [4, 8, 16, 32]},
    "response length, tokens": {"response_tokens": [32, 64, 128, 256]},
    "parameters of the layers": {"size": ["1M", "5M", "20M"]},
}
PARTS = ("rollout", "update")
Steps = list[dict[str, float]]


def parameters(size: str) -> int:
    """Weights of the layers' matrices."""
    layers, width, mlp_width = SIZES[size]
    return layers * (4 * width * width + 3 * width * mlp_width)


def take_turns(cases: list[Case], directory: Path, turns: int) -> dict[Case, Steps]:
    """A warm-up and ``turns`` steps of each case, in turn."""
    models: dict[str, Path] = {}
    for case in cases:
        if case.size not in models:
            models[case.size] = write_model(case, Path(tempfile.mkdtemp(dir=directory)))
    workers: dict[Case, Worker] = {}
    try:
        for case in cases:
            workers[case] = Worker("our_step.py", case, models[case.size])
        results: dict[Case, Steps] = {case: [] for case in cases}
        for turn in range(turns + 1):
            for case in cases if turn % 2 else reversed(cases):
                results[case].append(workers[case].step())
    finally:
        for worker in workers.values():
            worker.close()
    return {case: steps[1:] for case, steps in results.items()}


def per_token(steps: Steps, part: str) -> list[float]:
    """Microseconds per response token, of each turn."""
    return [1e6 * step[part] / step["tokens"] for step in steps]


def slope(sizes: list[float], times: list[float]) -> float:
    """Least squares of log time against log size."""
    xs, ys = [math.log(size) for size in sizes], [math.log(time) for time in times]
    mean_x, mean_y = statistics.mean(xs), statistics.mean(ys)
    products = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return products / sum((x - mean_x) ** 2 for x in xs)


def report(base: Case, points: dict[str, dict[float, Case]], results: dict[Case, Steps]) -> None:
    """Times, ratios to the base case, and exponents."""
    rows, slopes = [], []
    for axis, cases in points.items():
        ratios: dict[str, list[float]] = {part: [] for part in PARTS}
        for size, case in cases.items():
            cells = [axis, f"{size:,}"]
            for part in PARTS:
                times, bases = per_token(results[case], part), per_token(results[base], part)
                ratios[part].append(statistics.median(a / b for a, b in zip(times, bases, strict=True)))
                cells += [f"{statistics.median(times):.0f}", f"{ratios[part][-1]:.2f}"]
            rows.append(cells)
        slopes.append([axis, *(f"{slope(list(cases), ratios[part]):+.2f}" for part in PARTS)])
    heads = ["varied", "to", "rollout, µs per token", "of the base", "update, µs per token", "of the base"]
    print(table(heads, rows), "\n", table(["growth exponent of", *PARTS], slopes), "", sep="\n", flush=True)


def figure(points: dict[str, dict[float, Case]], results: dict[Case, Steps], path: Path) -> None:
    """Time per token against each size, both on logarithmic scales."""
    canvas = Figure(figsize=(12, 3.6), layout="constrained")
    axes_of = canvas.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for axes, (axis, cases) in zip(axes_of, points.items(), strict=True):
        for part, colour in zip(PARTS, ("#0072B2", "#D55E00"), strict=True):
            times = [statistics.median(per_token(results[case], part)) for case in cases.values()]
            axes.loglog(list(cases), times, color=colour, marker="o", ms=4, label=part)
        axes.set_xlabel(axis)
        axes.minorticks_off()
        axes.set_xticks(list(cases), [f"{size / 1e6:.1f}M" if size > 1e5 else f"{size:g}" for size in cases])
        axes.grid(alpha=0.3, which="both")
    axes_of[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes_of[0].yaxis.set_major_formatter(ScalarFormatter())
    axes_of[0].set_ylabel("µs per response token")
    axes_of[0].legend()
    canvas.savefig(path, dpi=120)


def weak_scaling(base: Case, directory: Path, turns: int) -> None:
    """2 processes with twice the prompts, against 1."""
    one = dataclasses.replace(base, threads=1)
    two = dataclasses.replace(one, prompts=2 * one.prompts, processes=2)
    results = take_turns([one, two], directory, turns)
    speeds = {case: [case.solutions / step["seconds"] for step in results[case]] for case in (one, two)}
    ratio = statistics.median(b / a for a, b in zip(speeds[one], speeds[two], strict=True))
    cells = [f"{statistics.median(speeds[case]):.1f}" for case in (one, two)]
    heads = ["weak scaling, 1 thread each", "1 process, solutions/s", "2 processes", "ratio (ideal 2)"]
    print(table(heads, [[f"{one.prompts} prompts each", *cells, f"{ratio:.2f}"]]))


def main() -> None:
    """Measure, print the tables, and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the figure is written")
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5, help="steps of each case")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    given = parser.parse_args()
    settings = {"threads": given.threads, "device": given.device, "dtype": given.dtype}
    base = Case(prompts=given.prompts, steps=given.turns + 1, **settings)
    points: dict[str, dict[float, Case]] = {}
    for axis in given.axes:
        ((name, values),) = AXES[axis].items()
        sizes = [parameters(value) if isinstance(value, str) else value for value in values]
        cases = [dataclasses.replace(base, **{name: value}) for value in values]
        points[axis] = dict(zip(sizes, cases, strict=True))
    print(machine(given.threads, given.device) + "\n", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        cases = list({case: None for of_axis in points.values() for case in of_axis.values()})
        results = take_turns(cases, Path(directory), given.turns)
        report(base, points, results)
        figure(points, results, given.out)
        if given.device == "cpu":
            weak_scaling(base, Path(directory), given.turns)


if __name__ == "__main__":
    main()
