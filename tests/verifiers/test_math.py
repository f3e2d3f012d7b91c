import logging
import pickle
import threading

import pytest

from laser_lightning.verifiers import MathVerifier


@pytest.fixture
def verifier() -> MathVerifier:
    return MathVerifier()


EQUAL = [
    # numbers: (gold, answer)
    ("42", "42."),
    ("42", "$42$"),
    ("0", "-0"),
    ("3", "3.00"),
    ("18.90", "18.9"),
    (r"\$18.90", "18.90"),
    ("10,\\!080", "10080"),
    ("1234567", "1{,}234{,}567"),
    ("1,234", "1234"),
    ("1234567", "1 234 567"),
    (r"\frac{1}{2}", ".5"),
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", r"\frac{2}{4}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"\frac{1}{3}", "0.333333"),
    (r"1\frac{4}{5}", "9/5"),
    ("1.5", "1 1/2"),
    # percent, degrees, units, money
    (r"8 \%", "8"),
    (r"8 \%", "0.08"),
    ("62.5%", "62.5"),
    ("0.5", r"50\%"),
    (r"90^\circ", "90"),
    ("90", "90°"),
    ("90", r"90\text{ degrees}"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^\circ"),
    (r"5.4 \text{ cents}", "5.4"),
    (r"15\mbox{ cm}^2", "15"),
    ("15", "15 km"),
    # expressions
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"\sqrt{51}", "51^{1/2}"),
    (r"11\sqrt2", r"11 \sqrt{2}"),
    (r"12\pi", "12π"),
    ("2(x+1)", "2x+2"),
    ("6 - 5i", "-5i+6"),
    ("x^5 - x^4 + 1", "1 + x^5 - x^4"),
    (r"2\sqrt{5}", "4.472135955"),
    (r"2^{10}", "1024"),
    # equations and assignments
    ("5", "x=5"),
    ("x=5", "5"),
    ("y = 2x + 3", "y - 2x = 3"),
    (r"m_{\max }=n^{2}-n-1", "n^2-n-1"),
    # tuples, lists, sets
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    ("(6,31,-1)", r"\left(6, 31, -1\right)"),
    ("3, 5, 7", "7,5,3"),
    ("1,-2", r"\{-2, 1\}"),
    ("1,2,3", r"3, 1 \text{ and } 2"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    ("(1,1), (3,2)", "(3,2),(1,1)"),
    (r"\emptyset", r"\{\}"),
    # intervals
    (r"(-\infty, 0]", "(-∞, 0]"),
    (r"(0,9) \cup (9,36)", r"(9,36)\cup(0,9)"),
    (r"(-\infty, 0) \cup\{1\}.", r"\{1\} ∪ (-\infty,0)"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"3 < x \le 4", "(3,4]"),
    # matrices
    (
        r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}",
        r"\begin{bmatrix} 0.2 \\ -3.6 \end{bmatrix}",
    ),
    # words
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{Evelyn}", "evelyn."),
    (r"\text{no solution}", r"\textbf{No solution}"),
    (r"\text{(C)}", "C"),
    ("C", r"\textbf{(C)}"),
    (r"\text{Monday, June 1}", "Monday, June 1"),
    # no mathematics at all: equal spellings agree
    ("t(0,4]", "$t(0, 4]$"),
    # the gold answer in a box
    (r"The answer is \boxed{\frac{1}{2}}.", "0.5"),
]

