"""What the trainer and the process of an ``EngineProcess`` say to each other.

    trainer                                    process
    Start              ------------------->    loads the policy, makes the engine
                       <-------------------    Done
    TakeWeights        ------------------->    copies what lies in the shared file, a few layers at a time
                       <-------------------    Done            ... until ``is_last``
    Draw               ------------------->    draws
                       <-------------------    Progress, Progress, ..., Drawn

Each request has a number, which its replies repeat: one that was given up is answered later, and nobody listens. In the
place of any other reply ``Failed`` may come. Behind the last request the process waits; where the connection closes, by
whatever end of the trainer, it ends, in the middle of a round too.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from laser_lightning.policy.loading import PolicySettings
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout.engine import Sampling


@dataclass(frozen=True)
class Start:
    """Load the model, and make the engine.

    Attributes:
        policy: how the model is loaded; without adapters, which come merged into the weights.
        engine: the plain form of the engine.
        device: where it decodes.
        threads: of torch, on the CPU.
        matmul_precision: of torch's float32 products.
    """

    policy: PolicySettings
    engine: dict[str, Any]
    device: str
    threads: int
    matmul_precision: str


@dataclass(frozen=True)
class TakeWeights:
    """Copy some of the weights.

    Attributes:
        size: bytes of the shared file that hold them, in the form of safetensors.
        is_last: whether these are the last ones.
    """

    size: int
    is_last: bool


@dataclass(frozen=True)
class Draw:
    """Draw a round (see ``RolloutEngine.generate``).

    Attributes:
        prompts: P token id sequences.
        group_size: responses of each.
        sampling: how they are drawn.
        reward_token_ids: ids of the K tokens to read behind each ``<eos>``.
        generator: state of the generator.
        autocast: type that the trainer's passes are computed in; None for that of the weights.
    """

    prompts: Sequence[Sequence[int]]
    group_size: int
    sampling: Sampling
    reward_token_ids: Sequence[int]
    generator: Tensor
    autocast: torch.dtype | None


Request = Start | TakeWeights | Draw


@dataclass(frozen=True)
class Done:
    """What was asked is done."""


@dataclass(frozen=True)
class Progress:
    """The process is alive.

    Attributes:
        done: responses of the round that have ended.
        total: responses of the round.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Drawn:
    """A round.

    Attributes:
        rollouts: the solutions, on the CPU.
        generator: state of the generator behind them.
    """

    rollouts: Rollouts
    generator: Tensor


@dataclass(frozen=True)
class Failed:
    """What was asked could not be done.

    Attributes:
        why: a sentence for the user, or the error with its traceback.
    """

    why: str


Reply = Done | Progress | Drawn | Failed


def send(connection: Connection, number: int, message: Request | Reply) -> None:
    """Send a message.

    Args:
        connection: to the other side.
        number: of the request that it is, or answers.
        message: whatever it is.
    """
    # Not `connection.send`, for which torch has tensors travel through shared memory of its own.
    connection.send_bytes(pickle.dumps((number, message)))


def receive(connection: Connection) -> tuple[int, Any]:
    """Receive a message and its number.

    Raises:
        EOFError: the other side is gone.
    """
    number, message = pickle.loads(connection.recv_bytes())
    return number, message
