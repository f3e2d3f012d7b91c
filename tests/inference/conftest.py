"""A server in a thread that answers as ``vllm serve`` does, of a tiny model that it runs plainly in transformers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from fake_server import FakeServer


@dataclass
class FakeVLLM:
    """Answers the routes that the scorer asks.

    Attributes:
        lm: the model.
        bias: [V] added to its logits.
        directory: its own.
        root: where it says that the model was loaded from.
        plugin: ids of the reward token and of ``<eos>`` where this project's plugin is installed; None without it.
        mode: vLLM's ``--logprobs-mode``.
    """

    lm: Any
    bias: Tensor
    directory: Path
    root: str
    plugin: tuple[int, tuple[int, ...]] | None = None
    mode: str = "raw_logprobs"
    max_model_len: int = 256

    def __post_init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.directory)
        self.logits = lru_cache(self._logits)
        self.server = FakeServer(
            {
                "/v1/models": lambda asked: {
                    "data": [{"id": "served", "root": self.root, "max_model_len": self.max_model_len}]
                },
                "/tokenize": lambda asked: {"tokens": self.tokenizer.encode(asked["prompt"], add_special_tokens=False)},
                "/v1/completions": self.complete,
            }
        )

    @property
    def url(self) -> str:
        return self.server.url

    def of(self, route: str) -> list[dict[str, Any]]:
        """What came to a route."""
        return [asked for called, asked in self.server.calls if called == route]

    def complete(self, asked: dict[str, Any]) -> Any:
        ids, places, stopped = self.draw(asked)
        logprobs = {
            "token_logprobs": [log_probs[token] for token, log_probs in zip(ids, places, strict=True)],
            "top_logprobs": [{f"token_id:{one}": value for one, value in place.items()} for place in places],
        }
        return {
            "choices": [
                {"token_ids": ids, "finish_reason": "stop" if stopped else "length", "logprobs": logprobs},
            ]
        }

    def draw(self, asked: dict[str, Any]) -> tuple[list[int], list[dict[int, float]], bool]:
        """The tokens, the log-probs of the sampled and the wanted ones at each place, and whether it stopped."""
        assert asked["ignore_eos"]
        generator = torch.Generator().manual_seed(asked.get("seed") or 0)
        ids: list[int] = []
        places: list[dict[int, float]] = []
        while len(ids) < asked["max_tokens"]:
            raw = self.logits((*asked["prompt"], *ids))
            logits = raw.clone()
            for token, bias in asked.get("logit_bias", {}).items():
                logits[int(token)] += bias
            if self.plugin is not None and asked.get("vllm_xargs", {}).get("self_reward"):
                self.force(logits, ids)
            if temperature := asked["temperature"]:
                token = int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
            else:
                token = int(logits.argmax())
            log_probs = (logits if self.mode == "processed_logprobs" else raw).log_softmax(0)
            read = raw if self.mode == "raw_logits" else log_probs
            ids.append(token)
            places.append({one: read[one].item() for one in [token, *asked.get("logprob_token_ids", ())]})
            if token in asked.get("stop_token_ids", ()):
                return ids, places, True
        return ids, places, False

    def force(self, logits: Tensor, ids: list[int]) -> None:
        assert self.plugin is not None
        token_id, ends = self.plugin
        own = 0.0 if ids and ids[-1] in ends else -torch.inf
        if own == 0.0:
            logits.fill_(-torch.inf)
        logits[token_id] = own

    @torch.no_grad()
    def _logits(self, ids: tuple[int, ...]) -> Tensor:
        return self.lm(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1] + self.bias


@pytest.fixture
def serve_model() -> Iterator[Callable[..., FakeVLLM]]:
    """``serve_model(directory, bias={}, **options)`` serves a model, with a bias on the logits of some tokens."""
    started = []

    def serve(directory: Path, bias: Mapping[int, float] = {}, **options: Any) -> FakeVLLM:
        lm = AutoModelForCausalLM.from_pretrained(directory).eval()
        of_tokens = torch.zeros(lm.config.vocab_size)
        of_tokens[list(bias)] = torch.tensor(list(bias.values()))
        fake = FakeVLLM(lm, of_tokens, directory, **{"root": str(directory), **options})
        fake.server.start()
        started.append(fake.server)
        return fake

    yield serve
    for server in started:
        server.stop()
