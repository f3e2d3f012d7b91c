"""The self-test passes models that are right, and names what is wrong with others."""

import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    MambaConfig,
    MixtralConfig,
    PhimoeConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
)

from laser_lightning.errors import UserError
from laser_lightning.policy.model import EMBEDDED, Policy
from laser_lightning.rollout import RolloutEngine, TransformersEngine
from laser_lightning.rollout.self_test import SelfTest, check_policy
from laser_lightning.rollout.self_test.probe import tolerance_nats

MakePolicy = Callable[..., Policy]
SaveModel = Callable[..., Path]
TinyConfig = Callable[..., PretrainedConfig]
WAYS = ["evaluation mode", "causality", "head", "training mode", "decode", "refill", "update", "shared prompts"]


def wrap(monkeypatch: pytest.MonkeyPatch, module: Any, change: Callable[..., Any]) -> None:
    """Let ``change(forward, **inputs)`` stand in the place of a module's forward pass."""
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *args, **inputs: change(forward, *args, **inputs))


def states() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


# ------------------------------------------------------------- models that are right


@pytest.mark.parametrize("packing", ["never", "always"])
def test_right_models_pass_within_rounding(family: tuple[Path, float], make_policy: MakePolicy, packing: str) -> None:
    policy = make_policy(family[0], packing=packing)
    assert policy.lm.training
    found = check_policy(policy, TransformersEngine())
    assert [finding.way for finding in found] == (WAYS if policy.sharing is not None else WAYS[:-1])
    assert max(finding.error_nats for finding in found) < 1e-4
    assert all(finding.passed and not finding.sentence for finding in found)
    assert policy.lm.training


