"""Whether an answer agrees with a gold answer, by what kinds of answers they are."""

from collections.abc import Sequence
from typing import Any

from sympy import Rational

from laser_lightning.verifiers.answers import (
    Based,
    Cases,
    Clock,
    Equation,
    Items,
    Ratio,
    Relation,
    Value,
    Words,
    read_answer,
)
from laser_lightning.verifiers.equality import is_multiple, same_value
from laser_lightning.verifiers.expressions import Expression, read_expression
from laser_lightning.verifiers.intervals import Interval, Union
from laser_lightning.verifiers.latex import squeeze

_MOST_ITEMS = 100


def agree(answer: Any, gold: Any) -> bool:
    """Decides whether an answer agrees with a gold answer.

    Args:
        answer: An answer, as `read_answer` reads it.
        gold: The gold answer, likewise.

    Returns:
        True if they say the same. What cannot be read agrees with its own spelling only.
    """
    if isinstance(answer, Equation) or isinstance(gold, Equation):
        return _agree_equations(answer, gold)
    if isinstance(gold, Union) or isinstance(answer, Union):
        return _match(_parts(answer), _parts(gold)) if type(gold) is type(answer) else False
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _agree_relations(_as_relation(answer), _as_relation(gold))
    if isinstance(gold, Interval) or isinstance(answer, Interval):
        return _agree_intervals(answer, gold)
    if isinstance(gold, Items) or isinstance(answer, Items):
        return _agree_items(answer, gold)
    if isinstance(gold, Value) and isinstance(answer, Value):
        return _agree_values(answer, gold)
    if isinstance(gold, Based) and isinstance(answer, Value):
        return answer.text == gold.digits
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _agree_ratios(answer, gold)
    if isinstance(gold, Clock) and isinstance(answer, Clock):
        same = (answer.hours, answer.minutes) == (gold.hours, gold.minutes)
        return same and (answer.half == gold.half or not answer.half or not gold.half)
    if isinstance(gold, Cases) and isinstance(answer, Cases):
        return len(answer.rows) == len(gold.rows) and all(
            len(cells) == len(others) and all(map(agree, cells, others))
            for cells, others in zip(answer.rows, gold.rows, strict=True)
        )
    if isinstance(gold, Words | Based) and isinstance(answer, Words | Based):
        return bool(answer == gold)
    # The letters of a word beside their product: `ab` and `a b`.
    if isinstance(gold, Words | Value) and isinstance(answer, Words | Value):
        return _same_text(answer.text, gold.text) if answer.text.islower() and gold.text.islower() else False
    return False


def is_readable(answer: Any, most_words: int) -> bool:
    """Whether an answer can be compared in more than its spelling.

    Args:
        answer: An answer, as `read_answer` reads it.
        most_words: How many words an answer in words may have.
    """
    if isinstance(answer, Value):
        return answer.number is not None or read_expression(answer.text) is not None
    if isinstance(answer, Words):
        return len(answer.text.split()) <= most_words
    if isinstance(answer, Items):
        return all(is_readable(item, most_words) for item in answer.items)
    if isinstance(answer, Union):
        return all(is_readable(part, most_words) for part in answer.parts)
    if isinstance(answer, Interval):
        return all(is_readable(read_answer(bound), 0) for bound in (answer.low, answer.high))
    if isinstance(answer, Equation):
        return is_readable(answer.value, most_words)
    if isinstance(answer, Relation):
        return all(read_expression(side) is not None for side in (answer.left, answer.right))
    return True


def _agree_equations(answer: Any, gold: Any) -> bool:
    if isinstance(answer, Equation) and isinstance(gold, Equation):
        if answer.name and answer.name == gold.name:
            return agree(answer.value, gold.value)
        return _same_sides(answer.sides, gold.sides, positive=False)
    equation, other = (answer, gold) if isinstance(answer, Equation) else (gold, answer)
    if not equation.name:
        return isinstance(answer, Equation) and _is_identity(answer) and agree(answer.value, gold)
    if isinstance(other, Interval) and other.letter not in ("", equation.name):
        return False
    if isinstance(other, Items) and other.kind == "tuple" and equation.name.startswith("("):
        return agree(*((equation.value, other) if equation is answer else (other, equation.value)))
    if isinstance(other, Items) and equation.name.startswith("(") and any(_labels(other)):
        names = f"({','.join(_labels(other))})"
        if names != equation.name:
            return False
    return agree(equation.value, gold) if equation is answer else agree(answer, equation.value)


def _is_identity(equation: Equation) -> bool:
    """Whether both sides are the same number, as in `2+3=5`."""
    left, right = map(read_expression, equation.sides)
    return left is not None and right is not None and not left.value.free_symbols and same_value(left, right)


def _same_sides(answer: Sequence[str], gold: Sequence[str], positive: bool) -> bool:
    """Whether the differences of both sides are multiples of each other."""
    sides = [read_expression(side) for side in (*answer, *gold)]
    if any(side is None or not hasattr(side.value, "free_symbols") for side in sides):
        return False
    left, right, gold_left, gold_right = (side.value for side in sides if side is not None)
    if any(getattr(side, "is_Matrix", False) or side.is_infinite for side in (left, right, gold_left, gold_right)):
        return False
    return is_multiple(left - right, gold_left - gold_right, positive)


def _parts(union: Any) -> list[Any]:
    """The parts of a union, with the members of its finite sets one by one."""
    parts: list[Any] = []
    for part in union.parts:
        parts += part.items if isinstance(part, Items) and part.kind == "set" else [_as_interval(part)]
    return parts


