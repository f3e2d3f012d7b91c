"""The client, against a server in a thread: what it sends, what it makes of the answers, and each way to fail."""

import math
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from laser_lightning.errors import UserError
from laser_lightning.rollout.server.client import (
    Completion,
    Limits,
    RequestRefused,
    ServedModel,
    ServerError,
    ServerFailed,
    ServerTimeout,
    ServerUnreachable,
    TokenRequest,
    VLLMClient,
    WrongModel,
)

Serve = Callable[..., Any]
ONCE = Limits(attempts=1)


def answer(*choices: dict[str, Any]) -> dict[str, Any]:
    return {"request_id": "a", "choices": list(choices)}


def place(token_id: int, log_prob: float, *others: tuple[int, float]) -> dict[str, Any]:
    top = [{"token_id": token, "logprob": value} for token, value in ((token_id, log_prob), *others)]
    return {"token_id": token_id, "logprob": log_prob, "top_logprobs": top}


CHOICE = {
    "index": 0,
    "finish_reason": "stop",
    "token_ids": [7, 1],
    # 7 and 1 were drawn, and of 3 and 1 the log-probs were asked: where 1 is drawn it stands there once
    "logprobs": {"content": [place(7, -0.5, (3, -13.25), (1, -2.0)), place(1, -0.25, (3, -9999.0))]},
    "weight_versions": [{"version": "a", "start": 0, "end": 1}, {"version": "b", "start": 1, "end": 2}],
}


def test_a_response(serve: Serve) -> None:
    server = serve({"/inference/v1/generate": lambda asked: answer(CHOICE)})
    request = TokenRequest([5, 6], 4, 0.5, 0.9, 8, 0.1, 11, [1], [3, 1], {"laser": [3]}, "salt")
    found = VLLMClient(server.url + "/v1/", model="mine", api_key="secret").generate(request)
    assert found.ids == [7, 1]
    assert found.log_probs == [-0.5, -0.25]
    assert found.read[0] == [-13.25, -2.0]
    assert math.isnan(found.read[1][0])
    assert found.read[1][1] == -0.25
    assert found.is_stopped
    assert found.weight_versions == ["a", "b"]
    ((route, asked),) = server.calls
    assert route == "/inference/v1/generate"
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert asked == {
        "token_ids": [5, 6],
        "model": "mine",
        "cache_salt": "salt",
        "sampling_params": {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 8,
            "min_p": 0.1,
            "seed": 11,
            "max_tokens": 4,
            "stop_token_ids": [1],
            "ignore_eos": True,
            "detokenize": False,
            "logprobs": 3,
            "logprob_token_ids": [3, 1, 1],
            "extra_args": {"laser": [3]},
        },
    }


def test_a_plain_response(serve: Serve) -> None:
    plain = {"finish_reason": "length", "token_ids": [7], "logprobs": {"content": [place(7, -0.5, (3, -13.25))]}}
    server = serve({"/inference/v1/generate": lambda asked: answer(plain)})
    assert VLLMClient(server.url).generate(TokenRequest([5], 1)) == Completion([7], [-0.5], [[]], False, [])


def test_what_may_come_next(serve: Serve) -> None:
    logprobs = {
        "tokens": ["token_id:9"],
        "top_logprobs": [{"token_id:9": -0.5, "token_id:3": -13.25, "token_id:4": -2.0}],
    }
    server = serve({"/v1/completions": lambda asked: answer({"text": "", "logprobs": logprobs})})
    assert VLLMClient(server.url).read_next([5, 6, 1], [4, 3]) == [-2.0, -13.25]
    ((_, asked),) = server.calls
    assert (asked["prompt"], asked["max_tokens"], asked["logprob_token_ids"]) == ([5, 6, 1], 1, [4, 3])
    assert (asked["temperature"], asked["top_p"], asked["top_k"], asked["min_p"]) == (1.0, 1.0, 0, 0.0)


def test_what_a_server_says_of_itself(serve: Serve) -> None:
    models = {"data": [{"id": "mine", "root": "/models/mine", "max_model_len": 256}]}
    server = serve({"/v1/models": lambda asked: models, "/health": lambda asked: None})
    assert VLLMClient(server.url).find_model() == ServedModel("mine", "/models/mine", 256)
    VLLMClient(server.url).check_health()
    with pytest.raises(WrongModel, match="has no model 'yours', but mine"):
        VLLMClient(server.url, model="yours").find_model()


