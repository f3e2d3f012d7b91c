"""The commands and configs that the documentation shows can be parsed, and its figure can be drawn."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from laser_lightning.cli.check import read_asked
from laser_lightning.cli.command_line import main
from laser_lightning.distributed.strategies import LaSeRDeepSpeedStrategy
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.rollout import TransformersEngine

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CONFIG = re.compile(r"```yaml\n# (\w+\.yaml):.*\n((?:.*\n)*?)```")


def commands(names: str = "fit|validate|test|predict") -> list[str]:
    """Every `laser-lightning` of these subcommands in the pages' shell blocks, on one line each."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            text = re.sub(r"torchrun .*?-m laser_lightning", "laser-lightning", block.replace("\\\n", " "))
            lines = text.splitlines()
            words = (line[line.find("laser-lightning ") :] for line in lines if "laser-lightning " in line)
            found |= dict.fromkeys(line for line in words if re.match(f"laser-lightning ({names}) ", line))
    return list(found)


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the commands name: the examples, the configs that the pages show, and empty ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(DOCS / "examples")
    (tmp_path / "my_file.py").write_text("def my_function(response, gold): return float(gold in response)\n")
    for page in PAGES:
        for name, text in CONFIG.findall(page.read_text()):
            (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_a_command_can_be_parsed(command: str, working_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command, comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    for name in words:
        if name.endswith(".yaml") and not (working_directory / name).exists():
            (working_directory / name).touch()
        if name.endswith(".ckpt") or name == "CHECKPOINT":
            (working_directory / name).parent.mkdir(parents=True, exist_ok=True)
            (working_directory / name).touch()
    shows_help = any(word.endswith(".help") for word in words)
    with pytest.raises(SystemExit) as end:
        main(words + ["--print_config"] * ("--print_config" not in words and not shows_help))
    assert end.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", commands("check"))
def test_a_check_can_be_parsed(command: str, working_directory: Path) -> None:
    asked = read_asked(shlex.split(command, comments=True)[2:])
    assert asked.policy.path.startswith("Qwen/Qwen2.5-0.5B")
    assert asked.policy.lora == (LoRASettings(rank=16) if "--model.policy.lora.rank 16" in command else None)
    assert isinstance(asked.engine, TransformersEngine)
    assert isinstance(asked.trainer["strategy"], LaSeRDeepSpeedStrategy) == ("strategy/zero3" in command)


@pytest.mark.parametrize("command", [line for line in commands("explain") if "--solutions" not in line])
def test_an_explanation(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command, comments=True)[1:]) == 0
    assert capsys.readouterr().out.startswith("reward 1: extracted ")


def test_the_figure_of_the_score(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DOCS / "figures/last_token.py"), str(tmp_path / "new.png")], check=True)
    assert (tmp_path / "new.png").stat().st_size > 10_000
