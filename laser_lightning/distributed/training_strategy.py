"""What training asks of a strategy, beyond what Lightning asks; the plain answers are those of one device."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from torch import Tensor, nn

from laser_lightning.errors import UserError
from laser_lightning.policy.master_weights import MasterWeights
from laser_lightning.policy.precision import gradient_scale, unscaled


class TrainingStrategy:
    """How a strategy takes the steps of training, and where it keeps the weights.

    A strategy that differs from one device overrides what differs. Among its bases this one stands behind Lightning's,
    which have the precision plugin.
    """

    @property
    def precision_plugin(self) -> Precision:
        """Lightning's plugin, which may scale the loss."""
        raise NotImplementedError

    @property
    def steps_on_host(self) -> bool:
        """Whether the optimizer's states and step are in host memory (``offload_optimizer``)."""
        return False

    @property
    def keeps_float32_copies(self) -> bool:
        """Whether it steps float32 copies of the weights that it makes itself."""
        return False

    @property
    def shards_weights(self) -> bool:
        """Whether each rank holds a part of every weight, as under ZeRO-3."""
        return False

    @property
    def writes_checkpoints(self) -> bool:
        """Whether it writes checkpoints itself, in place of the trainer's plugin for files."""
        return False

    @property
    def together(self) -> int:
        """How many ranks compute each micro-batch together, each with as large a share of its loss."""
        return 1

    @property
    def gradient_scale(self) -> float | None:
        """What float16's gradients are multiplied by at present, so that small ones do not become 0; None without such
        a factor. It falls when a gradient overflows, and rises after many steps in which none did."""
        return gradient_scale(self.precision_plugin)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Around a part of the step: an error in a collective operation says which one a rank was in.

        Args:
            name: such as ``rollout``.
        """
        return nullcontext()

    def micro_step(self, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward pass of one micro-batch of an optimizer step.

        Args:
            last: whether it is the step's last one, the same on all ranks.
        """
        return nullcontext()

    def step_if_finite(self, optimizer: LightningOptimizer, limit: float | None) -> tuple[float, bool]:
        """Clip the gradients and step, or drop them where their global norm is not finite; the same on all ranks.

        Args:
            optimizer: the one to step.
            limit: largest gradient norm; None for no limit.

        Returns:
            The gradient norm before clipping, and whether the step was taken.
        """
        inner = optimizer.optimizer
        if isinstance(inner, MasterWeights):
            inner.collect_gradients()
        with unscaled(self.precision_plugin, inner):
            parameters = [p for group in inner.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(parameters, torch.inf if limit is None else limit)
            finite = bool(norm.isfinite())
            if finite:
                optimizer.step()
        optimizer.zero_grad()
        return float(norm), finite

    def offloaded_states(self) -> AbstractContextManager[None]:
        """Around rollouts and passes without gradient: what only the update needs may be elsewhere in it."""
        return nullcontext()

    def gathers(self, *modules: nn.Module) -> bool:
        """Whether ``gathered`` is a collective operation for these modules."""
        return False

    def gathered(self, *modules: nn.Module) -> AbstractContextManager[None]:
        """Hold the modules' weights whole on every rank, free to be used without a word to the other ranks.

        It goes around any use of a model outside of the differentiated passes: rollouts, log-probs, export. All ranks
        must enter it together, and in between none may train. Inside an outer one of the same module it does nothing.
        """
        return nullcontext()

    def held(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
        """Hold some parameters whole on every rank, to be copied; all ranks enter it together.

        Unlike ``gathered`` it is no place to run a model in. What an outer ``gathered`` holds stays as it is.
        """
        return nullcontext()

    def whole_weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The state dict of a module, sharded or not; all ranks call it together.

        Returns:
            Names and tensors. Where weights are sharded, rank 0 alone has them whole, on CPU.
        """
        return module.state_dict()


class OneDevice(TrainingStrategy):
    """Lightning's own strategy of one process, whose differences cannot stand in a class of ours.

    Args:
        strategy: Lightning's; None where no trainer is.
    """

    def __init__(self, strategy: Strategy | None) -> None:
        self._strategy = strategy

    @property
    def precision_plugin(self) -> Precision:
        """Lightning's plugin, which may scale the loss."""
        return Precision() if self._strategy is None else self._strategy.precision_plugin


def training_strategy(strategy: Strategy | None) -> TrainingStrategy:
    """The strategy as training sees it.

    Args:
        strategy: of the trainer; None without one.

    Raises:
        UserError: if the gradients would be wrong under it.
    """
    if isinstance(strategy, TrainingStrategy):
        return strategy
    if strategy is None or isinstance(strategy, SingleDeviceStrategy):
        return OneDevice(strategy)
    raise UserError(
        f"trainer.strategy is {type(strategy).__name__}, under which steps of several micro-batches go wrong: overlay "
        "one of strategy/ddp, strategy/zero1, strategy/zero2, strategy/zero3 and strategy/zero3_offload, such as "
        "`--config strategy/ddp`."
    )
