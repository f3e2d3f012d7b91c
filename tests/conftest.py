"""Tiny random models and ragged random rollouts, for every test of the core.

The weights are drawn wide (standard deviation 0.3) and none is left at 0 or 1, so that a distribution depends
strongly on everything in front of it: a wrong mask, position or cache then shows as an error of order 1.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from laser_lightning.batching import Rollouts
from laser_lightning.character_tokenizer import character_tokenizer
from laser_lightning.policy import Policy, PolicySettings, load_tokenizer

EOS, PAD, VOCABULARY = 1, 0, 100  # of the character tokenizer


class PlainPass(NamedTuple):
    """What transformers itself says of one solution, from one unpadded sequence and all of its logits."""

    log_probs: Tensor  # [R] of the response's tokens, at the temperature
    entropies: Tensor  # [R] of the tempered distributions that they were drawn from
    after_last: Tensor  # [V] log-probs behind the last token, at temperature 1


def plain_forward(
    lm: PreTrainedModel, prompt: list[int], response: list[int], temperature: float = 1.0
) -> PlainPass:
    """One plain forward pass over a single sequence: the reference of every test of log-probs and scores."""
    logits = lm(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0]
    tempered = torch.log_softmax(logits / temperature, dim=-1)
    log_probs, entropies = [], []
    for offset, token in enumerate(response):
        distribution = tempered[len(prompt) - 1 + offset]  # a position predicts the next one
        log_probs.append(distribution[token])
        entropies.append(-(distribution.exp() * distribution).sum())
    return PlainPass(torch.stack(log_probs), torch.stack(entropies), torch.log_softmax(logits[-1], dim=-1))


@pytest.fixture(scope="session")
def plain_pass() -> Callable[..., PlainPass]:
    """``plain_pass(lm, prompt, response, temperature=1.0)`` runs transformers plainly on one solution."""
    return plain_forward


def save_random_model(path: Path, config: PretrainedConfig, seed: int = 0) -> Path:
    """Write a model with wide random weights and the character tokenizer, in Hugging Face form."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in lm.parameters():
                if parameter.ndim == 1:
                    parameter += 0.2 * torch.randn_like(parameter)
    lm.save_pretrained(path)
    character_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def save_model() -> Callable[..., Path]:
    """``save_model(path, config, seed=0)`` writes a random model of any architecture; returns the path."""
    return save_random_model


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., PretrainedConfig]:
    """``tiny_config(config_class, **fields)`` makes the config of a tiny model with the character vocabulary."""

    def make(config_class: type[PretrainedConfig] = Qwen2Config, **fields: object) -> PretrainedConfig:
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "initializer_range": 0.3,
        }
        tokens = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None}
        return config_class(**(sizes | tokens | fields))

    return make


@pytest.fixture(scope="session")
def policy_dir(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., PretrainedConfig]
) -> Path:
    """Directory of a tiny random Qwen2 with the character tokenizer (<eos> 1, pad 0, reward token 3)."""
    return save_random_model(tmp_path_factory.mktemp("policy"), tiny_config())


@pytest.fixture(scope="session")
def reference_dir(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., PretrainedConfig]
) -> Path:
    """Directory of another random model of the same shape, to stand for a frozen reference."""
    return save_random_model(tmp_path_factory.mktemp("reference"), tiny_config(), seed=1)


@pytest.fixture(scope="session")
def policy_tokenizer(policy_dir: Path) -> PreTrainedTokenizerFast:
    """The character tokenizer, loaded as a policy's."""
    return load_tokenizer(PolicySettings(path=str(policy_dir)))


@pytest.fixture
def make_policy(policy_dir: Path) -> Callable[..., Policy]:
    """``make_policy(path=..., eos_bias=..., eos_ids=(1,), pad_id=0, **settings)`` loads a fresh policy.

    ``eos_bias`` is added to the logits of the <eos> ids, through a head with a bias of its own, so that some
    responses end and others do not.
    """

    def make(
        path: Path = policy_dir,
        eos_bias: float = 0.0,
        eos_ids: tuple[int, ...] = (EOS,),
        pad_id: int = PAD,
        **settings: object,
    ) -> Policy:
        chosen = PolicySettings(path=str(path), **settings)  # type: ignore[arg-type]
        policy = Policy(chosen, load_tokenizer(chosen))
        policy.eos_token_ids, policy.pad_token_id = eos_ids, pad_id
        if eos_bias:
            old = policy.lm.get_output_embeddings()
            head = nn.Linear(old.in_features, old.out_features, bias=True)
            bias = torch.zeros(old.out_features)
            bias[list(eos_ids)] = eos_bias
            head.weight, head.bias = nn.Parameter(old.weight.detach().clone()), nn.Parameter(bias)
            policy.lm.set_output_embeddings(head)
        return policy

    return make


@pytest.fixture
def make_rollouts() -> Callable[..., Rollouts]:
    """``make_rollouts(prompts=3, group_size=4, seed=0, limit=9)`` draws ragged random rollouts.

    About a third are truncated (and then ``limit`` tokens long). Unused places hold arbitrary tokens, and used
    ones any token, so that only the lengths say what is padding.
    """

    def make(
        prompts: int = 3, group_size: int = 4, seed: int = 0, limit: int = 9, longest_prompt: int = 6
    ) -> Rollouts:
        generator = torch.Generator().manual_seed(seed)

        def draw(low: int, high: int, *shape: int) -> torch.Tensor:
            return torch.randint(low, high, shape, generator=generator)

        total = prompts * group_size
        finished = torch.rand(total, generator=generator) < 0.65
        lengths = draw(1, limit + 1, total).where(finished, torch.tensor(limit))
        response_ids = draw(0, VOCABULARY, total, limit)
        response_ids[torch.arange(total)[finished], lengths[finished] - 1] = EOS
        return Rollouts(
            prompt_ids=draw(0, VOCABULARY, prompts, longest_prompt),
            prompt_lengths=draw(1, longest_prompt + 1, prompts),
            response_ids=response_ids,
            response_lengths=lengths,
            finished=finished,
            sampling_log_probs=torch.zeros(total, limit),
            reward_token_log_probs=torch.full((total,), torch.nan),
        )

    return make