def test_experts_pass(tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, make_policy: MakePolicy) -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16}
    path = save_model(tmp_path, tiny_config(Qwen3MoeConfig, **sizes))
    assert len(check_policy(make_policy(path, packing="always"), TransformersEngine())) == len(WAYS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_passes_with_a_tolerance_of_its_own(make_policy: MakePolicy, dtype: str) -> None:
    found = check_policy(make_policy(EMBEDDED, dtype=dtype), TransformersEngine())
    # eps is 2^-23, 2^-7, 2^-10, and the tolerance four times its root
    assert found[0].tolerance_nats == pytest.approx({"bfloat16": 0.3536, "float16": 0.125}[dtype], abs=1e-4)
    assert 1e-4 < max(finding.error_nats for finding in found) < found[0].tolerance_nats


def test_the_tolerance_follows_autocast(make_policy: MakePolicy) -> None:
    policy = make_policy()
    assert tolerance_nats(policy) == pytest.approx(0.00138, abs=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert tolerance_nats(policy) == pytest.approx(0.3536, abs=1e-4)
        assert check_policy(policy, TransformersEngine())


def with_larger_logits(policy: Policy, factor: float) -> Policy:
    """The policy, with the errors of its logits that much larger too."""
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight.mul_(factor)
    return policy


@pytest.mark.parametrize("autocast", [False, True])
def test_large_logits_pass_in_half_precision(make_policy: MakePolicy, autocast: bool) -> None:
    # Near 200 the numbers of bfloat16 are 1 apart: rounded, the model's own logits would be far from the head's.
    policy = with_larger_logits(make_policy(dtype="float32" if autocast else "bfloat16"), 100)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        policy.lm.eval()
        assert 100 < policy.lm(input_ids=torch.arange(8)[None]).logits.max() < 1000
        assert SelfTest(policy).head().error_nats < 1e-3


def test_a_model_that_magnifies_roundings_passes_with_a_warning(make_policy: MakePolicy) -> None:
    policy = with_larger_logits(make_policy(dtype="bfloat16"), 30)
    with pytest.warns(UserWarning, match=r"A rounding of its inputs moves the log-probs of Qwen2ForCausalLM by \d"):
        found = check_policy(policy, TransformersEngine())
    assert max(finding.error_nats for finding in found) > tolerance_nats(policy)  # which alone would refuse it
    assert all(finding.tolerance_nats == tolerance_nats(policy) for finding in found[:4])
    exact = with_larger_logits(make_policy(), 30)
    assert all(finding.tolerance_nats == tolerance_nats(exact) for finding in check_policy(exact, TransformersEngine()))


def test_a_model_that_magnifies_them_beyond_use_is_told_so(make_policy: MakePolicy) -> None:
    policy = with_larger_logits(make_policy(dtype="bfloat16"), 100)
    with pytest.raises(UserError, match=r"In this precision a rounding .* by \d.* nats.*: set trainer\.precision and"):
        check_policy(policy, TransformersEngine())


def test_roundings_hide_no_sequences_that_disturb_each_other(
    make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = with_larger_logits(make_policy(dtype="bfloat16"), 30)
    mlp = policy.lm.get_decoder().layers[0].mlp
    wrap(monkeypatch, mlp, lambda forward, x: forward(x) + x.mean(dim=0, keepdim=True))
    with pytest.raises(UserError, match="sequences of a batch disturb each other"):
        check_policy(policy)


def test_a_model_of_few_positions_is_tried_within_them(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, make_policy: MakePolicy
) -> None:
    path = save_model(tmp_path, tiny_config(GPT2Config, max_position_embeddings=8))
    assert len(check_policy(make_policy(path), TransformersEngine())) == len(WAYS)


def test_only_what_is_used_is_tried(make_policy: MakePolicy) -> None:
    policy = make_policy()
    assert [finding.way for finding in check_policy(policy)] == [*WAYS[:4], *WAYS[6:]]
    evaluated = check_policy(policy, TransformersEngine(), trains=False)
    assert [finding.way for finding in evaluated] == [*WAYS[:3], "decode", "refill", WAYS[-1]]
    assert [finding.way for finding in check_policy(make_policy(shared_prompts="never"))] == [*WAYS[:4], "update"]


def test_rows_end_and_are_refilled_at_different_steps(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without that, the ways would not be tried: at least one group joins rows that go on.
    from laser_lightning.rollout.transformers.decoding import Decoding

    joined = []
    join = Decoding._join
    monkeypatch.setattr(Decoding, "_join", lambda self, count: joined.append(len(self.rows)) or join(self, count))
    policy = make_policy()
    assert SelfTest(policy, TransformersEngine()).decoding().passed
    assert joined == [0]  # all at once, padded
    joined.clear()
    assert SelfTest(policy, TransformersEngine()).refilling().passed
    assert joined[0] == 0
    assert any(joined[1:])


def test_nothing_is_left_behind(make_policy: MakePolicy) -> None:
    policy, engine = make_policy(), TransformersEngine(max_batch_size=64)
    weights = [parameter.clone() for parameter in policy.parameters()]
    kept, before, ends = vars(engine).copy(), states(), policy.eos_token_ids
    assert check_policy(policy, engine)
    assert states() == before
    assert vars(engine) == kept
    assert engine._steps.ring is None
    assert (policy.lm.training, policy.packs, policy.eos_token_ids) == (True, False, ends)
    assert all(torch.equal(one, other) for one, other in zip(policy.parameters(), weights, strict=True))
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_it_takes_no_time(make_policy: MakePolicy) -> None:
    policy, began = make_policy(EMBEDDED), time.process_time()
    assert check_policy(policy, TransformersEngine())
    assert time.process_time() - began < 3.0  # seconds, of which it takes some tenths


# ------------------------------------------------------------- models that are wrong


@pytest.mark.parametrize("change", [lambda logits: 1.5 * logits, lambda logits: logits.clamp(max=1.0)])
def test_logits_that_change_behind_the_head(
    make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]
) -> None:
    def changed(forward: Any, **inputs: Any) -> Any:
        output = forward(**inputs)
        output.logits = change(output.logits)
        return output

    policy = make_policy()
    wrap(monkeypatch, policy.lm, changed)
    with pytest.raises(UserError, match=r"Qwen2ForCausalLM changes its logits after the output embedding .*: take ano"):
        check_policy(policy)


@pytest.mark.parametrize(
    "config",
    [
        # draws its experts where their logits are near each other, as those of small weights are
        {"config_class": PhimoeConfig, "num_local_experts": 8, "initializer_range": 0.02, "tie_word_embeddings": False},
        {"config_class": MixtralConfig, "num_local_experts": 4, "router_jitter_noise": 0.5},
    ],
)
def test_random_numbers_in_training_mode(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, make_policy: MakePolicy, config: dict[str, Any]
) -> None:
    policy, before = make_policy(save_model(tmp_path / "model", tiny_config(**config))), states()
    with pytest.raises(UserError, match="draws random numbers in training mode: logits of the same tokens differ by"):
        check_policy(policy, TransformersEngine())
    assert states() == before
    assert policy.lm.training
    assert check_policy(policy, TransformersEngine(), trains=False)  # an evaluation has none


def test_dropout_that_stays_on_in_evaluation_mode(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    mlp = policy.lm.get_decoder().layers[0].mlp
    wrap(monkeypatch, mlp, lambda forward, x: torch.nn.functional.dropout(forward(x), 0.1, training=True))
    with pytest.raises(UserError, match="Qwen2ForCausalLM draws random numbers in evaluation mode"):
        check_policy(policy, TransformersEngine())


def test_attention_to_later_tokens(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, make_policy: MakePolicy
) -> None:
    config = tiny_config(Gemma3TextConfig, head_dim=16, use_bidirectional_attention=True)
    policy = make_policy(save_model(tmp_path, config))
    finding = SelfTest(policy).causality()
    assert finding.error_nats > 0.1
    assert "sees the tokens behind it" in finding.sentence
    assert "bidirectional" in finding.remedy


def test_positions_that_count_padding(
    tmp_path: Path,
    save_model: SaveModel,
    tiny_config: TinyConfig,
    make_policy: MakePolicy,
) -> None:
    policy = make_policy(save_model(tmp_path, tiny_config(GPT2Config)))  # absolute positions
    policy.lm.get_decoder().register_forward_pre_hook(
        lambda module, args, inputs: (args, inputs | {"position_ids": None}) if not args else None, with_kwargs=True
    )
    finding = SelfTest(policy, TransformersEngine()).decoding()
    assert "has other log-probs where prompts of unequal lengths are decoded together" in finding.sentence


def forget(forward: Any, past_key_values: Any = None, cache: Any = None, **inputs: Any) -> Any:
    """A decoder that takes a cache for an argument to ignore: each token is read without its past."""
    return forward(**inputs | {"use_cache": False, "attention_mask": None})


def test_a_cache_that_is_swallowed(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    wrap(monkeypatch, policy.lm.get_decoder(), forget)
    finding = SelfTest(policy, TransformersEngine()).decoding()
    assert "Decoded token by token Qwen2ForCausalLM has other log-probs than in a pass" in finding.sentence


def test_sequences_that_disturb_each_other(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(forward: Any, x: Tensor) -> Tensor:
        return forward(x) + 0.1 * x.mean(dim=0, keepdim=True)

    policy = make_policy()
    wrap(monkeypatch, policy.lm.get_decoder().layers[0].mlp, mixed)
    finding = SelfTest(policy).update()
    assert not finding.passed
    assert "sequences of a batch disturb each other" in finding.sentence


def test_training_mode_that_changes_results(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    mlp = policy.lm.get_decoder().layers[0].mlp
    wrap(monkeypatch, mlp, lambda forward, x: forward(x) * (1.1 if mlp.training else 1.0))
    with pytest.raises(UserError, match="In the pass of the update Qwen2ForCausalLM has other log-probs"):
        check_policy(policy, TransformersEngine())


def test_packed_sequences_that_see_each_other(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(packing="always")
    # A model that takes the mask that it is given, or goes by places in the row.
    wrap(monkeypatch, policy.lm.get_decoder(), lambda forward, position_ids=None, **inputs: forward(**inputs))
    with pytest.raises(UserError, match=r"Qwen2ForCausalLM packed sequences disturb each other.*packing to never"):
        check_policy(policy)
    assert policy.packs


def test_a_model_that_cannot_pack(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_positions(forward: Any, **inputs: Any) -> Any:
        if inputs.pop("position_ids", None) is not None:
            raise TypeError("unexpected keyword argument 'position_ids'")
        return forward(**inputs)

    policy = make_policy(packing="always")
    wrap(monkeypatch, policy.lm.get_decoder(), without_positions)
    with pytest.raises(UserError, match=r"cannot pack sequences .*position_ids.*packing to never"):
        check_policy(policy)


def test_solutions_of_a_prompt_that_see_each_other(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(forward: Any, attention_mask: Any = None, **inputs: Any) -> Any:
        return forward(**inputs)

    policy = make_policy()
    wrap(monkeypatch, policy.lm.get_decoder(), blind)
    with pytest.warns(UserWarning, match=r"In Qwen2ForCausalLM solutions that share .* computes its prompt itself"):
        (*right, found) = check_policy(policy)
    assert all(finding.passed for finding in right)
    assert found.error_nats > 0.1
    assert policy.sharing is None
    assert [finding.way for finding in check_policy(policy)] == [*WAYS[:4], "update"]  # from now on without
    asked = make_policy(shared_prompts="always")
    wrap(monkeypatch, asked.lm.get_decoder(), blind)
    with pytest.raises(UserError, match=r"solutions that share their prompt's .*: set policy\.shared_prompts to never"):
        check_policy(asked)


def test_a_model_that_takes_no_mask_of_places(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_mask(forward: Any, attention_mask: Any = None, **inputs: Any) -> Any:
        if attention_mask is not None:
            raise ValueError("wrong shape of attention_mask")
        return forward(**inputs)

    policy = make_policy()
    wrap(monkeypatch, policy.lm.get_decoder(), without_mask)
    with pytest.warns(
        UserWarning, match=r"cannot share prompts \(ValueError: wrong shape.* computes its prompt itself"
    ):
        check_policy(policy)
    assert policy.sharing is None


def test_a_state_space_model_cannot_pack(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, make_policy: MakePolicy
) -> None:
    path = save_model(tmp_path, tiny_config(MambaConfig, state_size=4))
    with pytest.raises(UserError, match=r"policy\.packing to never"):
        check_policy(make_policy(path, packing="always"))


def test_damaged_weights(make_policy: MakePolicy) -> None:
    policy = make_policy()
    policy.lm.get_input_embeddings().weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match=r"The logits of Qwen2ForCausalLM are not finite: its weights are damaged"):
        check_policy(policy, TransformersEngine())


# ------------------------------------------------------------- a slower way, and other processes


class TwoWays(RolloutEngine):
    """An engine that is wrong with its cache, and right without."""

    def __init__(self, damage: Callable[[], Any]) -> None:
        self.use_cache, self.damage = True, damage

    def generate(self, *args: Any) -> Any:
        if self.use_cache:
            with self.damage():
                return TransformersEngine().generate(*args)
        return TransformersEngine().generate(*args)

    def trial(self, rows: int) -> RolloutEngine:
        return self


def test_decoding_falls_back_to_a_slower_way_that_is_right(
    make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy()
    decoder = policy.lm.get_decoder()

    class Damage:
        def __enter__(self) -> None:
            wrap(monkeypatch, decoder, forget)

        def __exit__(self, *error: object) -> None:
            monkeypatch.undo()

    engine = TwoWays(Damage)
    with pytest.warns(UserWarning, match="Decoded token by token Qwen2.* decoded without a cache, which is right"):
        assert all(finding.passed for finding in check_policy(policy, engine))
    assert engine.use_cache is False
    with warnings.catch_warnings(action="error"):  # it stays so
        assert check_policy(policy, engine)


def test_what_is_not_known_of_a_structure_is_found(
    tmp_path: Path,
    save_model: SaveModel,
    tiny_config: TinyConfig,
    make_policy: MakePolicy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Mamba has states that padding would go through; the engine knows, and is kept from it here.
    monkeypatch.setattr("laser_lightning.rollout.transformers.engine.cache_obstacle", lambda policy: None)
    policy, engine = make_policy(save_model(tmp_path, tiny_config(MambaConfig, state_size=4))), TransformersEngine()
    # Up to transformers 5.19 Mamba's forward pass names its cache in a way of its own, and that is found first.
    found = "(prompts of unequal lengths|takes no cache of keys and values)"
    with pytest.warns(UserWarning, match=rf"{found}.*[^.]\. It is decoded without a cache, which is right"):
        assert all(finding.passed for finding in check_policy(policy, engine))
    assert engine.use_cache is False


def test_all_processes_are_refused_if_one_is(make_policy: MakePolicy) -> None:
    class Two:
        """This process, whose errors are small, and another, which found one way wrong."""

        calls = 0

        def stack(self, error: Tensor) -> Tensor:
            self.calls += 1
            return torch.stack((error, error + 3.0 * (self.calls == 5)))

    with pytest.raises(UserError, match=r"Qwen2ForCausalLM has other log-probs where prompts of unequal .*3 nats"):
        check_policy(make_policy(), TransformersEngine(use_cache=False), Two())  # type: ignore[arg-type]
