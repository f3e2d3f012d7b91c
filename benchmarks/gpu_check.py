"""The whole matrix on one GPU, by one command: what runs, how fast, how near to the card's limit, in how much memory.

    python benchmarks/gpu_check.py --out gpu.json
    python benchmarks/gpu_check.py --device cpu --tiny      (the same parts on a CPU, in a few minutes)

A Qwen2 of random weights (0.6 billion parameters, vocabulary 131,072) takes training steps of 64 prompts x 8 solutions
of up to 128 tokens in every way that there is (see ``gpu_parts.MEASURES``), and the embedded model says whether the
numbers are right. Each part runs in a process of its own with a time limit, and one that fails says why and leaves the
others alone; while it runs the next one is started and imports, and then waits. The JSON is written anew behind every
part, so a check that is broken off leaves what it found.

Shares are of a large matrix product in bfloat16, measured by the part ``card``, and count the least that the work needs
(see ``machine_limit``): with LoRA, whose frozen weights get no gradients, that is too much.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LIMIT = 280.0
LEAST = 10.0
"""Seconds that must be left for a part to begin."""

PARTS = {
    "card": 180.0,
    "step": 90.0,
    "agreement": 90.0,
    "quickstart": 120.0,
    "resume": 90.0,
    "price": 90.0,
    "ddp": 90.0,
    "zero2": 90.0,
    "zero3": 90.0,
    "bf16_weights": 90.0,
    "lora": 90.0,
    "liger": 90.0,
    "packing": 90.0,
    "checkpointing": 90.0,
    "compiled_engine": 180.0,
    "compiled_update": 180.0,
    "offload": 120.0,
    "flash": 90.0,
    "vllm": 120.0,
}
"""The parts, the most important first and those that compile last, and the seconds after which each is broken off."""

RESULT = "RESULT "
COLUMNS = ["part", "result", "s", "rollout tokens/s", "of peak", "update tokens/s", "of peak", "GB loaded", "rollout"]
COLUMNS += ["update", "what else"]
IN_COLUMNS = ("rollout_tokens_per_second", "rollout_tflops", "update_tokens_per_second", "update_tflops", "memory_gb")


@dataclass
class Outcome:
    """How a part ended.

    Attributes:
        part: its name.
        result: ``ok``, ``failed``, ``refused`` (by a sentence for users), ``not installed`` or ``not run``.
        seconds: from its turn on.
        values: what it found.
        why: the sentence, or the last lines of what it said; empty if it is ``ok``.
    """

    part: str
    result: str
    seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)
    why: str = ""


# ------------------------------------------------------------ the part's process


def run_part(name: str, device: str, tiny: bool, work: Path) -> None:
    """Import, wait for the turn, measure, and print the outcome for the parent."""
    from gpu_parts import MEASURES, NotInstalledError
    from gpu_step import Check

    from laser_lightning.errors import UserError

    if name.startswith(("zero", "offload")):
        with suppress(ImportError):  # the part says that it is missing
            from laser_lightning.distributed.toolchain import import_deepspeed

            import_deepspeed()
    if not sys.stdin.readline():
        return  # the parent is gone
    outcome = Outcome(name, "ok")
    try:
        outcome.values = MEASURES[name](Check(device, tiny, work))
    except UserError as error:
        outcome.result, outcome.why = "refused", str(error)
    except NotInstalledError as error:
        outcome.result, outcome.why = "not installed", str(error)
    except BaseException:
        outcome.result, outcome.why = "failed", last_lines(traceback.format_exc())
        traceback.print_exc()
    print(RESULT + json.dumps(asdict(outcome)), flush=True)
    sys.stderr.flush()
    os._exit(0)  # nothing that a part left behind may keep the next one waiting


class PartProcess:
    """A part's process, which imports at once and measures when it is told to.

    Args:
        name: of the part.
        options: of the command line.
        work: directory that the parts share.
    """

    def __init__(self, name: str, options: argparse.Namespace, work: Path) -> None:
        self.name, self.log = name, work / f"{name}.log"
        command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--device", options.device]
        command += ["--work", str(work), *(["--tiny"] if options.tiny else [])]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if options.device == "cpu":
            environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd=work,
                start_new_session=True,
            )

    def outcome(self, limit: float) -> Outcome:
        """Let it measure, for at most so many seconds, and wait."""
        started = time.monotonic()
        outcome = Outcome(self.name, "failed")
        try:
            said, _ = self.process.communicate("measure\n", timeout=limit)
        except subprocess.TimeoutExpired:
            outcome.why = f"broken off after {limit:.0f} s: " + last_lines(self.log.read_text(errors="replace"), 3)
        else:
            results = [line for line in said.splitlines() if line.startswith(RESULT)]
            if results:
                outcome = Outcome(**json.loads(results[-1].removeprefix(RESULT)))
            else:
                told = last_lines(self.log.read_text(errors="replace"))
                outcome.why = f"the process ended with {self.process.returncode}: {told}"
        finally:
            self.kill()
        outcome.seconds = time.monotonic() - started
        return outcome

    def kill(self) -> None:
        """End it, and whatever it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def last_lines(text: str, count: int = 12) -> str:
    """The last lines of a traceback or a log that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


# ------------------------------------------------------------------- the check


def check(options: argparse.Namespace, work: Path) -> list[Outcome]:
    """Run the parts one after the other, and write and print each outcome as it comes."""
    began = time.monotonic()
    outcomes: list[Outcome] = []
    waiting: PartProcess | None = PartProcess(options.only[0], options, work)
    try:
        for number, name in enumerate(options.only):
            process, waiting = waiting, None
            left = options.limit - (time.monotonic() - began)
            if left < LEAST or process is None:
                outcomes.append(Outcome(name, "not run", why=f"of {options.limit:.0f} s {max(left, 0):.0f} are left"))
                if process is not None:
                    process.kill()
                continue
            if number + 1 < len(options.only):
                waiting = PartProcess(options.only[number + 1], options, work)
            limit = min(options.part_limit or PARTS[name], left)
            outcomes.append(process.outcome(limit))
            print(f"{outcomes[-1].part}: {outcomes[-1].result}, {outcomes[-1].seconds:.1f} s", flush=True)
            write(options.out, outcomes, work)
    finally:
        if waiting is not None:
            waiting.kill()
    write(options.out, outcomes, work)
    return outcomes


def write(path: Path | None, outcomes: Sequence[Outcome], work: Path) -> None:
    """Write the outcomes as JSON, and the logs of what failed beside it."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    logs = {outcome.part: work / f"{outcome.part}.log" for outcome in outcomes if outcome.result != "ok"}
    texts = [f"===== {name}\n{log.read_text(errors='replace')[-20_000:]}" for name, log in logs.items() if log.exists()]
    path.with_suffix(".log").write_text("\n".join(texts))


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """The cells of the table, with shares of the peak where the part ``card`` measured it."""
    peak = next((o.values.get("tflops") for o in outcomes if o.part == "card"), None)
    return [cells(outcome, peak) for outcome in outcomes]


