"""The engine on real servers of vLLM, against vLLM in process; ``.ci/vllm`` runs these tests."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import RolloutEngine, Sampling, VLLMEngine, VLLMServerEngine
from laser_lightning.rollout.server.client import Limits, ServerError, VLLMClient
from laser_lightning.rollout.server.dispatch import Perseverance
from laser_lightning.rollout.server.ways import PROCESSOR

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; .ci/vllm")]

Z, LIMIT, SEVERAL = 3, 8, (1, 5, 40, 52, 69, 77, 85, 90)
PROMPTS = [[21, 22, 0, 1], [40], [33, 3, 3, 57, 58, 0, 61], [1, 21]]
SAMPLING = Sampling(LIMIT, temperature=0.7)
STARTED_SECONDS = 240
# As it is before vLLM starts in this process, which sets variables of its own.
ENVIRONMENT = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


class Process:
    """``vllm serve`` of a model, at one port, that can be killed and started again."""

    def __init__(self, model: Path, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # The module behind the command, which vLLM's build for CPUs lacks under the name that the command looks for.
        self.command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        self.command += ["--host", "127.0.0.1", "--port", str(self.port), "--enable-scale-out", "--enforce-eager"]
        self.command += ["--generation-config", "vllm", "--kv-cache-memory-bytes", str(1 << 26), "--block-size", "32"]
        self.command += ["--dtype", "float32", "--hf-overrides", '{"head_dtype": "float32"}', *arguments]
        self.start()

    def start(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, env=ENVIRONMENT, start_new_session=True, **quiet)

    def wait(self) -> None:
        """Until it answers."""
        client, deadline = VLLMClient(self.url, limits=Limits(attempts=1)), time.monotonic() + STARTED_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server ended"
            try:
                return client.check_health()
            except ServerError:
                time.sleep(0.5)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        """It and its workers, as a lost machine is."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable, save_model: Callable) -> Path:
    config = tiny_config(Qwen2Config, hidden_size=64, tie_word_embeddings=False, initializer_range=0.15)
    return save_model(tmp_path_factory.mktemp("model"), config, 0)


@pytest.fixture(scope="module")
def processes(model_dir: Path) -> Iterator[dict[str, Process]]:
    """One server of either way."""
    modes = {
        "as it is": """--logprobs-mode processed_logprobs --weight-transfer-config {"backend":"nccl"}""",
        "with processor": f"--logits-processors {PROCESSOR} --logprobs-mode processed_logits --no-async-scheduling",
    }
    started = {name: Process(model_dir, *arguments.split()) for name, arguments in modes.items()}
    yield started
    for process in started.values():
        process.kill()


@pytest.fixture
def policy(make_policy: Callable[..., Policy], model_dir: Path) -> Policy:
    """Other weights than those that the servers were started with."""
    policy = make_policy(model_dir, eos_ids=SEVERAL)
    with torch.no_grad():
        for parameter in policy.lm.parameters():
            parameter *= 1.1
    return policy


@pytest.fixture
def make_engine() -> Iterator[Callable[..., VLLMServerEngine]]:
    made = []

    def make(*processes: Process, **arguments: Any) -> VLLMServerEngine:
        for process in processes:
            process.wait()
        patient = Perseverance(patience_seconds=STARTED_SECONDS, retry_seconds=0.5)
        settings = {"limits": Limits(answer_seconds=120), "perseverance": patient} | arguments
        made.append(VLLMServerEngine([process.url for process in processes], **settings))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def draw(engine: RolloutEngine, policy: Policy, tokens: tuple[int, ...] = (Z, 9)) -> Rollouts:
    return engine.generate(policy, PROMPTS, 6, SAMPLING, tokens, torch.Generator().manual_seed(3))


def same(ours: Rollouts, theirs: Rollouts) -> None:
    assert torch.equal(ours.response_ids, theirs.response_ids)
    for name in ("sampling_log_probs", "reward_token_log_probs"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-4, equal_nan=True)


@pytest.fixture(scope="module")
def in_process() -> Iterator[VLLMEngine]:
    engine = VLLMEngine(enforce_eager=True, engine_options={"kv_cache_memory_bytes": 1 << 26, "block_size": 32})
    yield engine
    engine.close()


def test_servers_draw_what_vllm_in_process_draws(
    processes: dict[str, Process], make_engine: Callable, policy: Policy, in_process: VLLMEngine
) -> None:
    inside = draw(in_process, policy)
    assert 0 < int(inside.finished.sum()) < len(inside)
    for process in processes.values():
        same(draw(make_engine(process), policy), inside)
    both = make_engine(*processes.values())
    same(draw(both, policy), inside)
    with torch.no_grad():
        policy.lm.get_input_embeddings().weight *= 1.5
    for engine in (both, in_process):
        engine.weights_changed()
    other = draw(in_process, policy)
    assert not torch.equal(other.response_ids, inside.response_ids)
    same(draw(both, policy), other)


def test_what_a_server_says_of_its_weight_transfer(processes: dict[str, Process]) -> None:
    # Its workers meet nobody here: NCCL needs CUDA.
    for name, backend in {"as it is": "nccl", "with processor": None}.items():
        processes[name].wait()
        client = VLLMClient(processes[name].url)
        assert (client.settings()["weight_transfer_config"] or {}).get("backend") == backend
        assert client.worker_count() == 1
        client.leave_weight_transfer()  # of nobody
    with pytest.raises(ServerError, match="failed at /start_weight_update"):
        client.start_weight_update()  # the one that was started without


def test_a_model_of_other_vocabulary(
    processes: dict[str, Process],
    make_engine: Callable,
    make_policy: Callable,
    tiny_config: Callable,
    save_model: Callable,
    tmp_path: Path,
) -> None:
    other = save_model(tmp_path, tiny_config(Qwen2Config, vocab_size=128))
    with pytest.raises(ValueError, match="has a model with another vocabulary than the policy's 128 tokens"):
        draw(make_engine(processes["as it is"]), make_policy(other))


def test_kills_during_generation_and_during_a_hand_over(
    processes: dict[str, Process], make_engine: Callable, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, stays = processes["as it is"], processes["with processor"]
    engine = make_engine(process)
    undisturbed = draw(engine, policy)

    # During generation: the round waits until the server is back, gives it the weights, and draws on.
    generate, calls = VLLMClient.generate, iter(range(10))

    def generate_until_killed(client: VLLMClient, *arguments: Any) -> Any:
        if next(calls, None) == 8:
            process.kill()
            process.start()
        return generate(client, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VLLMClient, "generate", generate_until_killed)
        same(draw(engine, policy), undisturbed)

    # During a hand-over, with another server: the run goes on with that one.
    engine = make_engine(process, stays)
    reload_weights = VLLMClient.reload_weights

    def reload_while_killed(client: VLLMClient, *arguments: Any) -> None:
        if client.url == process.url:
            killer = threading.Timer(0.02, process.kill)
            killer.start()
            killer.join()
        reload_weights(client, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VLLMClient, "reload_weights", reload_while_killed)
        with pytest.warns(UserWarning, match=f"Weights have not reached every server.*{process.url}"):
            same(draw(engine, policy), undisturbed)
