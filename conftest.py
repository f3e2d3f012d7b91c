"""``pytest --shapes`` checks the shapes in signatures (laser_lightning/shapes.py), on every call.

It stands above tests/, whose conftest.py imports the package: the hook must be there first.
"""

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from inspect import isclass
from typing import Any, get_args

import pytest

CHECKED = (
    "laser_lightning.metrics",
    "laser_lightning.objective",
    "laser_lightning.records",
    "laser_lightning.rollout.engine",
    "laser_lightning.rollout.sampler",
)
"""Where shapes stand in all public signatures."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the options, and install the hook of ``--shapes`` at once if it is given."""
    parser.addoption("--pretrained", metavar="DIR", help="a pretrained model, for the tests that are marked so")
    parser.addoption("--shapes", action="store_true", help="check the shapes of tensors in signatures on every call")
    config = pluginmanager.get_plugin("pytestconfig")
    # A worker of xdist has the options of the session that started it, and no command line.
    if "--shapes" not in config.invocation_params.args and not getattr(config.option, "shapes", False):
        return
    missing = [name for name in ("jaxtyping", "beartype") if find_spec(name) is None]
    if missing:
        raise pytest.UsageError(f"--shapes needs {' and '.join(missing)}: pip install -e '.[test]'.")
    from jaxtyping import install_import_hook

    sys.modules["checks_of_shapes"] = sys.modules[__name__]  # pytest forgets the name of this file for the next one
    install_import_hook(list(CHECKED), "checks_of_shapes.check_shapes")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse an option that came too late, and would check nothing."""
    if not config.option.shapes:
        return
    from laser_lightning import shapes

    if not shapes.CHECKED:
        raise pytest.UsageError("--shapes checks nothing here: give it on the command line of pytest itself.")


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The type checker of the hook: beartype for what has a shape; other types are mypy's."""
    from beartype import beartype

    hints = function.__annotations__
    function.__annotations__ = {name: hint if _has_shape(hint) else Any for name, hint in hints.items()}
    return beartype(function)


def _has_shape(hint: Any) -> bool:
    from jaxtyping import AbstractArray

    return (isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_has_shape, get_args(hint)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Check the fields of named tuples too, which jaxtyping's hook leaves out."""
    if not session.config.option.shapes:
        return
    from jaxtyping import jaxtyped

    for kind in tuple.__subclasses__():
        if hasattr(kind, "_fields") and kind.__module__.startswith(CHECKED):
            kind.__new__ = jaxtyped(kind.__new__, typechecker=check_shapes)


@pytest.fixture(autouse=True)
def no_checks_against_signatures(request: pytest.FixtureRequest) -> Iterator[None]:
    """The code itself refuses what tests that are marked so pass on purpose, in words for users."""
    if not request.config.option.shapes or "against_signatures" not in request.keywords:
        yield
        return
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
