"""The list of what is not right, written and read."""

from pathlib import Path

import pytest
import transformers

from model_checks import expectations
from model_checks.builds import EOS, VOCABULARY, all_types, causal_types, tiny_config
from model_checks.checks import Outcome

RIGHT, CANNOT, NO_CACHE = Outcome("right"), Outcome("refused", "cannot pack"), Outcome("refused", "has no cache")


@pytest.fixture
def two_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list for the installed transformers and for those before it."""
    path = tmp_path / "expected.yaml"
    path.write_text(
        f"""every version:
  llama: {{pack: {{refused: cannot pack}}}}
'>={transformers.__version__}': {{}}
'<{transformers.__version__}':
  mamba: {{load: {{refused: has no cache}}}}
"""
    )
    monkeypatch.setattr(expectations, "FILE", path)
    return path


def test_a_range_has_what_every_version_has(two_ranges: Path) -> None:
    assert expectations.expected() == {"llama": {"pack": CANNOT}}
    older = f"<{transformers.__version__}"
    assert expectations.expected(older) == {"llama": {"pack": CANNOT}, "mamba": {"load": NO_CACHE}}


def test_an_update_changes_the_installed_range_and_leaves_the_other_as_it_was(two_ranges: Path) -> None:
    older = f"<{transformers.__version__}"
    before = expectations.expected(older)
    # llama can be packed now, mamba is refused here too, gpt2 was always right; of others nothing was found.
    found = {
        "llama": {"load": RIGHT, "pack": RIGHT},
        "mamba": {"load": Outcome("refused", "keeps no cache")},
        "gpt2": {"load": RIGHT},
    }
    expectations.update(found)
    assert expectations.expected() == {"mamba": {"load": Outcome("refused", "keeps no cache")}}
    assert expectations.expected(older).keys() == before.keys()
    assert expectations.expected(older)["llama"] == {"pack": CANNOT}
    # What is refused in both stands once, in the words of the first range.
    assert two_ranges.read_text().count("mamba") == 1


def test_the_list_names_types_and_checks_that_there_are() -> None:
    kinds = {outcome.kind for outcomes in expectations.expected().values() for outcome in outcomes.values()}
    assert kinds <= {"refused", "unbuilt", "wrong", "traceback"}
    assert len(all_types()) > len(causal_types()) > 150


def test_a_tiny_config_is_the_types_own_with_smaller_sizes() -> None:
    config = tiny_config("gemma3_text")
    default = type(config)()
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (64, 2, VOCABULARY)
    assert config.layer_types == ["sliding_attention", "full_attention"]  # one of each of the 26
    assert config.eos_token_id == EOS
    assert config.hidden_activation == default.hidden_activation
    # A part's sizes are cut too, and a type's overrides reach it.
    whole = tiny_config("gemma3", {"text_config": {"sliding_window": 3}})
    assert (whole.vision_config.hidden_size, whole.text_config.sliding_window) == (64, 3)
