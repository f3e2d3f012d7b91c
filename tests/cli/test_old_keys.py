"""Keys of version 0.1 in configs and on the command line: merged as they were, and told once with their place."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from laser_lightning.cli.config_files import Config, load_configs
from laser_lightning.cli.old_keys import old_options
from laser_lightning.cli.resume_settings import check_settings
from laser_lightning.errors import UserError

BASE = "model: {class_path: laser_lightning.LaSeRModule}"
pytestmark = pytest.mark.filterwarnings("ignore:.*the old form goes:FutureWarning")


def part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"laser_lightning.{name}", "init_args": arguments}


def loaded(folder: Path, texts: Sequence[str], options: Sequence[str] = ()) -> Config:
    """Files of these texts, overlaid in order, with options on top."""
    for number, text in enumerate(texts):
        (folder / f"{number}.yaml").write_text(text)
    old, rest = old_options(options)
    assert rest == []
    return load_configs([str(folder / f"{number}.yaml") for number in range(len(texts))], BASE, old)


def merged(folder: Path, settings: str, texts: Sequence[str], options: Sequence[str] = ()) -> Any:
    """The settings of the model that files come to, each of them given as the text of these settings."""
    config = loaded(folder, [f"model: {{{settings}: {text}}}" for text in texts], options)
    return yaml.safe_load(config.text)["model"]["init_args"][settings]


ADVANTAGES: list[tuple[str, str, dict[str, Any]]] = [
    # Old on old: as the keys overlaid each other.
    (
        "{estimator: group_relative, epsilon: 0.1}",
        "{divide_by_std: false}",
        {"estimator": part("GroupRelative", divide_by_std=False, epsilon=0.1)},
    ),
    (
        "{estimator: group_relative, divide_by_std: true, epsilon: 0.1}",
        "{estimator: batch_normalized}",
        {"estimator": part("BatchNormalized", baseline=False, epsilon=0.1)},
    ),
    (
        "{estimator: leave_one_out, epsilon: 0.1}",
        "{estimator: group_relative}",
        {"estimator": part("GroupRelative", epsilon=0.1)},
    ),
    (
        "{overlong: {buffer_share: 0.3}}",
        "{overlong: {penalty: 1}}",
        {"shaping": [part("OverlongPenalty", buffer_share=0.3, penalty=1)]},
    ),
    ("{overlong: {penalty: 1}}", "{overlong: null}", {"shaping": []}),
    # New on old: another class starts afresh, the same one keeps its arguments.
    (
        "{divide_by_std: true, epsilon: 0.1}",
        "{estimator: {class_path: laser_lightning.LeaveOneOut}}",
        {"estimator": {"class_path": "laser_lightning.LeaveOneOut"}},
    ),
    (
        "{epsilon: 0.1}",
        "{estimator: {init_args: {divide_by_std: false}}}",
        {"estimator": part("GroupRelative", divide_by_std=False, epsilon=0.1)},
    ),
    ("{self_reward_mix: 0.3}", "{mixing: {init_args: {tau: 0.4}}}", {"mixing": part("SelfRewardMixing", tau=0.4)}),
    (
        "{overlong: {penalty: 1}}",
        "{shaping+: [{class_path: my.Shaper}]}",
        {"shaping": [part("OverlongPenalty", penalty=1), {"class_path": "my.Shaper"}]},
    ),
    # Old on new.
    (
        "{estimator: {class_path: my.Estimator, init_args: {epsilon: 1, own: 2}}}",
        "{epsilon: 0.1}",
        {"estimator": {"class_path": "my.Estimator", "init_args": {"epsilon": 0.1, "own": 2}}},
    ),
    (
        "{estimator: {class_path: my.Estimator, init_args: {own: 2}}}",
        "{estimator: leave_one_out}",
        {"estimator": part("LeaveOneOut")},
    ),
    (
        "{mixing: {class_path: my.Mixing, init_args: {own: 2}}}",
        "{self_reward_mix: 0.4}",
        {"mixing": {"class_path": "my.Mixing", "init_args": {"own": 2, "tau": 0.4}}},
    ),
    (
        "{shaping: [{class_path: my.A}, {class_path: laser_lightning.OverlongPenalty, init_args: {penalty: 1}}]}",
        "{overlong: {penalty: 2}}",
        {"shaping": [{"class_path": "my.A"}, part("OverlongPenalty", penalty=2)]},
    ),
    ("{shaping: [{class_path: my.A}]}", "{overlong: }", {"shaping": [{"class_path": "my.A"}]}),
]


@pytest.mark.parametrize(("base", "overlay", "expected"), ADVANTAGES)
def test_old_and_new_forms_overlay_each_other(
    tmp_path: Path, base: str, overlay: str, expected: dict[str, Any]
) -> None:
    assert merged(tmp_path, "advantage", [base, overlay]) == expected


def test_a_new_form_forgets_the_old_keys_below_it(tmp_path: Path) -> None:
    texts = ["{epsilon: 0.1}", "{estimator: {init_args: {epsilon: 0.2}}}", "{divide_by_std: false}"]
    assert merged(tmp_path, "advantage", texts) == {
        "estimator": part("GroupRelative", epsilon=0.2, divide_by_std=False)
    }


def test_a_cap_waits_for_the_weights_that_it_caps(tmp_path: Path) -> None:
    weights = part("TruncatedImportance", level="token", cap=5)
    assert merged(tmp_path, "update", ["{importance: none, importance_cap: 5}", "{importance: token}"]) == {
        "importance": weights
    }
    assert merged(tmp_path, "update", ["{importance_cap: 5}"]) == {}
    assert merged(tmp_path, "update", ["{importance: token}", "{importance_cap: 5}"]) == {"importance": weights}
    assert merged(tmp_path, "update", ["{importance: token}", "{importance: none}"]) == {"importance": None}


@pytest.mark.parametrize("prefix", ["--model.", "--model.init_args."])
def test_options_overlay_the_files(tmp_path: Path, prefix: str) -> None:
    options = [f"{prefix}advantage.overlong.penalty", "2", f"{prefix}advantage.estimator=batch_normalized"]
    assert merged(tmp_path, "advantage", ["{overlong: {buffer_share: 0.3}, epsilon: 0.1}"], options) == {
        "shaping": [part("OverlongPenalty", buffer_share=0.3, penalty=2)],
        "estimator": part("BatchNormalized", baseline=False, epsilon=0.1),
    }


def test_other_options_are_left_where_they_are() -> None:
    words = ["fit", "--model.advantage.estimator=my.Estimator", "--model.advantage.estimator.epsilon", "1e-3"]
    words += ["--model.update.kl_coef", "0.1", "--model.update.importance=null", "--data.update.importance", "none"]
    assert old_options(words) == (None, words)
    old = ["--model.advantage={epsilon: 1e-3}", "--model.update.kl_estimator", "k1", "--model.update.importance=none"]
    tree, rest = old_options([*words, *old])
    assert rest == words
    assert yaml.safe_load(yaml.serialize(tree)) == {
        "model": {"advantage": {"epsilon": "1e-3"}, "update": {"kl_estimator": "k1", "importance": "none"}}
    }


def test_every_value_keeps_its_file_and_line(tmp_path: Path) -> None:
    text = "model:\n  init_args:\n    advantage:\n      estimator: group_relative\n      epsilon: much\n"
    config = loaded(tmp_path, [text], ["--model.update.importance=token"])
    origin = config.origins["model", "init_args", "advantage", "estimator", "init_args", "epsilon"]
    assert origin == (f"{tmp_path}/0.yaml, line 5", "much")
    level = config.origins["model", "init_args", "update", "importance", "init_args", "level"]
    assert level == ("command line", "token")


def test_old_keys_are_told_once_with_their_new_form(tmp_path: Path) -> None:
    text = "model:\n  advantage:\n    estimator: batch_normalized\n    epsilon: 0.1\n  update: {importance_cap: 3}\n"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        loaded(tmp_path, [text])
        loaded(tmp_path, [text])
    assert [str(warning.message).partition(": ")[2] for warning in said] == [
        "in model.advantage, `estimator: batch_normalized, epsilon: 0.1` is now `estimator: {class_path: "
        "laser_lightning.BatchNormalized, init_args: {baseline: false, epsilon: 0.1}}`; the old form goes in version "
        "0.3.",
        "in model.update, `importance_cap: 3` is now `importance: {class_path: laser_lightning.TruncatedImportance, "
        "init_args: {cap: 3}}`; the old form goes in version 0.3.",
    ]
    assert str(said[0].message).startswith(f"{tmp_path}/0.yaml, line 3: ")


def test_both_forms_in_one_file_are_refused(tmp_path: Path) -> None:
    text = "{estimator: {class_path: my.Estimator}, divide_by_std: true, epsilon: 0.1}"
    with pytest.raises(UserError, match=r"model\.advantage\.divide_by_std \(.*0\.yaml, line 1\): .*leave out divide"):
        merged(tmp_path, "advantage", [text])


def test_a_run_of_version_0_1_resumes_with_the_same_settings() -> None:
    saved = """
    model:
      class_path: laser_lightning.module.LaSeRModule
      init_args:
        advantage: {self_reward_mix: 0.1, overlong: {penalty: 1}}
        update: {importance: none, importance_cap: 2.0}
    """
    shaper = part("OverlongPenalty", penalty=1)
    arguments: dict[str, Any] = {
        "advantage": {"mixing": part("SelfRewardMixing", tau=0.1), "shaping": [shaper]},
        "update": {"importance": None},
    }
    ours: dict[str, Any] = {"model": part("LaSeRModule", **arguments)}
    check_settings(saved, yaml.safe_dump(ours), [])
    arguments["advantage"]["mixing"]["init_args"]["tau"] = 0.2
    with pytest.raises(UserError, match=r"model\.advantage\.mixing\.tau: 0\.1 -> 0\.2\."):
        check_settings(saved, yaml.safe_dump(ours), [])
    check_settings(saved, yaml.safe_dump(ours), ["model.advantage.self_reward_mix"])
