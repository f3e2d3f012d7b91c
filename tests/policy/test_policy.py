"""The policy's forward pass against plain transformers, and what it refuses to load."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig

from laser_lightning.cli.command_line import main
from laser_lightning.errors import UserError
from laser_lightning.policy.character_tokenizer import character_tokenizer
from laser_lightning.policy.model import EMBEDDED, FrozenPolicy, Policy, PolicyOutputs, PolicySettings, load_tokenizer
from laser_lightning.records.batching import Rollouts, micro_batches

MakePolicy = Callable[..., Policy]
MakeRollouts = Callable[..., Rollouts]
Z = 3  # <|reward|>


def all_rows(policy: Policy, rollouts: Rollouts, temperature: float = 1.0, **options: Any) -> PolicyOutputs:
    """The outputs of all solutions in one micro-batch, sorted back into their order."""
    (batch,) = micro_batches(rollouts, torch.arange(len(rollouts)), 10_000, policy.pad_token_id)
    outputs = policy(batch, (Z,), temperature, **options)
    order = batch.rows.argsort()
    return PolicyOutputs(*(None if value is None else value[order] for value in outputs))


def solutions(rollouts: Rollouts) -> list[tuple[list[int], list[int]]]:
    prompts = [
        row[:length] for row, length in zip(rollouts.prompt_ids.tolist(), rollouts.prompt_lengths.tolist(), strict=True)
    ]
    return [(prompts[row // rollouts.group_size], ids) for row, ids in enumerate(rollouts.responses())]


def gradient(policy: Policy, loss: Tensor) -> Tensor:
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    parts = torch.autograd.grad(loss, parameters)
    return torch.cat([part.flatten() for part in parts])


# ------------------------------------------------------------------ forward


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_forward_equals_plain_transformers(
    make_policy: MakePolicy, make_rollouts: MakeRollouts, plain_pass: Callable, temperature: float
) -> None:
    policy, rollouts = make_policy(), make_rollouts(seed=3)
    with torch.no_grad():
        outputs = all_rows(policy, rollouts, temperature, entropy=True)
        expected = [plain_pass(policy.lm, prompt, ids, temperature) for prompt, ids in solutions(rollouts)]
    for row, plain in enumerate(expected):
        length = len(plain.log_probs)
        torch.testing.assert_close(outputs.log_probs[row, :length], plain.log_probs, rtol=0, atol=1e-5)
        torch.testing.assert_close(outputs.entropy[row, :length], plain.entropies, rtol=0, atol=1e-5)
        assert not outputs.log_probs[row, length:].any()
        assert not outputs.entropy[row, length:].any()
    scores = torch.stack([plain.after_last[Z] for plain in expected])
    torch.testing.assert_close(outputs.reward_token_log_probs[:, 0], scores, rtol=0, atol=1e-5)
    assert scores.std() > 0.3  # a wrong place would be seen


def test_the_score_does_not_depend_on_the_temperature(make_policy: MakePolicy, make_rollouts: MakeRollouts) -> None:
    policy, rollouts = make_policy(), make_rollouts()
    with torch.no_grad():
        cold, hot = all_rows(policy, rollouts, 0.5), all_rows(policy, rollouts, 2.0)
    assert torch.equal(cold.reward_token_log_probs, hot.reward_token_log_probs)
    assert not torch.allclose(cold.log_probs, hot.log_probs, atol=0.1)


def test_all_families_equal_plain_transformers(
    family: tuple[Path, float], make_policy: MakePolicy, make_rollouts: MakeRollouts, plain_pass: Callable
) -> None:
    policy, rollouts = make_policy(family[0]), make_rollouts(prompts=2, group_size=2)
    policy.lm.eval()
    with torch.no_grad():
        outputs = all_rows(policy, rollouts)
        for row, (prompt, ids) in enumerate(solutions(rollouts)):
            plain = plain_pass(policy.lm, prompt, ids)
            torch.testing.assert_close(outputs.log_probs[row, : len(ids)], plain.log_probs, rtol=0, atol=2e-5)
            torch.testing.assert_close(outputs.reward_token_log_probs[row, 0], plain.after_last[Z], rtol=0, atol=2e-5)


@pytest.mark.parametrize("pad_id", [1, 3, 57])
def test_padding_changes_nothing(make_policy: MakePolicy, make_rollouts: MakeRollouts, pad_id: int) -> None:
    policy, rollouts = make_policy(), make_rollouts()
    with torch.no_grad():
        expected = all_rows(policy, rollouts, entropy=True)
        policy.pad_token_id = pad_id
        for values, same in zip(all_rows(policy, rollouts, entropy=True), expected, strict=True):
            torch.testing.assert_close(values, same, rtol=0, atol=1e-6)
        for row in range(len(rollouts)):
            (alone,) = micro_batches(rollouts, torch.tensor([row]), 1000, pad_id)
            outputs = policy(alone, (Z,))
            width = outputs.log_probs.shape[1]
            torch.testing.assert_close(outputs.log_probs[0], expected.log_probs[row, :width], rtol=0, atol=1e-5)
            torch.testing.assert_close(
                outputs.reward_token_log_probs[0], expected.reward_token_log_probs[row], rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("attention", [None, "eager"])  # sdpa where there is one
def test_packed_sequences_give_what_padded_ones_give(
    family: tuple[Path, float], make_policy: MakePolicy, make_rollouts: MakeRollouts, attention: str | None
) -> None:
    rollouts = make_rollouts()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 12, 9, generator=generator)

    def run(packing: str) -> tuple[PolicyOutputs, Tensor, int]:
        policy, places = make_policy(family[0], attention=attention, packing=packing), []
        hook = policy.lm.get_decoder().register_forward_pre_hook(
            lambda module, args, inputs: places.append(inputs["input_ids"].numel()), with_kwargs=True
        )
        outputs = all_rows(policy, rollouts)
        hook.remove()
        loss = (outputs.log_probs * weights[0]).sum() + (outputs.reward_token_log_probs[:, 0] * weights[1, :, 0]).sum()
        return outputs, gradient(policy, loss), sum(places)

    padded, padded_gradient, places = run("auto")
    packed, packed_gradient, packed_places = run("always")
    for values, same in zip(packed, padded, strict=True):
        torch.testing.assert_close(values, same, rtol=0, atol=2e-5)
    assert (packed_gradient - padded_gradient).norm() <= 2e-5 * padded_gradient.norm()
    tokens = int(rollouts.prompt_lengths.sum() * rollouts.group_size + rollouts.response_lengths.sum())
    assert packed_places == tokens < places


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_chunks_and_checkpointing_change_neither_values_nor_gradients(
    make_policy: MakePolicy,
    make_rollouts: MakeRollouts,
    monkeypatch: pytest.MonkeyPatch,
    chunk_size: int,
    gradient_checkpointing: bool,
) -> None:
    rollouts = make_rollouts()
    weights = torch.randn(3, 12, 9, generator=torch.Generator().manual_seed(0))

    def run(policy: Policy) -> tuple[PolicyOutputs, Tensor]:
        outputs = all_rows(policy, rollouts, 0.8, entropy=True)
        loss = (outputs.log_probs * weights[0]).sum() + (outputs.entropy * weights[1]).sum()
        return outputs, gradient(policy, loss + (outputs.reward_token_log_probs[:, 0] * weights[2, :, 0]).sum())

    outputs, whole = run(make_policy())
    monkeypatch.setattr("laser_lightning.policy.model.LOGITS_AT_ONCE", chunk_size * 100)  # a vocabulary of 100
    chunked_outputs, chunked = run(make_policy(gradient_checkpointing=gradient_checkpointing))
    for values, same in zip(chunked_outputs, outputs, strict=True):
        torch.testing.assert_close(values, same, rtol=0, atol=1e-5)
    assert (chunked - whole).norm() <= 1e-6 * whole.norm()


def test_several_tokens_and_the_hidden_state_of_the_same_place(
    make_policy: MakePolicy, make_rollouts: MakeRollouts
) -> None:
    policy, rollouts = make_policy(), make_rollouts()
    (batch,) = micro_batches(rollouts, torch.arange(len(rollouts)), 10_000, 0)
    outputs = policy(batch, (50, Z), 0.7)
    lengths = batch.prompt_lengths + batch.response_lengths
    for row, ids in enumerate(batch.input_ids):
        plain = policy.lm(input_ids=ids[None, : lengths[row]], output_hidden_states=True)
        torch.testing.assert_close(outputs.hidden[row], plain.hidden_states[-1][0, -1], rtol=0, atol=2e-5)
        expected = plain.logits[0, -1].log_softmax(dim=0)[[50, Z]]
        torch.testing.assert_close(outputs.reward_token_log_probs[row], expected, rtol=0, atol=2e-5)
    for number, token in enumerate((50, Z)):
        alone = policy(batch, (token,), 0.7)
        torch.testing.assert_close(outputs.reward_token_log_probs[:, number], alone.reward_token_log_probs[:, 0])
        assert torch.equal(outputs.log_probs, alone.log_probs)
    # The gradient of the hidden states is that of a plain pass.
    mine = torch.autograd.grad(outputs.hidden[0].square().sum(), policy.lm.get_input_embeddings().weight)[0]
    plain = policy.lm(input_ids=batch.input_ids[:1, : lengths[0]], output_hidden_states=True).hidden_states[-1][0, -1]
    theirs = torch.autograd.grad(plain.square().sum(), policy.lm.get_input_embeddings().weight)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_bfloat16_weights_give_float32_log_probs(make_policy: MakePolicy, make_rollouts: MakeRollouts) -> None:
    outputs = all_rows(make_policy(dtype="bfloat16"), make_rollouts(), entropy=True)
    assert {value.dtype for value in outputs[:3]} == {torch.float32}
    assert outputs.hidden.dtype == torch.bfloat16  # as the model has it
    outputs.log_probs.sum().backward()


@pytest.mark.slow
def test_compiling_changes_neither_values_nor_gradients(make_policy: MakePolicy, make_rollouts: MakeRollouts) -> None:
    rollouts = make_rollouts()
    weights = torch.randn(2, 12, 9, generator=torch.Generator().manual_seed(0))

    def run(policy: Policy) -> tuple[PolicyOutputs, Tensor]:
        outputs = all_rows(policy, rollouts)
        loss = (outputs.log_probs * weights[0]).sum() + (outputs.reward_token_log_probs[:, 0] * weights[1, :, 0]).sum()
        return outputs, gradient(policy, loss)

    torch._dynamo.utils.counters.clear()
    compiled = make_policy(compile=True)
    outputs, plain = run(make_policy())
    compiled_outputs, compiled_gradient = run(compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for values, same in zip(compiled_outputs, outputs, strict=True):
        torch.testing.assert_close(values, same, rtol=0, atol=1e-5)
    assert (compiled_gradient - plain).norm() <= 1e-5 * plain.norm()
    # Other lengths need no other graph, weights keep their names, and rollouts call the decoder itself.
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    all_rows(compiled, make_rollouts(limit=7, seed=1))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert compiled.state_dict().keys() == make_policy().state_dict().keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are kernels for CUDA")
def test_liger_kernels_are_refused_without_cuda(make_policy: MakePolicy) -> None:
    with pytest.raises(UserError, match=r"policy\.liger needs a CUDA device"):
        make_policy(liger=True)


# ------------------------------------------------------------------------ eos


@pytest.mark.parametrize(("saved", "expected"), [(7, (7,)), ([9, 1, 5], (1, 5, 9)), (None, (1,))])
def test_eos_ids_are_those_of_the_generation_config(
    tmp_path: Path,
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
    saved: Any,
    expected: tuple[int, ...],
) -> None:
    path = save_model(tmp_path / "model", tiny_config(eos_token_id=None))
    GenerationConfig(eos_token_id=saved, pad_token_id=0).save_pretrained(path)
    settings = PolicySettings(path=str(path))
    policy = Policy(settings, load_tokenizer(settings))
    assert policy.eos_token_ids == expected
    policy.lm.save_pretrained(tmp_path / "again")
    assert GenerationConfig.from_pretrained(tmp_path / "again").eos_token_id == list(expected)


# ------------------------------------------------------------------- loading


def test_random_init_takes_overrides() -> None:
    settings = PolicySettings(
        EMBEDDED,
        random_init=True,
        config_overrides={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 2}
        | {"num_key_value_heads": 1},
    )
    policy = Policy(settings, load_tokenizer(settings))
    config = policy.lm.config
    assert (config.hidden_size, config.num_hidden_layers, len(config.layer_types)) == (32, 5, 5)
    assert policy.lm.training
    assert policy.head(policy.hidden_states(torch.tensor([[5, 6]]))).shape == (1, 2, config.vocab_size)


def test_random_init_follows_the_seed() -> None:
    settings = PolicySettings(EMBEDDED, random_init=True)
    tokenizer = load_tokenizer(settings)
    weights = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            weights.append(next(Policy(settings, tokenizer).lm.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_overrides_without_random_init_are_refused(policy_dir: Path) -> None:
    settings = PolicySettings(path=str(policy_dir), config_overrides={"num_hidden_layers": 1})
    with pytest.raises(UserError, match=r"policy\.config_overrides needs policy\.random_init"):
        Policy(settings, load_tokenizer(settings))


def test_an_unknown_override_is_refused(policy_dir: Path) -> None:
    settings = PolicySettings(path=str(policy_dir), random_init=True, config_overrides={"num_layerz": 1})
    with pytest.raises(UserError, match="'num_layerz', which Qwen2Config does not know"):
        Policy(settings, load_tokenizer(settings))


@pytest.mark.parametrize("path", ["/no/such/place", "./no-such-place", "~/no-such-place", "no/such/place"])
def test_a_missing_directory_is_refused(path: str) -> None:
    with pytest.raises(UserError, match=f"policy.path is '{path}'.*no such directory"):
        load_tokenizer(PolicySettings(path=path))


def test_a_path_in_the_home_directory_is_found(policy_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(policy_dir.parent))
    settings = PolicySettings(path=f"~/{policy_dir.name}")
    assert Policy(settings, load_tokenizer(settings)).lm.config.hidden_size == 32


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no <eos> token"):
        load_tokenizer(PolicySettings(path=str(tmp_path)))


def test_a_tokenizer_without_pad_pads_with_eos(tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(PolicySettings(path=str(tmp_path)))
    assert loaded.pad_token_id == loaded.eos_token_id == 1


def test_the_embedded_tokenizer_loads_as_transformers_loads_it() -> None:
    settings = PolicySettings(EMBEDDED)
    tokenizer = load_tokenizer(settings)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(tokenizer.name_or_path).get_vocab()
    assert tokenizer.convert_tokens_to_ids("<|reward|>") == Z


def test_a_frozen_policy_stays_frozen(policy_dir: Path) -> None:
    settings = PolicySettings(path=str(policy_dir))
    frozen = FrozenPolicy(settings, load_tokenizer(settings))
    frozen.train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_a_config_without_a_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TypeError, match="path"):
        PolicySettings()  # type: ignore[call-arg]
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(
        "model: {self_reward: {token: z}, verifier: {class_path: laser_lightning.verifiers.ExactVerifier}}"
    )
    assert main(["fit", "--config", "run.yaml"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "laser-lightning: error: model.policy.path: required; set it in a config or on the command line"
    )
