"""The engine's responses, log-probs and scores against plain forward passes of transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Lfm2Config, PretrainedConfig

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling, TransformersEngine

MakePolicy = Callable[..., Policy]
Z = 3  # <|reward|>
EOS = 1
LIMIT = 8
# Unequal lengths, out of order, and with the ids of pad, <eos> and the reward token inside.
PROMPTS = [[21, 22, 0, 1], [40], [33, 3, 3, 57, 58, 0, 61], [1, 21], [22, 9, 8, 7, 6, 5, 4, 5, 6, 7, 8], [99, 98]]
GROUP = 3


class Row(NamedTuple):
    """One response as plain lists."""

    prompt: list[int]
    response: list[int]
    finished: bool
    log_probs: list[float]
    score: float


def rows_of(rollouts: Rollouts, prompts: list[list[int]]) -> list[Row]:
    """Take the record apart; solutions of a prompt must lie next to each other."""
    group = len(rollouts) // len(prompts)
    lengths = rollouts.response_lengths.tolist()
    return [
        Row(
            prompts[i // group],
            rollouts.response_ids[i, : lengths[i]].tolist(),
            bool(rollouts.finished[i]),
            rollouts.sampling_log_probs[i, : lengths[i]].tolist(),
            float(rollouts.reward_token_log_probs[i, 0]),
        )
        for i in range(len(rollouts))
    ]


def generate(
    policy: Policy,
    sampling: Sampling,
    seed: int = 0,
    prompts: list[list[int]] = PROMPTS,
    group_size: int = GROUP,
    **engine: Any,
) -> Rollouts:
    generator = torch.Generator().manual_seed(seed)
    return TransformersEngine(**engine).generate(policy, prompts, group_size, sampling, (Z,), generator)


def check(
    policy: Policy,
    rollouts: Rollouts,
    sampling: Sampling,
    plain_pass: Callable,
    prompts: list[list[int]],
    atol: float = 1e-5,
) -> None:
    """Everything that the record promises, row by row."""
    assert rollouts.prompt_lengths.tolist() == [len(prompt) for prompt in prompts]
    for i, prompt in enumerate(prompts):
        assert rollouts.prompt_ids[i, : len(prompt)].tolist() == prompt
    longest = int(rollouts.response_lengths.max())
    assert rollouts.response_ids.shape == rollouts.sampling_log_probs.shape == (len(rollouts), longest)
    padding = ~rollouts.response_mask
    assert bool((rollouts.response_ids[padding] == policy.pad_token_id).all())
    assert not rollouts.sampling_log_probs[padding].any()
    policy.lm.eval()
    for row in rows_of(rollouts, prompts):
        ends = [place for place, token in enumerate(row.response) if token in policy.eos_token_ids]
        if row.finished:
            assert ends == [len(row.response) - 1]  # at the first <eos>, and nothing follows
            assert len(row.response) <= sampling.max_response_tokens
        else:
            assert ends == []
            assert len(row.response) == sampling.max_response_tokens
        with torch.no_grad():
            plain = plain_pass(policy.lm, row.prompt, row.response, sampling.temperature or 1.0)
        torch.testing.assert_close(torch.tensor(row.log_probs), plain.log_probs, rtol=0, atol=atol)
        score = plain.after_last[Z] if row.finished else torch.tensor(torch.nan)
        torch.testing.assert_close(torch.tensor(row.score), score, rtol=0, atol=atol, equal_nan=True)


def kinds(rollouts: Rollouts, limit: int = LIMIT) -> set[str]:
    """Which kinds of response there are."""
    lengths, finished = rollouts.response_lengths, rollouts.finished
    found = {
        "truncated": ~finished,
        "one token": finished & (lengths == 1),
        "in the middle": finished & (lengths > 1) & (lengths < limit),
        "last place": finished & (lengths == limit),
    }
    return {name for name, rows in found.items() if rows.any()}


ALL_KINDS = {"truncated", "one token", "in the middle", "last place"}


# ----------------------------------------------------- scores and log-probs


@pytest.mark.parametrize("pad_id", [0, EOS], ids=["own-pad", "pad-is-eos"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_scores_and_log_probs_are_those_of_a_plain_forward_pass(
    make_policy: MakePolicy, plain_pass: Callable, options: dict[str, Any], pad_id: int
) -> None:
    policy = make_policy(eos_bias=3.5, pad_id=pad_id)
    sampling = Sampling(max_response_tokens=LIMIT, **options)
    rollouts = generate(policy, sampling)
    assert {"truncated", "in the middle"} <= kinds(rollouts)
    finished = rollouts.reward_token_log_probs[rollouts.finished]
    assert finished.std() > 0.1  # a score from a wrong place would be seen
    check(policy, rollouts, sampling, plain_pass, PROMPTS)


def test_every_kind_of_response(make_policy: MakePolicy, plain_pass: Callable) -> None:
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    rollouts = generate(policy, sampling, group_size=12)
    assert kinds(rollouts) == ALL_KINDS
    check(policy, rollouts, sampling, plain_pass, PROMPTS)


@pytest.mark.parametrize("max_batch_size", [3, 4, 7, 1024])
@pytest.mark.parametrize("drop_fraction", [0.0, 0.125, 1.0])
def test_parts_and_dropped_rows(
    make_policy: MakePolicy, plain_pass: Callable, max_batch_size: int, drop_fraction: float
) -> None:
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    rollouts = generate(policy, sampling, group_size=3, max_batch_size=max_batch_size, drop_fraction=drop_fraction)
    assert {"truncated", "in the middle"} <= kinds(rollouts)
    check(policy, rollouts, sampling, plain_pass, PROMPTS)


@pytest.mark.parametrize("pad_id", [0, 5, 7])
def test_several_eos_ids(make_policy: MakePolicy, plain_pass: Callable, pad_id: int) -> None:
    policy = make_policy(eos_bias=2.5, eos_ids=(1, 5, 90), pad_id=pad_id)
    sampling = Sampling(max_response_tokens=LIMIT)
    rollouts = generate(policy, sampling, group_size=8)
    last = {row.response[-1] for row in rows_of(rollouts, PROMPTS) if row.finished}
    assert last == {1, 5, 90}
    check(policy, rollouts, sampling, plain_pass, PROMPTS)


@pytest.mark.parametrize("limit", [1, 2])
def test_short_limits(make_policy: MakePolicy, plain_pass: Callable, limit: int) -> None:
    policy, sampling = make_policy(eos_bias=5.0), Sampling(max_response_tokens=limit)
    rollouts = generate(policy, sampling, group_size=6)
    assert {"truncated", "one token"} <= kinds(rollouts, limit)
    check(policy, rollouts, sampling, plain_pass, PROMPTS)


@pytest.mark.parametrize(("eos_bias", "expected"), [(60.0, {"one token"}), (-60.0, {"truncated"})])
def test_all_end_at_once_or_none_ends(
    make_policy: MakePolicy, plain_pass: Callable, eos_bias: float, expected: set[str]
) -> None:
    policy, sampling = make_policy(eos_bias=eos_bias), Sampling(max_response_tokens=LIMIT)
    rollouts = generate(policy, sampling)
    assert kinds(rollouts) == expected
    check(policy, rollouts, sampling, plain_pass, PROMPTS)


@pytest.mark.parametrize("prompts", [[[21, 22, 23]] * 3, [[40]], [[40], [40, 41]]], ids=str)
def test_prompts_with_and_without_padding(
    make_policy: MakePolicy, plain_pass: Callable, prompts: list[list[int]]
) -> None:
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    check(policy, generate(policy, sampling, prompts=prompts), sampling, plain_pass, prompts)


def test_temperature_zero_is_greedy(make_policy: MakePolicy, plain_pass: Callable) -> None:
    policy, sampling = make_policy(eos_bias=2.2), Sampling(max_response_tokens=LIMIT, temperature=0)
    rollouts = generate(policy, sampling)
    assert {True, False} == set(rollouts.finished.tolist())
    check(policy, rollouts, sampling, plain_pass, PROMPTS)
    with torch.no_grad():
        for row in rows_of(rollouts, PROMPTS):
            logits = policy.lm(input_ids=torch.tensor([row.prompt + row.response])).logits[0]
            assert logits[len(row.prompt) - 1 : -1].argmax(dim=1).tolist() == row.response


@pytest.mark.parametrize("prompts", [PROMPTS, [[21, 22, 23]] * 3], ids=["padded", "unpadded"])
@pytest.mark.parametrize("drop_fraction", [0.0, 1.0])
def test_all_families(
    family: tuple[Path, float],
    make_policy: MakePolicy,
    plain_pass: Callable,
    drop_fraction: float,
    prompts: list[list[int]],
) -> None:
    path, eos_bias = family
    policy, sampling = make_policy(path, eos_bias=eos_bias), Sampling(max_response_tokens=LIMIT)
    rollouts = generate(policy, sampling, prompts=prompts, group_size=8, drop_fraction=drop_fraction)
    assert {True, False} == set(rollouts.finished.tolist())
    # Some families scale their logits up, and with them the rounding of float32 (1.2e-5 was seen).
    check(policy, rollouts, sampling, plain_pass, prompts, atol=2e-5)


def test_gradient_checkpointing_does_not_disturb_the_cache(make_policy: MakePolicy, plain_pass: Callable) -> None:
    policy, sampling = make_policy(eos_bias=3.5, gradient_checkpointing=True), Sampling(max_response_tokens=LIMIT)
    check(policy, generate(policy, sampling), sampling, plain_pass, PROMPTS)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attentions_that_take_masks_of_either_kind(
    make_policy: MakePolicy, plain_pass: Callable, attention: str
) -> None:
    policy, sampling = make_policy(eos_bias=3.5, attention=attention), Sampling(max_response_tokens=LIMIT)
    shapes: set[int] = set()
    hook = policy.lm.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: shapes.add(kwargs["attention_mask"].ndim), with_kwargs=True
    )
    rollouts = generate(policy, sampling, drop_fraction=0.0)
    hook.remove()
    assert shapes == ({2, 4} if attention == "sdpa" else {2})  # the prefill's, and those of the steps
    check(policy, rollouts, sampling, plain_pass, PROMPTS)


def test_layers_without_keys_and_values(
    make_policy: MakePolicy,
    plain_pass: Callable,
    tmp_path: Path,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
) -> None:
    path = save_model(tmp_path, tiny_config(Lfm2Config, layer_types=["conv", "full_attention"]))
    policy, sampling = make_policy(path, eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    rollouts = generate(policy, sampling, group_size=6, drop_fraction=0.0)
    assert {"truncated", "in the middle"} <= kinds(rollouts)
    check(policy, rollouts, sampling, plain_pass, PROMPTS)


def test_long_responses(make_policy: MakePolicy, plain_pass: Callable) -> None:
    policy, sampling = make_policy(eos_bias=-1.0), Sampling(max_response_tokens=150)  # the cache makes room twice
    rollouts = generate(policy, sampling, prompts=PROMPTS[:3], drop_fraction=0.0)
    assert {True, False} == set(rollouts.finished.tolist())
    assert (rollouts.response_lengths[rollouts.finished] > 64).any()
    check(policy, rollouts, sampling, plain_pass, PROMPTS[:3], atol=2e-5)


# ------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("options", [{"top_k": 3}, {"min_p": 0.3}, {"top_p": 0.5}], ids=str)
def test_only_tokens_that_the_options_leave_are_drawn(make_policy: MakePolicy, options: dict[str, Any]) -> None:
    policy = make_policy(eos_bias=3.5)
    rollouts = generate(policy, Sampling(max_response_tokens=LIMIT, temperature=1.5, **options), group_size=6)
    policy.lm.eval()
    for row in rows_of(rollouts, PROMPTS):
        with torch.no_grad():
            logits = policy.lm(input_ids=torch.tensor([row.prompt + row.response])).logits[0]
        for place, token in enumerate(row.response):
            probs = (logits[len(row.prompt) - 1 + place] / 1.5).softmax(0).tolist()
            likelier = [p for p in probs if p > probs[token]]
            if "top_k" in options:
                assert len(likelier) < 3
            elif "min_p" in options:
                assert probs[token] >= 0.3 * max(probs) * (1 - 1e-5)
            else:
                assert sum(likelier) < 0.5 + 1e-5


def chi_square_is_plausible(tokens: Tensor, probs: Tensor) -> bool:
    """Whether counts follow the distribution: chi-square within 4 standard deviations of its mean."""
    expected = probs * len(tokens)
    counts = torch.bincount(tokens, minlength=len(probs)).float()
    rare = expected < 5
    expected = torch.cat((expected[~rare], expected[rare].sum()[None]))
    counts = torch.cat((counts[~rare], counts[rare].sum()[None]))
    freedom = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum()) < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_follow_the_softmax(make_policy: MakePolicy, temperature: float) -> None:
    policy, prompts = make_policy(), [[40], [21, 22, 23]]
    rollouts = generate(
        policy,
        Sampling(max_response_tokens=2, temperature=temperature),
        prompts=prompts,
        group_size=4000,
        max_batch_size=10_000,
    )
    policy.lm.eval()

    def distribution(ids: list[int], at: float) -> Tensor:
        with torch.no_grad():
            return (policy.lm(input_ids=torch.tensor([ids])).logits[0, -1] / at).softmax(0)

    for prompt, drawn in zip(prompts, rollouts.response_ids.view(2, 4000, 2), strict=True):
        assert chi_square_is_plausible(drawn[:, 0], distribution(prompt, temperature))
        assert not chi_square_is_plausible(drawn[:, 0], distribution(prompt, temperature + 0.15))
        # and of those that began with the most frequent token, the second one
        first = int(drawn[:, 0].mode().values)
        second = drawn[drawn[:, 0] == first, 1]
        assert len(second) > 100
        assert chi_square_is_plausible(second, distribution([*prompt, first], temperature))


def test_a_seed_fixes_the_rollouts(make_policy: MakePolicy) -> None:
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    before = torch.get_rng_state()
    first, again, other = (generate(policy, sampling, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)  # only the given generator is used
    for name in ("response_ids", "response_lengths", "finished", "sampling_log_probs"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.equal(first.reward_token_log_probs.nan_to_num(), again.reward_token_log_probs.nan_to_num())
    assert not torch.equal(first.response_ids, other.response_ids)
    solutions = [tuple(row.response) for row in rows_of(first, PROMPTS)]
    assert len(set(solutions)) > len(PROMPTS)  # solutions of a prompt differ


# ------------------------------------------------------------------ its cost


def count_forwards(policy: Policy) -> list[tuple[int, int]]:
    """A list that receives the shape [B, L] of the token ids of every pass through the decoder."""
    shapes: list[tuple[int, int]] = []

    def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    policy.lm.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)
    return shapes


@pytest.mark.parametrize(
    ("seed", "eos_bias"), [(0, 3.5), (1, 3.5), (2, 3.5), (0, 5.0), (1, 5.0), (0, 60.0), (0, -60.0)]
)
@pytest.mark.parametrize("drop_fraction", [0.0, 1.0])
def test_the_score_costs_no_pass_of_its_own(
    make_policy: MakePolicy, seed: int, eos_bias: float, drop_fraction: float
) -> None:
    policy = make_policy(eos_bias=eos_bias)
    shapes = count_forwards(policy)
    rollouts = generate(policy, Sampling(max_response_tokens=LIMIT), seed, drop_fraction=drop_fraction)
    steps = int(rollouts.response_lengths.max())
    ended_in_the_last_step = int((rollouts.finished & (rollouts.response_lengths == steps)).sum())
    # Each prompt once, not once per solution; then a token at a time for all but the last step; and one more
    # pass only for the rows, if any, that ended in it.
    assert shapes[0] == (len(PROMPTS), max(map(len, PROMPTS)))
    assert [length for _, length in shapes[1:]] == [1] * (steps - 1 + (ended_in_the_last_step > 0))
    if ended_in_the_last_step:
        assert shapes[-1] == (ended_in_the_last_step, 1)
    if drop_fraction == 0:
        # A finished row feeds every token of its response, <eos> included, a truncated one all but the last.
        fed = int(rollouts.response_lengths.sum() - (~rollouts.finished).sum())
        assert sum(rows for rows, _ in shapes[1:]) == fed
    else:
        assert {rows for rows, _ in shapes[1:steps]} <= {len(rollouts)}


@pytest.mark.parametrize("drop_fraction", [0.0, 1.0])
def test_without_scores_the_last_eos_is_never_fed(make_policy: MakePolicy, drop_fraction: float) -> None:
    policy = make_policy(eos_bias=3.5)
    shapes = count_forwards(policy)
    rollouts = generate(policy, Sampling(max_response_tokens=LIMIT), drop_fraction=drop_fraction, scores=False)
    assert rollouts.finished.any()
    assert rollouts.reward_token_log_probs.isnan().all()
    assert len(shapes) == int(rollouts.response_lengths.max())
    if drop_fraction == 0:
        assert sum(rows for rows, _ in shapes[1:]) == int((rollouts.response_lengths - 1).sum())
    else:  # the same rows draw in every step, so that the responses are the same as with scores
        scored = generate(policy, Sampling(max_response_tokens=LIMIT), drop_fraction=drop_fraction)
        assert torch.equal(scored.response_ids, rollouts.response_ids)


def test_parts_hold_prompts_of_like_length(make_policy: MakePolicy) -> None:
    policy = make_policy(eos_bias=3.5)
    shapes = count_forwards(policy)
    generate(policy, Sampling(max_response_tokens=2), max_batch_size=2 * GROUP)
    # Lengths 4, 1, 7, 2, 11, 2, sorted: 1, 2; 2, 4; 7, 11.
    assert [shape for shape in shapes if shape[1] > 1] == [(2, 2), (2, 4), (2, 11)]


@pytest.mark.parametrize("max_batch_size", [1024, 2 * GROUP])
def test_parts_within_the_budget_of_cached_tokens(
    make_policy: MakePolicy, plain_pass: Callable, max_batch_size: int
) -> None:
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    shapes = count_forwards(policy)
    engine = {"max_batch_size": max_batch_size, "max_cached_tokens": 100}
    rollouts = generate(policy, sampling, drop_fraction=1.0, **engine)
    # Lengths 1, 2, 2, 4, 7, 11 with 8 response tokens and 3 responses to each prompt take, the first three together,
    # 9 x (2 + 8) = 90; with the next one 12 x (4 + 8) = 144. Then 6 x (7 + 8) = 90 and 3 x (11 + 8) = 57.
    parts = [(3, 2), (2, 7), (1, 11)]
    if (
        max_batch_size == 2 * GROUP
    ):  # two prompts at most: 6 x (2 + 8), 6 x (4 + 8), then 6 x (11 + 8) = 114 is too much
        parts = [(2, 2), (2, 4), (1, 7), (1, 11)]
    assert [shape for shape in shapes if shape[1] > 1] == parts
    check(policy, rollouts, sampling, plain_pass, PROMPTS)


def test_a_group_larger_than_the_budget_is_refused(make_policy: MakePolicy) -> None:
    # 3 x (11 + 8) = 57
    policy, sampling = make_policy(eos_bias=3.5), Sampling(max_response_tokens=LIMIT)
    generate(policy, sampling, max_cached_tokens=57)
    with pytest.raises(UserError, match=r"takes 57 cached tokens, and engine\.max_cached_tokens is 56"):
        generate(policy, sampling, max_cached_tokens=56)


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a CUDA device. (``tolist`` does too, and is not seen here.)"""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = ("_local_scalar_dense", "nonzero", "multinomial", "masked_select")
        self.count += any(part in str(func) for part in waiting)
        self.count += "index" in str(func) and any(
            isinstance(t, Tensor) and t.dtype == torch.bool for t in (args[1] if isinstance(args[1], list) else ())
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("prompts", [PROMPTS, [[21, 22, 23]] * 3], ids=["padded", "unpadded"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.01}], ids=str)
@pytest.mark.parametrize("max_batch_size", [1024, 2 * GROUP])
def test_a_step_waits_for_the_device_in_the_stop_test_only(
    make_policy: MakePolicy, options: dict[str, Any], prompts: list[list[int]], max_batch_size: int
) -> None:
    policy, counts = make_policy(eos_bias=-60.0), []
    for steps in (3, 9):
        with Waits() as waits:
            sampling = Sampling(max_response_tokens=steps, **options)
            generate(policy, sampling, prompts=prompts, max_batch_size=max_batch_size)
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0


