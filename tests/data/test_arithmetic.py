"""The arithmetic source: answers by recomputation, splits that share nothing, and honest noise."""

import random
import re
from collections import Counter
from itertools import product
from typing import Any

import pytest

from laser_lightning.data.arithmetic import DEFAULT_KINDS, ArithmeticSource, Split, worked_addition
from laser_lightning.data.arithmetic.additions import Addition
from laser_lightning.data.arithmetic.exercise import TwoNumbers
from laser_lightning.data.arithmetic.products import Product
from laser_lightning.errors import UserError

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def load(**fields: Any) -> list[dict[str, str]]:
    return ArithmeticSource(**fields).load().to_list()


def parts(row: dict[str, str]) -> tuple[int, str, int]:
    match = re.fullmatch(r"(\d+)([+*])(\d+)", row["problem"])
    assert match is not None
    return int(match[1]), match[2], int(match[3])


def unordered(row: dict[str, str]) -> tuple[str, int, int]:
    left, operator, right = parts(row)
    return operator, min(left, right), max(left, right)


# ------------------------------------------------------------ worked solutions


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (47, 85, "7+5=12;4+8+1=13;#132"),
        (3, 4, "3+4=7;#7"),
        (0, 0, "0+0=0;#0"),
        (99, 1, "9+1=10;9+1=10;#100"),  # the second column holds 9 and the carry
        (1, 99, "1+9=10;9+1=10;#100"),
        (120, 305, "0+5=5;2+0=2;1+3=4;#425"),
        (12345, 6, "5+6=11;4+1=5;3=3;2=2;1=1;#12351"),
    ],
)
def test_worked_addition_by_hand(left: int, right: int, expected: str) -> None:
    assert worked_addition(left, right, 0.0, random.Random(0)) == expected


def test_answers_and_solutions_by_recomputation() -> None:
    rows = load(size=2000)
    for row in rows:
        left, operator, right = parts(row)
        answer = left + right if operator == "+" else left * right
        assert row["answer"] == str(answer)
        assert row["solution"].endswith(f"#{answer}")
        digits = row["kind"][3:]
        assert [len(str(left)), len(str(right))] == [int(digits[0]), int(digits[-1])]
        assert operator == {"add": "+", "mul": "*"}[row["kind"][:3]]
        for column in row["solution"].split("#")[0].split(";")[:-1]:
            terms, total = column.split("=")
            assert sum(map(int, terms.split("+"))) == int(total)
    assert {row["kind"] for row in rows} == set(DEFAULT_KINDS)


def check_columns(left: int, right: int, solution: str) -> tuple[int, int]:
    """Follow a noisy solution column by column; return its numbers of wrong and of all columns."""
    columns, final = solution.split(";#")
    tops, bottoms = str(left)[::-1], str(right)[::-1]
    carry, digits, wrong = 0, "", 0
    written = columns.split(";")
    assert len(written) == max(len(tops), len(bottoms))
    for place, column in enumerate(written):
        terms, total = column.split("=")
        expected = [text[place] for text in (tops, bottoms) if place < len(text)] + [str(carry)] * (carry > 0)
        assert terms.split("+") == expected  # the carry is that of the sum as written, wrong or not
        assert 0 <= int(total) <= 19
        wrong += int(total) != sum(map(int, expected))
        carry, digits = int(total) // 10, str(int(total) % 10) + digits
    assert final == str(int(f"{carry}{digits}"))
    return wrong, len(written)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5, 1.0])
def test_noise_is_as_frequent_as_asked_for_and_carried_on(noise: float) -> None:
    rows = load(size=1000, kinds={"add3": 1, "add5": 1}, solution_noise=noise)
    wrong = columns = 0
    for row in rows:
        left, _, right = parts(row)
        assert row["answer"] == str(left + right)  # answers are always right
        more_wrong, more_columns = check_columns(left, right, row["solution"])
        wrong, columns = wrong + more_wrong, columns + more_columns
    assert columns > 3500
    assert abs(wrong / columns - noise) <= 4 * (noise * (1 - noise) / columns) ** 0.5


def test_a_noisy_solution_is_sometimes_wrong_in_the_end() -> None:
    rows = load(size=500, kinds={"add2": 1}, solution_noise=0.1)
    wrong = sum(row["solution"].split("#")[1] != row["answer"] for row in rows)
    # Both columns right: 0.81. A wrong column gives a wrong sum, except when two errors cancel, which is rare.
    assert 0.12 < wrong / 500 < 0.26


