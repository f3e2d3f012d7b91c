"""The optimizer's states in host memory during rollouts: the same numbers, and what cannot be is refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from laser_lightning.distributed.offloading import check_optimizer, offloaded
from laser_lightning.distributed.strategies import LaSeRDeepSpeedStrategy
from laser_lightning.errors import UserError

MIXED = "mixed"


@pytest.fixture
def spec(policy_dir: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "policy": str(policy_dir),
        "directory": str(tmp_path),
        "algorithm": "adamw",
        "eps": 1e-8,
        "max_grad_norm": 1.0,
        "max_steps": 2,
        "kinds": [[MIXED, MIXED]] * 2,
        "budgets": [10_000, 54],
    }


@pytest.mark.distributed
def test_steps_are_the_same_bit_for_bit(launch: Callable[..., list[Any]], spec: dict[str, Any]) -> None:
    names = ("zero1", "zero1 offload", "zero2", "zero2 offload")
    kinds = [{"strategy": name, "precision": "bf16-mixed" if "1" in name else "32-true"} for name in names]
    for rank in launch("several", [spec | kind for kind in kinds]):
        for plain, offloading in zip(rank[::2], rank[1::2], strict=True):
            assert [state["step"] for state in offloading] == [1, 2]
            for ours, theirs in zip(offloading, plain, strict=True):
                for name, value in theirs["weights"].items():
                    assert torch.equal(ours["weights"][name], value), name


@pytest.mark.distributed
def test_a_run_under_zero3_is_refused_before_its_first_step(
    launch: Callable[..., list[Any]], spec: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError, match="FusedAdam alone"):
        launch("several", [spec | {"strategy": "zero3 offload"}])


def test_states_that_are_in_host_memory_anyway_are_refused() -> None:
    for name in ("offload_optimizer", "offload_parameters"):
        with pytest.raises(UserError, match=rf"offload_states_in_rollouts moves .* where {name} keeps them"):
            LaSeRDeepSpeedStrategy(stage=3, offload_states_in_rollouts=True, **{name: True})


def test_optimizers_that_deepspeed_does_not_move_are_refused() -> None:
    class FusedAdam:
        """Stands for DeepSpeed's."""

    adamw = torch.optim.AdamW([torch.zeros(1)])
    check_optimizer(SimpleNamespace(optimizer=adamw, offload_states=None), stage=2)
    check_optimizer(SimpleNamespace(optimizer=FusedAdam(), offload_states=None), stage=3)
    with pytest.raises(UserError, match=r"works under ZeRO-3 with DeepSpeed's FusedAdam alone .* is AdamW: overlay"):
        check_optimizer(SimpleNamespace(optimizer=adamw, offload_states=None), stage=3)
    with pytest.raises(UserError, match="SimpleNamespace has no such thing"):
        check_optimizer(SimpleNamespace(optimizer=adamw), stage=1)


def test_counts_of_steps_stay_on_the_host() -> None:
    count, calls = torch.tensor(7.0), []
    state = {"step": count, "exp_avg": torch.zeros(2, device="meta"), "name": "none"}

    class Engine:
        """Brings everything back to the GPU, for which torch's meta device stands."""

        optimizer = SimpleNamespace(optimizer=SimpleNamespace(state={0: state}))

        def offload_states(self, include: list[Any], pin_memory: bool) -> None:
            calls.append([kind.value for kind in include])

        def reload_states(self) -> None:
            calls.append("reload")
            state["step"] = torch.zeros((), device="meta")

    with pytest.raises(KeyError), offloaded(Engine()):
        raise KeyError  # a rollout that is broken off leaves them in their place
    assert calls == [["hp_params", "optim_states", "lp_grads", "contiguous_grad_buffer"], "reload"]
    assert state["step"] is count
    assert state["exp_avg"].device.type == "meta"
