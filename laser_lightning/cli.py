"""The command line: ``laser-lightning fit | validate | test | predict`` on Lightning's CLI, ``export``, ``explain``."""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch
import torch
import yaml
from jsonargparse import ActionConfigFile, set_loader, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from laser_lightning import __version__, explain, export
from laser_lightning.checkpoints import WholeFiles, check_writable, checkpoint_directory
from laser_lightning.cli_errors import command_line_origins, overridden, sentence, value_for_group
from laser_lightning.config_files import load_configs, packaged_names, yaml_value
from laser_lightning.default_callbacks import (
    CALLBACK_SLOTS,
    DEFAULT_CALLBACKS,
    WITHOUT_FILES,
    given_slots,
    left_out,
    repeated,
)
from laser_lightning.errors import UserError
from laser_lightning.metrics_file import MetricsFile, MetricsInCheckpoints
from laser_lightning.resume_settings import SAVED_SETTINGS, SettingsInCheckpoints, check_settings
from laser_lightning.run_directory import (
    NEWEST,
    RunFiles,
    find_checkpoint,
    keep_earlier_files,
    refuse_mixing,
    run_files,
    settings_in,
)
from laser_lightning.stopping import FinishingFitLoop, StopOnSignal, Stopped
from laser_lightning.toolchain import import_deepspeed

PROGRAM = "laser-lightning"

# Below every config, so that configs need to name a class only where it differs.
DEFAULT_CLASSES = f"{export.DEFAULT_MODEL}data: {{class_path: laser_lightning.data.PromptDataModule}}\n"

HELP = """
A config is a YAML file, or the name of a packaged one: {names}. Several are overlaid in order, and options
on the command line override them all. Arguments of a class: --model.help laser_lightning.LaSeRModule,
--data.help laser_lightning.data.PromptDataModule, --checkpoint.help my_file.MyCallback.
`laser-lightning export CHECKPOINT OUT` writes a checkpoint's model as a directory that transformers loads;
`laser-lightning explain RESPONSE GOLD` says why the verifier rewards a response as it does.
"""


