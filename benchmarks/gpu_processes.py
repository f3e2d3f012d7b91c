"""The processes of ``gpu_check.py``: each measures parts one after the other, and what happens to it harms no other.

Parts share a process, and with it the context of the GPU, unless they change what the next ones would see.
"""

import faulthandler
import gc
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULT = "RESULT "
OF_THEIR_OWN = {part: part for part in ("zero2", "zero3", "offload", "liger", "quickstart", "resume")}
"""Parts that leave something behind: DeepSpeed's process group, patched modules, deterministic algorithms, ..."""


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


def last_lines(text: str, count: int = 12) -> str:
    """The last lines of a traceback or a log that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


# ------------------------------------------------------------------- the child


def measure_parts(device: str, tiny: bool, work: Path, deepspeed: bool) -> None:
    """Import, then measure each part that stands on a line of stdin, and print its outcome for the parent.

    Args:
        device: ``cuda`` or ``cpu``.
        tiny: see ``Check``.
        work: directory that the parts share.
        deepspeed: import it too.
    """
    faulthandler.register(signal.SIGUSR1, all_threads=False)  # where a part is that takes too long
    import torch
    from gpu_step import Check

    if deepspeed:
        with suppress(ImportError):  # the part says that it is missing
            from laser_lightning.distributed.toolchain import import_deepspeed

            import_deepspeed()
    import gpu_parts

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for line in sys.stdin:
        outcome = outcome_of(line.strip(), gpu_parts, Check(device, tiny, work))
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        print(RESULT + json.dumps(asdict(outcome)), flush=True)
    sys.stderr.flush()
    os._exit(0)  # nothing that a part left behind may keep the check waiting


def outcome_of(part: str, gpu_parts: Any, check: Any) -> Outcome:
    """Measure a part, whatever happens."""
    from laser_lightning.errors import UserError

    outcome = Outcome(part, "ok")
    try:
        outcome.values = gpu_parts.MEASURES[part](check)
    except UserError as error:
        outcome.result, outcome.why = "refused", str(error)
    except gpu_parts.NotInstalledError as error:
        outcome.result, outcome.why = "not installed", str(error)
    except BaseException:
        outcome.result, outcome.why = "failed", last_lines(traceback.format_exc())
        traceback.print_exc()
    return outcome


# ------------------------------------------------------------------ the parent


class PartProcess:
    """A process that imports at once and measures when it is told to.

    Args:
        name: of the process.
        command: starts it.
        device: ``cuda`` or ``cpu``.
        work: directory that the parts share.
    """

    def __init__(self, name: str, command: list[str], device: str, work: Path) -> None:
        self.log = work / f"{name}.log"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if device == "cpu":
            environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        with self.log.open("ab") as log:
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
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(RESULT):
                self._said.put(line.removeprefix(RESULT))
        self._said.put(None)

    @property
    def alive(self) -> bool:
        """Whether it can measure another part."""
        return self.process.poll() is None

    def measure(self, part: str, limit: float) -> Outcome:
        """Let it measure a part, for at most so many seconds, and wait; one that takes longer is its last."""
        started = time.monotonic()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{part}\n")
            self.process.stdin.flush()
        try:
            said = self._said.get(timeout=limit)
        except queue.Empty:
            outcome = Outcome(part, "failed", why=f"broken off after {limit:.0f} s, in\n{self._stack()}")
            self.kill()
        else:
            if said is None:
                told = last_lines(self.log.read_text(errors="replace"))
                outcome = Outcome(part, "failed", why=f"the process ended with {self.process.wait()}:\n{told}")
            else:
                outcome = Outcome(**json.loads(said))
        outcome.seconds = time.monotonic() - started
        return outcome

    def _stack(self) -> str:
        """Where it is, or what it said last."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        return last_lines(self.log.read_text(errors="replace"), 20)

    def kill(self) -> None:
        """End it, and whatever it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Processes:
    """The processes of a check, each started when the first of its parts is near.

    Args:
        script: the check's own, whose ``--child`` is the process.
        device: ``cuda`` or ``cpu``.
        tiny: see ``Check``.
        work: directory that the parts share.
    """

    def __init__(self, script: Path, device: str, tiny: bool, work: Path) -> None:
        self.device, self.work = device, work
        self._command = [sys.executable, str(script.resolve()), "--device", device, "--work", str(work)]
        self._command += ["--tiny"] if tiny else []
        self._running: dict[str, PartProcess] = {}

    def of(self, part: str) -> PartProcess:
        """The process of a part, started if it does not run."""
        name = OF_THEIR_OWN.get(part, "shared")
        process = self._running.get(name)
        if process is None or not process.alive:
            process = PartProcess(name, [*self._command, "--child", name], self.device, self.work)
            self._running[name] = process
        return process

    def done(self, part: str) -> None:
        """Let a process end whose only part was measured, and free what it holds."""
        if part in OF_THEIR_OWN and part in self._running:
            self._running.pop(part).kill()

    def log(self, part: str) -> str:
        """What the part's process has said on stderr."""
        path = self.work / f"{OF_THEIR_OWN.get(part, 'shared')}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End all."""
        for process in self._running.values():
            process.kill()
