"""Passes over prompts with a bound on their tokens, and the tokens that a cache may hold by default."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.rollout.transformers import memory
from laser_lightning.rollout.transformers.cache import cache_argument

MakePolicy = Callable[..., Policy]
Z, GROUP, LIMIT = 3, 2, 6
# 1 to 23 tokens, out of order.
PROMPTS = [[(7 * p + 5 * i) % 90 + 8 for i in range((p * 7) % 23 + 1)] for p in range(9)]


def generate(policy: Policy, prompts: list[list[int]] = PROMPTS, **engine: Any) -> Rollouts:
    made = TransformersEngine(**engine)
    sampling = Sampling(max_response_tokens=LIMIT)
    return made.generate(policy, prompts, GROUP, sampling, (Z,), torch.Generator().manual_seed(0))


def prefills(policy: Policy) -> list[tuple[int, int]]:
    """A list that receives rows and tokens of each pass over prompts."""
    seen: list[tuple[int, int]] = []

    def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        rows, length = kwargs["input_ids"].shape
        cache = kwargs.get(cache_argument(module))
        if cache is not None and (length > 1 or cache.get_seq_length() == 1):
            seen.append((rows, length))

    policy.lm.get_decoder().register_forward_hook(hook, with_kwargs=True)
    return seen


def same(found: Rollouts, expected: Rollouts) -> None:
    assert torch.equal(found.response_ids, expected.response_ids)
    assert torch.equal(found.finished, expected.finished)
    for name in ("sampling_log_probs", "reward_token_log_probs"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=0, atol=2e-5, equal_nan=True, msg=name
        )


def test_every_family_reads_its_prompts_in_pieces(make_policy: MakePolicy, family: Any) -> None:
    # The scores of one pass, of passes of at most 40 places (rows of like length), and of at most 5, so that longer
    # prompts are run piece by piece: windows of 4 and positions go on where the piece before stopped.
    policy = make_policy(family.path, eos_bias=family.eos_bias)
    whole = generate(policy)
    assert 0 < int(whole.finished.sum()) < len(whole)
    for most in (40, 5):
        same(generate(policy, max_prefill_tokens=most), whole)


def test_no_pass_is_larger_than_the_bound(make_policy: MakePolicy) -> None:
    policy = make_policy(eos_bias=-60.0)  # no row ends early, so that passes of one token are steps
    seen = prefills(policy)
    generate(policy, max_prefill_tokens=24)
    # Lengths 1, 8, 15, 22, 6, 13, 20, 4, 11, ascending: 1 and 4 and 6 fill 18 of 24 places (8 would make 32),
    # 8 and 11 fill 22, then one prompt each.
    assert sorted(len(prompt) for prompt in PROMPTS) == [1, 4, 6, 8, 11, 13, 15, 20, 22]
    assert seen == [(3, 6), (2, 11), (1, 13), (1, 15), (1, 20), (1, 22)]
    seen.clear()
    generate(policy, [PROMPTS[3]], max_prefill_tokens=8)
    assert seen == [(1, 8), (1, 8), (1, 6)]  # 22 tokens


def test_a_round_within_the_bound_is_as_it_was(make_policy: MakePolicy) -> None:
    policy = make_policy(eos_bias=3.5)
    seen = prefills(policy)
    generate(policy, max_prefill_tokens=9 * 22)
    assert seen[0] == (9, 22)


def test_prompts_that_wait_are_bounded_too(make_policy: MakePolicy) -> None:
    policy = make_policy(eos_bias=3.5)
    whole = generate(policy, max_batch_size=8)
    same(generate(policy, max_batch_size=8, max_prefill_tokens=7), whole)


def test_a_bound_must_be_a_number_of_tokens() -> None:
    with pytest.raises(UserError, match=r"engine\.max_prefill_tokens is 0, and must be at least 1"):
        TransformersEngine(max_prefill_tokens=0)


# ------------------------------------------------------------ what a cache may hold


def test_bytes_of_a_token(make_policy: MakePolicy) -> None:
    # 2 layers with 1 head of 16 numbers of 4 bytes, for keys and for values
    assert memory.token_bytes(make_policy()) == 2 * 2 * 1 * 16 * 4
    assert memory.token_bytes(make_policy(dtype="bfloat16")) == 2 * 2 * 1 * 16 * 2


def test_a_container_has_less_than_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, limit = torch.device("cpu"), tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTAINER_LIMIT", limit)
    whole = memory.memory_bytes(device)
    assert whole > 2**28
    limit.write_text("max\n")
    assert memory.memory_bytes(device) == whole
    limit.write_text(f"{2**28}\n")
    assert memory.memory_bytes(device) == 2**28


def test_the_default_fits_the_machine_and_is_said_once(
    make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(eos_bias=-60.0)
    told: list[str] = []
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_info", told.append)
    engine, sampling = TransformersEngine(), Sampling(max_response_tokens=LIMIT)

    def rows_at_once() -> int:
        rows: list[int] = []
        handle = policy.lm.get_decoder().register_forward_hook(
            lambda module, args, kwargs, output: rows.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        engine.generate(policy, PROMPTS, GROUP, sampling, (Z,), torch.Generator().manual_seed(0))
        handle.remove()
        return max(rows)

    assert rows_at_once() == 18  # all: 9 prompts x 2
    assert told == []
    # A third of 90 kB, at 256 bytes a token: 117 tokens. A row has up to 22 + 6 tokens, and 3 more while prompts wait.
    monkeypatch.setattr(memory, "memory_bytes", lambda device: 90_000)
    assert rows_at_once() <= 117 // (1 + LIMIT)
    assert rows_at_once() < 18
    assert len(told) == 1
    assert told[0].startswith("Decoding keeps at most 117 tokens in its cache, ")
    assert "so that up to 4 responses of 28 tokens are decoded together: engine.max_cached_tokens" in told[0]
    # A group is decoded whatever there is.
    monkeypatch.setattr(memory, "memory_bytes", lambda device: 0)
    assert rows_at_once() >= GROUP


# ------------------------------------------------------------------- progress


def test_how_far_a_round_is(make_policy: MakePolicy) -> None:
    policy, told = make_policy(eos_bias=3.5), []
    engine = TransformersEngine(max_batch_size=8)
    engine.progress = lambda done, total: told.append((done, total))
    sampling = Sampling(max_response_tokens=LIMIT)
    engine.generate(policy, PROMPTS, GROUP, sampling, (Z,), torch.Generator().manual_seed(0))
    done = [count for count, _ in told]
    assert {total for _, total in told} == {18}
    assert done == sorted(set(done))  # each number once
    assert len(done) > 3
    assert done[-1] == 18