DIFFERENT = [
    ("42", "43"),
    ("2", "2.0000001"),
    ("11/2", "1 1/2"),
    ("1", "1 1/2"),
    ("802", "1 234 567"),
    (r"\frac{1}{3}", "0.33"),
    (r"\pi", "3.14"),
    (r"5.4 \text{ cents}", "0.054"),
    ("10%", "1"),
    (r"3\sqrt{13}", r"13\sqrt{3}"),
    ("x+1", "x+2"),
    ("(3,4)", "(4,3)"),
    ("(3,4)", "[3,4]"),
    ("(1,2,3)", "(1,3,2)"),
    ("(1,2,3)", "(1,2)"),
    ("3,5,7", "3,5"),
    (r"(-\infty, 0]", r"(-\infty, 0)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    (r"\text{even}", r"\text{odd}"),
    ("east", "seat"),
    ("C", "D"),
    ("42", "forty-two"),
    # The whole answer must parse, not a part of it.
    (r"\frac{1}{2}", r"\mho( \frac{1}{2}"),
    (r"\frac{1}{2}", r"\frac{1}{0}"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers(verifier: MathVerifier, gold: str, answer: str) -> None:
    assert verifier.equivalent(answer, gold)
    assert verifier.reward(f"Thus \\boxed{{{answer}}}.", gold) == 1.0


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers(verifier: MathVerifier, gold: str, answer: str) -> None:
    assert not verifier.equivalent(answer, gold)
    assert verifier.canonical(answer) != verifier.canonical(gold)
    assert verifier.reward(f"Thus \\boxed{{{answer}}}.", gold) == 0.0


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"First \boxed{1}, finally \boxed{\frac{2}{3}}. Not 7.", r"\frac{2}{3}"),
        (r"\boxed{4} or \boxed{5", "4"),
        (r"\boxed{$.$} and 8", None),
        ("The answer is $x+1$.", "x+1"),
        ("She has 3 + 4 = 7 eggs, so the final answer is 12.", "12"),
        ("It costs $1,250 in all", "1,250"),
        ("That is 62.5%", "62.5%"),
        ("#### -18", "-18"),
        ("**Answer: 5**", "5"),
        ("So **the answer is 5**.", "5"),
        ("<answer>5</answer>", "5"),
        ("I do not know", None),
        ("", None),
    ],
)
def test_extract(verifier: MathVerifier, response: str, answer: str | None) -> None:
    assert verifier.extract(response) == answer


def test_extract_can_require_a_box() -> None:
    verifier = MathVerifier(require_box=True)
    assert verifier.extract("The answer is $5$.") is None
    assert verifier.reward("The answer is $5$.", "5") == 0.0
    assert verifier.extract(r"The answer is $\boxed{5}$.") == "5"


def test_only_the_end_of_a_response_without_a_box_is_searched(verifier: MathVerifier) -> None:
    assert verifier.extract("The answer is 5. " + "hm " * 2000) is None


@pytest.mark.parametrize(
    "spellings",
    [
        ["0.5", r"\frac{1}{2}", r"\dfrac12", "1/2", "2/4", "$.50$", r"\text{0.5}"],
        ["1234", "1,234", "1{,}234", r"1,\!234", "1234.00", "1 234"],
        ["90", r"90^\circ", "90°", r"90 \text{ degrees}"],
        [r"\left( 3 , \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})", r"$( 3,\;\dfrac{\pi}{2} )$"],
        [r"\text{No solution.}", "no solution", r"\textbf{no  solution}"],
    ],
)
def test_canonical_groups_spellings(verifier: MathVerifier, spellings: list[str]) -> None:
    assert len({verifier.canonical(spelling) for spelling in spellings}) == 1


def test_settled_answers_are_equivalent_only_if_their_texts_are_equal(verifier: MathVerifier) -> None:
    answers = ["12", "-12", "0", r"\frac{2}{4}", "1/3", "0.333333", "0.5", "120", "1,200"]
    texts = {verifier.canonical(answer) for answer in answers}
    assert len(texts) == len(answers) - 1  # 2/4 and 0.5 are both 1/2
    assert all(verifier.is_settled(text) for text in texts)
    assert not any(verifier.equivalent(one, other) for one in texts for other in texts if one != other)
    others = [r"50\%", "x=5", r"\sqrt{2}", "(1,2)", "five", "1/2,3"]
    assert not any(verifier.is_settled(verifier.canonical(answer)) for answer in others)


