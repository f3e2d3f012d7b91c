"""Shapes in signatures: ``Float[Tensor, "N R"]`` is an annotated Tensor, whose shape tests may check.

``pytest --jaxtyping-packages=laser_lightning.metrics.functional,beartype.beartype`` checks those of a module. The
option installs jaxtyping's import hook before anything of this package is imported; nobody else needs jaxtyping.
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
else:
    from jaxtyping import Bool, Float, Int, Real

__all__ = ["CHECKED", "Bool", "Float", "Int", "Real"]
