"""``laser-lightning fit | validate | test | predict`` on Lightning's CLI; ``command_line`` stands in front of it."""

import argparse
import atexit
import gc
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch
import torch
import yaml
from jsonargparse import ActionConfigFile, set_dumper, set_loader, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from laser_lightning import __version__
from laser_lightning.cli.config_files import Origin, load_configs, yaml_value
from laser_lightning.cli.default_callbacks import (
    CALLBACK_SLOTS,
    DEFAULT_CALLBACKS,
    WITHOUT_FILES,
    given_slots,
    left_out,
    repeated,
)
from laser_lightning.cli.error_sentences import command_line_origins, overridden, sentence, value_for_group
from laser_lightning.cli.exact_parser import ExactParser
from laser_lightning.cli.noise import leave_out_noise, shorten_library_bars
from laser_lightning.cli.old_keys import old_options
from laser_lightning.cli.option_values import dump_yaml, wrapped
from laser_lightning.cli.program import (
    DEFAULT_CLASSES,
    OWN_KEYS,
    PROGRAM,
    TRAINER_DEFAULTS,
    find_classes_in_working_directory,
    split_configs,
)
from laser_lightning.cli.resume_settings import SAVED_SETTINGS, SettingsInCheckpoints, check_settings
from laser_lightning.cli.run_loggers import MetricsWritten, RunConfig, run_loggers, sentence_of_logger
from laser_lightning.distributed.toolchain import import_deepspeed
from laser_lightning.errors import UserError
from laser_lightning.modules.stopping import FinishingFitLoop, LeaveOnSignal, StopOnSignal
from laser_lightning.modules.trainer_checks import TRAINER_KEYS_INSTEAD
from laser_lightning.runs.checkpoints import WholeFiles, check_writable, checkpoint_directory
from laser_lightning.runs.interruption import Stopped
from laser_lightning.runs.metrics_file import MetricsFile, MetricsInCheckpoints
from laser_lightning.runs.run_directory import (
    NEWEST,
    RunFiles,
    find_checkpoint,
    keep_earlier_files,
    refuse_mixing,
    run_files,
    settings_in,
)


