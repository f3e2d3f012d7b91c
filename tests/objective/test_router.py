"""The auxiliary loss of routers: by hand, against transformers, and whatever the micro-batches."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DeepseekV3Config, MixtralConfig, PretrainedConfig
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from laser_lightning.errors import UserError
from laser_lightning.objective.router import RouterAuxLoss, check_routers
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import Policy
from laser_lightning.policy.routers import router_balance
from laser_lightning.records.batching import Rollouts, micro_batches

MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}


@pytest.fixture
def load(
    save_model: Callable[..., Path], tiny_config: Callable[..., PretrainedConfig], make_policy: Callable, tmp_path: Path
) -> Callable[..., Policy]:
    """``load(packing=..., **fields)`` is the policy of a tiny random Mixtral."""

    def load(packing: str = "never", **fields: Any) -> Policy:
        path = save_model(tmp_path, tiny_config(MixtralConfig, **(MIXTRAL | fields)))
        return make_policy(path, packing=packing)

    return load


def test_balance_by_hand() -> None:
    # Probabilities (3/4, 1/4) for the first of two experts, or (1/4, 3/4).
    first, second = [math.log(3.0), 0.0], [0.0, math.log(3.0)]
    places, solutions = torch.tensor([0, 1, 3, 4]), torch.tensor([0, 0, 2, 2])
    layer = torch.tensor([first, first, [9.0, 0.0], first, second])  # the third place does not count
    found = router_balance([layer], places, solutions, 3, 1)
    # Solution 0: f = (1, 0), P = (3/4, 1/4), 2 * 3/4. Solution 1 has no token. Solution 2: f = P = (1/2, 1/2), 2 * 1/2.
    assert found.tolist() == pytest.approx([1.5, 0.0, 1.0])
    # The mean over layers: another one, in which solution 0 is even.
    other = torch.tensor([first, second, [0.0, 9.0], first, first])
    assert router_balance([layer, other], places, solutions, 3, 1).tolist() == pytest.approx([1.25, 0.0, 1.25])
    # With both experts for every token f is 1 for each, and the loss 2 * (3/4 + 1/4).
    assert router_balance([layer], places, solutions, 3, 2).tolist() == pytest.approx([2.0, 0.0, 2.0])


@pytest.mark.parametrize("packing", ["never", "always"])
def test_it_is_that_of_transformers_for_a_single_solution(
    load: Callable[..., Policy], make_rollouts: Callable[..., Rollouts], packing: str
) -> None:
    policy, rollouts = load(packing, num_hidden_layers=1), make_rollouts()
    for batch in micro_batches(rollouts, torch.arange(len(rollouts)), 60, 0):
        found = policy(batch, (3,), routers=True).router_balance
        for row in range(len(batch.rows)):
            prompt, response = int(batch.prompt_lengths[row]), int(batch.response_lengths[row])
            ids = batch.input_ids[row : row + 1, : prompt + response]
            logits = policy.lm(input_ids=ids, output_router_logits=True, use_cache=False).router_logits
            mask = (torch.arange(prompt + response) >= prompt).long()[None]  # the response's tokens
            torch.testing.assert_close(found[row], load_balancing_loss_func(logits, 4, 2, mask), rtol=1e-5, atol=0)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_micro_batches_change_nothing(
    load: Callable[..., Policy], make_rollouts: Callable[..., Rollouts], aggregation: str
) -> None:
    """The sum over micro-batches of any size, and its gradient by a router's weights; against a sum by hand."""
    policy, rollouts = load(), make_rollouts()
    lengths = rollouts.response_lengths
    weights = 1 / lengths.sum().expand(len(lengths)) if aggregation == "token" else 1 / (lengths * len(lengths))
    nothing = torch.zeros(len(rollouts))
    targets = Targets(nothing, nothing, weights, nothing, nothing)
    term, parameter = RouterAuxLoss(0.5), next(p for name, p in policy.lm.named_parameters() if "gate.weight" in name)
    found = []
    for budget in (15, 40, 1000):
        policy.zero_grad()
        batches = micro_batches(rollouts, torch.arange(len(rollouts)), budget, 0)
        shares = [term(policy(batch, (3,), routers=True), batch, targets) for batch in batches]
        total = torch.stack(shares).sum()
        total.backward()
        assert parameter.grad is not None
        found.append((len(batches), total.detach(), parameter.grad.clone()))
    assert len({batches for batches, *_ in found}) == 3
    for _, total, gradient in found[1:]:
        torch.testing.assert_close(total, found[0][1], rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, found[0][2], rtol=1e-4, atol=1e-7)
    assert float(found[0][2].norm()) > 1e-3
    (whole,) = micro_batches(rollouts, torch.arange(len(rollouts)), 1000, 0)
    balance = policy(whole, (3,), routers=True).router_balance.detach()[whole.rows.argsort()]
    mean = (balance * lengths).sum() / lengths.sum() if aggregation == "token" else balance.mean()
    torch.testing.assert_close(found[0][1], 0.5 * mean, rtol=1e-5, atol=0)


def test_the_setting_is_a_term_of_the_loss() -> None:
    assert UpdateSettings().all_terms == UpdateSettings(router_aux_loss=0.0).all_terms == []
    settings = UpdateSettings(router_aux_loss=0.01)
    (term,) = settings.all_terms
    assert isinstance(term, RouterAuxLoss)
    assert (term.weight, term.name) == (0.01, "router_aux_loss")
    assert settings.parts()["update.terms.0"].needs_routers
    with pytest.raises(UserError, match=r"update\.router_aux_loss must be 0 or more"):
        UpdateSettings(router_aux_loss=-1.0)
    with pytest.raises(UserError, match="has the name 'router_aux_loss' twice"):
        UpdateSettings(router_aux_loss=0.01, terms=[RouterAuxLoss()])
    with pytest.raises(UserError, match="must be above 0"):
        RouterAuxLoss(0.0)


def test_a_config_that_asks_for_it_in_vain_is_named(load: Callable[..., Policy]) -> None:
    asking = load(output_router_logits=True, router_aux_loss_coef=0.02).lm
    with pytest.warns(UserWarning, match=r"router_aux_loss_coef 0\.02 .*: set update\.router_aux_loss to 0\.02 to add"):
        check_routers(asking, False, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_routers(asking, False, 0.0)
        check_routers(asking, True, 0.02)
        asking.config.output_router_logits = False  # as it is in configs of most models: transformers adds none either
        check_routers(asking, False, None)


def test_models_without_one_are_refused(
    make_policy: Callable[..., Policy],
    save_model: Callable[..., Path],
    tiny_config: Callable[..., PretrainedConfig],
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=r"no auxiliary loss for the routers of Qwen2ForCausalLM.*: leave it out"):
        check_routers(make_policy().lm, True, 0.01)
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
    experts = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    config = tiny_config(DeepseekV3Config, **latent, **experts, moe_intermediate_size=16, first_k_dense_replace=1)
    with pytest.raises(UserError, match="no auxiliary loss for the routers of DeepseekV3ForCausalLM"):
        check_routers(make_policy(save_model(tmp_path, config)).lm, True, 0.01)