# -------------------------------------------------------------------- splits


def test_no_problem_is_in_two_splits() -> None:
    kinds = {"add1": 1, "add2": 1, "mul11": 1, "mul12": 1, "mul21": 1, "mul22": 1}
    drawn = {split: set[tuple[str, int, int]]() for split in SPLITS}
    for seed, split in product(range(3), SPLITS):
        size = 5000 if split == "train" else 600
        drawn[split] |= {unordered(row) for row in load(split=split, size=size, seed=seed, kinds=kinds)}
    # So many draws that most small problems are seen, in both orders.
    assert sum(map(len, drawn.values())) > 4500
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not drawn[first] & drawn[second]  # type: ignore[index]


@pytest.mark.parametrize("kind", [Addition, Product])
def test_a_commuted_problem_stays_in_its_split(kind: type[TwoNumbers]) -> None:
    shares: Counter[str] = Counter()
    for left, right in product(range(60), range(60)):
        assert kind(left, right).split == kind(right, left).split
        shares[kind(left, right).split] += 1
    assert shares["train"] / 3600 == pytest.approx(0.8, abs=0.03)
    assert shares["val"] / 3600 == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_problems_are_distinct_and_all_are_found(split: Split) -> None:
    expected = {f"{a}+{b}" for a, b in product(range(10), repeat=2) if Addition(a, b).split == split}
    rows = load(split=split, size=len(expected), kinds={"add1": 1})
    assert {row["problem"] for row in rows} == expected
    with pytest.raises(UserError, match=rf"Only {len(expected)} distinct '{split}' .*size is {len(expected) + 1}"):
        load(split=split, size=len(expected) + 1, kinds={"add1": 1})


def test_training_problems_may_repeat() -> None:
    rows = load(size=500, kinds={"add1": 1})
    assert len({row["problem"] for row in rows}) < 100


# --------------------------------------------------- determinism and settings


def test_the_same_seed_makes_the_same_problems() -> None:
    assert load(size=50, seed=1) == load(size=50, seed=1)
    assert load(size=50, seed=1) != load(size=50, seed=2)
    assert load(size=50, seed=1) == load(size=80, seed=1)[:50]


def test_loading_twice_gives_the_same_problems_whatever_else_draws() -> None:
    source = ArithmeticSource(size=50, solution_noise=0.3)
    first = source.load().to_list()
    random.seed(5)
    assert source.load().to_list() == first


def test_shares_of_training_kinds() -> None:
    counts = Counter(row["kind"] for row in load(size=4000))
    assert sum(DEFAULT_KINDS.values()) == pytest.approx(1.0)
    for kind, share in DEFAULT_KINDS.items():
        assert counts[kind] / 4000 == pytest.approx(share, abs=0.04)


def test_shares_need_not_add_up_to_one() -> None:
    counts = Counter(row["kind"] for row in load(size=2000, kinds={"add4": 6, "mul33": 2, "add5": 0}))
    assert counts["add4"] / 2000 == pytest.approx(0.75, abs=0.04)
    assert counts["add5"] == 0


@pytest.mark.parametrize(
    "kind",
    [
        "sub2",
        "add",
        "add12",
        "mul2",
        "mul222",
        "add0",
        "mul20",
        "addx",
        "add-",
        "Add1",
        "",
        "add²",
        "count1",
        "count33",
        "solve",
    ],
)
def test_a_bad_kind_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=f"kinds has '{kind}', which is not a kind"):
        ArithmeticSource(kinds={"add1": 1, kind: 1})


@pytest.mark.parametrize("fields", [{"size": 0}, {"kinds": {}}, {"kinds": {"add1": 0}}])
def test_an_empty_source_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="needs a positive size"):
        ArithmeticSource(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kinds": {"add1": -1.0, "add2": 2.0}}, "add1"),
        ({"solution_noise": -0.1}, "solution_noise"),
        ({"solution_noise": 10}, "solution_noise"),
        ({"kinds": {"add1": 1, "count3": 1}, "solution_noise": {"add1": 0.1, "count3": 2.0}}, "solution_noise"),
        (
            {"kinds": {"add1": 1, "count3": 1}, "solution_noise": {"add1": 0.1}},
            "solution_noise has the kinds add1, and",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ArithmeticSource(**fields)