class ExactParser(LightningArgumentParser):
    """A parser without abbreviated options: not its own, nor those of the parsers it makes for class arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})


class LaSeRCLI(LightningCLI):
    """LightningCLI with configs by name, callback slots, one directory per run, and errors in one line."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser for the program, or for one subcommand."""
        header = [f"{PROGRAM}=={__version__}", f"lightning=={lightning.__version__}"]
        parser = self.parser_class(dump_header=header, **kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ActionConfigFile,
            help="A YAML file, or the name of a packaged config; repeatable.",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys that Lightning does not have."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Directory of this run: metrics, config, checkpoints, figures. Give one to resume a run in place. "
            "Default: the next free runs/version_N. `trainer.logger: null` writes CSV and TensorBoard into it.",
        )
        parser.add_argument(
            "--torch_threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads for torch; small models are often faster on 1. Default: torch's own choice.",
        )
        parser.add_argument(
            "--allow_changes",
            nargs="*",
            type=str,
            default=[],
            help="Keys, such as model.group_size, that a resumed run may have otherwise than the run that it resumes, "
            "although they change results.",
        )
        for name, slot in CALLBACK_SLOTS.items():
            text = f"{slot.help} null switches it off. Default: {slot.default}."
            parser.add_argument(f"--{name}", type=Callback | None, default=None, help=text)
            parser.callback_keys.append(name)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Merges the configs, puts the command line on top, and words what is wrong with either."""
        configs = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        configs.add_argument("-c", "--config", action="append", default=[])
        known: list[str] = []
        self.origins = command_line_origins(args)
        try:
            given, rest = configs.parse_known_args(args)
            command = next(iter(rest), "nothing")
            if command not in (*self.subcommands(), "-h", "--help", "--version"):
                raise UserError(f"the first word is fit, validate, test, predict, export or explain, not {command!r}")
            if command in self.subcommands():
                known = list(self._subcommand_parsers[command].get_defaults().keys())
                config = load_configs(given.config, DEFAULT_CLASSES + DEFAULT_CALLBACKS)
                self.origins = overridden(config.origins, command_line_origins(rest))
                self._check_trainer_is_mapping()
                # The comment keeps jsonargparse from taking a text with :// in it for a remote path.
                switched_off = [f"--{slot}=null" for slot in left_out(self.origins)]
                rest[1:1] = ["--config", f"# merged\n{config.text}", *switched_off]
            rest = ["--print_config=comments" if arg == "--print_config" else arg for arg in rest]
            self.config = parser.parse_args(rest)
        except argparse.ArgumentError as error:
            raise UserError(sentence(str(error), self.origins, known)) from error
        finally:
            set_parsing_settings(unset_sentinel=False)

    def _check_trainer_is_mapping(self) -> None:
        """The parser passes over a scalar in the place of a group, in silence."""
        trainer = self.origins.get(("trainer",))
        if trainer is not None and trainer.value is not None:
            raise UserError(f"trainer ({trainer.where}): expected a mapping of keys to values, got {trainer.value}")

    def _parse_ckpt_path(self) -> None:
        """Checks the path; Lightning would let the checkpoint's hyper-parameters override the config here."""
        path = self.config[self.config.subcommand].ckpt_path
        where = self.origins[("ckpt_path",)].where if ("ckpt_path",) in self.origins else "default"
        if path == "best":
            raise UserError(f"ckpt_path ({where}): no best checkpoint is known to a new process; give its path")
        if path == "auto" and self.config.subcommand != "fit":
            raise UserError(f"ckpt_path ({where}): auto is for fit; give `last`, or the path of a checkpoint")
        if path in NEWEST and not self._has_directory():
            raise UserError(f"ckpt_path ({where}): {path} looks into the directory of a run: give it with --run_dir")
        special = path is None or path in (*NEWEST, "hpc") or str(path).startswith("registry") or "://" in str(path)
        if not special and not Path(path).exists():
            raise UserError(f"ckpt_path ({where}): there is no checkpoint at {str(path)!r}")

    def _has_directory(self) -> bool:
        """Whether it is given where the run's checkpoints are."""
        config = self.config[self.config.subcommand]
        own = config.run_dir, config.trainer.default_root_dir, config.trainer.callbacks
        return any(own) or bool(config.checkpoint and config.checkpoint.get("init_args", {}).get("dirpath"))

    def before_instantiate_classes(self) -> None:
        """Settings of the process."""
        threads = self._get(self.config, "torch_threads")
        if threads is not None:
            torch.set_num_threads(threads)

    def before_fit(self) -> None:
        """Finds the checkpoint to resume from, compares settings, and looks whether files can be written."""
        given = self.config.fit.ckpt_path
        checkpoint = find_checkpoint(None if given is None else str(given), self.trainer)
        # Not in `self.config`, which is saved: the same config resumes again.
        self.config_init["fit"].ckpt_path = checkpoint
        if self.files is not None:
            refuse_mixing(self.files.config.parent, self.trainer, given, checkpoint)
        if checkpoint is not None and Path(checkpoint).exists():
            check_settings(settings_in(checkpoint, SAVED_SETTINGS), self._resolved, self.config.fit.allow_changes)
        if self.trainer.checkpoint_callbacks:
            check_writable(checkpoint_directory(self.trainer))
        if self.files is not None:
            keep_earlier_files(self.files, self._resolved, resumes=checkpoint is not None)

    @cached_property
    def _resolved(self) -> str:
        """The config of this run with every default, as YAML."""
        return str(self._parser(self.subcommand).dump(self.config[self.config.subcommand], skip_none=False))

    def before_evaluation(self) -> None:
        """Finds the checkpoint to evaluate."""
        given = self._get(self.config, "ckpt_path")
        if given == "last":
            self.config_init[self.config.subcommand].ckpt_path = find_checkpoint(given, self.trainer)
        if self.files is not None:
            keep_earlier_files(self.files, self._resolved, resumes=False)

    before_validate = before_test = before_evaluation

    def before_predict(self) -> None:
        """Finds the checkpoint, and keeps the trainer from gathering in memory what callbacks write."""
        self.before_evaluation()
        self.config_init["predict"].return_predictions = bool(self._get(self.config, "return_predictions"))

    def instantiate_classes(self) -> None:
        """Builds all classes; what a constructor refuses is the user's to mend."""
        try:
            super().instantiate_classes()
        except Exception as error:
            misplaced = value_for_group(self.origins) if "argument after ** must be a mapping" in str(error) else None
            raise (UserError(misplaced) if misplaced else _constructors_error(error)) from None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        """Adds the slots in use, the run's directory, and its loggers."""
        own = config["callbacks"] if isinstance(config["callbacks"], list) else [config["callbacks"]]
        slots = self._slots_in_use(callbacks, own, bool(config["fast_dev_run"]))
        saves = any(isinstance(callback, Checkpoint) for callback in [*own, *slots])
        if config["enable_checkpointing"] is None:
            config["enable_checkpointing"] = saves
        if saves and not config["fast_dev_run"]:
            slots.append(StopOnSignal())
        slots += self._place_run(config)
        trainer = super()._instantiate_trainer(config, slots)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFiles()
        FinishingFitLoop.take_over(trainer)
        return trainer

    def _slots_in_use(self, callbacks: list[Any], own: list[Any], fast_dev_run: bool) -> list[Any]:
        """The callbacks of the slots, without those that the user's own do the work of, or that would write."""
        slots = {name: it for name, it in zip(CALLBACK_SLOTS, callbacks, strict=True) if it is not None}
        defaults = {name: it for name, it in slots.items() if name not in given_slots(self.origins)}
        for name in repeated(defaults, own):
            del slots[name]
            self.config[self.config.subcommand][name] = None  # in the saved config, too
        return [it for name, it in slots.items() if not fast_dev_run or name in WITHOUT_FILES]

    def _place_run(self, config: dict[str, Any]) -> list[Any]:
        """Gives the run its directory and loggers; the callbacks that save in checkpoints what a resumed run needs."""
        self.files: RunFiles | None = None
        given = self._get(self.config, "run_dir")
        own_logger = config["logger"] is not None and not isinstance(config["logger"], bool)
        if own_logger and given is not None:
            raise UserError("run_dir: trainer.logger has directories of its own; give one of the two")
        if config["fast_dev_run"]:
            if given is not None and config["default_root_dir"] is None:
                config["default_root_dir"] = str(given)  # what callbacks write; such a run has no loggers
            return []
        settings = SettingsInCheckpoints(self._resolved)
        if own_logger:
            return [settings]
        directory = Path(given) if given is not None else claim_directory(Path("runs"))
        self.files = run_files(directory, self.config.subcommand)
        self.save_config_kwargs["config_filename"] = self.files.config.name
        if config["default_root_dir"] is None:
            config["default_root_dir"] = str(directory)
        if config["logger"] is False:
            return [settings]
        metrics = MetricsFile(directory, self.files.metrics.name)
        board = TensorBoardLogger(directory.parent, name="", version=directory.name, default_hp_metric=False)
        config["logger"] = [metrics, board]  # the first logger names the trainer's directory
        return [settings, MetricsInCheckpoints(metrics)]


