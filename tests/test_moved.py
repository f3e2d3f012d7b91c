"""What version 0.1 wrote and imported goes on working, although its modules have other places now."""

import importlib
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from laser_lightning.cli.command_line import main
from laser_lightning.cli.resume_settings import check_settings
from laser_lightning.cli.trainer import LaSeRCLI
from laser_lightning.errors import UserError
from laser_lightning.moved import MOVED
from laser_lightning.old_settings import renewed_config

CONFIGS = sorted((Path(__file__).parent / "version_0_1").glob("*.yaml"))
"""What version 0.1 printed with ``--print_config``, without the comments."""


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_has_what_the_new_one_has(old: str) -> None:
    if old == "rollout.vllm_score":
        pytest.importorskip("vllm", reason="vLLM is not installed; .ci/vllm has it")
    sys.modules.pop(f"laser_lightning.{old}", None)
    with pytest.warns(FutureWarning, match=rf"laser_lightning\.{old} is now laser_lightning\.{MOVED[old]};"):
        module = importlib.import_module(f"laser_lightning.{old}")
    new = importlib.import_module(f"laser_lightning.{MOVED[old]}")
    public = {name: value for name, value in vars(new).items() if not name.startswith("_")}
    assert public, "there is something to find"
    assert all(getattr(module, name) is value for name, value in public.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert importlib.import_module(f"laser_lightning.{old}") is module


@pytest.mark.parametrize(
    ("package", "name", "module"),
    [
        ("policy", "PolicySettings", "policy.model"),
        ("objective", "UpdateSettings", "objective.objective"),
        ("evaluation", "EvaluationMetrics", "evaluation.metrics"),
        ("cli", "main", "cli.command_line"),
    ],
)
def test_a_module_that_became_a_room_still_has_its_names(package: str, name: str, module: str) -> None:
    room = importlib.import_module(f"laser_lightning.{package}")
    assert getattr(room, name) is getattr(importlib.import_module(f"laser_lightning.{module}"), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = room.nothing


@pytest.mark.filterwarnings("ignore:.*the old form goes:FutureWarning")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_version_0_1_loads(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(path), "--print_config"])
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    then, now = renewed_config(yaml.safe_load(path.read_text())), yaml.safe_load(printed.out)
    # Every value of then is there, under its key; what is new has its default.
    assert _common(now, then) == then


@pytest.mark.filterwarnings("ignore:.*the old form goes:FutureWarning")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_run_of_version_0_1_resumes_with_the_same_config(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(cli: LaSeRCLI) -> None:
        with pytest.raises(UserError, match=r"seed_everything: 7 -> 0\."):
            check_settings(f"{path.read_text()}\nseed_everything: 7", cli._resolved, [])
        check_settings(path.read_text(), cli._resolved, [])
        raise UserError("there is no difference")

    monkeypatch.setattr(LaSeRCLI, "instantiate_classes", compare)
    assert main(["fit", "--config", str(path)]) == 2
    assert "there is no difference" in capsys.readouterr().err


def _common(now: object, then: object) -> object:
    """The part of a config that has keys which another one has too."""
    if isinstance(now, dict) and isinstance(then, dict):
        return {key: _common(now[key], then[key]) for key in then}
    return now


def test_classes_in_old_places_are_found_from_configs(capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--model", "laser_lightning.module.LaSeRModule"]
    places += ["--model.self_reward", "laser_lightning.self_reward.LastTokenSelfReward"]
    places += ["--model.engine", "laser_lightning.rollout.transformers_engine.TransformersEngine"]
    for old in ("module", "self_reward", "rollout.transformers_engine"):
        sys.modules.pop(f"laser_lightning.{old}", None)
    with pytest.raises(SystemExit) as end, pytest.warns(FutureWarning, match="is now"):
        main(["fit", "--config", "quickstart", *places, "--print_config"])
    assert end.value.code == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    assert model["class_path"] == "laser_lightning.module.LaSeRModule"  # as it was given
    assert model["init_args"]["self_reward"]["init_args"]["token"] == "<|reward|>"  # the quickstart's
