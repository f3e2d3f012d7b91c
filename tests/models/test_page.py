"""docs/models.md against the list that it is made from."""

import pytest

from model_checks import page
from model_checks.builds import all_types
from model_checks.checks import Outcome
from model_checks.expectations import expected


def test_the_page_is_that_of_the_list() -> None:
    if not page.is_of_installed():
        pytest.skip("docs/models.md is of another transformers than the installed one")
    assert page.FILE.read_text() == page.page(expected(), all_types()), (
        "stale: pytest -m models tests/models --update-expectations"
    )


def test_what_stands_where() -> None:
    found = {
        "b": {"pack": Outcome("refused", "cannot pack")},
        "c": {"load": Outcome("refused", "has no <cache>")},
        "d": {"load": Outcome("refused", "has no <cache>")},
        "e": {"build": Outcome("unbuilt", "too large")},
        "f": {"engine": Outcome("wrong", "off by 1 nat"), "pack": Outcome("refused", "cannot pack")},
        "g": {"lora": Outcome("refused", "no linear layers")},
    }
    text = page.page(found, list("abcdefg"))
    assert "## Right (3 of 6 that were tried)\n\n`a`, `b`, `g`\n" in text
    assert "with padding.\n\n`b`\n" in text
    assert "## Not with LoRA (1)\n" in text
    assert "|---|---|\n| `g` | no linear layers |\n" in text
    assert "## Refused (2)\n\n| type | why |\n|---|---|\n| `c`, `d` | has no &lt;cache> |\n" in text
    assert "| `f` | engine: off by 1 nat |" in text
    assert "| `e` | too large |" in text
