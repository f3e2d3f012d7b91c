"""The engine on servers that compute with transformers, one token after the other, and on some that fail."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightStream, stream_weights
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import FileTransfer, Sampling, VLLMServerEngine
from laser_lightning.rollout.server.client import Limits
from laser_lightning.rollout.server.dispatch import Perseverance

ServeModel = Callable[..., tuple[Any, Any]]
MakePolicy = Callable[..., Policy]
Z, PROMPTS = 3, [[21, 22, 0, 1], [40], [33, 3, 3, 57, 58]]
SAMPLING = Sampling(6, temperature=0.8)
QUICK = Perseverance(patience_seconds=60, retry_seconds=0.01)  # a busy machine takes its time
LIMITS = Limits(attempts=1, answer_seconds=20)
MakeEngine = Callable[..., VLLMServerEngine]


@pytest.fixture
def policy(make_policy: MakePolicy) -> Policy:
    return make_policy(eos_bias=2.0, eos_ids=(1, 5))


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[MakeEngine]:
    made = []

    def make(*servers: Any, **arguments: Any) -> VLLMServerEngine:
        settings = {"limits": LIMITS, "perseverance": QUICK, "weights_directory": str(tmp_path)} | arguments
        made.append(VLLMServerEngine([server.url for server in servers], **settings))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def draw(
    engine: VLLMServerEngine, policy: Policy, sampling: Sampling = SAMPLING, tokens: tuple[int, ...] = (Z,)
) -> Rollouts:
    return engine.generate(policy, PROMPTS, 2, sampling, tokens, torch.Generator().manual_seed(7))


def same(ours: Rollouts, theirs: Rollouts) -> None:
    assert torch.equal(ours.response_ids, theirs.response_ids)
    for name in ("sampling_log_probs", "reward_token_log_probs"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("processor", [False, True])
def test_rollouts_are_those_of_plain_passes(
    processor: bool, serve_model: ServeModel, make_engine: MakeEngine, policy: Policy, plain_pass: Callable
) -> None:
    server, _ = serve_model(policy.lm, processor=processor)
    rollouts = draw(make_engine(server), policy, tokens=(Z, 9))
    assert 0 < int(rollouts.finished.sum()) < 6  # some end, and some do not
    for row, response in enumerate(rollouts.responses()):
        finished = bool(rollouts.finished[row])
        assert [token in (1, 5) for token in response] == [False] * (len(response) - 1) + [finished]
        assert finished or len(response) == SAMPLING.max_response_tokens
        plain = plain_pass(policy.lm, PROMPTS[row // 2], response, 0.8)
        log_probs = rollouts.sampling_log_probs[row, : len(response)]
        torch.testing.assert_close(log_probs, plain.log_probs, rtol=0, atol=1e-5)
        scores = plain.after_last[[Z, 9]] if finished else torch.full((2,), torch.nan)
        torch.testing.assert_close(rollouts.reward_token_log_probs[row], scores, rtol=0, atol=1e-5, equal_nan=True)


def test_both_ways_and_any_number_of_servers_draw_the_same(
    serve_model: ServeModel, make_engine: MakeEngine, make_policy: MakePolicy
) -> None:
    # the model often writes the reward token itself, and goes on behind it
    policy = make_policy(eos_bias=3.5, eos_ids=(1, Z + 1))
    plain, forced, other = (serve_model(policy.lm, processor=way) for way in (False, True, False))
    tokens = (Z + 2, 9)
    with torch.no_grad():
        policy.lm.get_output_embeddings().bias[Z + 2] = 3.0
    one = draw(make_engine(plain[0]), policy, tokens=tokens)
    assert bool((one.response_ids == Z + 2).any())
    same(draw(make_engine(forced[0]), policy, tokens=tokens), one)
    before = plain[1].drawn
    same(draw(make_engine(plain[0], forced[0], other[0]), policy, tokens=tokens), one)
    assert plain[1].drawn > before
    assert other[1].drawn > 0


def test_a_round_that_is_drawn_beside_an_update_does_not_look_at_the_policy(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = serve_model(deepcopy(policy.lm))
    engine = make_engine(server)
    first = draw(engine, policy)
    with torch.no_grad():
        policy.lm.get_input_embeddings().weight *= 0.5
    engine.weights_changed()
    monkeypatch.setattr(policy.lm, "forward", None)
    with ThreadPoolExecutor() as pool:
        same(pool.submit(draw, engine, policy).result(), first)
    assert server.count("/collective_rpc") == 1


def test_each_version_of_the_weights_is_handed_over_once(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy, tmp_path: Path
) -> None:
    (tmp_path / "weights-left-over").mkdir()
    servers = [serve_model(policy.lm) for _ in range(2)]
    engine = make_engine(*(server for server, _ in servers))
    first = draw(engine, policy)
    same(draw(engine, policy), first)
    assert [server.count("/collective_rpc") for server, _ in servers] == [1, 1]
    versions = [vllm.version for _, vllm in servers]
    engine.weights_changed()
    with torch.no_grad():
        policy.lm.get_input_embeddings().weight *= 0.5
    engine.take_weights(policy, nullcontext(stream_weights(policy.lm)))
    assert versions[0] == versions[1] != servers[0][1].version == servers[1][1].version
    second = draw(engine, policy)
    assert not torch.equal(second.sampling_log_probs, first.sampling_log_probs)
    assert [server.count("/collective_rpc") for server, _ in servers] == [2, 2]
    # in this order, while nothing is generated
    routes = [route for route, _ in servers[0][0].calls]
    begin = routes.index("/pause?mode=abort")
    assert routes[begin : begin + 6] == [
        "/pause?mode=abort",
        "/update_weight_version",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/update_weight_version",
        "/resume",
    ]
    assert [path.name for path in tmp_path.iterdir()] == [f"weights-{servers[0][1].version}"]
    engine.close()
    assert list(tmp_path.iterdir()) == []


def test_a_stream_is_written_in_shards(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("laser_lightning.rollout.server.weights.SHARD_BYTES", 10_000)
    server, vllm = serve_model(policy.lm)
    draw(make_engine(server), policy)
    files = list(tmp_path.glob("*/*.safetensors"))
    assert len(files) > 2
    for name, weight in policy.lm.state_dict().items():
        assert torch.equal(vllm.lm.state_dict()[name], weight)


def test_a_server_that_started_again_loads_the_weights_before_it_generates(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy
) -> None:
    server, vllm = serve_model(policy.lm)
    engine = make_engine(server)
    first = draw(engine, policy)
    vllm.version = "default"
    for parameter in vllm.lm.parameters():
        parameter.data.zero_()
    same(draw(engine, policy), first)
    assert server.count("/collective_rpc") == 2
    assert ("/pause?mode=keep", {}) in server.calls  # responses of other ranks go on behind it


def test_a_response_of_other_weights_is_drawn_anew(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy
) -> None:
    server, vllm = serve_model(policy.lm)
    engine = make_engine(server)
    undisturbed = draw(engine, policy)
    restarts = iter([None, None, None, "default"])

    def restart(asked: Any) -> None:
        vllm.version = next(restarts, None) or vllm.version

    vllm.trouble = restart
    same(draw(engine, policy), undisturbed)
    assert server.count("/collective_rpc") == 2


@pytest.mark.parametrize("failure", [..., (500, '{"error": {"message": "out of memory"}}'), "abort"])
def test_what_a_server_leaves_is_drawn_by_another(
    failure: Any, serve_model: ServeModel, make_engine: MakeEngine, policy: Policy
) -> None:
    good, bad = serve_model(policy.lm), serve_model(policy.lm)
    undisturbed = draw(make_engine(good[0]), policy)
    if failure == "abort":
        failure = {"choices": [{"finish_reason": "abort", "token_ids": []}]}
    left = iter(range(2))
    bad[1].trouble = lambda asked: None if next(left, None) is not None else failure
    engine = make_engine(good[0], bad[0], perseverance=Perseverance(attempts=9, retry_seconds=60))
    bad[1].trouble, later = None, bad[1].trouble
    engine.take_weights(policy, nullcontext(stream_weights(policy.lm)))
    bad[1].trouble = later
    same(draw(engine, policy), undisturbed)


def test_a_server_that_is_too_slow(serve_model: ServeModel, make_engine: MakeEngine, policy: Policy) -> None:
    good, slow = serve_model(policy.lm), serve_model(policy.lm)
    undisturbed = draw(make_engine(good[0]), policy)
    engine = make_engine(good[0], slow[0], limits=Limits(attempts=1, answer_seconds=1.5), perseverance=Perseverance())
    engine.take_weights(policy, nullcontext(stream_weights(policy.lm)))
    slow[1].trouble = lambda asked: time.sleep(20)
    began = time.monotonic()
    same(draw(engine, policy), undisturbed)
    assert time.monotonic() - began < 15


def test_a_signal_breaks_a_round_off(serve_model: ServeModel, make_engine: MakeEngine, policy: Policy) -> None:
    server, vllm = serve_model(policy.lm)
    engine = make_engine(server)
    undisturbed = draw(engine, policy)
    vllm.trouble = lambda asked: time.sleep(20)
    began = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what is in the background without
    threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            draw(engine, policy)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 5
    vllm.trouble = None
    same(draw(engine, policy), undisturbed)


def test_a_round_waits_for_a_server_that_is_started_again(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy
) -> None:
    server, vllm = serve_model(policy.lm)
    engine = make_engine(server, perseverance=Perseverance(patience_seconds=30, retry_seconds=0.02))
    undisturbed = draw(engine, policy)
    port, left = int(server.url.rpartition(":")[2]), iter(range(3))
    died = threading.Event()

    def die(asked: Any) -> Any:
        if next(left, None) is not None:
            return None
        died.set()
        return ...

    def start_again() -> None:
        died.wait()
        server.stop()
        vllm.version, vllm.trouble = "default", None
        for parameter in vllm.lm.parameters():
            parameter.data.zero_()
        time.sleep(0.1)
        server.start(port)

    vllm.trouble = die
    starter = threading.Thread(target=start_again)
    starter.start()
    same(draw(engine, policy), undisturbed)
    starter.join()


def test_no_server_comes_back(serve_model: ServeModel, make_engine: MakeEngine, policy: Policy) -> None:
    server, _ = serve_model(policy.lm)
    engine = make_engine(server, perseverance=Perseverance(patience_seconds=2, retry_seconds=0.01))
    draw(engine, policy)
    server.stop()
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"No server has been able .* 2 s .*{server.url} refuses .*--ckpt_path last"):
        draw(engine, policy)
    assert time.monotonic() - began < 10
    server.start()  # for the fixture


def test_a_response_that_always_fails(serve_model: ServeModel, make_engine: MakeEngine, policy: Policy) -> None:
    server, vllm = serve_model(policy.lm)
    engine = make_engine(server)
    draw(engine, policy)
    vllm.trouble = lambda asked: (500, '{"error": {"message": "CUDA out of memory"}}')
    with pytest.raises(UserError, match=r"in 3 attempts .* failed at .*\(status 500\): CUDA out of memory"):
        draw(engine, policy)


def test_weights_that_reach_nobody(serve_model: ServeModel, make_engine: MakeEngine, policy: Policy) -> None:
    server, vllm = serve_model(policy.lm)
    server.answers["/collective_rpc"] = lambda asked: (500, '{"error": {"message": "no such file"}}')
    with pytest.raises(UserError, match=r"No server has loaded the weights.*no such file.*engine\.weights_directory"):
        draw(make_engine(server), policy)
    assert (vllm.version, vllm.paused) == ("incomplete", False)


def test_weights_that_miss_one_server(serve_model: ServeModel, make_engine: MakeEngine, policy: Policy) -> None:
    good, bad = serve_model(policy.lm), serve_model(policy.lm)
    undisturbed = draw(make_engine(good[0]), policy)
    answers = iter([(500, "out of memory")])
    bad[0].answers["/collective_rpc"] = lambda asked: next(answers, None) or bad[1].load(asked)
    engine = make_engine(good[0], bad[0])
    with pytest.warns(UserWarning, match=r"Weights have not reached every server.*out of memory"):
        same(draw(engine, policy), undisturbed)
    assert bad[1].version == good[1].version  # it has them by now


def test_a_directory_that_cannot_be_written(serve_model: ServeModel, make_engine: MakeEngine, policy: Policy) -> None:
    server, _ = serve_model(policy.lm)
    with pytest.raises(UserError, match=r"Weights cannot be written.*engine\.weights_directory"):
        draw(make_engine(server, weights_directory="/proc/weights"), policy)


@pytest.mark.parametrize("vocabulary", ["smaller", "larger"])
def test_another_model_is_refused(
    vocabulary: str, serve_model: ServeModel, make_engine: MakeEngine, policy: Policy
) -> None:
    server, vllm = serve_model(policy.lm)
    size = policy.lm.config.vocab_size
    vllm.lm.config.vocab_size = {"smaller": size - 1, "larger": size + 1}[vocabulary]
    engine = make_engine(server)
    # the larger one is asked for a token that its stand-in has no row for
    vllm.trouble = lambda asked: None if vocabulary == "smaller" else READS_ANYTHING
    with pytest.raises(UserError, match=rf"{server.url} has a model with another vocabulary than the policy's {size}"):
        draw(engine, policy)


READS_ANYTHING = {
    "choices": [
        {
            "finish_reason": "length",
            "token_ids": [0],
            "logprobs": {
                "content": [
                    {
                        "logprob": 0.0,
                        "top_logprobs": [{"token_id": token_id, "logprob": 0.0} for token_id in range(1000)],
                    }
                ]
            },
        }
    ]
}


def test_a_model_that_computes_otherwise_is_refused(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy
) -> None:
    server, _ = serve_model(policy.lm)
    server.answers["/collective_rpc"] = lambda asked: None  # it says that it has loaded them
    with pytest.raises(UserError, match="vLLM's log-probs differ from the policy's"):
        draw(make_engine(server), policy)


@pytest.mark.parametrize(
    ("fields", "sampling", "sentence"),
    [
        (
            {"logprobs_mode": "raw_logprobs"},
            SAMPLING,
            r"of raw_logprobs, .*temperature 0\.8, .*--logprobs-mode",
        ),
        ({}, Sampling(4, top_p=0.9), r"log-probs of processed_logprobs, .* top_p 0\.9.*--logits-processors laser_"),
        ({"processor": True, "logprobs_mode": "raw_logprobs"}, SAMPLING, "also needs --logprobs-mode processed_logits"),
        ({}, Sampling(60), r"are 66 tokens, and do not fit into the 64 places"),
    ],
)
def test_how_a_server_must_be_started(
    fields: dict[str, Any],
    sampling: Sampling,
    sentence: str,
    serve_model: ServeModel,
    make_engine: MakeEngine,
    policy: Policy,
) -> None:
    server, _ = serve_model(policy.lm, **fields)
    with pytest.raises(UserError, match=sentence):
        draw(make_engine(server), policy, sampling)


def test_raw_log_probs_are_right_at_temperature_1(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy
) -> None:
    raw, processed = serve_model(policy.lm, logprobs_mode="raw_logprobs"), serve_model(policy.lm)
    sampling = Sampling(6)
    same(draw(make_engine(raw[0]), policy, sampling), draw(make_engine(processed[0]), policy, sampling))


def test_no_prompts_and_progress(serve_model: ServeModel, make_engine: MakeEngine, policy: Policy) -> None:
    server, _ = serve_model(policy.lm)
    engine = make_engine(server)
    told = []
    engine.progress = lambda done, count: told.append((done, count))
    draw(engine, policy)
    assert told[-1] == (6, 6)
    assert len(engine.generate(policy, [], 4, SAMPLING, (Z,), torch.Generator())) == 0


def test_a_temporary_directory_goes_with_the_engine(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server, _ = serve_model(policy.lm)
    engine = make_engine(server, weights_directory=None)
    first = draw(engine, policy)
    assert len(list(tmp_path.glob("laser-weights-*/weights-*"))) == 1
    engine.close()
    assert list(tmp_path.iterdir()) == []
    same(draw(engine, policy), first)  # it begins anew


class BreaksOff(FileTransfer):
    """Fails behind the first weight."""

    def send(self, weights: WeightStream, *others: Any) -> str:
        next(weights)
        raise UserError("no way")


def test_a_way_that_fails_lets_the_other_ranks_gather_on(
    serve_model: ServeModel, make_engine: MakeEngine, policy: Policy
) -> None:
    server, _ = serve_model(policy.lm)
    rest = []

    @contextmanager
    def weights() -> Iterator[WeightStream]:
        stream = stream_weights(policy.lm)
        yield stream
        rest.extend(stream)  # as a module does, whose ranks gather together

    with pytest.raises(UserError, match="no way"):
        make_engine(server, weights_directory=None, weight_transfer=BreaksOff()).take_weights(policy, weights())
    assert len(rest) == len(policy.lm.state_dict()) - 1


def test_the_directory_in_short(tmp_path: Path) -> None:
    short = VLLMServerEngine(["http://a:1"], weights_directory=str(tmp_path))
    long = VLLMServerEngine(["http://a:1"], weight_transfer=FileTransfer(str(tmp_path)))
    assert [engine.weight_transfer.directory for engine in (short, long)] == [str(tmp_path)] * 2
    with pytest.raises(
        UserError, match=r"engine\.weights_directory \(.*\) is the directory of a FileTransfer, in short"
    ):
        VLLMServerEngine(["http://a:1"], weights_directory="here", weight_transfer=FileTransfer("there"))


def test_engines_do_not_share_what_a_transfer_remembers(
    serve_model: ServeModel, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engines = [VLLMServerEngine([serve_model(policy.lm)[0].url], limits=LIMITS) for _ in range(2)]
    for engine in engines:
        engine.take_weights(policy, nullcontext(stream_weights(policy.lm)))
    assert len(list(tmp_path.glob("laser-weights-*/weights-*"))) == 2
    engines[0].close()
    assert len(list(tmp_path.glob("laser-weights-*/weights-*"))) == 1
    engines[1].close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"urls": []}, r"engine\.urls must name one server or several"),
        ({"urls": ["http://a:1", "http://a:1"]}, "each of them once"),
        ({"urls": ["a:1"]}, "'a:1' is no address"),
        ({"urls": ["http://a:1"], "requests_at_once": 0}, "requests_at_once must be at least 1"),
        ({"urls": ["http://a:1"], "api_key_variable": "NOT_SET"}, r"NOT_SET \(engine\.api_key_variable\) is not set"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        VLLMServerEngine(**arguments)