class LaSeRCLI(LightningCLI):
    """LightningCLI with configs by name, callback slots, one directory per run, and errors in one line.

    Args:
        classes: as for LightningCLI, as are the settings.
        command: the one that runs; the parsers of the others, which take as long to make, stay empty. Default: none.
    """

    def __init__(self, *classes: Any, command: str | None = None, **settings: Any) -> None:
        self._command = command
        super().__init__(*classes, **settings)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        if self._command not in (None, subcommand):
            return self.init_parser(**kwargs)
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

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
        parser.add_argument("--run_dir", type=str | None, default=None, help=OWN_KEYS["run_dir"])
        parser.add_argument("--torch_threads", type=PositiveInt | None, default=None, help=OWN_KEYS["torch_threads"])
        parser.add_argument("--allow_changes", nargs="*", type=str, default=[], help=OWN_KEYS["allow_changes"])
        for name, slot in CALLBACK_SLOTS.items():
            text = f"{slot.help} null switches it off. Default: {slot.default}."
            parser.add_argument(f"--{name}", type=Callback | None, default=None, help=text)
            parser.callback_keys.append(name)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Merges the configs, puts the command line on top, and words what is wrong with either."""
        configs, rest = split_configs(args)
        old, rest = old_options(rest)
        command = rest[0]
        known: list[str] = []
        self.origins = command_line_origins(args)
        try:
            known = list(self._subcommand_parsers[command].get_defaults().keys())
            config = load_configs(configs, DEFAULT_CLASSES + DEFAULT_CALLBACKS, old)
            self.origins = overridden(config.origins, command_line_origins(rest))
            self._check_trainer_is_mapping()
            if any(
                key[:2] == ("trainer", "strategy") and _is_deepspeed(origin) for key, origin in self.origins.items()
            ):
                import_deepspeed()  # the parser would, and its messages would spoil what is printed
            # The comment keeps jsonargparse from taking a text with :// in it for a remote path.
            switched_off = [f"--{slot}=null" for slot in left_out(self.origins)]
            merged = ["--config", f"# merged\n{config.text}", *switched_off]
            options = self._subcommand_parsers[command]._option_string_actions
            rest = ["--print_config=comments" if arg == "--print_config" else arg for arg in rest[1:]]
            rest = [command, *merged, *wrapped(rest, options)]
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
        shorten_library_bars()

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
        return self._written()

    def _written(self) -> str:
        """The config as it is now, as YAML. It was parsed, and validating it again would take as long."""
        config = self.config[self.config.subcommand]
        return str(self._parser(self.config.subcommand).dump(config, skip_unset=False, skip_validation=True))

    def _dump_config(self) -> None:
        """Keeps the config for modules that save their hyper-parameters."""
        if not hasattr(self, "config_dump"):
            self.config_dump = yaml.safe_load(self._written())

    def before_evaluation(self) -> None:
        """Finds the checkpoint to evaluate."""
        given = self._get(self.config, "ckpt_path")
        if given == "last":
            self.config_init[self.config.subcommand].ckpt_path = find_checkpoint(given, self.trainer)
        if self.files is not None:
            keep_earlier_files(self.files, self._resolved, resumes=False)

    def before_validate(self) -> None:
        """Leaves out Lightning's table of the results, unless it is asked for: callbacks show them."""
        self.before_evaluation()
        if ("verbose",) not in self.origins:
            self.config_init[self.config.subcommand].verbose = False

    before_test = before_validate

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
        self._check_trainer(config)
        own = config["callbacks"] if isinstance(config["callbacks"], list) else [config["callbacks"]]
        slots = self._slots_in_use(callbacks, own, bool(config["fast_dev_run"]))
        saves = any(isinstance(callback, Checkpoint) for callback in [*own, *slots])
        if config["enable_checkpointing"] is None:
            config["enable_checkpointing"] = saves
        if saves and not config["fast_dev_run"]:
            slots.append(StopOnSignal())
        slots.append(LeaveOnSignal())
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in [*own, *slots]):
            from laser_lightning.callbacks import ConsoleProgress

            slots.insert(0, ConsoleProgress())
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

    def _check_trainer(self, config: dict[str, Any]) -> None:
        """Names our keys in place of Lightning's remedies, which do not exist where the module steps by itself."""
        if config["barebones"]:
            raise UserError(
                "trainer.barebones: a run without loggers, checkpoints and callbacks leaves nothing; switch off single "
                "slots by null instead, such as --checkpoint null"
            )
        for key, (unset, instead) in TRAINER_KEYS_INSTEAD.items():
            if config[key] not in (None, unset) and not self.model.automatic_optimization:
                raise UserError(f"trainer.{key}: the module takes its own optimizer steps; give {instead}")

    def _place_run(self, config: dict[str, Any]) -> list[Any]:
        """Gives the run its directory and loggers; the callbacks that save in checkpoints what a resumed run needs."""
        self.files: RunFiles | None = None
        given = self._get(self.config, "run_dir")
        if config["fast_dev_run"]:  # such a run has no loggers, but its callbacks write
            if given is not None and config["default_root_dir"] is None:
                config["default_root_dir"] = str(given)
            return []
        directory = Path(given) if given is not None else claim_directory(Path("runs"))
        self.files = run_files(directory, self.config.subcommand)
        self.save_config_kwargs["config_filename"] = self.files.config.name
        if config["default_root_dir"] is None:
            config["default_root_dir"] = str(directory)
        settings = SettingsInCheckpoints(self._resolved)
        if config["logger"] is False:
            return [settings]
        metrics = MetricsFile(directory, self.files.metrics.name)
        config["logger"] = run_loggers(metrics, directory, config["logger"])
        return [settings, MetricsInCheckpoints(metrics), MetricsWritten(metrics)]


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
    """Runs a command of the trainer.

    Args:
        args: the command and what is behind it; default: the arguments of the process.

    Returns:
        Exit status: 0; 2 for an error that the user can mend, told in one line on stderr; or 128 and the number of
        the signal that stopped the run.
    """
    find_classes_in_working_directory()
    leave_out_noise()
    args = list(sys.argv[1:] if args is None else args)
    set_loader("yaml", yaml_value, exceptions=(yaml.YAMLError,))
    set_dumper("yaml", dump_yaml)
    # Refuses a null where a value is needed. What is printed, though, goes wrong with it (jsonargparse 4.53).
    prints = any(arg.split("=")[0].endswith(("print_config", "help")) or arg == "-h" for arg in args)
    set_parsing_settings(unset_sentinel=not prints)
    try:
        LaSeRCLI(
            LightningModule,
            LightningDataModule,
            command=split_configs(args)[1][0],
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=TRAINER_DEFAULTS,
            parser_class=ExactParser,
            parser_kwargs=_parser_settings(),
            args=args,
        )
    except Stopped as stop:
        atexit.register(gc.freeze)  # at its end the interpreter would look at every object, for some seconds
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            print(f"{PROGRAM}: {stop.sentence}", file=sys.stderr)
        return int(stop.code or 0)
    except (UserError, MisconfigurationException) as error:
        return _tell(str(error))
    except Exception as error:
        early = isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric")
        told = str(error) if early else sentence_of_logger(error)
        if told is None:
            raise
        return _tell(told)
    return 0


def _tell(error: str) -> int:
    print(f"{PROGRAM}: error: {' '.join(error.split())}", file=sys.stderr)
    return 2


def _parser_settings() -> dict[str, Any]:
    shared = {"exit_on_error": False}
    return {"prog": PROGRAM, **shared, **{name: shared for name in LaSeRCLI.subcommands()}}


def _is_deepspeed(origin: Origin) -> bool:
    return "deepspeed" in (origin.value or "").lower()
