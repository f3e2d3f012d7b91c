"""Turns the formulas of the pages into MathML when they are built: they need no script and no network to be read."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex makes of $...$ and $$...$$.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Called by MkDocs with the HTML of each page.

    Raises:
        ValueError: if a formula has a command that has no MathML.
    """
    return FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    latex = html.unescape(match[2]).strip()
    mathml = convert(latex, display="block" if match[1] == "div" else "inline")
    if "\\" in mathml:
        raise ValueError(f"The formula {latex} has a command that is not known.")
    return mathml
