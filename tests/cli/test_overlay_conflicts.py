"""Packaged methods in one config: which go together, and what the others are told."""

from itertools import permutations
from pathlib import Path

import pytest
import yaml

from laser_lightning.cli.config_files import METHODS, load_configs, packaged_names, read_config
from laser_lightning.cli.overlay_conflicts import LaidMethods, Overlay
from laser_lightning.errors import UserError


def refusal(*names: str) -> str:
    with pytest.raises(UserError) as error:
        load_configs(["quickstart", *names])
    return str(error.value)


def lay(*overlays: Overlay) -> None:
    """Several overlays on the quickstart."""
    config, laid = yaml.compose(read_config("quickstart"), yaml.SafeLoader), LaidMethods()
    for overlay in overlays:
        config = laid.lay(config, overlay)
    laid.refuse_conflicts()


def test_two_estimators_are_refused_with_the_lines_of_both() -> None:
    assert refusal("methods/ngrpo", "methods/hybrid_target", "methods/xrpo_sharpening") == (
        "methods/xrpo_sharpening would undo what methods/ngrpo sets: model.advantage.estimator "
        "(methods/ngrpo, line 14; methods/xrpo_sharpening, line 8). Leave one of them out, or set what you want of "
        "both in a config file behind them"
    )


@pytest.mark.parametrize(
    ("earlier", "later", "parts"),
    [
        ("methods/sec", "methods/verification_gap", ["data.curriculum"]),
        ("methods/icepop", "methods/truncated_both_sides", ["model.update.importance"]),
        ("methods/spoc", "methods/rlpr", ["model"]),
        # one class with other arguments
        ("baselines/dapo", "methods/ngrpo", ["model.policy_loss.clip_low", "model.policy_loss.clip_high"]),
        # a part, and that there is none
        ("methods/judging_by_replay", "baselines/grpo", ["model.update.judging"]),
        ("baselines/grpo", "methods/judging_by_replay", ["model.update.judging"]),
    ],
)
def test_what_a_later_method_would_undo_is_named(earlier: str, later: str, parts: list[str]) -> None:
    told = refusal(earlier, later)
    named = told.partition(" sets: ")[2].partition(". Leave")[0]
    assert [item.partition(" (")[0] for item in named.split("), ")] == parts


def test_a_list_that_is_appended_to_is_named_second() -> None:
    """Behind the cosine reward Kimi's is appended; before it, it would be lost."""
    assert refusal("methods/kimi_length", "methods/cosine_reward").endswith("Name methods/cosine_reward first")
    text = load_configs(["quickstart", "methods/cosine_reward", "methods/kimi_length"]).text
    shapers = yaml.safe_load(text)["model"]["init_args"]["advantage"]["shaping"]
    names = [shaper["class_path"].rpartition(".")[2] for shaper in shapers]
    assert "CosineReward" in names
    assert names[-1] == "KimiLengthReward"


def test_methods_that_set_the_same_go_together() -> None:
    """Both are RISE, without the loss of the score; one has its rewards besides, the other one its verifications."""
    text = load_configs(["quickstart", "baselines/rise", "methods/rise_own_rewards"]).text
    assert yaml.safe_load(text)["model"]["init_args"]["rewards"]["incorrect"] == -0.5


def test_a_file_behind_both_settles_it(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("model: {init_args: {policy_loss: {init_args: {clip_low: 0.1, clip_high: 0.3}}}}")
    text = load_configs(["quickstart", "baselines/dapo", "methods/ngrpo", str(own)]).text
    assert yaml.safe_load(text)["model"]["init_args"]["policy_loss"]["init_args"]["clip_high"] == 0.3
    # before them it settles nothing, and neither does one that sets a half
    assert "clip_low" in refusal(str(own), "baselines/dapo", "methods/ngrpo")
    own.write_text("model: {init_args: {policy_loss: {init_args: {clip_low: 0.1}}}}")
    told = refusal("baselines/dapo", "methods/ngrpo", str(own))
    assert "clip_high" in told
    assert "clip_low" not in told


def test_files_of_ones_own_replace_what_they_set(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("model: {init_args: {advantage: {estimator: {class_path: laser_lightning.LeaveOneOut}}}}")
    text = load_configs(["quickstart", "methods/ngrpo", str(own), str(own)]).text
    estimator = yaml.safe_load(text)["model"]["init_args"]["advantage"]["estimator"]
    assert estimator["class_path"] == "laser_lightning.LeaveOneOut"


def test_arguments_of_a_class_that_is_replaced_are_named() -> None:
    """Behind the two-token head its target is the hybrid one; before it, it would be the default."""
    told = refusal("methods/hybrid_target", "baselines/two_token")
    assert told == (
        "baselines/two_token would undo what methods/hybrid_target sets: model.self_reward.target "
        "(methods/hybrid_target, line 8). Name baselines/two_token first"
    )
    head = yaml.safe_load(load_configs(["quickstart", "baselines/two_token", "methods/hybrid_target"]).text)
    arguments = head["model"]["init_args"]["self_reward"]["init_args"]
    assert arguments["target"]["class_path"] == "laser_lightning.HybridTarget"
    # a module that takes the arguments of the one before undoes nothing
    module = yaml.safe_load(load_configs(["quickstart", "methods/ngrpo", "methods/spoc"]).text)["model"]
    assert module["init_args"]["advantage"]["estimator"]["class_path"] == "laser_lightning.NGRPO"


def test_every_refused_pair_is_refused_in_both_orders_or_told_the_other_one() -> None:
    nodes = {name: yaml.compose(read_config(name), yaml.SafeLoader) for name in packaged_names()}
    methods = [Overlay(name, node, True) for name, node in nodes.items() if name.startswith(METHODS)]
    told: dict[tuple[str, str], str] = {}
    for pair in permutations(methods, 2):
        try:
            lay(*pair)
        except UserError as error:
            told[pair[0].name, pair[1].name] = str(error)
    assert len(told) > 100
    for (earlier, later), sentence in told.items():
        assert sentence.startswith(f"{later} would undo what {earlier} sets: ")
        assert ((later, earlier) in told) != sentence.endswith(f"Name {later} first")
