"""Shapes in signatures: ``Float[Tensor, "N R"]`` is an annotated Tensor, whose shape tests may check.

``pytest --shapes`` checks them on every call (conftest.py, where the rooms are named). The option installs jaxtyping's
import hook before anything of this package is imported; nobody else needs jaxtyping. What the letters stand for is said
in ``laser_lightning.records``; ``Real`` is any real number, ``Shaped`` anything, ``""`` a scalar.
"""

import sys
from typing import TYPE_CHECKING

CHECKED = any(type(finder).__module__.startswith("jaxtyping.") for finder in sys.meta_path)
"""Whether jaxtyping's import hook is there."""

if TYPE_CHECKING or not CHECKED:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int
    from typing import Annotated as Real
    from typing import Annotated as Shaped
else:
    from jaxtyping import Bool, Float, Int, Real, Shaped

__all__ = ["CHECKED", "Bool", "Float", "Int", "Real", "Shaped"]
