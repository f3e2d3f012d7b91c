"""Classes as their source files tell them, without an import: torch and Lightning take seconds to import."""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

_EMPTY = {"object", "ABC", "abc.ABC"}
"""Bases without arguments."""

_DEEPEST = 10
"""Imports followed from one file to the next in search of a class; more are a circle."""


@dataclass(frozen=True, eq=False)
class SourceFile:
    """A module's file.

    Attributes:
        name: dotted name of the module.
        is_package: whether it is the ``__init__.py`` of a package.
        body: its statements.
    """

    name: str
    is_package: bool
    body: list[ast.stmt]


@dataclass(frozen=True, eq=False)
class SourceClass:
    """A class in its file.

    Attributes:
        file: where it is defined.
        node: its definition.
    """

    file: SourceFile
    node: ast.ClassDef

    @property
    def is_dataclass(self) -> bool:
        """Whether it is decorated as one."""
        called = (mark.func if isinstance(mark, ast.Call) else mark for mark in self.node.decorator_list)
        return any(ast.unparse(mark).split(".")[-1] == "dataclass" for mark in called)

    def function(self, name: str) -> ast.FunctionDef | None:
        """A function that the class itself defines.

        Args:
            name: its name.
        """
        return next((item for item in self.node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


@dataclass(frozen=True, eq=False)
class SourceArgument:
    """An argument of a class.

    Attributes:
        owner: the class that declares it.
        annotation: its type.
        default: its default; None where it is required.
    """

    owner: SourceClass
    annotation: ast.expr | None
    default: ast.expr | None

    def defaults_as(self, other: "SourceArgument") -> bool:
        """Whether the default is written as another argument's is, or both are required."""
        written = [None if one.default is None else ast.unparse(one.default) for one in (self, other)]
        return written[0] == written[1]


class Sources:
    """Source files, each read, and each name in them found, once."""

    def __init__(self) -> None:
        self._files: dict[str, SourceFile | None] = {}
        self._found: dict[tuple[str, SourceFile, int], SourceClass | None] = {}

    def find_class(self, path: str) -> SourceClass | None:
        """Finds a class where it is defined.

        Args:
            path: its import path, which may lead over other modules that import it.

        Returns:
            The class; None where the files do not say.
        """
        module, _, name = path.rpartition(".")
        file = self._read(module) if module else None
        return None if file is None else self._find(name, file, _DEEPEST)

    def class_of(self, argument: SourceArgument) -> SourceClass | None:
        """Finds the class that an argument's annotation names, alone or beside None.

        Args:
            argument: the argument.

        Returns:
            The class; None if it is no single one.
        """
        kind = argument.annotation
        if isinstance(kind, ast.BinOp) and isinstance(kind.right, ast.Constant) and kind.right.value is None:
            kind = kind.left
        if not isinstance(kind, ast.Name | ast.Attribute):
            return None
        return self._find(ast.unparse(kind), argument.owner.file, _DEEPEST)

    def default_part(self, argument: SourceArgument) -> SourceClass | None:
        """Finds the class of the part that an argument has as its default.

        Args:
            argument: the argument.

        Returns:
            The class; None if the default is no call of one.
        """
        if not isinstance(argument.default, ast.Call):
            return None
        return self._find(ast.unparse(argument.default.func), argument.owner.file, _DEEPEST)

    def arguments(self, found: SourceClass) -> dict[str, SourceArgument] | None:
        """The arguments that a class takes by name.

        Args:
            found: the class.

        Returns:
            The arguments in order; None where the files do not tell all.
        """
        return self._arguments(self._resolution_order(found))

    def takes_arguments_of(self, new: str, old: str) -> bool | None:
        """Whether a class is another one (there can be two import paths), or a subclass that passes all arguments on.

        It does so by ``**``, without a constructor of its own, or with one that has all of them, by name and default.

        Args:
            new: import path of the one.
            old: import path of the other.

        Returns:
            None where the files do not tell.
        """
        derived, base = self.find_class(new), self.find_class(old)
        if derived is None or base is None:
            return None
        orders = [self._resolution_order(derived), self._resolution_order(base)]
        nodes = [found and found.node for found in orders[0]]
        if base.node not in nodes:
            return None if None in nodes else False
        makers = [next((one for one in order if one is None or one.function("__init__")), None) for order in orders]
        if makers[0] is None or (init := makers[0].function("__init__")) is None:
            return None
        if init.args.kwarg is not None or (makers[1] is not None and makers[0].node is makers[1].node):
            return True
        ours, theirs = self.arguments(derived) or {}, self.arguments(base)
        return theirs is not None and all(name in ours and ours[name].defaults_as(it) for name, it in theirs.items())

    def flat_names(self, arguments: dict[str, SourceArgument]) -> list[str]:
        """The names of arguments as the parser lists them: a dataclass by its fields, dotted.

        Args:
            arguments: of a class.
        """
        names = []
        for name, argument in arguments.items():
            group = self.class_of(argument)
            fields = self.arguments(group) if group is not None and group.is_dataclass else None
            optional = isinstance(argument.annotation, ast.BinOp)
            names += [f"{name}.{field}" for field in self.flat_names(fields)] if fields and not optional else [name]
        return names

    def names_with_parts(self, arguments: dict[str, SourceArgument]) -> list[str]:
        """The same, with the arguments of parts that are defaults.

        Args:
            arguments: of a class.
        """
        names = self.flat_names(arguments)
        for name, argument in arguments.items():
            group = self.class_of(argument)
            made = group if group is not None and group.is_dataclass else self.default_part(argument)
            inner = None if made is None else self.arguments(made)
            names += [f"{name}.{field}" for field in self.names_with_parts(inner or {})]
        return sorted(set(names))

    def _arguments(self, order: Sequence[SourceClass | None]) -> dict[str, SourceArgument] | None:
        """The arguments of the first constructor in a method resolution order."""
        for position, found in enumerate(order):
            if found is None:
                return None
            if (init := found.function("__init__")) is not None:
                return self._constructor(found, init, order[position + 1 :])
            if found.is_dataclass:
                fields = [_fields(base) for base in reversed(order[position:]) if base is not None]
                return None if None in order else {name: argument for own in fields for name, argument in own.items()}
        return {}

    def _constructor(
        self, owner: SourceClass, init: ast.FunctionDef, above: Sequence[SourceClass | None]
    ) -> dict[str, SourceArgument] | None:
        named = [*init.args.posonlyargs, *init.args.args]
        defaults = [*[None] * (len(named) - len(init.args.defaults)), *init.args.defaults]
        pairs = [*zip(named, defaults, strict=True), *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)]
        own = {arg.arg: SourceArgument(owner, arg.annotation, default) for arg, default in pairs[1:]}
        if init.args.kwarg is None:
            return own
        set_here = _set_for_base(init, init.args.kwarg.arg)
        inherited = None if set_here is None else self._arguments(above)
        if set_here is None or inherited is None:
            return None
        return own | {name: arg for name, arg in inherited.items() if name not in set_here and name not in own}

    def _resolution_order(self, found: SourceClass) -> list[SourceClass | None]:
        """Python's own order of a class and those it is derived from, None for what cannot be found."""
        classes: dict[type, SourceClass | None] = {}

        def stand_in(found: SourceClass | None) -> type:
            bases = [ast.unparse(base) for base in found.node.bases] if found else []
            made = next((kind for kind, known in classes.items() if known and found and known.node is found.node), None)
            if made is None:
                above = [stand_in(self._find(base, found.file, _DEEPEST)) for base in bases if base not in _EMPTY]  # type: ignore[union-attr]
                made = type("StandIn", tuple(above), {})
                classes[made] = found
            return made

        try:
            return [classes[kind] for kind in stand_in(found).mro() if kind is not object]
        except TypeError:  # such bases cannot be ordered
            return [None]

    def _find(self, name: str, file: SourceFile, depth: int) -> SourceClass | None:
        """Finds a name, dotted where it leads through an imported module, from within a file."""
        key = name, file, depth
        if key not in self._found:
            self._found[key] = self._search(*key)
        return self._found[key]

    def _search(self, name: str, file: SourceFile, depth: int) -> SourceClass | None:
        first, _, others = name.partition(".")
        for statement in _statements(file.body):
            if isinstance(statement, ast.ClassDef) and statement.name == name:
                return SourceClass(file, statement)
            if depth and isinstance(statement, ast.ImportFrom | ast.Import):
                for alias in statement.names:
                    if (alias.asname or alias.name.split(".")[0]) == first:
                        target = alias.name if alias.asname else alias.name.split(".")[0]
                        module = _absolute(statement, file) if isinstance(statement, ast.ImportFrom) else ""
                        path = ".".join(filter(None, (module, target, others)))
                        owner = self._read(path.rpartition(".")[0])
                        if owner is not None and (found := self._find(path.rpartition(".")[2], owner, depth - 1)):
                            return found
        return None

    def _read(self, module: str) -> SourceFile | None:
        if module not in self._files:
            spec = _spec(module)
            path = None if spec is None or spec.origin is None else Path(spec.origin)
            body = _body(path, path.stat().st_mtime_ns) if path and path.suffix == ".py" and path.is_file() else None
            packed = spec is not None and spec.submodule_search_locations is not None
            self._files[module] = None if body is None else SourceFile(module, packed, body)
        return self._files[module]


@cache
def _body(path: Path, changed: int) -> list[ast.stmt] | None:
    """The statements of a file that was changed at a time, parsed once in a process that runs many commands."""
    try:
        return ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, OSError):
        return None  # who imports it is told


