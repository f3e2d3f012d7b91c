import subprocess
import sys
from collections.abc import Sequence

import torch

from laser_lightning.metrics import answer_ids
from laser_lightning.metrics.answers import representatives


def test_equal_texts_share_an_id_and_none_is_minus_one() -> None:
    ids = answer_ids(["1/2", None, "0.5", "1/2", ""])
    assert ids.dtype == torch.int64
    assert ids[0] == ids[3]
    assert ids[1] == -1
    assert len(set(ids.tolist())) == 4  # an empty text is an answer of its own, not the absence of one
    assert (ids[[0, 2, 3, 4]] >= 0).all()


def test_no_answers_give_an_empty_integer_tensor() -> None:
    ids = answer_ids([])
    assert ids.dtype == torch.int64
    assert ids.shape == (0,)


def test_ids_are_not_negative_and_distinct() -> None:
    ids = answer_ids([str(number) for number in range(5000)])
    assert (ids >= 0).all()
    assert len(ids.unique()) == 5000


def test_ids_do_not_depend_on_the_process() -> None:
    # Each interpreter draws its own seed for hash(); the ids must not notice.
    program = "from laser_lightning.metrics import answer_ids; print(answer_ids(['42', 'π']).tolist())"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert run.stdout.strip() == str(answer_ids(["42", "π"]).tolist())


def test_half_a_surrogate_pair_is_an_answer() -> None:
    assert answer_ids(["\ud83d"]).item() >= 0


def compare_numbers(pairs: object) -> list[bool]:
    return [float(one) == float(other) for one, other in pairs]  # type: ignore[attr-defined]


def test_equal_answers_become_equal_strings_within_their_group() -> None:
    groups = [["1", "1.0", None, "2"], ["1.0", "2.0", "2", "3"]]
    assert representatives(groups, compare_numbers) == [["1", "1", None, "2"], ["1.0", "2", "2", "3"]]


class Spy:
    """Compares texts without their spaces, and counts."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str]]] = []

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        self.calls.append(list(pairs))
        return [one.replace(" ", "") == other.replace(" ", "") for one, other in pairs]


def test_every_differing_pair_is_compared_once_for_all_groups() -> None:
    spy = Spy()
    # The second group's second round asks for ("b", "c") too, which the first group's first round has told.
    representatives([["b", "c", "b"], ["c", "b", "a"], [None]], spy)
    assert spy.calls == [[("b", "c"), ("a", "b"), ("a", "c")]]


def test_hundreds_of_samples_cost_a_comparison_per_spelling_and_class() -> None:
    # 512 samples, 64 spellings of 4 answers: all pairs of spellings would be 2,016.
    spellings = [f"{' ' * spaces}{name}" for name in "abcd" for spaces in range(16)]
    spy = Spy()
    (replaced,) = representatives([spellings * 8], spy)
    # The first of 64 is compared with 63 others and takes 15 of them, the next of 48 with 47, ...: 63 + 47 + 31 + 15.
    assert [len(call) for call in spy.calls] == [63, 47, 31, 15]
    assert len(set(replaced)) == 4
    assert [answer.strip() for answer in replaced if answer is not None] == [text.strip() for text in spellings * 8]


def test_a_class_has_one_representative_where_equivalence_is_not_transitive() -> None:
    # 1.0 ~ 1.4 and 1.4 ~ 1.8, but not 1.0 ~ 1.8: the first stands for what it is equivalent to itself.
    def near(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [abs(float(one) - float(other)) < 0.5 for one, other in pairs]

    assert representatives([["1.0", "1.4", "1.8"]], near) == [["1.0", "1.0", "1.8"]]


def test_pairs_carry_the_name_of_their_problems_verifier() -> None:
    def compare(pairs: Sequence[tuple[str, ...]]) -> list[bool]:
        asked.extend(pairs)
        return [pair[2:] == ("numbers",) for pair in pairs]

    asked: list[tuple[str, ...]] = []
    groups: list[list[str | None]] = [["1", "1.0"], ["1", "1.0"], ["1.0", "1"]]
    found = representatives(groups, compare, ["numbers", "texts", None])  # type: ignore[arg-type]
    assert found == [["1", "1"], ["1", "1.0"], ["1.0", "1"]]
    assert asked == [("1", "1.0", "numbers"), ("1", "1.0", "texts"), ("1", "1.0")]
