"""Settings of version 0.1 in their new form, as plain values."""

from typing import Any

import pytest

from laser_lightning.old_settings import renewed, renewed_arguments, renewed_config, renewed_key


def part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"laser_lightning.{name}", "init_args": arguments}


# Old keys on the left, and what stands for them now.
RENEWED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "advantage",
        {"estimator": "group_relative", "divide_by_std": False, "epsilon": 1e-4},
        {"estimator": part("GroupRelative", divide_by_std=False, epsilon=1e-4)},
    ),
    ("advantage", {"divide_by_std": False}, {"estimator": part("GroupRelative", divide_by_std=False)}),
    # Its epsilon, and `divide_by_std: true`, had no effect.
    (
        "advantage",
        {"estimator": "leave_one_out", "divide_by_std": True, "epsilon": 1e-4},
        {"estimator": part("LeaveOneOut")},
    ),
    # This was refused, and the class refuses it.
    (
        "advantage",
        {"estimator": "leave_one_out", "divide_by_std": False},
        {"estimator": part("LeaveOneOut", divide_by_std=False)},
    ),
    (
        "advantage",
        {"estimator": "batch_normalized", "epsilon": 1e-4},
        {"estimator": part("BatchNormalized", baseline=False, epsilon=1e-4)},
    ),
    (
        "advantage",
        {"estimator": "batch_normalized_with_baseline"},
        {"estimator": part("BatchNormalized", baseline=True)},
    ),
    (
        "advantage",
        {"self_reward_mix": 0.2, "min_std": 0.05, "mix_unanimous_groups": False},
        {"mixing": part("SelfRewardMixing", tau=0.2, min_std=0.05, mix_unanimous_groups=False)},
    ),
    (
        "advantage",
        {"overlong": {"penalty": 1.0}, "own": 3},
        {"shaping": [part("OverlongPenalty", penalty=1.0)], "own": 3},
    ),
    ("advantage", {"overlong": None}, {"shaping": []}),
    ("update", {"importance": "none", "importance_cap": 2.0}, {"importance": None}),
    (
        "update",
        {"importance": "sequence", "importance_cap": 3.0},
        {"importance": part("TruncatedImportance", level="sequence", cap=3.0)},
    ),
    ("update", {"importance_cap": 3.0}, {}),  # a cap of nothing had no effect
    ("update", {"kl_estimator": "k1", "kl_coef": 0.1}, {"kl": part("KLEstimate", estimator="k1"), "kl_coef": 0.1}),
    # New forms, and other settings, stay as they are.
    ("advantage", {"estimator": part("LeaveOneOut"), "shaping": []}, {"estimator": part("LeaveOneOut"), "shaping": []}),
    ("update", {"importance": None}, {"importance": None}),
    ("optimizer", {"epsilon": 1.0}, {"epsilon": 1.0}),
]


@pytest.mark.parametrize(("settings", "old", "new"), RENEWED)
def test_old_keys_have_a_new_form(settings: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    before = dict(old)
    assert renewed(settings, old) == new
    assert old == before


@pytest.mark.parametrize("inside", [True, False])
def test_a_whole_config_is_renewed_where_its_model_is(inside: bool) -> None:
    arguments = {"advantage": {"self_reward_mix": 0.0}, "group_size": 8}
    renewed_ones = {"advantage": {"mixing": part("SelfRewardMixing", tau=0.0)}, "group_size": 8}
    config = {"model": {"class_path": "M", "init_args": arguments} if inside else arguments, "seed_everything": 0}
    expected = {"class_path": "M", "init_args": renewed_ones} if inside else renewed_ones
    assert renewed_config(config) == {"model": expected, "seed_everything": 0}
    assert renewed_config(None) is None


def test_the_arguments_in_a_checkpoint_are_renewed_by_their_fields() -> None:
    settings = "laser_lightning.advantages.AdvantageSettings"
    overlong = {
        "class_path": "laser_lightning.overlong.OverlongSettings",
        "init_args": {"buffer_share": 0.2, "penalty": 0.5},
    }
    held = {
        "advantage": {"class_path": settings, "init_args": {"self_reward_mix": 0.1, "overlong": overlong}},
        "group_size": 8,
    }
    arguments = {
        "mixing": part("SelfRewardMixing", tau=0.1),
        "shaping": [part("OverlongPenalty", buffer_share=0.2, penalty=0.5)],
    }
    assert renewed_arguments(held) == {"advantage": {"class_path": settings, "init_args": arguments}, "group_size": 8}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.advantage.min_std", "model.advantage.mixing"),
        ("model.init_args.update.importance_cap", "model.update.importance"),
        ("model.update.kl_coef", "model.update.kl_coef"),
        ("model.advantage", "model.advantage"),
        ("data.seed", "data.seed"),
    ],
)
def test_a_key_that_may_change_is_found_in_its_new_place(old: str, new: str) -> None:
    assert renewed_key(old) == new