def _spec(module: str) -> ModuleSpec | None:
    """Where the import system finds a module; its packages are not imported on the way."""
    spec = None
    words = module.split(".")
    for end in range(1, len(words) + 1):
        folders = None if spec is None else spec.submodule_search_locations
        if end > 1 and folders is None:
            return None
        name = ".".join(words[:end])
        found = (finder.find_spec(name, folders) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((one for one in found if one is not None), None)
    return spec


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a file, those under its conditions too."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from _statements([*statement.body, *statement.orelse])


def _absolute(statement: ast.ImportFrom, file: SourceFile) -> str:
    if not statement.level:
        return statement.module or ""
    words = file.name.split(".")
    package = words[: len(words) - statement.level + file.is_package]
    return ".".join([*package, *([statement.module] if statement.module else [])])


def _fields(found: SourceClass) -> dict[str, SourceArgument]:
    """The fields that a dataclass itself declares."""
    fields: dict[str, SourceArgument] = {}
    for item in found.node.body if found.is_dataclass else ():
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            is_argument = not (item.value and "init=False" in ast.unparse(item.value))
            if is_argument and not ast.unparse(item.annotation).startswith("ClassVar"):
                fields[item.target.id] = SourceArgument(found, item.annotation, item.value)
    return fields


def _set_for_base(init: ast.FunctionDef, rest: str) -> set[str] | None:
    """The arguments that ``super().__init__(..., **rest)`` is given by name; None if there is no such call."""
    for call in ast.walk(init):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__" and not call.args:
            names = [word.arg for word in call.keywords]
            if any(word.arg is None and ast.unparse(word.value) == rest for word in call.keywords):
                return {name for name in names if name is not None}
    return None
