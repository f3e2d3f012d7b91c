"""Kills a small run with SIGKILL at random moments until it is done, and compares it with a run that nobody killed.

    python benchmarks/kill_runs.py --kills 20 --strategies single zero2
    python benchmarks/kill_runs.py --kills 20 --strategies zero2 --ahead

With --ahead the engine is a process of its own, which draws the next round while the update runs; it is not killed, and
has to end by itself. For each kill it prints what the processes were doing, at which step, and from which checkpoint
the next start goes on.
The run saves every 4 steps. It exits with 1 if more than those were lost, or if a single bit of the last checkpoint
(weights, optimizer, schedule, data position, random states) differs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from laser_lightning.cli.resume_settings import SAVED_SETTINGS
from laser_lightning.runs.checkpoints import newest_complete
from laser_lightning.runs.metrics_file import SAVED_METRICS

EVERY, MOMENTS = 4, ("rollout", "update", "save")
CONFIG = """
seed_everything: 0
torch_threads: 1
model:
  init_args:
    policy:
      path: embedded
      random_init: true
      config_overrides: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1}
    self_reward:
      class_path: laser_lightning.LastTokenSelfReward
      init_args: {token: <|reward|>, beta: 0.5, loss_weight: 0.5, reference: calibrate}
    verifier: {class_path: notes.LengthVerifier}
    group_size: 4
    sampling: {max_response_tokens: 40}
    optimizer: {learning_rate: 1.0e-2, warmup_steps: 4, schedule: linear}
    phases: {reasoning_steps: 1, self_reward_steps: 2}
    update: {mini_batches: 2}
    evaluation: {at_start: false, at_end: false}
data:
  init_args:
    train: {class_path: laser_lightning.data.ArithmeticSource, init_args: {split: train, size: 20}}
    prompts_per_step: 8
trainer: {accelerator: cpu, devices: 1, enable_progress_bar: false, callbacks: [{class_path: notes.Notes}]}
calibration: {prompts: 20, group_size: 8, max_emission_rate: 1.0}
checkpoint:
  class_path: lightning.pytorch.callbacks.ModelCheckpoint
  init_args: {every_n_train_steps: 4, save_top_k: -1, filename: "{step}"}
export: null
solution_log: null
figures: null
report: null
summary: null
"""
AHEAD = """
model:
  init_args:
    engine: {class_path: laser_lightning.EngineProcess, init_args: {threads: 1}}
    rollout: {ahead: 1}
    update: {mini_batches: 1}
"""
NOTES = """
import os
from pathlib import Path

from lightning.pytorch import Callback
from laser_lightning.verifiers import Verifier


class LengthVerifier(Verifier):
    def extract(self, response):
        return response or None

    def equivalent(self, answer, gold):
        return answer == gold

    def reward(self, response, gold):
        return float(len(response) % 2)


class Notes(Callback):
    '''Keeps a file that says what this process is doing.'''

    def on_train_start(self, trainer, pl_module):
        path = Path(f"doing.{trainer.global_rank}")

        def note(moment):
            fresh = path.with_suffix(".new" + path.suffix)
            fresh.write_text(f"{os.getpid()} {moment} {trainer.global_step}")
            fresh.rename(path)

        def noted(original, moment):
            def call(*args, **options):
                note(moment)
                try:
                    return original(*args, **options)
                finally:
                    note("other")

            return call

        pl_module.sample_groups = noted(pl_module.sample_groups, "rollout")
        pl_module.update_policy = noted(pl_module.update_policy, "update")
        trainer.save_checkpoint = noted(trainer.save_checkpoint, "save")
        note("other")
