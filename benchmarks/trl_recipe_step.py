"""A process of the benchmarks: TRL's GRPOTrainer on the recipe, one step whenever the parent says so."""

from typing import Any

import trl_step
from common import forget_peak
from recipe_case import recipe_of_child


class Told(trl_step.Told):
    """Reports the step's own peak of memory."""

    def on_step_begin(self, *given: Any, **named: Any) -> None:
        """Wait."""
        super().on_step_begin(*given, **named)
        forget_peak(self.device)


if __name__ == "__main__":
    trl_step.train(*recipe_of_child(), Told)
