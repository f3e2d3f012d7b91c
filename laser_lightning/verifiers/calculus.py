"""Reading of sums, products, integrals and limits, by the parser of math-verify."""

import re
from typing import Any

from laser_lightning.verifiers.functions import UnreadableError

# What that parser reads as something else: bases and subscripts of numbers are dropped, `I` is the imaginary unit,
# both gammas are Euler's constant, two numbers side by side are a mixed number, words are letters.
_MISREAD = re.compile(r"\d\s*_|[IE]|\\[Gg]amma|\d\s+\d|\d\s*[({]\s*\\frac|\\(?:text|math|mbox|operatorname|circ)|[%:!]")


def read_calculus(text: str) -> Any:
    """Reads and computes an expression with a sum, product, integral or limit.

    Args:
        text: A cleaned answer.

    Returns:
        The sympy expression.

    Raises:
        UnreadableError: It cannot be read without doubt.
    """
    if _MISREAD.search(text):
        raise UnreadableError
    # Only here: the generated parser takes a while to import, and few answers need it.
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    config = ConversionConfig(lowercase_symbols=False)
    try:
        value = latex2sympy(text, is_real=True, normalization_config=None, conversion_config=config).doit()
    except Exception as error:  # the parser raises bare ones
        raise UnreadableError from error
    if any(letter.name == "i" for letter in value.free_symbols):
        raise UnreadableError
    return value
