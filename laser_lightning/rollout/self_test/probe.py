"""The self-test's small batch, and what a plain pass of transformers says of it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.policy.head import float32_logits
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, pad_rows
from laser_lightning.runs.random_state import random_state, restore_random_state
from laser_lightning.shapes import Float, Int

PROMPT_LENGTHS = (7, 2, 5, 3)
"""Tokens: unequal, so that prompts are padded; the shortest are decoded first, so that longer ones join behind them."""

GROUP_SIZE = 2
RESPONSE_TOKENS = 6
ONE_IN = 3
"""One token id in this many ends a response of the self-test, so that rows end, and others join, at different steps."""

LONG_TOKENS = 64
"""Tokens of a sequence long enough for some router that draws its experts to draw differently."""


class Expected(NamedTuple):
    """What plain passes over each of N sequences alone say of some rollouts.

    Attributes:
        rollouts: N solutions.
        tokens: [N, R] float32, log-probs of the response tokens; 0 outside the responses.
        read: [N, K] float32, log-probs of the K tokens read behind each response.
    """

    rollouts: Rollouts
    tokens: Float[Tensor, "N R"]
    read: Float[Tensor, "N K"]


def tokens_read(policy: Policy) -> tuple[int, ...]:
    """Two token ids to read behind each response."""
    return 0, policy.vocabulary_size - 1


def random_ids(policy: Policy, lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    """Sequences of random token ids, the same on all ranks."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(policy.vocabulary_size, (length,), generator=generator).tolist() for length in lengths]


