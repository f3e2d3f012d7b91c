"""Tiny random models and ragged random rollouts, for every test of the core.

The weights are drawn wide (standard deviation 0.3) and none is left at 0 or 1, so that a distribution depends
strongly on everything in front of it: a wrong mask, position or cache then shows as an error of order 1.
"""

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from jsonargparse import get_loader, set_loader
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from laser_lightning.data.problem import Problem
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.self_reward.solutions import StepSolutions
from laser_lightning.policy.character_tokenizer import character_tokenizer
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout

torch.set_num_threads(1)  # tiny models are faster so, and rounding is the same on every machine and under xdist

EOS, PAD, VOCABULARY = 1, 0, 100  # of the character tokenizer


def pytest_collection_finish() -> None:
    """Half a million objects of torch and others live to the end: the garbage collector need not look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def usual_yaml_loader() -> Iterator[None]:
    """The command line sets a YAML loader of its own for the whole process: put the usual one back."""
    loader = get_loader("yaml")
    yield
    set_loader("yaml", loader, exceptions=(yaml.YAMLError,))


@pytest.fixture(autouse=True)
def no_seed_of_an_earlier_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run leaves its seed in the process, and parts without a seed of their own would follow it."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """What a test draws without a generator of its own does not depend on the tests that its process ran before."""
    torch.manual_seed(0)


class PlainPass(NamedTuple):
    """What transformers itself says of one solution, from one unpadded sequence and all of its logits."""

    log_probs: Tensor  # [R] of the response's tokens, at the temperature
    entropies: Tensor  # [R] of the tempered distributions that they were drawn from
    after_last: Tensor  # [V] log-probs behind the last token, at temperature 1


def plain_forward(lm: PreTrainedModel, prompt: list[int], response: list[int], temperature: float = 1.0) -> PlainPass:
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


def tiny(config_class: Callable[..., PretrainedConfig] = Qwen2Config, **fields: Any) -> PretrainedConfig:
    """The config of a tiny model with the character vocabulary."""
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


@pytest.fixture(scope="session")
def tiny_run() -> Path:
    """Directory of ``run.yaml``, a run of the whole algorithm in seconds, and of its verifier."""
    return Path(__file__).with_name("tiny_run")


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., PretrainedConfig]:
    """``tiny_config(config_class, **fields)`` makes the config of a tiny model with the character vocabulary."""
    return tiny


class Family(NamedTuple):
    """An architecture, and what to add to its <eos> logits, before cap and scale, for some responses to end."""

    path: Path
    eos_bias: float


FAMILIES: dict[str, tuple[float, PretrainedConfig]] = {
    "qwen2": (3.5, tiny()),
    "qwen2-untied": (3.5, tiny(tie_word_embeddings=False)),
    # layers of either kind: full attention, and a window of 4
    "qwen2-window": (3.5, tiny(use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "qwen3": (3.5, tiny(Qwen3Config, head_dim=16)),
    "llama": (2.5, tiny(LlamaConfig)),
    "gemma2": (12.0, tiny(Gemma2Config, head_dim=16, final_logit_softcapping=2.0, sliding_window=4)),
    "cohere": (8.0, tiny(CohereConfig, logit_scale=0.3)),
    "granite": (6.0, tiny(GraniteConfig, logits_scaling=3.0)),
    "gpt2": (3.5, tiny(GPT2Config)),  # with dropout 0.1 in training, which is its default
}


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny random model of each architecture."""
    eos_bias, config = FAMILIES[request.param]
    return Family(save_random_model(tmp_path_factory.mktemp(request.param), config), eos_bias)


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random Qwen2 with the character tokenizer (<eos> 1, pad 0, reward token 3)."""
    return save_random_model(tmp_path_factory.mktemp("policy"), tiny())


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random model of SmolLM2's kind: Llama with a tied head, a token a byte and some special ones,
    pad = <eos> = <|im_end|>, a chat template, and <reponame>, which no text holds."""
    path = tmp_path_factory.mktemp("chat_model")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<reponame>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[1],
        eos_token=special[2],
        pad_token=special[2],
        unk_token=special[0],
        additional_special_tokens=[special[3]],
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(path)
    torch.manual_seed(0)
    ids = {"eos_token_id": 2, "pad_token_id": 2, "bos_token_id": 1}
    wide = {"hidden_size": 64, "initializer_range": 0.1, "max_position_embeddings": 1024}
    config = tiny(LlamaConfig, vocab_size=len(tokens), tie_word_embeddings=True, **ids, **wide)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def word_problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with word_problems_train.jsonl, a dozen problems of two kinds, and word_problems_val.jsonl, six."""
    path = tmp_path_factory.mktemp("word_problems")
    for name, count in (("train", 12), ("val", 6)):
        numbers = [(number % 4 + 3, number % 3 + 1) for number in range(count)]
        rows = [
            {"problem": f"Ann has {a} nuts. She eats {b}. How many are left?", "answer": f"{a - b}", "kind": "less"}
            | {"solution": f"{a}-{b}={a - b}"}
            if a % 2
            else {"problem": f"Bob has {a} figs and buys {b}. How many?", "answer": f"{a + b}", "kind": "more"}
            | {"solution": f"{a}+{b}={a + b}"}
            for a, b in numbers
        ]
        (path / f"word_problems_{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def reference_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of another random model of the same shape, to stand for a frozen reference."""
    return save_random_model(tmp_path_factory.mktemp("reference"), tiny(), seed=1)


