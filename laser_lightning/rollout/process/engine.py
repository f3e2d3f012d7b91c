"""An engine in a process of its own, which may draw while the trainer updates."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any

import torch

from laser_lightning.arguments import NotPlain, plain_form
from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightStream
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.process.messages import Draw, Drawn, Failed, Progress, Start, TakeWeights, receive, send
from laser_lightning.rollout.process.weights import open_shared_file, write_weights
from laser_lightning.rollout.transformers.engine import TransformersEngine

# A fresh interpreter, as verifiers have: forking is unsafe beside torch's threads, and multiprocessing's spawn imports
# the main module again. The import path is set first, so that the process finds what this one finds.
_BEGIN = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from laser_lightning.rollout.process.worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class EngineProcess(RolloutEngine):
    """Let another engine decode in a process of its own, one beside each process of the trainer, on its device.

    It may draw while the trainer updates (``rollout.ahead``). The policy is loaded there once more from the same
    settings, and gets the trainer's weights before each round for which they have changed, a few layers at a time
    through shared memory; so it takes the memory of the weights, and of the cache, once more. The same state of the
    generator gives the same responses as the engine gives in the trainer's own process.

    The process starts at the first round. It ends with the trainer, however that ends.

    Args:
        engine: the engine that decodes there. It is made there from its arguments, which must be plain values, settings
            or parts, as in a config.
        threads: threads of torch in the process, on the CPU; null for as many as the trainer has (``torch_threads``).
            Where both compute at the same time, let the two numbers add up to the number of cores.
        timeout_seconds: longest time without a sign of life: responses that end, a round, or the start. Then the
            process is ended, and the run with it.

    Raises:
        UserError: if the engine cannot be made there, or an argument is out of range.
    """

    needs_whole_weights = False
    elsewhere = True

    def __init__(
        self, engine: RolloutEngine = TransformersEngine(), threads: int | None = None, timeout_seconds: float = 600.0
    ) -> None:
        name = type(engine).__name__
        if engine.collective or engine.replays:
            why = "draws nothing" if engine.replays else "decodes in all processes of the trainer together"
            raise UserError(f"engine.engine is {name}, which {why}, and cannot be in a process of its own.")
        try:
            self.decodes = plain_form(engine)
        except NotPlain as error:
            raise UserError(
                f"engine.engine, a {name}, cannot be made in another process from its arguments ({error}): let it take "
                "plain values, settings and parts, and let its class stand in a file that can be imported."
            ) from None
        if threads is not None and threads < 1:
            raise UserError(f"engine.threads is {threads}, and must be at least 1, or null for the trainer's number.")
        if not timeout_seconds > 0:
            raise UserError(f"engine.timeout_seconds is {timeout_seconds}, and must be above 0.")
        self._engine, self._threads, self._timeout_seconds = engine, threads, timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._shared_file: IO[bytes] | None = None
        self._number = 0
        self._stale = True
        self._autocast: torch.dtype | None = None

    # ---------------------------------------------------------------- rollouts

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        """Draw ``group_size`` responses for each prompt (see ``RolloutEngine``)."""
        given = list(map(list, prompts)), group_size, sampling, list(reward_token_ids)
        drawn = self._ask(Draw(*given, generator.get_state(), self._autocast), "a round was drawn")
        assert isinstance(drawn, Drawn)
        generator.set_state(drawn.generator)
        return drawn.rollouts.to(policy.device)

    def trial(self, rows: int) -> RolloutEngine | None:
        """Make an engine that decodes as the one of the process does (see ``RolloutEngine``)."""
        return self._engine.trial(rows)

    # --------------------------------------------------------- start, weights, end

    @torch.no_grad()
    def take_weights(self, policy: Policy, weights: AbstractContextManager[WeightStream]) -> None:
        """Copy the policy's weights into the process, which starts with the first ones (see ``RolloutEngine``)."""
        device = policy.device.type
        self._autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        self._start(policy)
        if not self._stale:
            return
        assert self._shared_file is not None
        with weights as stream:
            for size, is_last in write_weights(stream, self._shared_file.fileno()):
                self._ask(TakeWeights(size, is_last), "it took the weights")
        self._stale = False

    def weights_changed(self) -> None:
        """Copy the policy's weights before the next round."""
        self._stale = True

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        assert self._connection is not None
        assert self._shared_file is not None
        with suppress(ProcessLookupError, PermissionError):  # with all that its engine has started
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()
        self._shared_file.close()
        self._process = self._connection = self._shared_file = None
        self._stale = True

    def _start(self, policy: Policy) -> None:
        if self._process is not None:
            return
        self._connection, theirs = Pipe()
        self._shared_file = open_shared_file()
        descriptors = theirs.fileno(), self._shared_file.fileno()
        path = [entry or os.getcwd() for entry in sys.path]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", _BEGIN, *map(str, descriptors), *path],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,  # the terminal's Ctrl-C is for the trainer alone
            )
        settings = replace(policy.settings, lora=None, gradient_checkpointing=False, compile=False)
        threads = torch.get_num_threads() if self._threads is None else self._threads
        precision = torch.get_float32_matmul_precision()
        self._ask(Start(settings, self.decodes, str(policy.device), threads, precision), "it started")

    def _ask(self, request: Start | TakeWeights | Draw, when: str) -> Any:
        """The reply to a request. Where there is none, the process is ended.

        Args:
            request: what is asked.
            when: what was going on, for messages.
        """
        if self._connection is None:
            raise UserError("The process of model.engine was ended, and draws no more: start the run again.")
        connection = self._connection
        self._number += 1
        try:
            send(connection, self._number, request)
            while True:
                if not connection.poll(self._timeout_seconds):
                    raise UserError(
                        f"The process of model.engine gave no sign of life for engine.timeout_seconds = "
                        f"{self._timeout_seconds:g} seconds while {when}: raise the limit if its work takes longer."
                    )
                number, reply = receive(connection)
                if number != self._number:
                    continue
                if not isinstance(reply, Progress):
                    break
                if (progress := self.progress) is not None:
                    progress(reply.done, reply.total)
        except (EOFError, OSError):
            ending = self._ending()
            self.close()
            raise UserError(f"The process of model.engine ended while {when} ({ending}).") from None
        except BaseException:  # nobody knows how much of a reply was read
            self.close()
            raise
        if isinstance(reply, Failed):
            raise UserError(f"The engine failed in its process while {when}: {reply.why}")
        return reply

    def _ending(self) -> str:
        if self._process is None:
            return "the run is over"
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed the connection"
        if code >= 0:
            return f"exit status {code}; what it wrote stands above"
        name = signal.Signals(-code).name
        return f"{name}; often the system's, for want of memory" if name == "SIGKILL" else name
