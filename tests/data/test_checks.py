import re
from typing import Any

import pytest

from laser_lightning.data.checks import check_indices, judgeable
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UnusableFunctionError, UserError
from laser_lightning.verifiers import (
    FunctionVerifier,
    MathVerifier,
    MixedVerifier,
    MultipleChoiceVerifier,
    PythonVerifier,
)

MIXED = MixedVerifier({"math": MathVerifier(), "choice": MultipleChoiceVerifier()})


def problem(index: Any, answer: str = "1", verifier: str | None = None) -> Problem:
    return Problem("sums", index, "1", "1", [1], answer, verifier=verifier)


def test_indices_that_differ_pass() -> None:
    check_indices("sums", [problem(4), problem(0), problem(-1)])


def test_repeated_indices_are_refused_with_their_rows() -> None:
    message = (
        "2 rows of the set 'sums' repeat the index of an earlier one: rows 0 and 2 have 7; rows 1 and 3 have 8. "
        "Its source must give each row an index of its own, or leave the column `index` out."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_indices("sums", [problem(7), problem(8), problem(7), problem(8)])


@pytest.mark.parametrize("index", [None, "a", 1.0, True])
def test_an_index_that_is_no_integer_is_refused(index: Any) -> None:
    with pytest.raises(UserError, match=rf"Row 1 of the set 'sums' has the index {index!r}: an index is an integer"):
        check_indices("sums", [problem(0), problem(index)])


def test_gold_answers_that_can_be_matched_pass() -> None:
    problems = [problem(0, "12"), problem(1, r"\frac{1}{2}")]
    assert judgeable("sums", problems, MathVerifier(), "refuse") == problems


def test_gold_answers_that_cannot_be_matched_are_refused_with_their_rows() -> None:
    problems = [problem(row, "?" if row else "1") for row in range(8)]
    with pytest.raises(UserError) as refused:
        judgeable("sums", problems, MathVerifier(), "refuse")
    reason = "(The gold answer '?' has neither a letter nor a digit.)"
    rows = "; ".join(f"row {row} {reason}" for row in range(1, 6))
    assert str(refused.value) == (
        f"7 of the 8 gold answers of the set 'sums' can never be matched: {rows}; and 2 more. Mend the rows, choose "
        "another verifier or answer_pattern, or leave them out with data.unmatched_gold: filter."
    )


def test_or_they_are_left_out_with_a_warning_that_counts_them() -> None:
    problems = [problem(0, "?"), problem(1, "1"), problem(2, "")]
    with pytest.warns(UserWarning, match=r"^2 of the 3 gold answers of the set 'sums' .*row 0 .*row 2 .*left out"):
        assert judgeable("sums", problems, MathVerifier(), "filter") == [problems[1]]


def test_a_set_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(UserError, match=r"1 of the 1 gold answers .* answer_pattern\.$"):
        judgeable("sums", [problem(0, "?")], MathVerifier(), "filter")


def test_each_gold_answer_is_checked_by_the_verifier_that_its_row_names() -> None:
    problems = [problem(0, "12", "math"), problem(1, "B", "choice"), problem(2, "B", "math")]
    assert judgeable("sums", problems, MIXED, "refuse") == problems
    with pytest.raises(UserError, match=r"1 of the 2 gold answers .*: row 1 \(The gold answer '12' is not one of"):
        judgeable("sums", [problem(0, "12", "math"), problem(1, "12", "choice")], MIXED, "refuse")


@pytest.mark.parametrize("policy", ["refuse", "filter"])
def test_a_row_without_a_verifier_is_refused_with_its_column(policy: Any) -> None:
    with pytest.raises(UserError) as refused:
        judgeable("sums", [problem(0, "1", "math"), problem(3, "1", "maths"), problem(4)], MIXED, policy, "task")
    assert str(refused.value) == (
        "2 problems of the set 'sums' have no verifier: row 3 names the verifier 'maths', which the MixedVerifier does "
        "not have; row 4 names no verifier, and the MixedVerifier has no `default`. Mend the column 'task', or "
        "model.verifier."
    )
    with pytest.raises(UserError, match=r"Set verifier_column of the source, or model\.verifier"):
        judgeable("sums", [problem(4)], MIXED, policy)
    with pytest.raises(UserError, match="row 0 names the verifier 'math', and MathVerifier is not a MixedVerifier"):
        judgeable("sums", [problem(0, "1", "math")], MathVerifier(), policy, "task")


def test_a_row_by_which_nothing_can_be_judged_is_refused() -> None:
    tests = [{"tests": "assert f(1) == 1"}, {"test": ""}, {"tests": "def check(f):\n    assert f(1)"}]
    problems = [problem(number, "-")._replace(row=row) for number, row in enumerate(tests)]
    with pytest.raises(UserError) as error:
        judgeable("code", problems, PythonVerifier("tests"), "refuse")
    assert "2 of the 3 gold answers" in str(error.value)
    assert "row 1 (the row has no column 'tests'; it has test)" in str(error.value)
    assert "row 2 (its tests only define functions" in str(error.value)
    with pytest.warns(UserWarning, match="They are left out"):
        assert judgeable("code", problems, PythonVerifier("tests"), "filter") == problems[:1]


def test_a_function_that_cannot_be_imported_is_no_fault_of_the_rows() -> None:
    with pytest.raises(UnusableFunctionError, match=r"^The verifier function 'no_such\.reward' cannot be imported"):
        judgeable("sums", [problem(0)], FunctionVerifier("no_such.reward"), "filter")
