"""Responses of vLLM in the making, and as the record of a round."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan

import torch

from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, pad_rows
from laser_lightning.rollout.non_finite import refuse_damaged

SETTINGS = "laser"
"""Key of ``SamplingParams.extra_args`` under which a request brings the reward token's id, and the ids of ``<eos>`` or
None: its prompt ends in one, and nothing but the token follows (see ``rollout/vllm/score.py``)."""


@dataclass
class Response:
    """A response in the making.

    Attributes:
        prompt: token ids.
        seed: of its sampling.
        ids: its tokens so far.
        log_probs: theirs, at the sampling temperature.
        score: log pi(z) of the first reward token behind the ``<eos>``; None as long as there is none.
        further: those of the other ones.
    """

    prompt: list[int]
    seed: int
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    score: float | None = None
    further: list[float] = field(default_factory=list)


def begin_responses(prompts: Sequence[Sequence[int]], group_size: int, generator: torch.Generator) -> list[Response]:
    """The responses of a round, P * G of them, each with a seed of its own.

    Args:
        prompts: P token id sequences.
        group_size: responses of each, G, next to each other.
        generator: the source of the seeds.
    """
    seeds = torch.randint(2**62, (len(prompts) * group_size,), generator=generator, device=generator.device)
    owned = [prompt for prompt in prompts for _ in range(group_size)]
    return [Response(list(prompt), seed) for prompt, seed in zip(owned, seeds.tolist(), strict=True)]


def as_rollouts(
    policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Response], tokens: int
) -> Rollouts:
    """Put responses into the record of a round, on the policy's device.

    Args:
        policy: for which they were drawn.
        prompts: P token id sequences.
        responses: N = P * G, those of a prompt next to each other.
        tokens: number of reward tokens that were read, K.

    Raises:
        UserError: if not one token has a finite log-prob.
    """
    prompt_ids, prompt_lengths = pad_rows(prompts, policy.pad_token_id)
    response_ids, response_lengths = pad_rows([r.ids for r in responses], policy.pad_token_id)
    log_probs = torch.zeros(response_ids.shape)
    for row, response in enumerate(responses):
        log_probs[row, : len(response.ids)] = torch.tensor(response.log_probs)
    device = policy.device
    scores = [[nan] * tokens if r.score is None else [r.score, *r.further] for r in responses]
    rollouts = Rollouts(
        prompt_ids=prompt_ids.to(device),
        prompt_lengths=prompt_lengths.to(device),
        response_ids=response_ids.to(device),
        response_lengths=response_lengths.to(device),
        finished=torch.tensor([r.score is not None for r in responses], dtype=torch.bool, device=device),
        sampling_log_probs=log_probs.to(device),
        reward_token_log_probs=torch.tensor(scores, device=device).view(len(responses), tokens),
    )
    refuse_damaged(rollouts)
    return rollouts
