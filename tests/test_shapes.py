"""Shapes in signatures cost nothing, and are checked where the option of pytest asks for it."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from laser_lightning.metrics.functional import auroc, standard_error
from laser_lightning.objective.advantages import Advantages
from laser_lightning.objective.self_reward.solutions import StepSolutions
from laser_lightning.shapes import CHECKED, Float

TWO_AXES = torch.rand(4, 2)  # for [P]


@pytest.mark.skipif(CHECKED, reason="jaxtyping's hook is there")
def test_a_shape_is_a_comment() -> None:
    tensors = {"scores": Tensor, "correct": Tensor, "return": Tensor}
    assert get_type_hints(auroc) == tensors
    assert get_type_hints(auroc, include_extras=True)["scores"].__metadata__ == (" N",)
    assert standard_error(TWO_AXES).ndim == 0  # unnoticed


class Weighted:
    """Takes a tensor.

    Args:
        weights: of its parts.
        rate: a number.
    """

    def __init__(self, weights: Float[Tensor, " N"] | None = None, rate: float = 1.0) -> None:
        self.weights, self.rate = weights, rate


def test_the_command_line_sees_the_types() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(Weighted, "part", fail_untyped=False)
    made = parser.instantiate(parser.parse_args(["--part.rate", "2"])).part
    assert (made.weights, made.rate) == (None, 2.0)
    assert "a number. (type: float" in parser.format_help()


@pytest.mark.skipif(not CHECKED, reason="jaxtyping's hook is not there")
def test_a_wrong_shape_or_type_is_refused() -> None:
    with pytest.raises(TypeError, match="standard_error"):
        standard_error(TWO_AXES)
    with pytest.raises(TypeError, match="auroc"):
        auroc(torch.rand(3), torch.ones(3))
    with pytest.raises(TypeError, match="auroc"):
        auroc(torch.rand(4), torch.ones(3).bool())
    with pytest.raises(TypeError, match="mixed_groups"):  # a field of a named tuple
        Advantages(torch.rand(4), TWO_AXES > 0)
    with pytest.raises(TypeError, match="rows"):  # of a dataclass: the others have two rows
        StepSolutions(torch.rand(2, 2), torch.ones(2, 2).bool(), torch.rand(2, 2), None, torch.arange(4), None)  # type: ignore[arg-type]


def run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return done.stdout


def bare_tensors(path: Path) -> list[str]:
    """The places of a file whose public signatures and fields have a tensor without a shape."""
    tree = ast.parse(path.read_text())
    hints: list[ast.expr | None] = []
    for place in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
        for node in place.body:
            if isinstance(node, ast.AnnAssign):
                hints.append(node.annotation)
            elif isinstance(node, ast.FunctionDef) and (node.name.endswith("__") or not node.name.startswith("_")):
                more = [node.args.kwarg] if node.args.kwarg else []
                arguments = [*node.args.args, *node.args.kwonlyargs, *more]
                hints += [*(argument.annotation for argument in arguments), node.returns]
    found = [(hint.lineno, ast.unparse(hint)) for hint in hints if hint is not None]
    bare = re.compile(r"(?<!Float\[)(?<!Int\[)(?<!Bool\[)(?<!Real\[)(?<!Shaped\[)\bTensor\b")
    return [f"{path.name}:{line}: {hint}" for line, hint in found if bare.search(hint)]


def test_tensors_in_signatures_have_shapes() -> None:
    package = Path(__file__).parents[1] / "laser_lightning"
    rooms = [path for room in ("metrics", "objective", "records") for path in (package / room).rglob("*.py")]
    found = [
        place
        for path in [*rooms, package / "rollout/engine.py", package / "rollout/sampler.py"]
        for place in bare_tensors(path)
    ]
    assert found == []


def test_the_option_says_what_it_lacks() -> None:
    program = "import sys, pytest; sys.modules['beartype'] = None; sys.exit(pytest.main(['-n', '0', '--shapes']))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "beartype: pip install -e '.[test]'." in done.stderr


def test_the_option_makes_the_difference(tmp_path: Path) -> None:
    pytest.importorskip("jaxtyping")
    lines = ["import torch", "from laser_lightning.metrics.functional import standard_error as error"]
    lines += ["def test_a_wrong_shape():", "    error(torch.rand(4, 2))"]
    (tmp_path / "test_wrong.py").write_text("\n".join(lines))
    # The file conftest.py stands for its folder: the heavier one of the tests is not needed.
    # Old packages deprecate each other on import, which is an error by pyproject.toml.
    options = ["-c", "pyproject.toml", "-n", "0", "-W", "ignore", "--shapes"]
    output = run("-m", "pytest", *options, "conftest.py", str(tmp_path))
    assert "1 failed" in output
    assert "The problem arose whilst typechecking parameter 'values'" in output


def test_nothing_else_imports_the_checker() -> None:
    program = "import sys, laser_lightning.objective.objective; print({'jaxtyping', 'beartype'} & {*sys.modules})"
    assert run("-c", program) == "set()\n"