"""


def start(directory: Path, strategy: str, run: str, steps: int) -> subprocess.Popen[bytes]:
    """A start of the run, from its newest checkpoint; what it prints goes to ``log``."""
    processes = 1 if strategy == "single" else 2
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
    overlay = ["--config", f"strategy/{strategy}", "--trainer.devices", "2"] if processes == 2 else []
    options = ["--config", "run.yaml", "--config", "rollouts.yaml", *overlay, "--run_dir", run, "--ckpt_path", "auto"]
    command = [sys.executable, *torchrun, "-m", "laser_lightning", "fit", *options, "--trainer.max_steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=subprocess.STDOUT)


def doing(directory: Path) -> list[tuple[int, str, int]]:
    """Process id, moment and step of each process."""
    notes = []
    for path in sorted(directory.glob("doing.?")):
        process, moment, step = path.read_text().split()
        notes.append((int(process), moment, int(step)))
    return notes


def newest_step(directory: Path) -> int:
    """Step of the checkpoint that the next start goes on from; 0 without one."""
    newest = newest_complete(directory / "killed/checkpoints")
    return 0 if newest is None else int(newest.name.split("=")[1].split(".")[0])


def kill_once(directory: Path, strategy: str, steps: int, moment: str, chance: random.Random) -> str | None:
    """Start, and kill all processes at a random step while they do ``moment``; a line of the table, None at the end."""
    for path in directory.glob("doing.*"):
        path.unlink()
    begun = newest_step(directory)
    process = start(directory, strategy, "killed", steps)
    after, delay = begun + chance.randrange(2 * EVERY), chance.random() * 0.04
    while process.poll() is None:
        notes = doing(directory)
        if notes and notes[0][1] == moment and notes[0][2] >= after:
            time.sleep(delay)
            notes = doing(directory)
            for victim in (process.pid, *(note[0] for note in notes)):
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            process.wait()
            time.sleep(0.2)
            found = newest_step(directory)
            lost = notes[0][2] - found
            moments = " / ".join(note[1] for note in notes)
            print(f"| {strategy} | {moment} | {moments} | {notes[0][2]} | {found} | {lost} |", flush=True)
            return "too much" if lost > EVERY else "good"
        time.sleep(0.001)
    if process.returncode:
        print((directory / "log").read_text()[-5000:])
        raise SystemExit(f"a start from step {begun} failed")
    return None


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where two saved values are not the same, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return [] if torch.equal(ours.nan_to_num(), theirs.nan_to_num()) else [where]
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [where]
        return [found for key in ours for found in differences(ours[key], theirs[key], f"{where}/{key}")]
    if isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            return [where]
        pairs = zip(ours, theirs, strict=True)
        return [found for i, (one, other) in enumerate(pairs) for found in differences(one, other, f"{where}/{i}")]
    return [] if not isinstance(ours, int | float | str) or ours == theirs or ours != ours else [where]


def saved(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, without Lightning's count of epochs (resumed at the end of one it lags), and paths."""
    files = sorted(path.glob("checkpoint/*.pt")) if path.is_dir() else [path]
    state = {str(file.relative_to(path)): torch.load(file, weights_only=False, map_location="cpu") for file in files}
    for part in state.values():
        for key in ("loops", "callbacks", "epoch", SAVED_METRICS, SAVED_SETTINGS):
            part.pop(key, None)
    return state


def main() -> int:
    """Runs the kills of each strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--strategies", nargs="+", default=["single", "zero2"])
    parser.add_argument("--ahead", action="store_true", help="draw each round during the update before it")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    steps = EVERY * 2 * given.kills
    bad = 0
    columns = ["strategy", "aimed at", "killed in (each process)", "at step", "goes on from", "steps lost"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for strategy in given.strategies:
        directory, chance = Path(tempfile.mkdtemp()), random.Random(given.seed)
        (directory / "run.yaml").write_text(CONFIG)
        (directory / "rollouts.yaml").write_text(AHEAD if given.ahead else "{}")
        (directory / "notes.py").write_text(NOTES)
        if start(directory, strategy, "whole", steps).wait():
            raise SystemExit((directory / "log").read_text()[-5000:])
        kills = 0
        while kills < given.kills:
            result = kill_once(directory, strategy, steps, MOMENTS[kills % 3], chance)
            if result is None:
                break
            kills, bad = kills + 1, bad + (result != "good")
        if start(directory, strategy, "killed", steps).wait():
            raise SystemExit((directory / "log").read_text()[-5000:])
        last = f"checkpoints/step={steps}.ckpt"
        different = differences(saved(directory / "killed" / last), saved(directory / "whole" / last))
        bad += len(different)
        print(f"{strategy}: {kills} kills, and at step {steps} {different or 'every bit is the same'}\n", flush=True)
        shutil.rmtree(directory)
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
