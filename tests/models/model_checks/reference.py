"""What plain transformers (and peft) say of a saved model: each sequence alone, whole, in float32."""

import re
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from laser_lightning.records.batching import Rollouts

REWARD = 3  # <|reward|> of the character tokenizer


class Solution(NamedTuple):
    """One solution as plain lists."""

    prompt: list[int]
    response: list[int]


class Reading(NamedTuple):
    """What a model says of one solution at temperature 1."""

    log_probs: Tensor  # [R] of the response's tokens
    reward: Tensor  # scalar, log-prob of the reward token behind the response


def plain_model(directory: Path) -> PreTrainedModel:
    """The model in a directory, as transformers loads it.

    Raises:
        AssertionError: if it would be initialised anew in part, or has weights that nobody reads.
    """
    (architecture,) = AutoConfig.from_pretrained(directory).architectures
    made_by = getattr(transformers, architecture)
    lm, found = made_by.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"], f"weights that nobody wrote: {sorted(found['missing_keys'])[:3]}"
    assert not found["mismatched_keys"], f"weights of another shape: {sorted(found['mismatched_keys'])[:3]}"
    assert not found["unexpected_keys"], f"weights that nobody reads: {sorted(found['unexpected_keys'])[:3]}"
    return lm.eval()


def with_adapter(base: Path, adapter: Path) -> nn.Module:
    """A model with an adapter, as the adapter's card loads it.

    Raises:
        AssertionError: if adapters would stay as they are initialised.
    """
    card = (adapter / "README.md").read_text(encoding="utf-8")
    loader = re.findall(r"PeftModel\.from_pretrained\((\w+)\.from_pretrained", card)[0]
    lm = getattr(transformers, loader).from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(lm, str(adapter), is_trainable=True)
    lost = [str(warning.message) for warning in told if "missing adapter keys" in str(warning.message)]
    assert not lost, lost[0]
    return adapted.eval()


def solutions(rollouts: Rollouts) -> list[Solution]:
    """Take a record apart."""
    prompts = [
        ids[:length] for ids, length in zip(rollouts.prompt_ids.tolist(), rollouts.prompt_lengths.tolist(), strict=True)
    ]
    return [
        Solution(prompts[row // rollouts.group_size], response) for row, response in enumerate(rollouts.responses())
    ]


def read(lm: nn.Module, solution: Solution) -> Reading:
    """One pass over a sequence alone."""
    ids = torch.tensor([solution.prompt + solution.response])
    log_probs = torch.log_softmax(lm(input_ids=ids, use_cache=False).logits[0].float(), dim=-1)
    before = log_probs[len(solution.prompt) - 1 : -1]
    return Reading(
        before.gather(1, torch.tensor(solution.response)[:, None]).squeeze(1),
        log_probs[-1, REWARD],
    )
