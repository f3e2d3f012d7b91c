"""Tokens that the tokenizer has and the model has no rows for."""

import shutil
from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig, PreTrainedTokenizerBase

from laser_lightning.cli.command_line import main
from laser_lightning.data.prompts import check_vocabulary
from laser_lightning.errors import UserError
from laser_lightning.policy.model import PolicySettings, load_tokenizer


def test_the_first_token_beyond_the_vocabulary_is_named(policy_tokenizer: PreTrainedTokenizerBase) -> None:
    check_vocabulary([0, 3], policy_tokenizer, 4, "The prompt")
    with pytest.raises(UserError, match=r"^The prompt contains the token '<\|reward\|>' with the id 3, .* ends at 2"):
        check_vocabulary([0, 3], policy_tokenizer, 3, "The prompt")


@pytest.fixture
def larger(policy_dir: Path, tmp_path: Path) -> Path:
    """A model with a tokenizer that has one token more than the model has rows."""
    shutil.copytree(policy_dir, tmp_path / "larger")
    settings = PolicySettings(path=str(policy_dir))
    tokenizer, size = load_tokenizer(settings), AutoConfig.from_pretrained(policy_dir).vocab_size
    tokenizer.add_tokens([f"<{number}>" for number in range(size - len(tokenizer))])
    assert tokenizer.add_tokens(["<think>"]) == 1
    assert tokenizer.convert_tokens_to_ids("<think>") >= size
    tokenizer.save_pretrained(tmp_path / "larger")
    return tmp_path / "larger"


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_such_a_prompt_is_refused_before_anything_is_sampled(
    larger: Path,
    tmp_path: Path,
    tiny_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(Path("run.yaml").read_text())
    config["model"]["init_args"]["policy"] = {"path": str(larger)}
    Path("run.yaml").write_text(yaml.safe_dump(config))
    assert main([command, "--config", "run.yaml", "--data.template.template", "{problem}<think>"]) == 2
    where = "row 0 of the set 'train'" if command == "fit" else "row 0 of the set 'sums'"
    assert f"The prompt in {where} contains the token '<think>' with the id " in capsys.readouterr().err