@pytest.fixture(scope="session")
def policy_tokenizer(policy_dir: Path) -> PreTrainedTokenizerBase:
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


class DoublePolicy(Policy):
    """A policy in float64. Of the decoders, GPT-2 is one whose norms do not fall back to float32."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits that stay in float64."""
        return self.lm.get_output_embeddings()(hidden)


@pytest.fixture
def double_policies(tmp_path: Path) -> Iterator[tuple[Policy, Policy]]:
    """A tiny random GPT-2 in float64 and another one as its reference; float64 is torch's default meanwhile."""
    policies = []
    config = tiny(GPT2Config, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    for seed in (0, 1):
        settings = PolicySettings(path=str(save_random_model(tmp_path / str(seed), config, seed)))
        policies.append(DoublePolicy(settings, load_tokenizer(settings)).double())
    torch.set_default_dtype(torch.float64)
    yield policies[0], policies[1]
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def make_rollouts() -> Callable[..., Rollouts]:
    """``make_rollouts(prompts=3, group_size=4, seed=0, limit=9)`` draws ragged random rollouts.

    About a third are truncated (and then ``limit`` tokens long). Unused places hold arbitrary tokens, and used
    ones any token, so that only the lengths say what is padding.
    """

    def make(prompts: int = 3, group_size: int = 4, seed: int = 0, limit: int = 9, longest_prompt: int = 6) -> Rollouts:
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
            reward_token_log_probs=torch.full((total, 1), torch.nan),
        )

    return make


@pytest.fixture(scope="session")
def step_solutions() -> Callable[..., StepSolutions]:
    """``step_solutions(rewards, finished=None, scores=None, context=None)``: an optimizer step on [P, G] (or
    [N], groups of one) solutions, of which nothing else is known."""

    def make(
        rewards: Tensor,
        finished: Tensor | None = None,
        scores: Tensor | None = None,
        context: StepContext | None = None,
    ) -> StepSolutions:
        rewards = rewards if rewards.ndim == 2 else rewards[:, None]
        total, groups = rewards.numel(), len(rewards)
        flags = torch.ones(total, dtype=torch.bool) if finished is None else finished.flatten()
        judged = torch.zeros(total) if scores is None else scores.flatten()
        ones = torch.ones(total, dtype=torch.long)
        nothing = torch.full((total, 1), torch.nan)
        rollouts = Rollouts(ones[:groups, None], ones[:groups], ones[:, None], ones, flags, nothing, nothing)
        problems = [Problem("train", number, "", "", [1], "") for number in range(groups)]
        rollout = Rollout(problems, rollouts, [""] * total, [], rewards.flatten(), None, judged)
        return StepSolutions.of(rollout, torch.arange(total), context or StepContext())

    return make
