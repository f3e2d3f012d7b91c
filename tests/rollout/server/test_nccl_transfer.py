"""Weights over NCCL, with stand-ins for it, for vLLM's trainer side and for servers; and what fails on the way."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import fake_nccl
from fake_nccl import FakeWorkers, Network
from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightStream, stream_weights, weight_shapes
from laser_lightning.rollout import NCCLTransfer, Sampling, VLLMServerEngine
from laser_lightning.rollout.server import nccl_group, nccl_transfer
from laser_lightning.rollout.server.client import Limits
from laser_lightning.rollout.server.dispatch import Perseverance
from laser_lightning.rollout.server.nccl_group import SentWeights, address_towards

Serve = Callable[..., tuple[Any, Any, FakeWorkers]]
PROMPTS = [[21, 22, 0, 1], [40], [33, 3, 3, 57, 58]]
UPDATE = ["/start_weight_update", "/update_weights", "/finish_weight_update"]


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    return make_policy(eos_bias=2.0, eos_ids=(1, 5))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    network = Network()
    monkeypatch.setattr(fake_nccl.NCCLTrainerInitInfo, "network", network, raising=False)
    monkeypatch.setitem(sys.modules, "vllm.distributed.weight_transfer.nccl_engine", fake_nccl)
    monkeypatch.setattr(nccl_transfer, "find_spec", lambda name: name)
    monkeypatch.setattr(nccl_transfer, "gpu_of", lambda policy: policy.device)
    yield network
    for _, group in network.made:  # threads may be left in it
        group.destroy()


@pytest.fixture
def serve(serve_model: Callable[..., tuple[Any, Any]], network: Network, policy: Policy) -> Serve:
    """``serve(workers=1)`` starts a server that takes weights over NCCL."""

    def start(workers: int = 1, **fields: Any) -> tuple[Any, Any, FakeWorkers]:
        server, vllm = serve_model(policy.lm, **{"weight_transfer": "nccl", **fields})
        received = FakeWorkers(vllm, network, workers)
        server.answers.update(received.answers)
        return server, vllm, received

    return start


@pytest.fixture
def make_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VLLMServerEngine]]:
    made = []

    def make(*servers: Any, patience: float = 60, **arguments: Any) -> VLLMServerEngine:
        with monkeypatch.context() as patch:
            patch.setattr("torch.cuda.is_available", lambda: True)
            transfer = NCCLTransfer(**arguments)
        limits, quick = Limits(attempts=1, answer_seconds=60), Perseverance(1, patience, 0.01)
        urls = [server[0].url for server in servers]
        made.append(VLLMServerEngine(urls, limits=limits, perseverance=quick, weight_transfer=transfer))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def hand_over(engine: VLLMServerEngine, policy: Policy, weights: WeightStream | None = None) -> None:
    engine.weights_changed()
    engine.take_weights(policy, nullcontext(stream_weights(policy.lm) if weights is None else weights))


def has_weights_of(policy: Policy, vllm: Any) -> bool:
    own = vllm.lm.state_dict()
    return all(torch.equal(own[name], weight) for name, weight in policy.lm.state_dict().items())


def routes(server: Any) -> list[str]:
    return [route for route, _ in server.calls]


def test_the_order_of_calls_and_the_ranks(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy, network: Network
) -> None:
    a, b = serve(workers=2), serve(workers=4)
    engine = make_engine(a, b, port=29600, buffer_bytes=1000)
    hand_over(engine, policy)
    known = ["/v1/models", "/resume", "/inference/v1/generate", "/inference/v1/generate"]
    known.append("/server_info?config_format=json")
    begin = ["/weight_info", "/pause?mode=abort", "/update_weight_version"]
    meet = ["/shutdown_weight_transfer_engine", "/get_world_size", "/init_weight_transfer_engine"]
    end = ["/reset_prefix_cache", "/update_weight_version", "/resume"]
    for server, vllm, workers in (a, b):
        assert routes(server) == known + begin + meet + UPDATE + end
        assert has_weights_of(policy, vllm)
        assert [asked["new_version"] for route, asked in server.calls if "version" in route] == [
            "incomplete",
            vllm.version,
        ]
        assert workers.told["names"] == [shape.name for shape in weight_shapes(policy.lm)]
    # rank 0 is the trainer, 1 and 2 are a's, and 3 to 6 b's
    assert (list(a[2].ranks), list(b[2].ranks)) == ([1, 2], [3, 4, 5, 6])
    ((place, group),) = network.made
    assert (place, group.world_size) == (("127.0.0.1", 29600), 7)
    asked = next(asked for route, asked in a[0].calls if route == "/init_weight_transfer_engine")["init_info"]
    assert (asked["packed"], asked["packed_buffer_size_bytes"]) == (True, 1000)

    # the next weights: the same group
    a[0].calls.clear()
    with torch.no_grad():
        policy.lm.get_input_embeddings().weight *= 0.5
    hand_over(engine, policy)
    assert routes(a[0]) == begin + UPDATE + end
    assert has_weights_of(policy, a[1])
    assert has_weights_of(policy, b[1])
    assert len(network.made) == 1
    assert a[1].version == b[1].version


def test_rounds_are_those_of_weights_in_files(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy
) -> None:
    a, b = serve(), serve()
    files = VLLMServerEngine([a[0].url], limits=Limits(attempts=1))
    drawn = [
        engine.generate(policy, PROMPTS, 2, Sampling(6), (3,), torch.Generator().manual_seed(7))
        for engine in (files, make_engine(a, b))
    ]
    files.close()
    assert torch.equal(drawn[0].response_ids, drawn[1].response_ids)
    torch.testing.assert_close(drawn[0].sampling_log_probs, drawn[1].sampling_log_probs, rtol=0, atol=1e-6)


def test_weights_are_copied_before_the_next_are_gathered(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy
) -> None:
    def gathered() -> WeightStream:
        for name, weight in stream_weights(policy.lm):
            whole = weight.clone()
            yield name, whole
            whole.fill_(torch.nan)

    server = serve()
    hand_over(make_engine(server), policy, gathered())
    assert has_weights_of(policy, server[1])


def test_the_type_that_is_sent(serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy) -> None:
    server = serve()
    hand_over(make_engine(server, dtype="bfloat16"), policy)
    assert set(server[2].told["dtype_names"]) == {"bfloat16"}
    for name, weight in policy.lm.state_dict().items():
        assert torch.equal(server[1].lm.state_dict()[name], weight.bfloat16().float())
    whole = SentWeights(iter([("a", torch.tensor([2]))]), [], torch.device("cpu"), torch.bfloat16)
    assert dict(whole)["a"].dtype == torch.int64  # what is counted is not rounded


def test_a_server_that_dies_between_two_hand_overs_is_left_out_and_comes_back(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy, network: Network
) -> None:
    stays, dies = serve(), serve()
    engine = make_engine(stays, dies)
    hand_over(engine, policy)
    port = int(dies[0].url.rpartition(":")[2])
    dies[0].stop()
    with pytest.warns(UserWarning, match=f"Weights have not reached every server. {dies[0].url} refuses connections"):
        hand_over(engine, policy)
    assert [group.world_size for _, group in network.made] == [3, 2]

    # Started again, it has other weights and no group; it draws nothing, and the other one its share.
    dies[2].group, dies[1].version, dies[1].drawn = None, "default", 0
    dies[0].start(port)
    stays[1].drawn = 0
    engine.generate(policy, PROMPTS, 2, Sampling(4), (3,), torch.Generator().manual_seed(7))
    assert (stays[1].drawn >= 6, dies[1].drawn) == (True, 0)
    hand_over(engine, policy)
    assert [group.world_size for _, group in network.made] == [3, 2, 3]
    assert stays[1].version == dies[1].version
    assert has_weights_of(policy, dies[1])


def test_a_server_that_was_started_again_meanwhile(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy, network: Network
) -> None:
    stays, restarted = serve(), serve()
    engine = make_engine(stays, restarted)
    hand_over(engine, policy)
    restarted[2].group, restarted[1].version = None, "default"
    hand_over(engine, policy)
    assert len(network.made) == 2
    assert network.made[0][1].aborted
    assert has_weights_of(policy, restarted[1])


@pytest.mark.parametrize("way", ["dies", "hangs", "fails"])
def test_a_server_that_fails_in_the_middle_breaks_the_hand_over_off(
    way: str, serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy, network: Network
) -> None:
    good, bad = serve(), serve()

    def fail(asked: dict[str, Any]) -> Any:
        for _ in range(3):
            bad[2].group.receive(bad[2].ranks[0])
        if way == "hangs":
            time.sleep(60)
        return ... if way == "dies" else (500, '{"error": {"message": "out of memory"}}')

    bad[0].answers["/update_weights"] = fail
    said = {"dies": "broke off", "hangs": r"did not answer /update_weights within 2 s", "fails": "out of memory"}[way]
    engine, began = make_engine(good, bad), time.monotonic()
    if way == "hangs":
        engine.servers[1].client.server.limits = Limits(attempts=1, answer_seconds=2)
    with pytest.raises(UserError, match=rf"Weights were broken off .*{bad[0].url} .*{said}.*\(--ckpt_path last\)"):
        hand_over(engine, policy)
    assert time.monotonic() - began < 30
    assert network.made[0][1].aborted
    assert (good[1].version, bad[1].version) == ("incomplete", "incomplete")


@pytest.mark.parametrize("route", UPDATE[::2])
def test_calls_that_fail_around_the_broadcast(
    route: str, serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy, network: Network
) -> None:
    server = serve()
    server[0].answers[route] = lambda asked: (500, "no such thing")
    with pytest.raises(UserError, match=rf"Weights were broken off.*failed at {route}.*no such thing"):
        hand_over(make_engine(server), policy)
    assert server[1].version == "incomplete"
    assert network.made[0][1].aborted


def test_a_stream_that_fails(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(nccl_group, "end_process", ended.append)
    monkeypatch.setattr(nccl_group, "ABORTED_SECONDS", 0.1)

    def failing() -> WeightStream:
        weights = stream_weights(policy.lm)
        yield next(weights)
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(UserError, match=r"broken off.*CUDA out of memory"):
        hand_over(make_engine(serve()), policy, failing())
    time.sleep(0.5)
    assert ended == []  # servers fail behind it, and nobody waits for them


@pytest.mark.parametrize("way", ["fails", "never comes"])
def test_servers_that_do_not_meet(
    way: str, serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy
) -> None:
    good, bad = serve(), serve()
    bad[0].answers["/init_weight_transfer_engine"] = lambda asked: (
        (500, "ncclSystemError") if way == "fails" else (time.sleep(60))
    )
    sentence = "ncclSystemError" if way == "fails" else r"longer than 0\.5 s \(weight_transfer\.join_seconds\)|within 0"
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"do not meet over NCCL at 127\.0\.0\.1, port \d+\..*({sentence})"):
        hand_over(make_engine(good, bad, join_seconds=60 if way == "fails" else 0.5), policy)
    assert time.monotonic() - began < 30


def test_no_server_is_there(serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy) -> None:
    server = serve()
    engine = make_engine(server)
    hand_over(engine, policy)
    server[0].stop()
    with pytest.raises(UserError, match=r"No server takes the weights\. .* refuses connections"):
        hand_over(engine, policy)
    server[0].start()  # for the fixture


def test_a_server_that_loses_its_weights_in_a_round_with_nobody_else(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy
) -> None:
    server = serve()
    engine = make_engine(server, patience=0.3)
    hand_over(engine, policy)
    server[1].version = "default"
    with pytest.raises(UserError, match=r"has not the weights that were sent last.*over NCCL it gets the next ones"):
        engine.generate(policy, PROMPTS, 1, Sampling(4), (3,), torch.Generator())


def test_a_broadcast_that_no_abortion_ends_ends_the_process(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, begun, ended = serve(), threading.Event(), threading.Event()
    # behind the beginning of the broadcast: before it there would be nothing to wait for
    server[0].answers["/update_weights"] = lambda asked: (500, "lost a link" if begun.wait(10) else "nothing sent")
    group = fake_nccl.FakeCommunicator
    destroy, said = group.destroy, []

    def end(sentence: str) -> None:
        said.append(sentence)
        ended.set()

    def broadcast(self: Any, tensor: torch.Tensor) -> None:
        begun.set()
        assert ended.wait(10)
        raise RuntimeError("the process has ended")

    monkeypatch.setattr(group, "broadcast", broadcast)
    monkeypatch.setattr(group, "destroy", lambda self: None)
    monkeypatch.setattr(nccl_group, "end_process", end)
    monkeypatch.setattr(nccl_group, "ABORTED_SECONDS", 0.2)
    with pytest.raises(UserError, match="lost a link"):
        hand_over(make_engine(server), policy)
    assert len(said) == 1
    assert "does not return from NCCL, so the process ends" in said[0]
    assert "lost a link" in said[0]
    monkeypatch.setattr(group, "destroy", destroy)


def test_the_group_is_dissolved_at_the_end(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy, network: Network
) -> None:
    server = serve()
    engine = make_engine(server)
    hand_over(engine, policy)
    engine.close()
    assert routes(server[0])[-1] == "/shutdown_weight_transfer_engine"
    assert network.made[0][1].aborted
    hand_over(engine, policy)  # it begins anew
    assert len(network.made) == 2


def test_what_is_refused_at_setup(
    serve: Serve, make_engine: Callable[..., VLLMServerEngine], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"takes no weights over NCCL: start vllm serve with --weight-transfer-config"):
        hand_over(make_engine(serve(weight_transfer=None)), policy)
    with pytest.raises(UserError, match="takes no weights over NCCL"):
        hand_over(make_engine(serve(weight_transfer="ipc")), policy)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"this machine has none.*FileTransfer"):
        NCCLTransfer()
    monkeypatch.setattr(nccl_transfer, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs vLLM in the trainer's environment too.*laser-lightning\[vllm\]"):
        NCCLTransfer()
    for wrong in ({"port": -1}, {"join_seconds": 0}, {"buffer_bytes": 0}):
        with pytest.raises(UserError, match=r"weight_transfer\.join_seconds must be above 0"):
            NCCLTransfer(**wrong)


def test_a_policy_on_cpu_is_refused(policy: Policy) -> None:
    with pytest.raises(UserError, match=r"the policy is on cpu \(trainer\.accelerator\).*FileTransfer"):
        nccl_transfer.gpu_of(policy)


def test_the_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address_towards(["http://127.0.0.1:8000"]) == "127.0.0.1"
    ways = {"a": "127.0.0.1", "b": "10.0.0.7", "c": "10.1.0.7"}

    class Way:
        def connect(self, place: tuple[str, int]) -> None:
            self.towards = place[0]

        def getsockname(self) -> tuple[str, int]:
            return ways[self.towards], 1

    monkeypatch.setattr("socket.socket", lambda *_: nullcontext(Way()))
    found = address_towards(["http://a:8000", "http://b", "https://c:1/v1"])
    assert found == "10.0.0.7"
