"""The vLLM engine on the real vLLM, against plain forward passes of transformers.

Most tests need vLLM, whose build for CPUs has an environment of its own: ``.ci/vllm`` runs them.
"""

import csv
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config

from laser_lightning.errors import UserError
from laser_lightning.inference.scorer import LaSeRScorer
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling, VLLMEngine
from laser_lightning.rollout.vllm import engine as vllm_engine
from laser_lightning.rollout.vllm.dtype import decoding_dtype

MakePolicy = Callable[..., Policy]
Check = Callable[..., None]
Z, LIMIT, SEVERAL = 3, 8, (1, 5, 40, 52, 69, 77, 85, 90)
# Unequal lengths, out of order, and with the ids of pad, <eos> and the reward token inside and at the ends.
PROMPTS = [[21, 22, 0, 1], [40], [33, 3, 3, 57, 58, 0, 61], [1, 21], [22, 9, 8, 7, 6, 5, 4, 5, 6, 7, 3], [99, 98]]
OPTIONS = {"kv_cache_memory_bytes": 1 << 26, "block_size": 32}


@pytest.fixture(scope="module")
def engine() -> Iterator[VLLMEngine]:
    """One vLLM for all tests: their policies differ in their weights alone."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed; .ci/vllm runs these tests")
    made = VLLMEngine(enforce_eager=True, engine_options=OPTIONS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def model_dirs(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable, save_model: Callable) -> list[Path]:
    """Two tiny random models of one shape, with heads of a size that vLLM has on CPUs, and no token out of reach."""
    config = tiny_config(Qwen2Config, hidden_size=64, tie_word_embeddings=False, initializer_range=0.15)
    return [save_model(tmp_path_factory.mktemp("model"), config, seed) for seed in (0, 1)]


@pytest.fixture
def policy(make_policy: MakePolicy, model_dirs: list[Path], engine: VLLMEngine) -> Policy:
    """A policy with several <eos> ids, whose weights the engine does not have yet."""
    engine.weights_changed()
    return make_policy(model_dirs[0], eos_ids=SEVERAL)


def generate(
    engine: VLLMEngine,
    policy: Policy,
    sampling: Sampling,
    seed: int = 0,
    prompts: list[list[int]] = PROMPTS,
    group_size: int = 8,
) -> Rollouts:
    generator = torch.Generator().manual_seed(seed)
    return engine.generate(policy, prompts, group_size, sampling, (Z,), generator)


@pytest.fixture
def check(plain_pass: Callable) -> Check:
    """``check(policy, rollouts, sampling, prompts=PROMPTS)``: everything that the record promises, row by row."""

    def check_rows(policy: Policy, rollouts: Rollouts, sampling: Sampling, prompts: list[list[int]] = PROMPTS) -> None:
        for i, prompt in enumerate(prompts):
            assert rollouts.prompt_ids[i, : int(rollouts.prompt_lengths[i])].tolist() == prompt
        longest = int(rollouts.response_lengths.max())
        assert rollouts.response_ids.shape == rollouts.sampling_log_probs.shape == (len(rollouts), longest)
        padding = ~rollouts.response_mask
        assert bool((rollouts.response_ids[padding] == policy.pad_token_id).all())
        assert not rollouts.sampling_log_probs[padding].any()
        policy.lm.eval()
        for row, response in enumerate(rollouts.responses()):
            ends = [place for place, token in enumerate(response) if token in policy.eos_token_ids]
            finished = bool(rollouts.finished[row])
            assert ends == ([len(response) - 1] if finished else [])
            assert finished or len(response) == sampling.max_response_tokens
            with torch.no_grad():
                plain = plain_pass(policy.lm, prompts[row // rollouts.group_size], response, sampling.temperature or 1)
            ours = rollouts.sampling_log_probs[row, : len(response)]
            torch.testing.assert_close(ours, plain.log_probs, rtol=0, atol=1e-4)
            score = plain.after_last[Z] if finished else torch.tensor(torch.nan)
            torch.testing.assert_close(
                rollouts.reward_token_log_probs[row, 0], score, rtol=0, atol=1e-4, equal_nan=True
            )

    return check_rows


def kinds(rollouts: Rollouts, limit: int) -> set[str]:
    """Which kinds of response there are."""
    lengths, finished = rollouts.response_lengths, rollouts.finished
    found = {
        "truncated": ~finished,
        "one token": finished & (lengths == 1),
        "in the middle": finished & (lengths > 1) & (lengths < limit),
        "last place": finished & (lengths == limit),
    }
    return {name for name, rows in found.items() if rows.any()}


# ----------------------------------------------------- scores and log-probs


@pytest.mark.vllm
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_scores_and_log_probs_are_those_of_a_plain_forward_pass(
    engine: VLLMEngine, policy: Policy, check: Check, options: dict[str, Any]
) -> None:
    sampling = Sampling(max_response_tokens=LIMIT, **options)
    rollouts = generate(engine, policy, sampling)
    assert {"truncated", "in the middle"} <= kinds(rollouts, LIMIT)
    assert rollouts.reward_token_log_probs[rollouts.finished].std() > 0.1  # a score of a wrong place would be seen
    check(policy, rollouts, sampling)


@pytest.mark.vllm
@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_several_reward_tokens(engine: VLLMEngine, policy: Policy, plain_pass: Callable, temperature: float) -> None:
    sampling, tokens = Sampling(max_response_tokens=LIMIT, temperature=temperature), [Z, 50, 61]
    generator = torch.Generator().manual_seed(0)
    rollouts = engine.generate(policy, PROMPTS, 8, sampling, tokens, generator)
    alone = generate(engine, policy, sampling)
    assert torch.equal(rollouts.response_ids, alone.response_ids)
    assert {True, False} == set(rollouts.finished.tolist())
    policy.lm.eval()
    for row, response in enumerate(rollouts.responses()):
        with torch.no_grad():
            plain = plain_pass(policy.lm, PROMPTS[row // 8], response)
        expected = plain.after_last[tokens] if rollouts.finished[row] else torch.full((3,), torch.nan)
        found = rollouts.reward_token_log_probs[row]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4, equal_nan=True)


@pytest.mark.vllm
@pytest.mark.parametrize("eos_ids", [(1,), (5, 90), SEVERAL], ids=str)
def test_eos_ids_and_every_kind_of_response(
    engine: VLLMEngine, make_policy: MakePolicy, model_dirs: list[Path], check: Check, eos_ids: tuple[int, ...]
) -> None:
    policy, sampling = make_policy(model_dirs[1], eos_ids=eos_ids), Sampling(max_response_tokens=LIMIT)
    engine.weights_changed()
    rollouts = generate(engine, policy, sampling, group_size=80)
    assert kinds(rollouts, LIMIT) == {"truncated", "one token", "in the middle", "last place"}
    last = rollouts.response_ids.gather(1, rollouts.response_lengths[:, None] - 1)[rollouts.finished]
    assert set(last.flatten().tolist()) == set(eos_ids)
    check(policy, rollouts, sampling)


@pytest.mark.vllm
@pytest.mark.parametrize("limit", [1, 2])
def test_short_limits(engine: VLLMEngine, policy: Policy, check: Check, limit: int) -> None:
    sampling = Sampling(max_response_tokens=limit)
    rollouts = generate(engine, policy, sampling, group_size=16)
    assert {"truncated", "one token"} <= kinds(rollouts, limit)
    check(policy, rollouts, sampling)


@pytest.mark.vllm
def test_a_reward_token_that_the_model_writes_is_a_token_like_others(
    engine: VLLMEngine, policy: Policy, check: Check
) -> None:
    policy.lm.get_output_embeddings().weight.data[Z] *= 4  # more extreme logits, so often the largest
    sampling = Sampling(max_response_tokens=LIMIT)
    rollouts = generate(engine, policy, sampling, group_size=16)
    written = rollouts.contains(Z)
    assert (written & rollouts.finished).any()
    assert (written & ~rollouts.finished).any()
    check(policy, rollouts, sampling)


@pytest.mark.vllm
def test_temperature_zero_is_greedy(engine: VLLMEngine, policy: Policy, check: Check) -> None:
    sampling = Sampling(max_response_tokens=LIMIT, temperature=0)
    rollouts = generate(engine, policy, sampling, group_size=1)
    assert {True, False} == set(rollouts.finished.tolist())
    check(policy, rollouts, sampling)
    for prompt, response in zip(PROMPTS, rollouts.responses(), strict=True):
        with torch.no_grad():
            logits = policy.lm(input_ids=torch.tensor([prompt + response])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(dim=1).tolist() == response


# ------------------------------------------------------------- new weights


@pytest.mark.vllm
def test_new_weights_are_used_once_they_are_announced(
    engine: VLLMEngine, policy: Policy, make_policy: MakePolicy, model_dirs: list[Path], check: Check
) -> None:
    sampling = Sampling(max_response_tokens=LIMIT, temperature=0.7)
    # Prompts of more than two blocks, whose keys and values vLLM keeps.
    prompts = [[(7 * place + number) % 100 for place in range(70)] for number in range(3)]
    check(policy, generate(engine, policy, sampling, prompts=prompts), sampling, prompts)
    updated = make_policy(model_dirs[0], eos_ids=SEVERAL)
    with torch.no_grad():
        for parameter in updated.lm.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    stale = generate(engine, updated, sampling, prompts=prompts)
    check(policy, stale, sampling, prompts)
    engine.weights_changed()
    check(updated, generate(engine, updated, sampling, prompts=prompts), sampling, prompts)


@pytest.mark.vllm
def test_a_group_shares_its_prompt(engine: VLLMEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(engine, policy, Sampling(max_response_tokens=1))
    cached: list[int] = []
    plain = engine._llm.generate

    def spy(*args: Any, **options: Any) -> Any:
        outputs = plain(*args, **options)
        cached.extend(output.num_cached_tokens for output in outputs)
        return outputs

    monkeypatch.setattr(engine._llm, "generate", spy)
    prompt = [place % 100 for place in range(70)]
    generate(engine, policy, Sampling(max_response_tokens=2), prompts=[prompt], group_size=4)
    assert cached[:4] == [0, 64, 64, 64]  # the prompt's two whole blocks of 32 tokens


@pytest.mark.vllm
def test_weights_that_do_not_arrive_are_noticed(
    engine: VLLMEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(engine, policy, Sampling(max_response_tokens=LIMIT))
    with torch.no_grad():  # an update that does not reach vLLM
        for parameter in policy.lm.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    engine.weights_changed()
    monkeypatch.setattr(vllm_engine, "hf_weights", lambda policy: iter(()))
    with pytest.raises(UserError, match="did not take all of its weights"):
        generate(engine, policy, Sampling(max_response_tokens=LIMIT))
    engine.weights_changed()


@pytest.mark.vllm
def test_it_starts_again_after_it_was_closed(engine: VLLMEngine, policy: Policy, check: Check) -> None:
    sampling = Sampling(max_response_tokens=LIMIT)
    first = generate(engine, policy, sampling)
    engine.close()
    assert not torch.distributed.is_initialized()
    engine.close()  # nothing is left to close
    again = generate(engine, policy, sampling)
    assert torch.equal(first.response_ids, again.response_ids)
    check(policy, again, sampling)


# --------------------------------------------------------------- randomness


@pytest.mark.vllm
def test_the_generator_alone_fixes_the_rollouts(engine: VLLMEngine, policy: Policy) -> None:
    sampling = Sampling(max_response_tokens=LIMIT)
    generate(engine, policy, sampling)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    first = engine.generate(policy, PROMPTS, 8, sampling, (Z,), generator)
    second = engine.generate(policy, PROMPTS, 8, sampling, (Z,), generator)
    generator.set_state(state)
    again = engine.generate(policy, PROMPTS, 8, sampling, (Z,), generator)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert torch.equal(first.response_ids, again.response_ids)
    assert first.responses() != second.responses()  # the generator has moved on
    assert first.responses() != generate(engine, policy, sampling, seed=2).responses()
    groups = [first.responses()[start : start + 8] for start in range(0, len(first), 8)]
    assert all(len({tuple(response) for response in group}) > 4 for group in groups)


@pytest.mark.vllm
def test_first_tokens_follow_the_softmax(engine: VLLMEngine, policy: Policy) -> None:
    rollouts = generate(engine, policy, Sampling(1, temperature=0.7), prompts=[[40]], group_size=4000)
    policy.lm.eval()
    with torch.no_grad():
        probs = (policy.lm(input_ids=torch.tensor([[40]])).logits[0, -1] / 0.7).softmax(0)
    counts = torch.bincount(rollouts.response_ids[:, 0], minlength=100)
    common = probs > 0.01
    assert common.sum() > 5
    deviations = (probs * (1 - probs) / 4000).sqrt()[common]  # of a share
    assert ((counts / 4000 - probs)[common].abs() < 4.5 * deviations).all()


# ------------------------------------------------------------------- limits


@pytest.mark.vllm
def test_no_prompts_give_no_solutions(engine: VLLMEngine, policy: Policy) -> None:
    rollouts = generate(engine, policy, Sampling(max_response_tokens=LIMIT), prompts=[])
    assert len(rollouts) == 0


@pytest.mark.vllm
def test_what_does_not_fit_is_refused(engine: VLLMEngine, policy: Policy, check: Check) -> None:
    prompts, sampling = [[40] * 247], Sampling(max_response_tokens=LIMIT)
    rollouts = generate(engine, policy, sampling, prompts=prompts)
    check(policy, rollouts, sampling, prompts)  # 247 + 8 + 1 places of the model's 256
    with pytest.raises(UserError, match=r"248 tokens.*256 places"):
        generate(engine, policy, sampling, prompts=[[40] * 248])


@pytest.mark.vllm
def test_damaged_weights_are_refused(engine: VLLMEngine, policy: Policy) -> None:
    policy.lm.get_input_embeddings().weight.data[:] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        generate(engine, policy, Sampling(max_response_tokens=LIMIT))
    engine.close()  # what is not finite stays in the blocks of its cache


# --------------------------------------------------------------- the trainer


@pytest.mark.vllm
def test_a_scorer_announces_its_weights(
    engine: VLLMEngine,
    policy: Policy,
    make_policy: MakePolicy,
    model_dirs: list[Path],
    policy_tokenizer: PreTrainedTokenizerBase,
) -> None:
    generate(engine, policy, Sampling(1))
    settings = SelfRewardSettings("<|reward|>", Z, beta=0.25, reference_constant=-9.0, step=0)
    scorer = LaSeRScorer(make_policy(model_dirs[1], eos_ids=SEVERAL), policy_tokenizer, settings, engine)
    (solutions,) = scorer.generate(["1+2="], 16, Sampling(LIMIT))
    scored = scorer.score(["1+2="] * 16, [solution.token_ids for solution in solutions])
    assert {solution.finished for solution in solutions} == {True, False}
    assert [s.self_reward for s in solutions] == pytest.approx([s.self_reward for s in scored], abs=1e-5)


@pytest.mark.vllm
@pytest.mark.usefixtures("engine")
def test_the_trainer_sees_the_scores_of_the_weights_of_each_step(tmp_path: Path) -> None:
    arguments = {
        "trainer.max_steps": 3,
        "trainer.enable_progress_bar": "false",
        "data.prompts_per_step": 8,
        "data.val.arithmetic.init_args.size": 3,
        "calibration.prompts": 8,
        "model.evaluation.samples": 2,
        "model.optimizer.warmup_steps": 0,
        "model.engine.enforce_eager": "true",
        "model.engine.engine_options": str(OPTIONS).replace("'", '"'),
    }
    overlays = ["--config", "quickstart", "--config", "engine/vllm", "--run_dir", "run"]
    command = [sys.executable, "-m", "laser_lightning", "fit", *overlays]
    command += [f"--{key}={value}" for key, value in arguments.items()]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-10000:]
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    for name in ("reward_token_log_prob", "token_log_prob"):
        gaps = [float(row[f"train/mismatch/{name}"]) for row in rows if row[f"train/mismatch/{name}"]]
        assert len(gaps) == 3
        assert max(gaps) < 1e-4
    assert sum(bool(row["val/arithmetic/pass@1"]) for row in rows) == 2  # before the first step and at the end


# --------------------------------------------------------- without vLLM too


def test_without_vllm_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "laser-lightning\[vllm\]"'):
        VLLMEngine()


@pytest.mark.parametrize(
    "options",
    [{"tensor_parallel_size": 0}, {"gpu_memory_utilization": 0.0}, {"max_num_seqs": 0}],
    ids=str,
)
def test_arguments_out_of_range_are_refused(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=next(iter(options))):
        VLLMEngine(**options)


@pytest.mark.parametrize(
    ("device", "tensor_parallel_size", "message"),
    [
        ("cpu", 2, "tensor_parallel_size = 2 does not divide the number of processes, 1"),
        ("cuda:1", 1, "on cuda:1 and vLLM would be on device 0"),
    ],
)
def test_a_place_that_vllm_cannot_take_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, tensor_parallel_size: int, message: str
) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: True)
    engine = VLLMEngine(tensor_parallel_size=tensor_parallel_size)
    engine._owns_process_group = True
    with pytest.raises(UserError, match=message):
        engine._placement(torch.device(device), 1)


def test_weights_have_the_type_of_the_trainers_passes(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_info", told.append)
    policy = make_policy()
    assert decoding_dtype(None, policy) == "float32"
    with torch.autocast("cpu", torch.bfloat16):
        assert decoding_dtype("float32", policy) == "float32"
        assert not told
        assert decoding_dtype(None, policy) == "bfloat16"
    assert "weights are bfloat16, in which the trainer's passes" in told.pop()
    policy.lm.to(torch.bfloat16)  # as DeepSpeed does under bf16-mixed
    assert decoding_dtype(None, policy) == "bfloat16"
    assert not told


class SleepyLLM:
    """Writes down what is asked of vLLM, which cannot sleep on CPUs."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {tags[0]}")

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        self.calls.append(method)

    def reset_prefix_cache(self) -> None:
        self.calls.append("reset")


def test_memory_comes_back_in_an_order_that_never_holds_all_of_it(
    monkeypatch: pytest.MonkeyPatch, make_policy: MakePolicy
) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: True)
    engine, llm, policy = VLLMEngine(), SleepyLLM(), make_policy()
    engine.sleep()  # before the first rollout there is nothing to give back
    engine._llm = llm
    engine.sleep()
    engine.sleep()
    engine._ready(nullcontext(vllm_engine.hf_weights(policy)))
    assert llm.calls == ["sleep 2", "wake weights", "reload_weights", "wake kv_cache", "reset"]
    engine.take_weights(policy, nullcontext(iter(())))  # nothing is stale
    assert len(llm.calls) == 5
    engine.may_sleep = False
    engine.sleep()
    engine.weights_changed()
    engine.take_weights(policy, nullcontext(iter(())))
    assert llm.calls[5:] == ["reload_weights", "reset"]
