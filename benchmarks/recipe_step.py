"""A process of the benchmarks: `laser-lightning fit` on the recipe, one step whenever the parent says so."""

import sys
import tempfile

import lightning
import our_step
from common import forget_peak, trained_sizes
from recipe_case import recipe_of_child

from laser_lightning import LaSeRModule
from laser_lightning.cli.command_line import main


class Told(our_step.Told):
    """Reports the parts of a step too, its own peak of memory, what was solved, and what is trained."""

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: LaSeRModule, batch: object, _: int) -> None:
        """Wait."""
        super().on_train_batch_start(trainer, pl_module, batch, _)
        forget_peak(pl_module.device)

    def further(self, module: LaSeRModule) -> dict[str, float]:
        """What else of a step is reported."""
        assert module.last_rollout is not None
        rollouts, parts = module.last_rollout.rollouts, module.parts.seconds
        return {
            **{name: parts.get(name, 0.0) for name in ("rollout", "update", "judging")},
            "prompt_tokens": int(rollouts.prompt_lengths.sum()) * rollouts.group_size,
            "reward": float(module.last_rollout.rewards.mean()),
            **trained_sizes(module.trainer.optimizers[0]),
        }


if __name__ == "__main__":
    case, model = recipe_of_child()
    with tempfile.TemporaryDirectory() as run_dir:
        sys.exit(main([*case.words(model, run_dir), "--trainer.callbacks+=recipe_step.Told"]))
