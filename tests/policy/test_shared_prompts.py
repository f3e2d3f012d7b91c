"""Prompts that are computed once give what those of each solution give, and models for which they do not are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import FalconConfig, GPTNeoConfig, MistralConfig, MixtralConfig, PretrainedConfig

from laser_lightning.errors import UserError
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import AdaptersOff, Policy, PolicyOutputs
from laser_lightning.policy.sharing import sharing_obstacle
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.sharing import PromptSharing

MakePolicy = Callable[..., Policy]
MakeRollouts = Callable[..., Rollouts]
Z = 3  # <|reward|>
WINDOWS = ("qwen2-window", "gemma2")


def outputs_and_gradient(policy: Policy, rollouts: Rollouts, **options: Any) -> tuple[PolicyOutputs, Tensor, int]:
    """All outputs in their order, the gradient of a loss in which each has a weight, and places of the passes."""
    places: list[int] = []
    hook = policy.lm.get_decoder().register_forward_pre_hook(
        lambda module, args, inputs: places.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    (batch,) = policy.micro_batches(rollouts, torch.arange(len(rollouts)), 10_000)
    outputs = policy(batch, (Z, 50), 0.8, entropy=True, **options)
    hook.remove()
    order = batch.rows.argsort()
    outputs = PolicyOutputs(*(None if value is None else value[order] for value in outputs))
    generator = torch.Generator().manual_seed(0)
    loss = torch.stack([(v * torch.randn(v.shape, generator=generator)).sum() for v in outputs if v is not None]).sum()
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
    return outputs, gradient, places[0]


def compare(policy: Policy, rollouts: Rollouts, **options: Any) -> None:
    """Shared against each alone, of the same policy."""
    policy.sharing = PromptSharing()
    shared, shared_gradient, shared_places = outputs_and_gradient(policy, rollouts, **options)
    policy.sharing = None
    plain, plain_gradient, places = outputs_and_gradient(policy, rollouts, **options)
    for values, same in zip(shared[:-1], plain[:-1], strict=True):  # the last is a reading, which nobody asks for
        torch.testing.assert_close(values, same, rtol=0, atol=2e-5)
    assert (shared_gradient - plain_gradient).norm() <= 5e-6 * plain_gradient.norm()
    if policy.packs:
        responses, prompts = int(rollouts.response_lengths.sum()), int(rollouts.prompt_lengths.sum())
        assert shared_places == prompts + responses
        assert places == prompts * rollouts.group_size + responses


@pytest.mark.parametrize(
    "settings",
    [{}, {"attention": "eager"}, {"packing": "always"}, {"gradient_checkpointing": True}],
    ids=["sdpa", "eager", "packed", "checkpointing"],
)
def test_it_is_exact_in_values_and_gradients(
    family: tuple[Path, float], make_policy: MakePolicy, make_rollouts: MakeRollouts, settings: dict[str, Any]
) -> None:
    policy = make_policy(family[0], **settings)
    if any(name in str(family[0]) for name in WINDOWS):
        assert "do not attend to all that is in front of them (sliding_attention)" in str(sharing_obstacle(policy.lm))
        assert policy.sharing is None
        return
    assert sharing_obstacle(policy.lm) is None
    compare(policy, make_rollouts())


def test_it_is_exact_with_adapters(make_policy: MakePolicy, make_rollouts: MakeRollouts) -> None:
    policy = make_policy(lora=LoRASettings(rank=4), gradient_checkpointing=True)
    for name, parameter in policy.lm.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.15 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
    rollouts = make_rollouts()
    compare(policy, rollouts)
    # Without its adapters, as the reference, too.
    reference, found = AdaptersOff(policy), []
    for sharing in (PromptSharing(), None):
        policy.sharing = sharing
        (batch,) = reference.micro_batches(rollouts, torch.arange(12), 10_000)
        assert (batch.trees is None) == (sharing is None)
        with torch.no_grad():
            found.append(reference(batch, (Z,)).log_probs[batch.rows.argsort()])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-5)


def test_it_is_exact_for_experts_and_their_balance(
    tmp_path: Path,
    make_policy: MakePolicy,
    make_rollouts: MakeRollouts,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
) -> None:
    config = tiny_config(MixtralConfig, num_local_experts=4, num_experts_per_tok=2)
    compare(make_policy(save_model(tmp_path, config)), make_rollouts(), routers=True)


def test_scores_and_hidden_states_behind_given_solutions(make_policy: MakePolicy, make_rollouts: MakeRollouts) -> None:
    policy, rollouts = make_policy(), make_rollouts()
    scores, states = [], []
    for sharing in (PromptSharing(), None):
        policy.sharing = sharing
        with torch.no_grad():
            scores.append(policy.scores_of(rollouts, (Z, 50), 40))
            (batch,) = policy.micro_batches(rollouts, torch.arange(12), 10_000)
            states.append(policy.hidden_at_end(batch)[batch.rows.argsort()])
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=2e-5)
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=2e-5)


def test_how_much_is_shared_follows_the_setting(make_policy: MakePolicy) -> None:
    assert make_policy(shared_prompts="never").sharing is None
    assert make_policy(shared_prompts="always").sharing == PromptSharing()
    assert make_policy().sharing == PromptSharing(2.0 * 32, 0.9)  # a width of 32


@pytest.mark.parametrize(
    ("config_class", "fields", "why"),
    [
        (MistralConfig, {"sliding_window": 8}, "by their distance (sliding_window: 8)"),
        (MistralConfig, {"sliding_window": 256}, None),  # as wide as its positions reach
        (MistralConfig, {"sliding_window": None}, None),
        (FalconConfig, {"alibi": True, "new_decoder_architecture": False}, "by their distance (alibi: True)"),
        (FalconConfig, {"alibi": False, "new_decoder_architecture": False}, None),
        (
            GPTNeoConfig,
            {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 8},
            "by their distance (window_size: 8)",
        ),
    ],
)
def test_models_whose_tokens_attend_by_distance_are_known(
    tmp_path: Path,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
    make_policy: MakePolicy,
    make_rollouts: MakeRollouts,
    config_class: type[PretrainedConfig],
    fields: dict[str, Any],
    why: str | None,
) -> None:
    path = save_model(tmp_path, tiny_config(config_class, **fields))
    policy = make_policy(path)
    if why is None:
        compare(policy, make_rollouts())
        return
    assert why in str(sharing_obstacle(policy.lm))
    assert policy.sharing is None
    with pytest.raises(UserError, match=r"policy\.shared_prompts is 'always', and tokens of .*: set it to auto or nev"):
        make_policy(path, shared_prompts="always")


def test_an_attention_without_masks_is_known(make_policy: MakePolicy) -> None:
    policy = make_policy()
    policy.lm.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert "attention 'flash_attention_2' takes no mask" in str(sharing_obstacle(policy.lm))
