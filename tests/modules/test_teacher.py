"""The teacher: a frozen policy that reads what the policy can write."""

import pytest
from whole_runs import tiny_policy

from laser_lightning.errors import UserError
from laser_lightning.modules.teacher import load_teacher
from laser_lightning.policy.model import load_tokenizer


def test_a_teacher_without_rows_for_what_the_policy_can_sample_is_refused() -> None:
    """Models of one tokenizer may have rows that no token has, and sample them."""
    tokenizer = load_tokenizer(tiny_policy())
    own = load_teacher(tiny_policy(), tokenizer).vocabulary_size
    assert load_teacher(tiny_policy(), tokenizer, own).vocabulary_size == own
    with pytest.raises(
        UserError, match=rf"whose vocabulary ends at {own - 1}, and the policy can sample ids up to {own}"
    ):
        load_teacher(tiny_policy(), tokenizer, own + 1)
