"""An engine in a process of its own: the numbers are those of the engine, and every end of either side is told."""

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.policy.model import EMBEDDED, Policy, PolicySettings, load_tokenizer
from laser_lightning.policy.weight_stream import stream_weights
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import EngineProcess, RecordedSolutions, Sampling, TransformersEngine
from laser_lightning.rollout.process import engine as module
from laser_lightning.rollout.process.messages import Draw, send

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


def random_policy() -> Policy:
    settings = PolicySettings(EMBEDDED, random_init=True, config_overrides=TINY)
    return Policy(settings, load_tokenizer(settings))


def hand_over(engine: EngineProcess, policy: Policy) -> None:
    engine.take_weights(policy, nullcontext(stream_weights(policy.lm)))


def is_gone(process: int) -> bool:
    for _ in range(500):
        try:
            os.kill(process, 0)
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":  # ended, and its parent, this process, has not asked how
            return True
        time.sleep(0.02)
    return False


def assert_same(ours: Rollouts, theirs: Rollouts) -> None:
    assert all(
        torch.equal(value.nan_to_num(), vars(theirs)[name].nan_to_num())
        for name, value in vars(ours).items()
        if value is not None
    )


@pytest.fixture(scope="module")
def process() -> Iterator[EngineProcess]:
    engine = EngineProcess(TransformersEngine(max_batch_size=8), threads=1)
    yield engine
    engine.close()


def test_it_draws_what_the_engine_draws(process: EngineProcess) -> None:
    policy, plain = random_policy(), TransformersEngine(max_batch_size=8)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(2):  # with the first weights, and with others
        hand_over(process, policy)
        drawn = [
            engine.generate(policy, PROMPTS, 4, Sampling(20), [3, 4], generator)
            for engine, generator in zip((process, plain), generators, strict=True)
        ]
        assert_same(*drawn)
        assert torch.equal(generators[0].get_state(), generators[1].get_state())
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.3)
        process.weights_changed()
    # Without a word of it the copy stays what it was.
    hand_over(process, policy)
    process._stale = False
    with torch.no_grad():
        policy.lm.get_input_embeddings().weight.zero_()
    hand_over(process, policy)
    again = process.generate(policy, PROMPTS, 4, Sampling(20), [3, 4], torch.Generator().manual_seed(3))
    assert again.sampling_log_probs.std() > 0


def test_what_the_engine_says_is_told(process: EngineProcess) -> None:
    policy = random_policy()
    process.weights_changed()
    hand_over(process, policy)
    with pytest.raises(UserError, match=r"while a round was drawn: A group of 9 is larger than engine\.max_batch_size"):
        process.generate(policy, PROMPTS, 9, Sampling(20), [3], torch.Generator())
    # And it draws on.
    assert len(process.generate(policy, PROMPTS, 2, Sampling(20), [3], torch.Generator())) == 6


def test_it_ends_with_the_trainer_in_the_middle_of_a_round(process: EngineProcess) -> None:
    policy = random_policy()
    hand_over(process, policy)
    assert process._process is not None
    assert process._connection is not None
    number, generator = process._process.pid, torch.Generator()
    send(process._connection, 99, Draw([[5]] * 500, 8, Sampling(20_000), [3], generator.get_state(), None))
    time.sleep(0.3)
    process._connection.close()  # as the system does it for a trainer that was killed
    assert is_gone(number)


# ------------------------------------------------- processes that stand in, and start in milliseconds

HANGS = "import time; time.sleep(1000)"
FAILS = "import sys; sys.exit(3)"
IS_KILLED = """
import sys
from multiprocessing.connection import Connection
Connection(int(sys.argv[1])).recv_bytes()
import os
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (HANGS, r"no sign of life for engine\.timeout_seconds = 0\.2 seconds while it started"),
        (FAILS, r"ended while it started \(exit status 3"),
        (IS_KILLED, r"ended while it started \(SIGKILL; often the system's, for want of memory\)"),
    ],
    ids=["hangs", "fails", "is killed"],
)
def test_an_end_is_told(code: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEGIN", code)
    engine = EngineProcess(timeout_seconds=0.2 if code == HANGS else 60)
    with pytest.raises(UserError, match=sentence):
        hand_over(engine, random_policy())
    assert engine._process is None  # nothing is left behind
    engine.close()


def test_what_cannot_be_in_a_process_is_refused(tmp_path: Path) -> None:
    class Local(TransformersEngine):
        """Cannot be imported."""

    class Together(TransformersEngine):
        """Decodes with the other ranks."""

        collective = True

    for engine, sentence in ((Local(), "cannot be made in another process"), (Together(), "all processes")):
        with pytest.raises(UserError, match=sentence):
            EngineProcess(engine)
    replaying = RecordedSolutions.__new__(RecordedSolutions)
    with pytest.raises(UserError, match="draws nothing"):
        EngineProcess(replaying)
    with pytest.raises(UserError, match=r"engine\.threads is 0"):
        EngineProcess(threads=0)
    with pytest.raises(UserError, match=r"engine\.timeout_seconds is 0"):
        EngineProcess(timeout_seconds=0)


def test_the_self_test_tries_the_engine_within() -> None:
    trial = EngineProcess(TransformersEngine(use_cache=False)).trial(4)
    assert isinstance(trial, TransformersEngine)
    assert (trial.max_batch_size, trial.use_cache) == (4, False)
