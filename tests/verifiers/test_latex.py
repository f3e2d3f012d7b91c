import pytest

from laser_lightning.verifiers.latex import as_words, clean, squeeze, unwrap


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (r"$\dfrac{1}{2}$.", r"\frac{1}{2}"),
        (r"\left( 3, \tfrac{\pi}{2} \right)", r"( 3, \frac{\pi}{2} )"),
        (r"\leftarrow", r"\leftarrow"),
        (r"$10,\!080$", "10,080"),
        (r"\$10,\!080", r"\$10,080"),
        (r"11,\! 111,\! 100", "11,111,100"),
        ("1{,}234", "1,234"),
        (r"\frac43", r"\frac{4}{3}"),
        (r"\frac 59", r"\frac{5}{9}"),
        (r"\frac9{19}", r"\frac{9}{19}"),
        (r"\frac{270}7", r"\frac{270}{7}"),
        ("−5", "-5"),
        ("90°", r"90^\circ"),
        ("(0,∞)", r"(0,\infty )"),
        (r"3\,\text{cm}", r"3 \text{cm}"),
        (r"\quad(2, 1)", "(2, 1)"),
        # The space after a new row's backslashes is no spacing command.
        (r"1 \\ 2", r"1 \\ 2"),
        (r"m_{\max }=2", r"m_{max}=2"),
        (r"2516_{8}", "2516_8"),
        (r"x \leqslant 3", r"x \le  3"),
        ("x ≥ 3", r"x \ge  3"),
        ("∅", r"\emptyset"),
        (r"\text{The answer is } 7", "7"),
        (r"{\bf 7}", "7"),
        (r"\boldsymbol{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"2\mathbf{i}", r"2\mathbf{i}"),
        (r"3+4\mathrm{i}", "3+4i"),
        (r"\mathrm{ln} 2", r"\ln  2"),
        (r"5\text{ min}", r"5\text{ min}"),
        ("3{,}14", "3.14"),
        ("2√5", r"2\sqrt{5}"),
        (r"\{x\,\middle|\,x>2\}", r"\{x \mid  x>2\}"),
        (r"\text{Yes, it is}", r"\text{Yes, it is}"),
        ("= 3", "3"),
        (r"\langle 1,2\rangle", "( 1,2)"),
        ("yes. ", "yes"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "unwrapped"),
    [
        (r"\text{Evelyn}", "Evelyn"),
        (r"\textbf{(C)}", "C"),
        (r"\mathrm{No solution.}", "No solution"),
        (r"\text{\mathrm{B}}", r"\text{\mathrm{B}}"),
        ("(3)", "(3)"),
        ("a\n  b", "a b"),
    ],
)
def test_unwrap(text: str, unwrapped: str) -> None:
    assert unwrap(text) == unwrapped


def test_squeeze_keeps_only_the_spaces_that_separate() -> None:
    assert squeeze(r"( 3 , \frac {1}{2} ) , 1 1") == r"(3,\frac{1}{2}),1 1"
    assert squeeze(r"\cot x") == r"\cot x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Evelyn", "evelyn"),
        ("It's  Monday, then", "it's monday, then"),
        (r"n\text{ even}", "n even"),
        (r"20\text{ June}", "20 june"),
        ("Yes", "yes"),
        # Labels, and letters by themselves, keep their case.
        ("ABCD", "ABCD"),
        ("N is even", "N is even"),
        ("TRUE", "true"),
    ],
)
def test_words(text: str, words: str) -> None:
    assert as_words(text) == words


@pytest.mark.parametrize("text", ["abc", "xy", "sqrt(3)+1", "1 and 2", r"\infty", "f(x)=alpha", "", r"x\text{ and }y"])
def test_no_words(text: str) -> None:
    assert as_words(text) is None


def test_two_letters_are_a_word_where_they_are_set_as_text() -> None:
    assert as_words("He is") is None
    assert as_words("He is", styled=True) == "he is"
