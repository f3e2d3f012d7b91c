"""The score in a real ``vllm serve`` of an export, with the plugin that pip registers: ``.ci/vllm`` runs them."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from laser_lightning.cli.command_line import main
from laser_lightning.inference.early_stop import EarlyStop
from laser_lightning.inference.scorer import LaSeRScorer, Solution
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.server.client import RequestRefused, ServerError, VLLMClient
from laser_lightning.rollout.server.http import Limits
from laser_lightning.verifiers import ExactVerifier

Z, EOS = 3, 1
SETTINGS = SelfRewardSettings("<|reward|>", Z, 0.25, -9.0, step=5)
PROMPTS = ["1+2=", "34*5=", "6+7+8=", "9="]
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", autouse=True)
def vllm_is_installed() -> None:
    """All of these tests need vLLM."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed; .ci/vllm runs these tests")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable, save_model: Callable) -> Path:
    """An export of a tiny random model, with a head of a size that vLLM has on CPUs, whose responses end."""
    config = tiny_config(Qwen2Config, hidden_size=64, tie_word_embeddings=False, initializer_range=0.15)
    path = save_model(tmp_path_factory.mktemp("export"), config)
    lm = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():  # in place of a bias: along the mean of the hidden states, <eos> gets likelier
        mean = lm.model(torch.randint(4, 100, (8, 16), generator=torch.Generator().manual_seed(0)))[0].mean((0, 1))
        towards = mean / mean.norm() ** 2
        lm.lm_head.weight[EOS] += 2.5 * towards
        lm.lm_head.weight[[0, 2]] -= 20 * towards  # other special tokens, which texts leave out
    lm.save_pretrained(path)
    SETTINGS.save(path)
    return path


@pytest.fixture(scope="module")
def url(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a stock server of the export."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(1 << 26), "--block-size", "32"]
    # vLLM's own command looks for the metadata of a package that its build for CPUs does not have.
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(export)]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [*program, "--host", "127.0.0.1", "--port", str(port), *options],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 600
    client = VLLMClient(address, limits=Limits(attempts=1))
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        try:
            client.check_health()
            break
        except ServerError:
            time.sleep(0.5)
    yield address
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def local(export: Path) -> LaSeRScorer:
    """The same model in this process."""
    return LaSeRScorer.from_pretrained(export, device="cpu")


def check(served: list[Solution], local: LaSeRScorer, prompts: list[str]) -> None:
    """The scores are those of the local scorer, which reads the solutions' tokens."""
    for ours, theirs in zip(served, local.score(prompts, [s.token_ids for s in served]), strict=True):
        assert ours[:3] == theirs[:3]
        assert ours.reward_token_log_prob == pytest.approx(theirs.reward_token_log_prob, abs=2e-5, nan_ok=True)
        assert ours.self_reward == pytest.approx(theirs.self_reward, abs=1e-5)
        assert ours.verdict == theirs.verdict


def test_the_plugin_is_registered() -> None:
    (found,) = entry_points(group="vllm.logits_processors", name="laser-lightning")
    assert found.value == "laser_lightning.inference.vllm_plugin:ServedScore"


def test_given_solutions(url: str, local: LaSeRScorer) -> None:
    responses = ["3", "170;#17", "", [22, 5, EOS]]
    served = LaSeRScorer.from_server(url).score(PROMPTS, responses)
    check(served, local, PROMPTS)
    assert {s.finished for s in served} == {True}


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6, "top_k": 20}, {"temperature": 0.0}], ids=str)
def test_solutions_have_their_scores_from_the_same_request(
    url: str, local: LaSeRScorer, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = LaSeRScorer.from_server(url)
    groups = scorer.generate(PROMPTS, 8, Sampling(max_response_tokens=16, **options))
    served = [solution for group in groups for solution in group]
    check(served, local, [prompt for prompt in PROMPTS for _ in range(8)])
    assert not any(Z in solution.token_ids for solution in served)  # 16 tokens of 32 would have some of 1 in 100
    if options.get("temperature", 1.0):
        assert {s.finished for s in served} == {True, False}
        assert len({s.reward_token_log_prob for s in served if s.finished}) > 3
    # No score is read by a request of its own: that would fail.
    monkeypatch.setattr(VLLMClient, "read_next", None)
    scorer.generate(PROMPTS, 1, Sampling(max_response_tokens=4))


def test_two_requests_without_the_plugin(url: str, local: LaSeRScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = LaSeRScorer.from_server(url)
    monkeypatch.setattr(scorer.engine, "_try_forcing", lambda prompt, token_id: False)
    groups = scorer.generate(PROMPTS, 4, Sampling(max_response_tokens=16))
    served = [solution for group in groups for solution in group]
    check(served, local, [prompt for prompt in PROMPTS for _ in range(4)])
    assert any(solution.finished for solution in served)


def test_votes_and_early_stop(url: str) -> None:
    scorer, verifier = LaSeRScorer.from_server(url), ExactVerifier(r"^(.)")
    solved = scorer.solve(PROMPTS, 8, verifier, EarlyStop(batch=2, confidence=0.55), Sampling(max_response_tokens=8))
    assert any(result.stopped for result in solved)
    assert [result.vote for result in solved] == [scorer.vote(result.solutions, verifier) for result in solved]


def test_other_requests_stay_as_they_are(url: str) -> None:
    """One with <eos> made certain and ignored goes on past it; one that asks by halves is refused in a sentence."""
    client = VLLMClient(url, limits=Limits(attempts=1))
    plain = {"prompt": [21, 22], "max_tokens": 5, "logit_bias": {str(EOS): 100}, "ignore_eos": True, "logprobs": 0}
    ids = client.post("/v1/completions", plain | {"return_token_ids": True})["choices"][0]["token_ids"]
    assert ids == [EOS] * 5
    with pytest.raises(RequestRefused, match=r"vllm_xargs.self_reward needs three more fields: ignore_eos: true"):
        client.post("/v1/completions", plain | {"vllm_xargs": {"self_reward": 1}})


def test_an_eos_in_the_prompt_ends_nothing(url: str) -> None:
    asked = {"vllm_xargs": {"self_reward": 1}, "ignore_eos": True, "stop_token_ids": [Z], "logprobs": 0}
    body = asked | {"prompt": [21, EOS], "max_tokens": 3, "logit_bias": {"50": 100}, "return_token_ids": True}
    assert VLLMClient(url).post("/v1/completions", body)["choices"][0]["token_ids"] == [50, 50, 50]


def test_the_examples_of_the_page(url: str, export: Path, local: LaSeRScorer) -> None:
    printed = subprocess.run(
        ["sh", EXAMPLES / "ask_server.sh", url], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(printed)
    second, _ = decoder.raw_decode(printed[end:].lstrip())
    # 46 behind 12+34=, by the second request.
    read = second["choices"][0]["logprobs"]["top_logprobs"][0]["token_id:3"]
    assert read == pytest.approx(local.score(["12+34="], ["46"])[0].reward_token_log_prob, abs=2e-5)
    (choice,) = first["choices"]
    (scored,) = local.score(["12+34="], [choice["text"]])
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["token_logprobs"][-1] == pytest.approx(scored.reward_token_log_prob, abs=2e-5)

    words = [sys.executable, EXAMPLES / "ask_server.py", url, export, "12+34="]
    printed = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    text, _, score = printed.rstrip("\n").rpartition(" ")
    (scored,) = local.score(["12+34="], [text])
    assert float(score) == pytest.approx(scored.self_reward, abs=1e-5)


def test_the_command(url: str, tmp_path: Path, local: LaSeRScorer, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "solutions.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": prompt, "response": "12"}) for prompt in PROMPTS))
    assert main(["score", str(file), "--server", url]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = [s.self_reward for s in local.score(PROMPTS, ["12"] * 4)]
    assert [row["self_reward"] for row in rows] == pytest.approx(expected, abs=1e-5)


# --------------------------------- the processor alone, for what no server here shows


def config(path: str, ahead: bool = False) -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(model=path), scheduler_config=SimpleNamespace(async_scheduling=ahead)
    )


