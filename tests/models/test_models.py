"""Every model type of the installed transformers: right, or refused in a sentence, as ``expected.yaml`` says."""

from pathlib import Path
from typing import Any

import pytest

from model_checks.builds import all_types
from model_checks.checks import Checks
from model_checks.expectations import expected, not_right

LEAST_RIGHT = 112

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore"),  # those of a hundred models are their authors'
]


@pytest.mark.parametrize("model_type", all_types())
def test_a_type_is_as_the_list_says(
    model_type: str, tmp_path: Path, record_property: Any, request: pytest.FixtureRequest
) -> None:
    outcomes = Checks(model_type, tmp_path).run()
    record_property("outcomes", (model_type, {check: (o.kind, o.why) for check, o in outcomes.items()}))
    if request.config.getoption("--update-expectations", False):
        return
    found = {check: outcome.kind for check, outcome in not_right(outcomes).items()}
    known = {check: outcome.kind for check, outcome in expected().get(model_type, {}).items()}
    assert found == known, {check: outcome.why for check, outcome in outcomes.items()}


def test_nothing_is_silently_wrong_and_nothing_ends_in_a_traceback() -> None:
    bad = {
        (model_type, check): outcome
        for model_type, outcomes in expected().items()
        for check, outcome in outcomes.items()
        if outcome.kind in ("wrong", "traceback")
    }
    assert not bad


def test_enough_is_right() -> None:
    """What may be refused of a type that is right is packing, which padding takes the place of, and LoRA."""
    bad = {name for name, outcomes in expected().items() if any(c != "pack" and "lora" not in c for c in outcomes)}
    assert len({*all_types()} - bad) >= LEAST_RIGHT
