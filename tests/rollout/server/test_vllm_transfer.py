"""vLLM's own weight transfer, as it is installed: what is used of it is there, and its trainer side runs; no NCCL."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import pytest
import torch

import fake_nccl
from fake_nccl import FakeWorkers, Network
from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightShape, stream_weights
from laser_lightning.rollout import NCCLTransfer, VLLMServerEngine
from laser_lightning.rollout.server import nccl_transfer
from laser_lightning.rollout.server.as_one import ServersAsOne
from laser_lightning.rollout.server.client import Limits
from laser_lightning.rollout.server.nccl_group import SentWeights

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; .ci/vllm")]


def settable(settings: type) -> dict[str, Any]:
    return {field.name: field.default for field in fields(settings)}


def test_names_and_fields() -> None:
    from vllm.config import VllmConfig
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.distributed.weight_transfer import base, nccl_engine
    from vllm.engine.arg_utils import EngineArgs

    assert settable(fake_nccl.NCCLTrainerInitInfo) == settable(nccl_engine.NCCLTrainerInitInfo)
    told = set(settable(nccl_engine.NCCLTrainerInitInfo)) - {"rank"}
    assert told | {"rank_offset"} <= set(settable(nccl_engine.NCCLWeightTransferInitInfo))
    assert list(settable(nccl_engine.NCCLWeightTransferUpdateInfo)) == ["names", "dtype_names", "shapes"]
    assert base.WeightSource.__abstractmethods__ == {"metadata", "__iter__"} <= set(dir(SentWeights))
    assert list(settable(base.ParamMeta)) == list(settable(WeightShape))
    assert isinstance(ServersAsOne([], [], 1.0, print), base.VLLMWeightSyncClient)
    assert "weight_transfer_config" in settable(VllmConfig)
    assert "weight_transfer_config" in settable(EngineArgs)  # --weight-transfer-config
    assert "backend" in settable(WeightTransferConfig)


def test_routes() -> None:
    from vllm.entrypoints.rl.online.api_router import router

    found = {(method, route.path) for route in router.routes for method in route.methods}
    posts = "init_weight_transfer_engine shutdown_weight_transfer_engine start_weight_update update_weights"
    posts += " finish_weight_update update_weight_version pause resume"
    assert {("POST", f"/{name}") for name in posts.split()} <= found
    assert {("GET", "/get_world_size"), ("GET", "/weight_info")} <= found


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """vLLM's trainer side with stand-ins for the communicator, and for packing, which needs streams of CUDA."""
    from vllm.distributed.weight_transfer import nccl_engine

    network = Network()

    def open_endpoint(info: Any) -> Any:
        group = network.at(info.master_address, info.master_port, info.world_size)
        group.join(0)
        return group

    def produce(iterator: Iterator[Any], group: Any, src: int, post_iter_func: Callable, **sizes: int) -> None:
        assert (src, sizes) == (0, {"buffer_size_bytes": 1 << 30, "num_buffers": 2})
        for item in iterator:
            group.broadcast(post_iter_func(item))

    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", open_endpoint)
    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", produce)
    monkeypatch.setattr(nccl_transfer, "gpu_of", lambda policy: policy.device)
    return network


@pytest.fixture
def hand_over(
    network: Network, serve_model: Callable, make_policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Policy, list[Any]]]]:
    """``hand_over(answers)`` takes weights to two servers, of which the second has other answers."""
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferInitInfo, NCCLWeightTransferUpdateInfo

    made = []

    def hand_over(others: dict[str, Any]) -> tuple[Policy, list[Any]]:
        policy, servers = make_policy(), []
        for workers in (1, 2):
            server, vllm = serve_model(policy.lm, weight_transfer="nccl")
            received = FakeWorkers(vllm, network, workers)

            def join(asked: dict[str, Any], received: FakeWorkers = received) -> None:
                info = NCCLWeightTransferInitInfo(**asked["init_info"])
                assert info.packed
                received.join(asked)

            def update(asked: dict[str, Any], received: FakeWorkers = received) -> None:
                NCCLWeightTransferUpdateInfo(**asked["update_info"])
                received.update(asked)

            server.answers |= received.answers | {"/init_weight_transfer_engine": join, "/update_weights": update}
            servers.append((server, vllm))
        servers[1][0].answers |= others
        with monkeypatch.context() as patch:
            patch.setattr("torch.cuda.is_available", lambda: True)
            transfer = NCCLTransfer()
        urls = [server.url for server, _ in servers]
        made.append(VLLMServerEngine(urls, limits=Limits(attempts=1), weight_transfer=transfer))
        made[-1].take_weights(policy, nullcontext(stream_weights(policy.lm)))
        return policy, servers

    yield hand_over
    for engine in made:
        engine.close()


def test_the_trainer_side_hands_weights_over(hand_over: Callable[..., tuple[Policy, list[Any]]]) -> None:
    policy, servers = hand_over({})
    for _, vllm in servers:
        own = vllm.lm.state_dict()
        assert all(torch.equal(own[name], weight) for name, weight in policy.lm.state_dict().items())
    assert servers[0][1].version == servers[1][1].version != "incomplete"


def test_the_trainer_side_is_aborted(hand_over: Callable[..., tuple[Policy, list[Any]]], network: Network) -> None:
    with pytest.raises(UserError, match=r"Weights were broken off .* out of memory"):
        hand_over({"/update_weights": lambda asked: (500, '{"error": {"message": "out of memory"}}')})
    assert network.made[0][1].aborted