def params(**fields: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**{"ignore_eos": True, "stop_token_ids": [Z], "logprobs": 0, **fields})


ASKS = {"extra_args": {"self_reward": 1}}


def test_the_second_model_runner(export: Path) -> None:
    """Five rows: in the midst of a response, behind its <eos>, an <eos> of the prompt, and behind <eos> unasked; z_c
    with another token in mind. Slots are not rows."""
    from laser_lightning.inference.vllm_plugin import ServedScore

    lengths = torch.tensor([2, 2, 2, 2, 0])
    states = SimpleNamespace(device="cpu", max_num_reqs=5, prompt_len=SimpleNamespace(gpu=lengths))
    processor = ServedScore(config(str(export)), states)
    assert [processor.add_request(slot, params(**asks)) for slot, asks in enumerate([ASKS, ASKS, ASKS, {}])] == [
        True,
        True,
        True,
        False,
    ]
    slots = torch.tensor([3, 1, 0, 2])
    context = SimpleNamespace(
        idx_mapping_np=slots.numpy(),
        expanded_idx_mapping=slots,
        input_ids=torch.tensor([EOS, EOS, 7, EOS]),
        pos=torch.tensor([4, 2, 5, 1]),  # in the last row the prompt's last place
    )
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    changed = processor.apply(logits.clone(), context)
    assert changed[0].equal(logits[0])
    assert changed[1].tolist() == [0.0 if token == Z else -torch.inf for token in range(10)]
    for row in (2, 3):
        assert changed[row, Z] == -torch.inf
        others = [token for token in range(10) if token != Z]
        assert changed[row, others].equal(logits[row, others])
    # A slot's next request has its own wish.
    assert not processor.add_request(1, params())
    assert processor.apply(logits.clone(), context)[1].equal(logits[1])


def test_it_does_nothing_for_other_models(tmp_path: Path) -> None:
    from laser_lightning.inference.vllm_plugin import ServedScore

    logits = torch.randn(2, 10)
    for path in (str(tmp_path), "me/on-the-hub"):
        first = ServedScore(config(path), torch.device("cpu"), False)
        assert first.is_argmax_invariant()
        first.update_state(SimpleNamespace(removed=[], added=[(0, params(**ASKS), [5], [EOS])], moved=[]))
        assert first.apply(logits) is logits
        second = ServedScore(config(path), SimpleNamespace(device="cpu", max_num_reqs=2))
        assert not second.add_request(0, params(**ASKS))
        assert second.apply(logits, None) is logits


def test_it_says_when_it_cannot_follow(export: Path, caplog: pytest.LogCaptureFixture) -> None:
    from laser_lightning.inference.vllm_plugin import ServedScore

    vllm = logging.getLogger("vllm")
    vllm.addHandler(caplog.handler)
    processor = ServedScore(config(str(export), ahead=True), torch.device("cpu"), False)
    vllm.removeHandler(caplog.handler)
    assert "start vllm serve with --no-async-scheduling" in caplog.text
    assert processor.is_argmax_invariant()


def test_nothing_heavy_is_imported_for_other_models() -> None:
    code = (
        "import sys, laser_lightning.inference.vllm_plugin as plugin; assert plugin.scored_export('me/model') is None; "
        "print([m for m in sys.modules if m.startswith(('laser_lightning.policy', 'laser_lightning.objective', "
        "'lightning.', 'deepspeed'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"
