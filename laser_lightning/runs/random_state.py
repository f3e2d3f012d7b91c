"""Saving and restoring every source of randomness of a process."""

import random
from typing import Any

import numpy as np
import torch


def random_state(generator: torch.Generator) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators and of ``generator``, as plain tensors and numbers."""
    version, python_words, python_gauss = random.getstate()
    name, numpy_words, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": (version, list(python_words), python_gauss),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(numpy_words, dtype=np.int64)),
            position,
            has_gauss,
            gauss,
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "generator": generator.get_state(),
    }


def restore_random_state(state: dict[str, Any], generator: torch.Generator) -> None:
    """Put back what ``random_state`` returned."""
    version, python_words, python_gauss = state["python"]
    random.setstate((version, tuple(python_words), python_gauss))
    name, numpy_words, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, numpy_words.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    generator.set_state(state["generator"].cpu())