def _as_interval(answer: Any) -> Any:
    """A pair in round brackets as the open interval that it may be."""
    if isinstance(answer, Items) and answer.kind == "tuple" and len(answer.items) == 2:
        low, high = answer.items
        if isinstance(low, Value) and isinstance(high, Value):
            return Interval(low.text, high.text, False, False)
    return answer


def _as_relation(answer: Any) -> Any:
    """`x<3` beside an inequality that bounds no single letter, such as `2x<6`."""
    if not (isinstance(answer, Interval) and answer.letter):
        return answer
    if "infty" in answer.low:
        return Relation(answer.letter, "\\le" if answer.has_high else "<", answer.high)
    return Relation(answer.low, "\\le" if answer.has_low else "<", answer.letter) if "infty" in answer.high else answer


def _agree_relations(answer: Any, gold: Any) -> bool:
    if not (isinstance(answer, Relation) and isinstance(gold, Relation)) or answer.sign != gold.sign:
        return False
    return _same_sides((answer.left, answer.right), (gold.left, gold.right), positive=gold.sign != "\\ne")


def _agree_intervals(answer: Any, gold: Any) -> bool:
    answer, gold = _as_interval(answer), _as_interval(gold)
    if not (isinstance(answer, Interval) and isinstance(gold, Interval)):
        return False
    if (answer.has_low, answer.has_high) != (gold.has_low, gold.has_high):
        return False
    if answer.letter and gold.letter and answer.letter != gold.letter:
        return False
    bounds = [read_answer(text) for text in (answer.low, gold.low, answer.high, gold.high)]
    return agree(bounds[0], bounds[1]) and agree(bounds[2], bounds[3])


def _agree_items(answer: Any, gold: Any) -> bool:
    answer, gold = _ungrouped(answer, gold), _ungrouped(gold, answer)
    if not (isinstance(answer, Items) and isinstance(gold, Items)):
        many = answer if isinstance(answer, Items) else gold
        if many.kind == "tuple" or len(many.items) != 1:
            return False
        return agree(many.items[0], gold) if many is answer else agree(answer, many.items[0])
    kinds = {answer.kind, gold.kind}
    if kinds == {"set", "tuple"}:
        return False
    if kinds == {"set", "list"} and len(answer.items) == 1 == len(gold.items):
        return agree(answer.items[0], gold.items[0])
    if "tuple" in kinds:
        return len(answer.items) == len(gold.items) and all(map(agree, answer.items, gold.items))
    # Amounts of different things, or values of different letters, in an order that only one side explains.
    labels, gold_labels = _labels(answer), _labels(gold)
    if (len(set(labels)) > 1) != (len(set(gold_labels)) > 1):
        return len(answer.items) == len(gold.items) and all(map(agree, answer.items, gold.items))
    return _match(answer.items, gold.items)


def _ungrouped(one: Any, other: Any) -> Any:
    """`100,200,300` beside a list is a list."""
    if isinstance(one, Value) and isinstance(other, Items) and other.kind != "tuple" and one.text.count(",") > 0:
        pieces = one.text.split(",")
        if all(piece.strip().isdigit() for piece in pieces):
            return Items("list", tuple(read_answer(piece.strip()) for piece in pieces))
    return one


def _labels(items: Items) -> list[str]:
    """What the items are called: the left sides of equations, the things counted."""
    return [
        item.name if isinstance(item, Equation) else item.unit.name if isinstance(item, Value) else ""
        for item in items.items
    ]


def _match(answers: Sequence[Any], golds: Sequence[Any]) -> bool:
    """Whether each answer agrees with a gold answer of its own."""
    if len(answers) != len(golds) or len(golds) > _MOST_ITEMS:
        return False
    left = list(golds)
    for answer in answers:
        found = next((place for place, gold in enumerate(left) if agree(answer, gold)), None)
        if found is None:
            return False
        del left[found]
    return True


def _agree_values(answer: Value, gold: Value) -> bool:
    if answer.number and gold.number:
        return answer.number.agrees(gold.number)
    if not answer.unit.agrees(gold.unit):
        return False
    if any(value.number is not None and value.number.percent for value in (answer, gold)):
        return False
    return _same_text(answer.text, gold.text, answer, gold)


def _same_text(one: str, other: str, value: Value | None = None, gold: Value | None = None) -> bool:
    left, right = _expression(one, value), _expression(other, gold)
    if left is None or right is None:
        return squeeze(one) == squeeze(other)
    return same_value(left, right)


def _expression(text: str, value: Value | None) -> Expression | None:
    if value is not None and value.number is not None:
        number = value.number
        return Expression(Rational(number.value.numerator, number.value.denominator), number.decimal)
    return read_expression(text)


def _agree_ratios(answer: Any, gold: Any) -> bool:
    if isinstance(answer, Clock) or isinstance(gold, Clock):
        return False
    sides = [
        side.parts if isinstance(side, Ratio) else (side.text,) if isinstance(side, Value) else ()
        for side in (answer, gold)
    ]
    if {len(side) for side in sides} == {1, 2}:  # 3:2 is the number 3/2
        sides = [side if len(side) == 2 else (side[0], "1") for side in sides]
    if len(sides[0]) != len(sides[1]) or len(sides[0]) < 2:
        return False
    values = [[read_expression(part) for part in side] for side in sides]
    if any(part is None or not part.value.is_number or part.value.is_zero for side in values for part in side):
        return False
    first, gold_first = values[0][0], values[1][0]
    assert first is not None
    assert gold_first is not None
    return all(
        part is not None
        and other is not None
        and same_value(Expression(part.value * gold_first.value, False), Expression(other.value * first.value, False))
        for part, other in zip(*values, strict=True)
    )
