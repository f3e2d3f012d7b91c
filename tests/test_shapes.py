"""Shapes in signatures cost nothing, and are checked where the option of pytest asks for it."""

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
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return done.stdout


def test_the_option_checks_in_workers() -> None:
    pytest.importorskip("jaxtyping")
    test = "tests/test_shapes.py::test_a_wrong_shape_or_type_is_refused"
    assert "1 passed" in run("-m", "pytest", "-n", "1", "--shapes", test)


def test_nothing_else_imports_the_checker() -> None:
    program = "import sys, laser_lightning.objective.objective; print({'jaxtyping', 'beartype'} & {*sys.modules})"
    assert run("-c", program) == "set()\n"
