"""The arguments of parts in plain form, and back."""

import inspect
import pickle
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from laser_lightning.arguments import NotPlain, Part, made_from, plain_form, takes_old_fields
from laser_lightning.errors import UserError
from laser_lightning.losses import ClippedPolicyLoss
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import PolicySettings
from laser_lightning.verifiers import ExactVerifier, MixedVerifier, Verifier


class Named(Part):
    """A part with every kind of parameter."""

    def __init__(self, name: str, *, scale: float = 1.0, **rest: object) -> None:
        self.name, self.scale, self.rest = name, scale, rest


class Empty(Verifier):
    """A verifier without an `__init__`."""

    def extract(self, response: str) -> str | None:
        return response

    def equivalent(self, answer: str, gold: str) -> bool:
        return answer == gold


def test_arguments_are_remembered_by_name() -> None:
    assert Named("a", scale=2.0, depth=3).plain_arguments == {"name": "a", "scale": 2.0, "depth": 3}
    assert Named(name="a").plain_arguments == {"name": "a"}  # only those that were given
    assert Empty().plain_arguments == {}
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
        Named()  # type: ignore[call-arg]


def test_they_are_those_of_the_beginning() -> None:
    choices = ["a"]
    part = Named("a", choices=choices)
    choices.append("b")
    assert part.plain_arguments["choices"] == ["a"]


def test_copies_remember_them() -> None:
    head = LastTokenSelfReward("<x>", beta=0.2, reference=-20.0)
    assert deepcopy(head).plain_arguments == head.plain_arguments == {"token": "<x>", "beta": 0.2, "reference": -20.0}
    verifier = pickle.loads(pickle.dumps(ExactVerifier("#(.*)")))
    assert verifier.plain_arguments == {"pattern": "#(.*)"}


def test_the_plain_form_of_settings_and_parts() -> None:
    assert plain_form(LoRASettings(rank=4)) == {
        "class_path": "laser_lightning.policy.lora.LoRASettings",
        "init_args": {name: getattr(LoRASettings(rank=4), name) for name in LoRASettings.__dataclass_fields__},
    }
    # numbers, texts that look like others, and tuples stay what they are
    for value in (None, True, 1, 1e-6, "yes", "1e5", "null", (0.9, 0.95), [1, (2, "3")], {"a": {"b": None}}):
        assert repr(made_from(plain_form(value))) == repr(value)
    assert plain_form(Path("runs/a")) == "runs/a"


@pytest.mark.parametrize(
    "value",
    [
        PolicySettings("somewhere", dtype="bfloat16", lora=LoRASettings(rank=4), config_overrides={"hidden_size": 8}),
        OptimizerSettings(learning_rate=1e-3, betas=(0.9, 0.95)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_settings_come_back_equal(value: object) -> None:
    assert made_from(plain_form(value)) == value


def test_parts_come_back_with_the_parts_in_them() -> None:
    mixed = MixedVerifier({"number": ExactVerifier(r"#(\d+)"), "any": Empty()}, default="any")
    again = made_from(plain_form(mixed))
    assert type(again) is MixedVerifier
    assert again.plain_arguments == mixed.plain_arguments
    assert again.named("number").reward("#7", "7") == 1.0 == again.named("any").reward("x", "x")
    assert again.named("number").reward("x7", "7") == 0.0
    assert made_from(plain_form(ClippedPolicyLoss(0.1, 0.3))).plain_arguments == {"clip_low": 0.1, "clip_high": 0.3}


def test_what_has_no_plain_form_is_named() -> None:
    class Inner(Part):
        pass

    part = Named("a", function=len, inner=Inner(), scale=3.0)
    assert part.plain_arguments == {"name": "a", "scale": 3.0}
    assert part.other_arguments == {"function": "len", "inner": "Inner, a class within a function"}
    with pytest.raises(NotPlain, match="Named with function = len"):
        plain_form(part)
    with pytest.raises(NotPlain, match="dict"):
        plain_form({"class_path": "os.system", "init_args": {}})  # would come back as something else


@pytest.mark.parametrize("class_path", ["os.system", "subprocess.Popen", "builtins.dict", "pathlib.Path"])
def test_a_checkpoint_cannot_name_any_class(class_path: str) -> None:
    with pytest.raises(UserError, match=f"names {class_path}, which is neither a part nor settings of a run"):
        made_from({"class_path": class_path, "init_args": {}})


@pytest.mark.parametrize("class_path", ["no_such_file.Loss", "laser_lightning.losses.NoSuchLoss", "Loss"])
def test_a_class_that_is_not_there(class_path: str) -> None:
    with pytest.raises(UserError, match=f"made with {class_path}, which cannot be imported here .*working directory"):
        made_from([{"class_path": class_path, "init_args": {}}])


@takes_old_fields("update")
@dataclass(frozen=True)
class Update:
    """Settings whose `importance` was a name, and is a part."""

    importance: Any = None
    kl_coef: float = 0.0


def test_settings_are_made_with_their_fields_of_old_too() -> None:
    assert Update(kl_coef=0.1, importance="none", importance_cap=2.0) == Update(kl_coef=0.1)  # type: ignore[call-arg]
    assert Update(0.5, 0.1) == Update(importance=0.5, kl_coef=0.1)
    assert list(inspect.signature(Update).parameters) == ["importance", "kl_coef"]  # what parsers and help see
    assert replace(Update(0.5), kl_coef=0.1) == Update(0.5, 0.1)
