"""One sentence in place of the parser's nested messages: the key, the file and line it came from, the mistake."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pydoc import locate

from jsonargparse import ArgumentParser

from laser_lightning.cli.config_files import Origin
from laser_lightning.cli.merging import CLASS_KEYS
from laser_lightning.cli.nodes import COMMAND_LINE, Key

EXPECTED = "expected "


@dataclass(frozen=True)
class Mistake:
    """What a message of the parser comes down to.

    Args:
        keys: the key at fault as far as the parser says; it leaves out `init_args` and the keys of dictionaries.
        reason: what is wrong with it.
        unknown: the part of `keys` that does not exist, relative to `class_path` or else to the parser.
        class_path: the class whose arguments were parsed.
        value: the refused value, as text.
        depth: classes and keys passed on the way here.
    """

    keys: Key = ()
    reason: str = ""
    unknown: Key = ()
    class_path: str | None = None
    value: str | None = None
    depth: int = 0


@dataclass
class _Line:
    indent: int
    text: str
    children: list["_Line"] = field(default_factory=list)


def command_line_origins(args: Sequence[str]) -> dict[Key, Origin]:
    """The keys given on the command line.

    Args:
        args: arguments such as `--model.init_args.group_size=8` or `--trainer.max_steps 5`.

    Returns:
        The origin of each key.
    """
    origins: dict[Key, Origin] = {}
    for arg, following in zip(args, [*args[1:], None], strict=False):
        if arg.startswith("--"):
            name, equals, value = arg[2:].partition("=")
            origins[tuple(name.removesuffix("+").split("."))] = Origin(COMMAND_LINE, value if equals else following)
    return origins


def overridden(configs: Mapping[Key, Origin], command_line: Mapping[Key, Origin]) -> dict[Key, Origin]:
    """Origins of all keys, those of the command line last.

    Args:
        configs: origins of the keys in config files.
        command_line: origins of the keys on the command line.

    Returns:
        Both, in this order; the command line's for a key in both.
    """
    return {**{key: origin for key, origin in configs.items() if key not in command_line}, **command_line}


def sentence(message: str, origins: Mapping[Key, Origin], known_keys: Sequence[str]) -> str:
    """Condenses a message of the parser.

    Args:
        message: what the parser says, on many lines.
        origins: where each key was given.
        known_keys: the parser's own keys, dotted.

    Returns:
        One line: the key, where it was given, what is wrong and, for a misspelt key, the closest known one.
    """
    mistake = _mistake(_tree(message))
    reason = mistake.reason
    if mistake.unknown:
        known = _arguments(mistake.class_path) if mistake.class_path else known_keys
        reason = unknown_key(mistake.unknown, mistake.class_path, known)
    if mistake.value is not None:
        value = "null" if mistake.value == "None" else mistake.value
        reason += f", got {value}" if reason.startswith(EXPECTED) else f" (given: {value})"
    key, where = _place(mistake, origins)
    place = f"{'.'.join(key)} ({where})" if where else ".".join(key)
    return " ".join(f"{place}: {reason}".split()) if place else " ".join(reason.split())


def value_for_group(origins: Mapping[Key, Origin]) -> str | None:
    """Finds a single value or a list where a class has a group of keys, which the parser lets pass.

    Args:
        origins: where each key was given.

    Returns:
        The mistake in one line; None if there is no such value.
    """
    mappings = {key[:-1] for key in origins if not key[-1].isdigit()}
    for key, origin in origins.items():
        if "init_args" not in key or key in mappings:
            continue
        start = len(key) - 1 - key[::-1].index("init_args")
        class_path = origins.get((*key[:start], "class_path"))
        known = _arguments(class_path.value) if class_path and class_path.value else []
        name = ".".join(key[start + 1 :])
        if name not in known and any(other.startswith(f"{name}.") for other in known):
            return f"{'.'.join(key)} ({origin.where}): {EXPECTED}a mapping of keys to values"
    return None


def _tree(message: str) -> list[_Line]:
    root = _Line(-1, "")
    stack = [root]
    for raw in message.splitlines():
        if raw.strip():
            line = _Line(len(raw) - len(raw.lstrip()), raw.strip().removeprefix("- "))
            while stack[-1].indent >= line.indent:
                stack.pop()
            stack[-1].children.append(line)
            stack.append(line)
    return root.children


def _mistake(lines: list[_Line]) -> Mistake:
    """Follows a message, a tree of indented lines, to the mistake at its bottom."""
    # A class may also be given by a file that describes it, which is not what a wrong name meant.
    lines = [line for line in lines if not line.text.startswith("Expected a path but")] or lines
    if any(line.text.startswith("Does not validate against any of the Union") for line in lines):
        return _of_union(lines)
    for position, line in enumerate(lines):
        below = line.children or lines[position + 1 :]
        if match := re.fullmatch(r'Parser key "(.+?)".*?:(.*)', line.text):
            inner = _mistake([_Line(0, match[2].strip())] if match[2] else below)
            return replace(inner, keys=(*match[1].split("."), *inner.keys), depth=inner.depth + 1)
        if match := re.match(r"Type .*Callable\[.* expects a function or a callable class: ", line.text):
            return _of_factory(replace(line, text=line.text[match.end() :]))
        if match := re.fullmatch(r"Problem with given class_path '(.+)':", line.text):
            return _of_class(match[1], _mistake(below))
    return _leaf(lines)


def _of_class(class_path: str, inner: Mistake) -> Mistake:
    if re.match(r"No module named|module '.+' has no attribute", inner.reason):
        inner = replace(inner, reason=f"cannot import {class_path}: {inner.reason}")
    return replace(inner, class_path=inner.class_path or class_path, depth=inner.depth + 1)


def _of_factory(line: _Line) -> Mistake:
    """Of a class that is made later, with its first arguments given then; the last line ends with the class."""
    ends = (re.search(r"\. Got value: Namespace\(class_path='(.+?)'", text) for text in _texts(line))
    class_path = next((end[1] for end in ends if end), None)
    inner = _mistake([_without_value(line)])
    if class_path is None:
        return inner
    if inner.unknown and inner.unknown[0] in _arguments(class_path):
        rate = ", which is optimizer.learning_rate" if inner.unknown[0] == "lr" else ""
        reason = f"no key here: {class_path} is given its {inner.unknown[0]} by the module{rate}"
        inner = replace(inner, unknown=(), reason=reason)
    return _of_class(class_path, inner)


def _texts(line: _Line) -> Iterator[str]:
    yield line.text
    for child in line.children:
        yield from _texts(child)


def _without_value(line: _Line) -> _Line:
    text = line.text.partition(". Got value: Namespace(")[0]
    return replace(line, text=text, children=[_without_value(child) for child in line.children])


def _of_union(lines: list[_Line]) -> Mistake:
    """The alternative that got furthest is the one that was meant; if none got anywhere, all were expected."""
    lines = [*lines, *(child for line in lines for child in line.children if line.text != "Errors:")]  # in a mapping
    errors = next((line.children for line in lines if line.text == "Errors:"), [])
    branches = [_mistake([error]) for error in errors if "NoneType" not in error.text]
    deepest = max(branches, key=lambda branch: branch.depth, default=Mistake(reason=lines[0].text))
    if deepest.depth > 0:
        return deepest
    given = next((line.text for line in lines if line.text.startswith("Given value: ")), "").partition(": ")[2]
    keys = deepest.keys
    if match := re.fullmatch(r"NestedArg\(key='(.+)', val='?(.*?)'?\)", given):
        keys, given = tuple(match[1].split(".")), match[2]
    reasons = dict.fromkeys(branch.reason for branch in branches)
    if all(reason.startswith(EXPECTED) for reason in reasons):
        expected = " or ".join(reason.removeprefix(EXPECTED) for reason in reasons)
        deepest = replace(deepest, reason=f"{EXPECTED}{expected}", value=deepest.value or _shortened(given))
    elif match := re.match(r"\{'class_path': '([^']+)'", given):
        deepest = replace(deepest, reason=f"cannot import {match[1]}: {deepest.reason}")
    elif "(" not in given and "{" not in given:
        deepest = replace(deepest, value=deepest.value or _shortened(given))
    return replace(deepest, keys=keys)


def _leaf(lines: list[_Line]) -> Mistake:
    text = " ".join(line.text for line in lines)
    for pattern in (
        r"Subcommand '\S+' does not accept option '(.+)'",
        r"Option '(.+)' is not accepted",
        r"Group '(.+)' does not accept option '(.+)'",
        r"unrecognized arguments: --([^=\s]+).*",
    ):
        if match := re.fullmatch(pattern, text):
            unknown = tuple(".".join(match.groups()).split("."))
            return Mistake(unknown, "unknown key", unknown)
    if match := re.fullmatch(r"the following arguments are required: (.+)", text):
        names = [re.sub(r"^(fit|validate|test|predict)\.", "", name) for name in match[1].split(", ")]
        also = f", and so is {' and '.join(names[1:])}" if names[1:] else ""
        return Mistake(tuple(names[0].split(".")), f"required{also}; set it in a config or on the command line")
    if match := re.fullmatch(r"Expected a dot import path string: (.+)", text):
        return Mistake(reason=f"{EXPECTED}a class_path such as my_file.MyClass", value=match[1])
    if match := re.match(r"Expected an? (.+?)(?:\. Got value: (.*))?$|Expected (<.+>)$", text):
        return Mistake(reason=f"{EXPECTED}{_type_name(match[1] or match[3])}", value=match[2])
    if match := re.match(r"Not a valid subclass of (\w+)(?:\. Got value: (\S+))?", text):
        return Mistake(reason=f"{EXPECTED}the class_path of a {match[1]}", value=match[2])
    if match := re.match(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", text):
        return Mistake(reason=f"{EXPECTED}the class_path of a {match[2]}", value=match[1])
    if match := re.match(r"Unable to load config '(.*?)'", text):
        return Mistake(reason=f"{EXPECTED}a mapping of keys to values", value=match[1])
    if match := re.fullmatch(r"module '(.+)' has no attribute '(.+)'", text):
        module = locate(match[1])
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        close = get_close_matches(match[2], {*classes, *getattr(module, "__all__", ())}, n=1)
        return Mistake(reason=f"{text}; did you mean {close[0]}?" if close else text)
    return Mistake(reason=text)


def _shortened(given: str) -> str:
    return given if len(given) <= 80 else f"{given[:77]}..."


def _type_name(text: str) -> str:
    if match := re.fullmatch(r"<(?:class|enum) '(?:.*\.)?(\w+)'>", text):
        return match[1]
    if match := re.fullmatch(r"(?:typing\.)?Literal\[(.+)\]", text):
        return f"one of {match[1]}"
    return text


def unknown_key(unknown: Key, class_path: str | None, known: Sequence[str]) -> str:
    """Says that there is no such key, and which comes closest.

    Args:
        unknown: its words, relative to the class or else to the program.
        class_path: the class that does not know it.
        known: the keys that there are, dotted.
    """
    owner = f" of {class_path}" if class_path else ""
    if not known and owner:
        return f"unknown key{owner}, which takes none; is the class_path missing?"
    first_words = sorted({key.split(".")[0] for key in known})
    if unknown[0] in first_words:
        close = get_close_matches(".".join(unknown), known, n=1)
    else:
        close = get_close_matches(unknown[0], first_words, n=1)
    return f"unknown key{owner}; " + (f"did you mean {close[0]}?" if close else f"known are {', '.join(first_words)}")


def _arguments(class_path: str) -> list[str]:
    parser = ArgumentParser()
    found = locate(class_path)
    if inspect.isclass(found):
        parser.add_class_arguments(found, fail_untyped=False)
    return list(parser.get_defaults().keys())


def _place(mistake: Mistake, origins: Mapping[Key, Origin]) -> tuple[Key, str]:
    """The key as the user spelled it, and where it was given; of several, the one with the refused value."""
    keys = mistake.keys
    exact = [key for key in origins if _bare(key) == keys]
    around = [key for key in origins if _fits_around(_bare(key), keys)]
    below = [key for key in origins if keys and _bare(key)[: len(keys)] == keys]
    refused = [key for key in (*below, *around, *exact) if origins[key].value == mistake.value is not None]
    candidates = refused or [key for key in exact if not _is_inside(key)] or around
    if candidates:
        return candidates[-1], origins[candidates[-1]].where
    owners = [key for key in origins if _bare(key) and _bare(key) == keys[: len(_bare(key))]]
    return keys, origins[max(owners, key=len)].where if owners else ""


def _bare(key: Key) -> Key:
    return tuple(word.removesuffix("+") for word in key if word not in CLASS_KEYS and not word.isdigit())


def _is_inside(key: Key) -> bool:
    return key[-1] in ("init_args", "dict_kwargs") or key[-1].isdigit()


def _fits_around(bare: Key, keys: Key) -> bool:
    """Whether `keys` are the words of `bare` with some in the middle left out."""
    words = iter(bare)
    ends_meet = bool(keys) and bare[:1] == keys[:1] and bare[-1:] == keys[-1:]
    return ends_meet and all(key in words for key in keys)