def test_equal_canonical_answers_are_equivalent_and_others_are_not_merged(verifier: MathVerifier) -> None:
    answers = ["11/2", "1 1/2", "2, 300", "2300", "x y", "xy", "50%", "50", "(3,4)", "3,4", "-1", "- 1", "C"]
    by_canonical: dict[str, list[str]] = {}
    for answer in answers:
        by_canonical.setdefault(verifier.canonical(answer), []).append(answer)
    assert [group for group in by_canonical.values() if len(group) > 1] == [["-1", "- 1"]]


@pytest.mark.parametrize("gold", ["42", r"\text{Evelyn}", r"\infty", "t(0,4]", r"\{1, 2\}", r"\boxed{3}", "π"])
def test_gold_answers_that_pass(verifier: MathVerifier, gold: str) -> None:
    verifier.check_gold(gold)
    assert verifier.equivalent(gold, gold)


@pytest.mark.parametrize("gold", ["", "  ", "$$", "???", r"\text{}"])
def test_gold_answers_without_content_are_refused(verifier: MathVerifier, gold: str) -> None:
    with pytest.raises(ValueError, match="neither a letter nor a digit"):
        verifier.check_gold(gold)


@pytest.mark.parametrize("gold", [r"\frac{1", "1}", r"\boxed{}", r"\boxed{5"])
def test_gold_answers_with_a_broken_box_or_braces_are_refused(verifier: MathVerifier, gold: str) -> None:
    with pytest.raises(ValueError, match="empty box, or braces that do not balance"):
        verifier.check_gold(gold)


@pytest.mark.parametrize(
    "gold",
    [
        "He sold 48/2 = <<48/2=24>>24 clips in May.\n#### 24",
        "She eats 3. Then 5 are left.",
        r"\text{We have } x=2. \text{ So it is } 4. Thus the sum is 6.",
        "First, add 2 and 3.\n\nThe answer is 5",
        "the sum of all the numbers that were drawn on the first and on the second day, which is to say the "
        "difference of what was there and of what was left after the third drawing of the day",
        "x" * 2000,
    ],
)
def test_solutions_in_place_of_gold_answers_are_refused_with_the_remedy(verifier: MathVerifier, gold: str) -> None:
    with pytest.raises(ValueError, match=r"that a response could match\. .*answer_column.*answer_pattern"):
        verifier.check_gold(gold)


@pytest.mark.parametrize(
    "gold",
    [
        r"\text{Mr. Smith}",
        "D. C.",
        "No solution.",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        "f(x)=a x+b, where b is an integer",
        # A long line that can be read: 60 numbers.
        ",".join(map(str, range(60))),
    ],
)
def test_unusual_gold_answers_pass(verifier: MathVerifier, gold: str) -> None:
    verifier.check_gold(gold)
    assert verifier.reward(f"\\boxed{{{gold}}}", gold) == 1.0


def test_degenerate_answers_are_not_brooded_over(verifier: MathVerifier) -> None:
    assert not verifier.equivalent("(" * 3000 + "x" + ")" * 3000, "x")
    assert not verifier.equivalent("9" * 5000, "9")
    assert verifier.equivalent("x" * 5000, "x" * 5000)


def test_works_outside_the_main_thread_and_without_noise(
    verifier: MathVerifier, caplog: pytest.LogCaptureFixture
) -> None:
    verdicts: list[bool] = []
    with caplog.at_level(logging.WARNING):
        thread = threading.Thread(target=lambda: verdicts.append(verifier.equivalent(r"\sqrt{8}", r"2\sqrt{2}")))
        thread.start()
        thread.join()
    assert verdicts == [True]
    assert caplog.records == []


def test_pickles() -> None:
    assert pickle.loads(pickle.dumps(MathVerifier(require_box=True))).require_box is True
