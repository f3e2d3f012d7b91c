"""The limit on how far the engine's log-probs may lie from the trainer's."""

import warnings

import pytest

from laser_lightning.errors import UserError
from laser_lightning.modules.mismatch import METRIC, MismatchLimit
from laser_lightning.objective.settings import UpdateSettings


def test_a_step_above_the_limit_warns_and_ten_in_a_row_stop() -> None:
    limit = MismatchLimit(0.1)
    for step in range(9):
        with pytest.warns(UserWarning, match=rf"In step {step} the engine's log-probs differ .* by 0\.2 nats"):
            assert limit.count({METRIC: 0.2}, step) is None
    assert limit.count({}, 9) is None  # no mismatch is known, which says nothing
    assert limit.count({METRIC: 0.2}, 10) == (
        "in 10 steps in a row the engine's log-probs differ from the trainer's by 0.2 nats on average, more than "
        "update.max_mismatch = 0.1"
    )


def test_a_step_below_the_limit_begins_anew() -> None:
    limit = MismatchLimit(0.1)
    with pytest.warns(UserWarning, match="update.max_mismatch"):
        for step in range(9):
            limit.count({METRIC: 0.2}, step)
    assert limit.count({METRIC: 0.1}, 9) is None
    with pytest.warns(UserWarning, match="In step 10"):
        assert limit.count({METRIC: 0.11}, 10) is None


def test_no_limit() -> None:
    with warnings.catch_warnings(action="error"):
        assert MismatchLimit(None).count({METRIC: 5.0}, 0) is None
    assert UpdateSettings().max_mismatch == 0.1
    with pytest.raises(UserError, match=r"update\.max_mismatch is 0, and must be above 0"):
        UpdateSettings(max_mismatch=0)