def _constructors_error(error: BaseException) -> BaseException:
    """What a constructor raised, without the parser's wrapping; what it refuses is the user's to mend."""
    while error.__cause__ is not None and str(error).startswith("Does not validate against any of the Union"):
        error = error.__cause__
    if isinstance(error, UserError) or not isinstance(error, (ValueError, OSError, ModuleNotFoundError)):
        return error
    last = traceback.extract_tb(error.__traceback__)[-1]
    own_file = "site-packages" not in last.filename
    return UserError(f"{error} ({Path(last.filename).name}, line {last.lineno})" if own_file else str(error))


def claim_directory(root: Path) -> Path:
    """The next free `version_N` below a folder; rank 0 makes it, so that no run started meanwhile takes it too.

    Args:
        root: the folder of all runs.

    Returns:
        The directory of this run.
    """
    number = 0
    while True:
        directory = root / f"version_{number}"
        number += 1
        if directory.exists():
            continue
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return directory
        with suppress(FileExistsError):  # another run took it this moment
            directory.mkdir(parents=True)
            return directory


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: arguments without the program's name; default: those of the process.

    Returns:
        Exit status: 0; 2 for an error that the user can mend, told in one line on stderr; or 128 and the number of
        the signal that stopped the run.
    """
    # Classes named by class_path may live in the user's working directory, which a console script does not search.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    # What a checkpoint behind an optimizer step holds is what users expect of it.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
    # Said of every evaluation in a directory of its own.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    args = list(sys.argv[1:] if args is None else args)
    set_loader("yaml", yaml_value, exceptions=(yaml.YAMLError,))
    # Refuses a null where a value is needed. What is printed, though, goes wrong with it (jsonargparse 4.53).
    prints = any(arg.split("=")[0].endswith(("print_config", "help")) or arg == "-h" for arg in args)
    set_parsing_settings(unset_sentinel=not prints)
    if prints:
        import_deepspeed()  # the parser would, where a config names its strategy, and spoil what is printed
    try:
        own_commands = {"export": export.command, "explain": explain.command}
        if args and args[0] in own_commands:
            own_commands[args[0]](args[1:])
            return 0
        LaSeRCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            # The module itself evaluates before the first step, and its loader shards the prompts.
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "log_every_n_steps": 1,
            },
            parser_class=ExactParser,
            parser_kwargs=_parser_settings(),
            args=args,
        )
    except Stopped as stop:
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            print(f"{PROGRAM}: {stop.sentence}", file=sys.stderr)
        return int(stop.code or 0)
    except (UserError, MisconfigurationException) as error:
        print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser_settings() -> dict[str, Any]:
    epilog = HELP.format(names=", ".join(packaged_names()))
    shared = {"exit_on_error": False}
    program = {
        "prog": PROGRAM,
        "version": __version__,
        "description": "Trains language models that grade themselves.",
    }
    return {**program, **shared, **{name: {"epilog": epilog, **shared} for name in LaSeRCLI.subcommands()}}


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
