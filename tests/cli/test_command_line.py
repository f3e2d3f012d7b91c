import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule, LightningModule

from laser_lightning.cli import trainer as cli
from laser_lightning.cli.command_line import main
from laser_lightning.cli.config_files import packaged_names
from laser_lightning.cli.exact_parser import ExactParser
from laser_lightning.cli.help import command_help, program_help
from laser_lightning.cli.program import OTHER_COMMANDS, TRAINER_COMMANDS
from laser_lightning.cli.source_classes import Sources
from laser_lightning.cli.spelling import program_keys
from laser_lightning.errors import UserError

OVERLAY = "model: {optimizer: {lerning_rate: 1e-6}}"
HEAVY = ("torch", "lightning", "transformers", "deepspeed", "datasets", "matplotlib", "tensorboard")


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["--help"], 0, "packaged configs:"),
        (["--version"], 0, "laser-lightning "),
        (["fit", "--help"], 0, "--trainer.max_steps (int; -1)"),
        *[([command, "--help"], 0, f"laser-lightning {command}") for command in OTHER_COMMANDS],
        (["fti"], 2, "not 'fti'; did you mean fit?"),
        (["fit", "--config", "quickstrat"], 2, "did you mean quickstart?"),
        (["fit", "--config", "quickstart", "--config", "overlay.yaml"], 2, "did you mean optimizer.learning_rate?"),
        (["fit", "--config", "quickstart", "--config", "baselines/rise", "--model.groupsize=2"], 2, "group_size?"),
        (["fit", "--config", "quickstart", "--trainer.max_stepss", "3"], 2, "did you mean trainer.max_steps?"),
        (["fit", "--config", "quickstart", "--model.advantage.mixing.tua=0"], 2, "did you mean advantage.mixing.tau?"),
        (["fit", "--config", "quickstart", "--model.update.kl.init_args.estimate=k1"], 2, "update.kl.estimator?"),
        (["fit", "--config", "quickstart", "--data.accuracy_bounds.lo=0.2"], 2, "did you mean accuracy_bounds.low?"),
        (["fit", "--config", "quickstart", "--config", "methods/sec", "--data.curriculum.rat=1"], 2, "rate?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_misspelt_words_are_answered_without_a_heavy_import(
    tmp_path: Path, args: list[str], status: int, said: str
) -> None:
    (tmp_path / "overlay.yaml").write_text(OVERLAY)
    command = [sys.executable, "-X", "importtime", "-m", "laser_lightning", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == status
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert len(told) == (status != 0)
    assert said in done.stdout + "".join(told)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "laser_lightning.cli.command_line" in imported
    assert not imported & set(HEAVY)


def test_help_lists_every_command_and_every_packaged_config() -> None:
    lines = {line.split()[0]: line for line in program_help().splitlines() if line.startswith("  ")}
    assert {*TRAINER_COMMANDS, *OTHER_COMMANDS, *packaged_names()} <= lines.keys()
    for name in packaged_names():
        assert len(lines[name].split()) > 3, f"{name} has no comment at its head that says what it is"


@pytest.mark.parametrize("command", TRAINER_COMMANDS)
def test_help_of_a_command_lists_the_keys_of_its_parser(command: str, parser_keys: dict[str, set[str]]) -> None:
    text = command_help(command)
    for key in parser_keys[command] - {"model", "data"}:  # these by their arguments
        assert f"--{key} " in text
    assert "--model.optimizer.learning_rate (float; 1e-06)" in text
    assert "--data.prompts_per_step (int; 32)" in text


@pytest.mark.parametrize("command", TRAINER_COMMANDS)
def test_known_keys_are_those_of_the_parser(command: str, parser_keys: dict[str, set[str]]) -> None:
    """What is not known is refused: a key that only the parser had could not be given."""
    assert set(program_keys(Sources(), command) or ()) == parser_keys[command] - {"config"}


@pytest.fixture(scope="module")
def parser_keys() -> dict[str, set[str]]:
    """The keys of each command's parser."""
    parsers: dict[str, ExactParser] = {}

    class Stopping(cli.LaSeRCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            parsers.update(self._subcommand_parsers)
            raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        Stopping(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            parser_class=ExactParser,
            args=[],
        )
    return {command: set(parser.get_defaults().keys()) for command, parser in parsers.items()}


def test_words_of_a_misspelt_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config"]) == 2
    assert capsys.readouterr().err == "laser-lightning: error: argument -c/--config: expected one argument\n"