# ----------------------------------------------------------- state and errors


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_put_back(make_policy: MakePolicy, training: bool) -> None:
    policy = make_policy()
    policy.lm.train(training)
    rollouts = generate(policy, Sampling(max_response_tokens=2))
    assert {module.training for module in policy.lm.modules()} == {training}
    assert not rollouts.reward_token_log_probs.requires_grad
    assert not rollouts.sampling_log_probs.requires_grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails_at", [1, 3])
def test_the_training_mode_is_put_back_after_an_error(
    make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch, fails_at: int, training: bool
) -> None:
    policy = make_policy(eos_bias=-60.0)
    policy.lm.train(training)
    calls, head = [], policy.head

    def failing_head(hidden: Tensor) -> Tensor:
        calls.append(policy.lm.training)
        if len(calls) == fails_at:
            raise RuntimeError("out of memory")
        return head(hidden)

    monkeypatch.setattr(policy, "head", failing_head)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(policy, Sampling(max_response_tokens=LIMIT))
    assert calls == [False] * fails_at
    assert policy.lm.training == training


def test_damaged_weights_are_refused(make_policy: MakePolicy) -> None:
    policy = make_policy()
    policy.lm.get_input_embeddings().weight.data[:] = torch.nan
    with pytest.raises(UserError, match="logits are not finite"):
        generate(policy, Sampling(max_response_tokens=LIMIT))


def test_a_group_larger_than_a_batch_is_refused(make_policy: MakePolicy) -> None:
    with pytest.raises(UserError, match=r"group of 3 is larger than engine\.max_batch_size = 2"):
        generate(make_policy(), Sampling(max_response_tokens=2), max_batch_size=2)


@pytest.mark.parametrize(
    "fields", [{"max_batch_size": 0}, {"max_cached_tokens": 0}, {"drop_fraction": -0.1}, {"drop_fraction": 1.1}]
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(fields))):
        TransformersEngine(**fields)
