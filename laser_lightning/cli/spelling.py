"""Misspelt keys, told from the source files before anything heavy is imported."""

from collections.abc import Mapping, Sequence

from laser_lightning.cli.config_files import Config, Origin
from laser_lightning.cli.default_callbacks import CALLBACK_SLOTS
from laser_lightning.cli.error_sentences import command_line_origins, unknown_key
from laser_lightning.cli.merging import CLASS_KEYS
from laser_lightning.cli.nodes import Key
from laser_lightning.cli.program import OWN_KEYS
from laser_lightning.cli.source_classes import SourceArgument, SourceClass, Sources

TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
_MODEL_AND_DATA = {"self", "model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
_OF_THE_PARSER = {"config", "print_config", "help"}


def command_arguments(sources: Sources, command: str) -> dict[str, SourceArgument] | None:
    """The arguments of the trainer's method that a command calls, those that can be given.

    Args:
        sources: where it is read.
        command: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    trainer = sources.find_class(TRAINER)
    method = None if trainer is None else trainer.function(command)
    if trainer is None or method is None:
        return None
    defaults = [*[None] * (len(method.args.args) - len(method.args.defaults)), *method.args.defaults]
    pairs = [*zip(method.args.args, defaults, strict=True)]
    pairs += zip(method.args.kwonlyargs, method.args.kw_defaults, strict=True)
    return {
        arg.arg: SourceArgument(trainer, arg.annotation, default)
        for arg, default in pairs
        if arg.arg not in _MODEL_AND_DATA
    }


def program_keys(sources: Sources, command: str) -> list[str] | None:
    """The keys of a command, dotted, beside those of the classes that configs name.

    Args:
        sources: where they are read.
        command: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    trainer = sources.find_class(TRAINER)
    arguments = None if trainer is None else sources.arguments(trainer)
    of_method = command_arguments(sources, command)
    if arguments is None or of_method is None:
        return None
    of_trainer = (f"trainer.{name}" for name in sources.flat_names(arguments))
    return sorted({"seed_everything", "model", "data", *OWN_KEYS, *CALLBACK_SLOTS, *of_method, *of_trainer})


def misspelt_key(command: str, config: Config, args: Sequence[str]) -> str | None:
    """Finds a key that surely does not exist. What the files do not tell is left to the parser.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        config: the merged configs.
        args: the words behind the command.

    Returns:
        The mistake in one line, with the closest known key; None if there is none.
    """
    sources = Sources()
    known = program_keys(sources, command)
    if known is None:
        return None
    keys = Keys(sources, known)
    in_files = _classes(config.origins)
    on_line = _without_lists(args)
    for origins, classes in ((config.origins, in_files), (on_line, in_files | _classes(on_line))):
        for key, origin in origins.items():
            reason = None if "dict_kwargs" in key else keys.unknown(_bare(key), classes)
            if reason is not None:
                return f"{'.'.join(key)} ({origin.where}): {reason}"
    return None


class Keys:
    """The keys that there are.

    Args:
        sources: where classes are read.
        known: the program's own, dotted.
    """

    def __init__(self, sources: Sources, known: Sequence[str]) -> None:
        self._sources = sources
        self._known = known
        self._first = {name.split(".")[0] for name in known}
        self._trainer = {name.split(".")[1] for name in known if name.startswith("trainer.")}

    def unknown(self, key: Key, classes: Mapping[Key, str]) -> str | None:
        """Says what is wrong with a key.

        Args:
            key: its words, without ``init_args`` and the like.
            classes: the class that each key names.

        Returns:
            The reason; None if the key exists, or nobody can tell without imports.
        """
        if not key or key[-1] in _OF_THE_PARSER:
            return None
        if key[0] not in self._first or (key[0] == "trainer" and len(key) > 1 and key[1] not in self._trainer):
            return unknown_key(key, None, self._known)
        for length in range(len(key) - 1, 0, -1):  # of the nested classes, the innermost is asked
            if path := classes.get(key[:length]):
                return self._unknown_of(path, key[length:])
        return None

    def _unknown_of(self, path: str, words: Key) -> str | None:
        found = self._sources.find_class(path)
        arguments = None if found is None else self._sources.arguments(found)
        if found is None or arguments is None or self._knows(arguments, words):
            return None
        return unknown_key(words, path, self._sources.names_with_parts(arguments))

    def _knows(self, arguments: Mapping[str, SourceArgument], words: Key) -> bool:
        if words[0] not in arguments:
            return False
        group: SourceClass | None = self._sources.class_of(arguments[words[0]])
        if group is None or not group.is_dataclass:  # a part: one that no key names is the default
            group = self._sources.default_part(arguments[words[0]])
        if len(words) == 1 or group is None:
            return True
        fields = self._sources.arguments(group)
        return fields is None or self._knows(fields, words[1:])


def _classes(origins: Mapping[Key, Origin]) -> dict[Key, str]:
    """The class that each key names, by ``class_path`` or, in short, by its value.

    One that is named without its module, as the parser allows, cannot be found in the files, and its keys are left to
    the parser.
    """
    short = {_bare(key): origin.value for key, origin in origins.items() if key[-1] not in CLASS_KEYS}
    long = {_bare(key): origin.value for key, origin in origins.items() if key[-1] == "class_path"}
    return {key: value for key, value in (short | long).items() if value is not None}


def _bare(key: Key) -> Key:
    return tuple(word.removesuffix("+") for word in key if word not in CLASS_KEYS)


def _without_lists(args: Sequence[str]) -> dict[Key, Origin]:
    """The keys of a command line, without those of lists that it appends to: which item they mean depends on order."""
    lists = [tuple(arg[2:].partition("=")[0].removesuffix("+").split(".")) for arg in args if _appends(arg)]
    given = command_line_origins(args)
    return {key: origin for key, origin in given.items() if not any(key[: len(words)] == words for words in lists)}


def _appends(arg: str) -> bool:
    return arg.startswith("--") and arg.partition("=")[0].endswith("+")