def test_routes_for_trainers(serve: Serve) -> None:
    routes = ("/pause", "/resume", "/update_weight_version", "/collective_rpc")
    server = serve(
        {route: lambda asked: None for route in routes}
        | {
            "/weight_info": lambda asked: {"weight_version": "default"},
            "/server_info": lambda asked: {"vllm_config": {"model_config": {"logprobs_mode": "raw_logprobs"}}},
            "/reset_prefix_cache": lambda asked: {"success": False},
        }
    )
    client = VLLMClient(server.url)
    client.pause("keep")
    client.reload_weights("/shared/7")
    client.set_weight_version("7")
    client.resume()
    assert client.weight_version() == "default"
    assert not client.reset_prefix_cache()
    assert client.settings()["model_config"]["logprobs_mode"] == "raw_logprobs"
    assert server.calls == [
        ("/pause?mode=keep", {}),
        ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": "/shared/7"}}),
        ("/update_weight_version", {"new_version": "7"}),
        ("/resume", {}),
        ("/weight_info", {}),
        ("/reset_prefix_cache", {}),
        ("/server_info?config_format=json", {}),
    ]


def test_a_server_without_routes_for_trainers(serve: Serve) -> None:
    with pytest.raises(RequestRefused, match=r"no route /pause: start it with VLLM_SERVER_DEV_MODE=1"):
        VLLMClient(serve({}).url).pause()


REQUEST = TokenRequest([5], 1)


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        client = VLLMClient(f"http://127.0.0.1:{taken.getsockname()[1]}", limits=ONCE)
        with pytest.raises(ServerUnreachable, match=rf"{client.url} refuses connections: start it \(vllm serve\)"):
            client.generate(REQUEST)


def test_a_host_that_is_not_known() -> None:
    with pytest.raises(ServerUnreachable, match=r"host of http://nowhere\.invalid:1 is not known .*mend the address"):
        VLLMClient("http://nowhere.invalid:1", limits=ONCE).check_health()


def test_a_server_that_dies(serve: Serve) -> None:
    server = serve({"/inference/v1/generate": lambda asked: ...})
    with pytest.raises(ServerUnreachable, match=f"connection to {server.url} broke off"):
        VLLMClient(server.url, limits=ONCE).generate(REQUEST)


def test_a_slow_server(serve: Serve) -> None:
    server = serve({"/inference/v1/generate": lambda asked: time.sleep(0.5)})
    began = time.monotonic()
    with pytest.raises(ServerTimeout, match=r"did not answer /inference/v1/generate within 0.1 s.*answer_seconds"):
        VLLMClient(server.url, limits=Limits(answer_seconds=0.1)).generate(REQUEST)
    assert time.monotonic() - began < 0.4  # and it is not asked again


def test_a_server_that_answers_drop_by_drop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            taken, _ = listening.accept()
            with taken, suppress(OSError):
                taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while True:
                    taken.sendall(b" ")
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        client = VLLMClient(f"http://127.0.0.1:{listening.getsockname()[1]}", limits=Limits(answer_seconds=0.2))
        with pytest.raises(ServerTimeout):
            client.generate(REQUEST)


@pytest.mark.parametrize(
    ("status", "text", "kind", "sentence"),
    [
        (400, '{"error": {"message": "too long", "code": 400}}', RequestRefused, r"refuses .*\(status 400\): too long"),
        (500, '{"error": "out of memory"}', ServerFailed, r"failed at .*\(status 500\): out of memory"),
        (500, "<html>", ServerFailed, r"\(status 500\): <html>"),
        (503, "", ServerFailed, r"too busy for .*\(status 503\): it says no more"),
        (200, "<html>", ServerFailed, "something else than JSON: '<html>'"),
    ],
)
def test_errors_in_the_servers_own_words(
    serve: Serve, status: int, text: str, kind: type[ServerError], sentence: str
) -> None:
    server = serve({"/inference/v1/generate": lambda asked: (status, text)})
    with pytest.raises(kind, match=sentence):
        VLLMClient(server.url, limits=ONCE).generate(REQUEST)


def test_a_response_that_was_broken_off(serve: Serve) -> None:
    broken = {"finish_reason": "abort", "token_ids": [], "logprobs": {"content": []}}
    server = serve({"/inference/v1/generate": lambda asked: answer(broken)})
    with pytest.raises(ServerFailed, match=r"broke a response off \(abort\)"):
        VLLMClient(server.url).generate(REQUEST)


def test_a_busy_server_is_asked_again(serve: Serve) -> None:
    said = iter([(503, ""), ..., (429, ""), None])
    server = serve({"/health": lambda asked: next(said)})
    VLLMClient(server.url, limits=Limits(attempts=4, pause_seconds=0.001)).check_health()
    assert len(server.calls) == 4


def test_arguments_out_of_range() -> None:
    with pytest.raises(UserError, match="'localhost:8000' is no address"):
        VLLMClient("localhost:8000")
    with pytest.raises(UserError, match=r"limits\.answer_seconds must be above 0"):
        Limits(answer_seconds=0)
