import pytest

from laser_lightning.verifiers.boxes import boxed_answer, last_boxed


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{42}.", "42"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{6} or \fbox{7}", "7"),
        (r"\boxed{x = \boxed{3}}", "3"),
        (r"\boxed{\boxed{3} + 1}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        # Escaped braces do not count, so these two balance.
        (r"\boxed{[0, 1\}}", r"[0, 1\}"),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        ("\\boxed{a\nb}", "a\nb"),
        # The last box is cut off, empty or not a box: the one before it counts.
        (r"\boxed{5} and \boxed{6", "5"),
        (r"\boxed{5} and \boxed{}", "5"),
        (r"\boxed{5} } { in \boxed", "5"),
        (r"\boxed{5}} stray", "5"),
        ("no box", None),
        (r"\boxed{ }", None),
        (r"\boxed{1", None),
        (r"\boxed{" * 2000, None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{3} and \boxed{5}", "3, 5"),
        (r"$\boxed{3}$, \(\boxed{5}\), or $\boxed{7}$.", "3, 5, 7"),
        (r"\[\boxed{-2} \quad \text{and} \quad \boxed{1}\]", "-2, 1"),
        # Names that differ are kept, one name is not.
        (r"$x=\boxed{1}$ and $y=\boxed{2}$", "x=1, y=2"),
        (r"$n=\boxed{1}$ or $n=\boxed{-2}$", "1, -2"),
        # Nothing joins these.
        (r"\boxed{3} \boxed{5}", "5"),
        (r"\boxed{3} is wrong, and \boxed{5} is right", "5"),
        (r"\boxed{3}. \boxed{5}", "5"),
        # The same in another spelling.
        (r"\boxed{x}, or \boxed{X}", "X"),
        (r"\boxed{y = \boxed{3}}", "3"),
        ("none", None),
    ],
)
def test_joined_boxes(text: str, answer: str | None) -> None:
    assert boxed_answer(text, canonical=str.lower) == answer
