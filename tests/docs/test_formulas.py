"""The formulas of the documentation become MathML when it is built."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    pytest.importorskip("latex2mathml", reason='comes with pip install -e ".[docs]"')
    spec = importlib.util.spec_from_file_location("formulas_hook", DOCS / "formulas_hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_formula_becomes_mathml(hook: ModuleType) -> None:
    page = r'<p>where <span class="arithmatex">\(r_s &gt; 0.5\)</span></p><div class="arithmatex">\[\beta\]</div>'
    built = hook.on_page_content(page)
    assert re.sub(r"<math[^>]*>", "<math>", built) == (
        "<p>where <math><mrow><msub><mi>r</mi><mi>s</mi></msub><mo>&#x0003E;</mo><mn>0.5</mn></mrow></math></p>"
        "<math><mrow><mi>&#x003B2;</mi></mrow></math>"
    )
    assert 'display="inline"' in built
    assert 'display="block"' in built


def test_a_page_without_formulas_stays_as_it_is(hook: ModuleType) -> None:
    assert hook.on_page_content("<code>#(\\d+)$</code>") == "<code>#(\\d+)$</code>"


def test_an_unknown_command_ends_the_build(hook: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"formula \\nosuch x has a command"):
        hook.on_page_content(r'<span class="arithmatex">\(\nosuch x\)</span>')


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_the_formulas_of_a_page(page: Path, hook: ModuleType) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    assert text.count("$") % 2 == 0
    for formula in re.findall(r"\$\$(.*?)\$\$|\$(.*?)\$", text, re.DOTALL):
        latex = "".join(formula)
        assert "<math" in hook.on_page_content(rf'<span class="arithmatex">\({latex}\)</span>')
