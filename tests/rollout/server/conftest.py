"""Starts the stand-ins for servers."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
from transformers import PreTrainedModel

from fake_server import Answer, FakeServer
from fake_vllm import FakeVLLM


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    """``serve({"/health": answer, ...})`` starts a server."""
    started = []

    def start(answers: dict[str, Answer]) -> FakeServer:
        fake = FakeServer(answers)
        fake.start()
        started.append(fake)
        return fake

    yield start
    for fake in started:
        fake.stop()


@pytest.fixture
def serve_model(serve: Callable[..., FakeServer]) -> Callable[..., tuple[FakeServer, FakeVLLM]]:
    """``serve_model(lm, **fields)`` starts a stand-in for ``vllm serve`` with other weights than those of ``lm``."""

    def start(lm: PreTrainedModel, **fields: Any) -> tuple[FakeServer, FakeVLLM]:
        own = deepcopy(lm).eval()
        for parameter in own.parameters():
            parameter.data.zero_()
        vllm = FakeVLLM(own, **fields)
        return serve(vllm.answers), vllm

    return start