def small_batch(policy: Policy) -> tuple[list[list[int]], int]:
    """Prompts of unequal lengths, and how many tokens a response may have, within the model's positions."""
    most = policy.positions or LONG_TOKENS
    response_tokens = max(1, min(RESPONSE_TOKENS, most // 2))
    lengths = tuple(max(1, min(length, most - response_tokens)) for length in PROMPT_LENGTHS)
    return random_ids(policy, lengths), response_tokens


def random_rollouts(policy: Policy) -> Rollouts:
    """Solutions of random tokens, where no engine draws any; each response has another length."""
    prompts, most = small_batch(policy)
    total = len(prompts) * GROUP_SIZE
    responses = random_ids(policy, tuple(1 + row % most for row in range(total)), seed=1)
    (prompt_ids, prompt_lengths), (response_ids, lengths) = (
        pad_rows(rows, policy.pad_token_id) for rows in (prompts, responses)
    )
    device, unknown = policy.device, torch.full((total, len(tokens_read(policy))), torch.nan)
    return Rollouts(
        prompt_ids=prompt_ids.to(device),
        prompt_lengths=prompt_lengths.to(device),
        response_ids=response_ids.to(device),
        response_lengths=lengths.to(device),
        finished=torch.ones(total, dtype=torch.bool, device=device),
        sampling_log_probs=torch.zeros(response_ids.shape, device=device),
        reward_token_log_probs=unknown.to(device),
    )


def plain_pass(policy: Policy, ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
    """[L, V] log-probs of the next tokens by transformers itself: one sequence, no padding, no cache."""
    with _float32_head(policy):
        return policy.lm(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(dim=-1)


@contextmanager
def _float32_head(policy: Policy) -> Iterator[None]:
    """In here the model's own forward has the product of the head in float32 where ``Policy.head`` has.

    Rounded to bfloat16, logits near 128 are 1 apart: more than any tolerance for what the model does to them.
    """
    if not policy.has_float32_head:
        yield
        return
    # In front of the hooks that are there: behind ZeRO-3's own the weights are no longer gathered.
    hook = policy.lm.get_output_embeddings().register_forward_hook(
        lambda head, inputs, _: float32_logits(head, inputs[0]), prepend=True
    )
    try:
        yield
    finally:
        hook.remove()


def expected(policy: Policy, rollouts: Rollouts) -> Expected:
    """What plain passes say of given solutions."""
    read = list(tokens_read(policy))
    found = Expected(
        rollouts, torch.zeros_like(rollouts.sampling_log_probs), torch.zeros_like(rollouts.reward_token_log_probs)
    )
    prompt_lengths, lengths = rollouts.prompt_lengths.tolist(), rollouts.response_lengths.tolist()
    for row, length in enumerate(lengths):
        group = row // rollouts.group_size
        prompt, response = rollouts.prompt_ids[group, : prompt_lengths[group]], rollouts.response_ids[row, :length]
        log_probs = plain_pass(policy, torch.cat((prompt, response)))
        predicting = log_probs[len(prompt) - 1 : -1]  # a place predicts the next one
        found.tokens[row, :length] = predicting.gather(1, response[:, None]).squeeze(1)
        found.read[row] = log_probs[-1, read]
    return found


def distance(known: Expected, tokens: Float[Tensor, "N width"], read: Float[Tensor, "N K"], scored: Tensor) -> float:
    """Mean difference (nats) of the log-probs of the solution where it is largest.

    Args:
        known: what plain passes say of N solutions.
        tokens: [N, R] log-probs of the response tokens.
        read: [N, K] log-probs of the tokens read behind the responses.
        scored: [N] bool, solutions behind which tokens were read.
    """
    rollouts = known.rollouts
    apart = difference(tokens, known.tokens[:, : tokens.shape[1]])
    apart = apart.where(rollouts.response_mask[:, : tokens.shape[1]], 0.0).sum(dim=1)
    apart_behind = difference(read, known.read).sum(dim=1).where(scored, 0.0)
    return largest((apart + apart_behind) / (rollouts.response_lengths + scored * read.shape[1]))


def difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """How far log-probs lie apart; 0 where both are minus infinity, NaN where one is no number."""
    return (ours - theirs).abs().where(ours != theirs, 0.0)


def largest(values: Tensor) -> float:
    """The largest value; infinity if one is no number."""
    return float(values.nan_to_num(nan=math.inf).max())


def resolution_of(policy: Policy) -> float:
    """Distance of 1 to the next number of those that passes compute in."""
    kind, half = policy.device.type, (torch.bfloat16, torch.float16)
    resolution = max(torch.finfo(p.dtype).eps for p in policy.lm.parameters() if p.is_floating_point())
    resolution = max(resolution, torch.finfo(torch.float32).eps)  # of the head's logits
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) in half:
        resolution = max(resolution, torch.finfo(torch.get_autocast_dtype(kind)).eps)
    if kind == "cuda" and torch.get_float32_matmul_precision() != "highest":
        resolution = max(resolution, torch.finfo(torch.float16).eps)  # TF32 has as many digits
    return resolution


def tolerance_nats(policy: Policy) -> float:
    """What rounding may come to: about four times half of the digits of the numbers that passes compute in.

    0.0014 for float32, 0.35 for bfloat16: log-probs of unlikely tokens are sums of many rounded products.
    """
    return 4 * resolution_of(policy) ** 0.5


def rounding_nats(policy: Policy, known: Expected) -> float:
    """How far this policy's log-probs move where its input embeddings are rounded once more (see ``distance``).

    Where layers, or large logits, magnify a rounding, no two ways to the same log-probs need agree better than so. It
    was 1 to 3 times what the ways of the embedded model and of SmolLM2-135M differed by in bfloat16.

    Args:
        policy: in evaluation mode.
        known: what plain passes say of some solutions.
    """
    resolution, generator = resolution_of(policy), torch.Generator().manual_seed(0)

    def move(_: torch.nn.Module, __: object, embeddings: Tensor) -> Tensor:
        signs = torch.randint(2, embeddings.shape, generator=generator) * 2 - 1
        return embeddings * (1 + resolution * signs).to(embeddings)

    hook = policy.lm.get_input_embeddings().register_forward_hook(move)
    try:
        moved = expected(policy, known.rollouts)
    finally:
        hook.remove()
    return distance(known, moved.tokens, moved.read, torch.ones_like(known.rollouts.finished))


@contextmanager
def undisturbed(policy: Policy) -> Iterator[None]:
    """Leave the policy's mode, its ends, and all random states as they are now."""
    training, ends = policy.lm.training, policy.eos_token_ids
    unused = torch.Generator()
    states = random_state(unused)
    try:
        with torch.no_grad():
            yield
    finally:
        policy.lm.train(training)
        policy.eos_token_ids = ends
        restore_random_state(states, unused)


def many_ends(policy: Policy) -> tuple[int, ...]:
    """The policy's own ends, and one token id in a few."""
    return tuple(sorted({*policy.eos_token_ids, *range(0, policy.vocabulary_size, ONE_IN)}))
