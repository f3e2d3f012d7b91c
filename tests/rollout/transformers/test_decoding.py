"""The running batch of a round that is larger than it: prompts that wait take the places of rows that end."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Lfm2Config, PretrainedConfig

from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.rollout.transformers.cache import GrowingCache, cache_argument

MakePolicy = Callable[..., Policy]
Z = 3  # <|reward|>
GROUP = 2
LIMIT = 16
# 20 prompts of 1 to 23 tokens, out of order.
PROMPTS = [[(7 * p + 5 * i) % 90 + 8 for i in range((p * 7) % 23 + 1)] for p in range(20)]
BATCH = 5 * GROUP


def generate(
    policy: Policy, sampling: Sampling, seed: int = 0, prompts: list[list[int]] = PROMPTS, **engine: Any
) -> Rollouts:
    generator = torch.Generator().manual_seed(seed)
    options = {"max_batch_size": BATCH} | engine
    return TransformersEngine(**options).generate(policy, prompts, GROUP, sampling, (Z,), generator)


def passes(policy: Policy) -> list[tuple[int, int, int, int]]:
    """A list that receives of every pass: rows, tokens of each, columns attended to, and room for tokens in a layer."""
    seen: list[tuple[int, int, int, int]] = []

    def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if (cache := kwargs.get(cache_argument(module))) is None:
            return  # of a plain pass
        rows, length = kwargs["input_ids"].shape
        buffers = [layer.key_buffer.data for layer in cache.layers if hasattr(layer, "key_buffer")]
        room = max(buffer.shape[0] * buffer.shape[2] for buffer in buffers)
        seen.append((rows, length, cache.get_seq_length(), room))

    policy.lm.get_decoder().register_forward_hook(hook, with_kwargs=True)
    return seen


def check(
    policy: Policy,
    rollouts: Rollouts,
    plain_pass: Callable,
    temperature: float = 1.0,
    prompts: list[list[int]] = PROMPTS,
) -> None:
    """Lengths, ends, log-probs and scores, row by row, against plain forward passes."""
    policy.lm.eval()
    atol = 2e-5  # the rounding of float32 with log-probs of 10 (1.2e-5 was seen)
    for i, response in enumerate(rollouts.responses()):
        ends = [place for place, token in enumerate(response) if token in policy.eos_token_ids]
        assert ends == ([len(response) - 1] if rollouts.finished[i] else [])
        assert rollouts.finished[i] or len(response) == LIMIT
        with torch.no_grad():
            plain = plain_pass(policy.lm, prompts[i // GROUP], response, temperature)
        log_probs = rollouts.sampling_log_probs[i, : len(response)]
        torch.testing.assert_close(log_probs, plain.log_probs, rtol=0, atol=atol)
        score = plain.after_last[Z] if rollouts.finished[i] else torch.tensor(torch.nan)
        torch.testing.assert_close(rollouts.reward_token_log_probs[i, 0], score, rtol=0, atol=atol, equal_nan=True)
    padding = ~rollouts.response_mask
    assert bool((rollouts.response_ids[padding] == policy.pad_token_id).all())
    assert not rollouts.sampling_log_probs[padding].any()


def joins(seen: list[tuple[int, int, int, int]]) -> int:
    """Passes over prompts; a part of the round, or a join."""
    return sum(length > 1 for _, length, _, _ in seen)


# ----------------------------------------------------------- the same results


@pytest.mark.parametrize("drop_fraction", [0.0, 0.3])
def test_all_families_and_their_scores(
    family: tuple[Path, float], make_policy: MakePolicy, plain_pass: Callable, drop_fraction: float
) -> None:
    path, eos_bias = family
    policy = make_policy(path, eos_bias=0.9 * eos_bias)
    seen = passes(policy)
    rollouts = generate(policy, Sampling(max_response_tokens=LIMIT), drop_fraction=drop_fraction)
    assert joins(seen) > len(PROMPTS) * GROUP / BATCH  # more than there were parts
    assert {True, False} == set(rollouts.finished.tolist())
    check(policy, rollouts, plain_pass)


def test_greedy_responses_are_those_of_parts(
    family: tuple[Path, float], make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, eos_bias = family
    policy, sampling = make_policy(path, eos_bias=eos_bias * 0.8), Sampling(max_response_tokens=LIMIT, temperature=0)
    refilled = generate(policy, sampling)
    monkeypatch.setattr(GrowingCache, "only_attention", False)
    seen = passes(policy)
    parts = generate(policy, sampling)
    assert joins(seen) == len(PROMPTS) * GROUP / BATCH
    assert len(set(parts.response_lengths.tolist())) > 2
    for name in ("response_ids", "response_lengths", "finished"):
        assert torch.equal(getattr(refilled, name), getattr(parts, name))
    for name in ("sampling_log_probs", "reward_token_log_probs"):
        torch.testing.assert_close(getattr(refilled, name), getattr(parts, name), rtol=0, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("pad_id", [0, 5])
@pytest.mark.parametrize("engine", [{"max_batch_size": 7}, {"drop_fraction": 1.0}, {"max_cached_tokens": 200}], ids=str)
def test_several_eos_ids(make_policy: MakePolicy, plain_pass: Callable, engine: dict[str, Any], pad_id: int) -> None:
    policy = make_policy(eos_bias=2.5, eos_ids=(1, 5, 90), pad_id=pad_id)
    rollouts = generate(policy, Sampling(max_response_tokens=LIMIT, temperature=0.9), **engine)
    last = {response[-1] for response, done in zip(rollouts.responses(), rollouts.finished, strict=True) if done}
    assert last == {1, 5, 90}
    check(policy, rollouts, plain_pass, temperature=0.9)


def test_a_long_prompt_joins_a_batch_of_short_rows(make_policy: MakePolicy, plain_pass: Callable) -> None:
    """Its columns begin in front of all the others."""
    policy, prompts = make_policy(eos_bias=3.5), PROMPTS[:7] + [[9]] * 9
    seen = passes(policy)
    rollouts = generate(policy, Sampling(max_response_tokens=LIMIT), prompts=prompts, drop_fraction=0.0)
    assert any(length > before for (_, _, before, _), (_, length, _, _) in pairwise(seen))
    assert any(1 < length < before for (_, _, before, _), (_, length, _, _) in pairwise(seen))
    check(policy, rollouts, plain_pass, prompts=prompts)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:7] + [[9]] * 9], ids=["even", "uneven"])
def test_nothing_depends_on_what_new_memory_holds(
    make_policy: MakePolicy, plain_pass: Callable, monkeypatch: pytest.MonkeyPatch, prompts: list[list[int]]
) -> None:
    new_empty = Tensor.new_empty

    def damaged(self: Tensor, *size: Any, **options: Any) -> Tensor:
        made = new_empty(self, *size, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(Tensor, "new_empty", damaged)
    policy = make_policy(eos_bias=3.5)
    # One row more than the groups of the first batch: it is new when a group first takes it.
    engine = {"drop_fraction": 0.0, "max_batch_size": BATCH + 1, "prompts": prompts}
    check(policy, generate(policy, Sampling(max_response_tokens=LIMIT), **engine), plain_pass, prompts=prompts)


def test_a_seed_fixes_the_rollouts(make_policy: MakePolicy) -> None:
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    first, again, other = (generate(policy, sampling, seed) for seed in (1, 1, 2))
    for name in ("response_ids", "response_lengths", "finished", "sampling_log_probs"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.equal(first.reward_token_log_probs.nan_to_num(), again.reward_token_log_probs.nan_to_num())
    assert not torch.equal(first.response_ids, other.response_ids)


# ------------------------------------------------------------------ its cost


def test_the_batch_stays_full_until_nothing_waits(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    seen = passes(policy)
    rollouts = generate(policy, sampling, drop_fraction=0.0)
    last_join = max(i for i, (_, length, _, _) in enumerate(seen) if length > 1)
    steps = [rows for rows, length, _, _ in seen[:last_join] if length == 1]
    # Whole groups join: up to a group less one row, and the rows that end in a step, are missing in the next one.
    assert max(steps) == BATCH
    assert sum(steps) / len(steps) > 0.8 * BATCH
    # Nothing else is fed: a finished row feeds every token of its response, a truncated one all but the last.
    fed = sum(rows for rows, length, _, _ in seen if length == 1)
    ended = int((~rollouts.finished).sum())
    assert fed == int(rollouts.response_lengths.sum()) - ended
    # And each prompt is run once.
    assert sum(rows for rows, length, _, _ in seen if length > 1) == len(PROMPTS)
    refilled = sum(length == 1 for _, length, _, _ in seen)
    monkeypatch.setattr(GrowingCache, "only_attention", False)
    generate(policy, sampling, drop_fraction=0.0)
    assert sum(length == 1 for _, length, _, _ in seen) - refilled > 1.2 * refilled  # parts take more steps


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_cached_tokens_stay_within_the_budget(make_policy: MakePolicy, plain_pass: Callable, scale: int) -> None:
    budget = scale * GROUP * (23 + LIMIT)  # at the least, a group of the longest prompt
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    seen = passes(policy)
    rollouts = generate(policy, sampling, max_batch_size=1024, max_cached_tokens=budget, drop_fraction=0.0)
    assert 0.5 * budget < max(room for _, _, _, room in seen) <= budget
    check(policy, rollouts, plain_pass)


@pytest.mark.parametrize("drop_fraction", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("eos_bias", [3.0, 2.0])
def test_the_cache_is_no_wider_than_its_longest_row_needs(
    make_policy: MakePolicy, drop_fraction: float, eos_bias: float
) -> None:
    policy = make_policy(eos_bias=eos_bias)
    seen = passes(policy)
    generate(policy, Sampling(max_response_tokens=LIMIT), drop_fraction=drop_fraction, max_batch_size=3 * GROUP)
    assert sum(length == 1 for _, length, _, _ in seen) > 2 * LIMIT
    spare = (23 + LIMIT) // 8
    assert max(width for _, _, width, _ in seen) <= 23 + LIMIT + spare


def test_a_round_that_fits_is_one_batch(make_policy: MakePolicy) -> None:
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    seen = passes(policy)
    rows = len(PROMPTS) * GROUP
    generate(policy, sampling, max_batch_size=rows, max_cached_tokens=rows * (23 + LIMIT))  # no spare columns
    assert joins(seen) == 1


def test_layers_that_hold_more_than_keys_and_values_decode_in_parts(
    make_policy: MakePolicy,
    plain_pass: Callable,
    tmp_path: Path,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
) -> None:
    path = save_model(tmp_path, tiny_config(Lfm2Config, layer_types=["conv", "full_attention"]))
    policy = make_policy(path, eos_bias=3.5)
    seen = passes(policy)
    rollouts = generate(policy, Sampling(max_response_tokens=LIMIT), drop_fraction=0.0)
    assert joins(seen) == len(PROMPTS) * GROUP / BATCH
    check(policy, rollouts, plain_pass)


def test_several_tokens_are_read_in_the_same_step(make_policy: Callable[..., Policy], plain_pass: Callable) -> None:
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=8)
    prompts = [[20, 15, 21], [27, 33, 40, 41], [9]]

    def read(*tokens: int) -> Rollouts:
        generator = torch.Generator().manual_seed(0)
        return TransformersEngine(max_batch_size=8).generate(policy, prompts, 4, sampling, tokens, generator)

    both, first = read(50, Z, 7), read(50)
    assert torch.equal(both.response_ids, first.response_ids)
    assert torch.equal(both.reward_token_log_probs[:, :1].nan_to_num(), first.reward_token_log_probs.nan_to_num())
    assert both.reward_token_log_probs.shape == (12, 3)
    assert both.reward_token_log_probs.isnan().equal(~both.finished[:, None].expand(-1, 3))
    assert both.finished.sum() > 0
    policy.lm.eval()
    for row, response in enumerate(both.responses()):
        with torch.no_grad():
            plain = plain_pass(policy.lm, prompts[row // 4], response)
        if both.finished[row]:
            torch.testing.assert_close(
                both.reward_token_log_probs[row], plain.after_last[[50, Z, 7]], rtol=0, atol=2e-5
            )