def cells(outcome: Outcome, peak: float | None) -> list[str]:
    """One row."""
    values, memory = outcome.values, outcome.values.get("memory_gb", {})

    def number(key: str) -> str:
        return f"{values[key]:,.0f}" if key in values else ""

    def share(key: str) -> str:
        return f"{values[key] / peak:.1%}" if peak and key in values else ""

    others = [f"{name} {shown(value)}" for name, value in values.items() if name not in IN_COLUMNS]
    return [
        outcome.part,
        outcome.result,
        f"{outcome.seconds:.1f}",
        number("rollout_tokens_per_second"),
        share("rollout_tflops"),
        number("update_tokens_per_second"),
        share("update_tflops"),
        *(f"{memory[name]:.2f}" if name in memory else "" for name in ("loaded", "rollout", "update")),
        "; ".join(others) or outcome.why.splitlines()[-1].replace("|", "/"),
    ]


def shown(value: object) -> str:
    """A number with four digits, or a word."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(lines: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *lines))


def names(given: str) -> list[str]:
    """Names of parts, from ``a,b``."""
    chosen = given.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part is called {unknown[0]}; there are {', '.join(PARTS)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check.

    Returns:
        1 if a part failed, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU does with")
    parser.add_argument(
        "--only", type=names, default=list(PARTS), metavar="PART,PART", help="these parts, in this order"
    )
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which no further part is begun")
    parser.add_argument("--part_limit", type=float, help="seconds after which any part is broken off")
    parser.add_argument("--out", type=Path, help="JSON file; logs of what failed are written beside it")
    parser.add_argument("--part", choices=[*PARTS], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        run_part(options.part, options.device, options.tiny, options.work)
        return 0
    work = Path(tempfile.mkdtemp(prefix="gpu_check_"))
    try:
        outcomes = check(options, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("\n" + table(rows(outcomes)))
    for outcome in outcomes:
        if outcome.result == "failed":
            print(f"\n{outcome.part}: {outcome.why}")
    return int(any(outcome.result == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
