"""Two processes that each compute half of the places of every sequence take the steps of one."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from laser_lightning.distributed.sequence_parts import check_sequence_parts
from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer

MIXED = ["mixed", "mixed"]

JUDGING = {
    "class_path": "laser_lightning.objective.judging.JudgingSettings",
    "init_args": {"buffer_rounds": 3, "groups_per_update": 3, "learning_rate": 0.1},
}


@pytest.fixture(scope="session")
def policy_of_four_heads(
    save_model: Callable[..., Path], tiny_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> str:
    config = tiny_config(num_attention_heads=4, num_key_value_heads=2)
    return str(save_model(tmp_path_factory.mktemp("four heads"), config))


@pytest.fixture(scope="module")
def specs(policy_of_four_heads: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    run = {
        "policy": policy_of_four_heads,
        "directory": str(tmp_path_factory.mktemp("run")),
        "max_grad_norm": 1.0,
        "shared_prompts": "never",
    }
    return [
        # Clipped and unclipped, more and fewer micro-batches in the next step, and responses that never end.
        {**run, "max_steps": 3, "kinds": [MIXED, ["mixed", "truncated"], MIXED], "budgets": [40, 10_000, 60]},
        # Old log-probs, importance weights, and all recomputed in the backward pass.
        {
            **run,
            "max_steps": 4,
            "kinds": [MIXED] * 2,
            "epochs": 2,
            "importance": "token",
            "gradient_checkpointing": True,
        }
        | {"budgets": [50, 60]},
        {**run, "max_steps": 2, "kinds": [MIXED] * 2, "lora": {"rank": 4, "alpha": 8.0}, "kl_coef": 0.2},
        # Judging updates, which deal solutions out by themselves.
        {**run, "max_steps": 2, "kinds": [], "judging": JUDGING, "budgets": [100] * 2},
    ]


@pytest.fixture(scope="module")
def alone(specs: list[dict[str, Any]], launch: Callable[..., list[Any]]) -> list[Any]:
    found: list[Any] = launch("several", [{**spec, "strategy": "single"} for spec in specs], processes=1)[0]
    return found


def reported(rollout: dict[str, Any]) -> dict[str, float]:
    """What does not depend on the clock."""
    clock = ("_seconds", "_per_second", "tokens/s")
    return {name: value for name, value in rollout["metrics"].items() if not name.endswith(clock)}


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_two_halves_take_the_steps_of_one(
    strategy: str, launch: Callable[..., list[Any]], specs: list[dict[str, Any]], alone: list[Any]
) -> None:
    for rank in launch("several", [{**spec, "strategy": f"{strategy} in parts"} for spec in specs]):
        for number, (ours, theirs) in enumerate(zip(rank, alone, strict=True)):
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                where = (strategy, number, one["step"])
                # The same micro-batches, of which each process embeds half of the places; odd ones are filled up.
                assert other["places"]
                assert len(one["places"]) == len(other["places"]), where
                for half, whole in zip(one["places"], other["places"], strict=True):
                    assert whole <= 2 * half <= 1.25 * whole, where
                for name, weight in one["weights"].items():
                    assert (weight - other["weights"][name]).abs().max() < 2e-6, (where, name)
                assert reported(one) == pytest.approx(reported(other), rel=1e-4, abs=1e-5), where


def test_what_cannot_be_computed_in_parts_is_refused(
    policy_of_four_heads: str, save_model: Callable[..., Path], tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    def module(path: str, **settings: Any) -> Any:
        chosen = PolicySettings(path=path, **settings)
        policy = Policy(chosen, load_tokenizer(chosen))
        objective = SimpleNamespace(needs_routers=False)
        return SimpleNamespace(aligned_batches=None, policy=policy, policy_settings=chosen, objective=objective)

    fine = module(policy_of_four_heads)
    assert check_sequence_parts(fine, 2, 4) is fine.policy
    with pytest.raises(UserError, match=r"sequence_parallel_size is 2, and has to divide .* processes, which is 3"):
        check_sequence_parts(fine, 2, 3)
    with pytest.raises(UserError, match="is 0, and has to divide"):
        check_sequence_parts(fine, 0, 2)
    with pytest.raises(UserError, match="is 4, and has to divide the model's num_key_value_heads, 2"):
        check_sequence_parts(fine, 4, 4)
    with pytest.raises(UserError, match="is for the updates of LaSeRModule, and the module is Linear"):
        check_sequence_parts(torch.nn.Linear(1, 1), 2, 2)
    fine.objective.needs_routers = True
    with pytest.raises(UserError, match=r"set update\.router_aux_loss to 0"):
        check_sequence_parts(fine, 2, 2)
    for settings in ({"attention": "eager"}, {"packing": "always"}):
        with pytest.raises(UserError, match=r"needs policy\.attention sdpa, without policy\.packing"):
            check_sequence_parts(module(policy_of_four_heads, **settings), 2, 2)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    windows = tiny_config(**heads, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    with pytest.raises(UserError, match=r"needs attention of all tokens to all in front of them, and layers of Qwen2"):
        check_sequence_parts(module(str(save_model(tmp_path, windows))), 2, 2)
    with pytest.raises(UserError, match=r"set policy\.shared_prompts to auto or never"):
        check_sequence_parts(module(policy_of_four_heads, shared_prompts="always"), 2, 2)
