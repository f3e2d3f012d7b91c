"""DeepSpeed ZeRO 1, 2 and 3 for steps of several micro-batches, on CUDA and (over gloo) on CPU."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.optim import Optimizer

from laser_lightning.distributed.direct_steps import DirectSteps
from laser_lightning.distributed.files import write_on_first
from laser_lightning.distributed.offloading import check_optimizer, check_settings, offloaded
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.distributed.taking_up import take_up_optimizer, take_up_weights
from laser_lightning.distributed.toolchain import check_cpu_toolchain
from laser_lightning.distributed.watchdog import WatchedStrategy, time_limit
from laser_lightning.errors import UserError
from laser_lightning.runs.checkpoints import (
    carried_over,
    client_state,
    is_of_the_disk,
    not_saved,
    put_in_place,
    writer,
)

if TYPE_CHECKING:  # it imports transformers
    from laser_lightning.distributed.sequence_parts import SequenceParts

HALF_PRECISION_MASTERS = {"bf16": "bf16_master_weights_and_grads", "fp16": "fp16_master_weights_and_grads"}
"""DeepSpeed's options that give up its float32 copies of the weights, by the group that they stand in."""


class StepNotAppliedError(Exception):
    """DeepSpeed left the weights as they are, since the global gradient norm is not finite."""


class LaSeRDeepSpeedStrategy(DirectSteps, WatchedStrategy, DeepSpeedStrategy):
    """DeepSpeed ZeRO with one engine pass per micro-batch, on CUDA or on CPU.

    Gradients are clipped by DeepSpeed, to the ``max_grad_norm`` of the module's optimizer settings. A step whose global
    gradient norm is not finite is skipped on all ranks. Frozen parameters are not saved.

    Args:
        stage: 1 shards the optimizer's states over the ranks, 2 gradients too, 3 parameters too.
        zero_options: further keys of DeepSpeed's ``zero_optimization``, such as
            ``stage3_param_persistence_threshold``.
        collective_timeout_seconds: the run ends when a process waits longer than this for the others.
        offload_states_in_rollouts: keep the optimizer's states, its float32 copies of the weights and gradients in
            host memory while solutions are drawn, which leaves an engine beside the trainer more room.
        sequence_parallel_size: this many processes compute each micro-batch of the update together, each a part of its
            places, for sequences that are too long for one.
        kwargs: those of Lightning's DeepSpeedStrategy (``offload_optimizer``, ``overlap_comm``, ``config``, ...).
    """

    def __init__(
        self,
        stage: int = 2,
        zero_options: dict[str, Any] | None = None,
        collective_timeout_seconds: float = 1800.0,
        offload_states_in_rollouts: bool = False,
        sequence_parallel_size: int = 1,
        **kwargs: Any,
    ) -> None:
        if stage not in (1, 2, 3):
            raise UserError(f"trainer.strategy.init_args.stage is {stage}, and ZeRO has the stages 1, 2 and 3.")
        self.collective_timeout = time_limit(collective_timeout_seconds)
        # The batch size is for DeepSpeed's own log of speed, and it would ask the data for it.
        super().__init__(
            stage=stage,
            exclude_frozen_parameters=True,
            logging_batch_size_per_gpu=1,
            timeout=self.collective_timeout,
            **kwargs,
        )
        assert isinstance(self.config, dict)
        self.config["zero_optimization"].update(zero_options or {})
        if offload_states_in_rollouts:
            check_settings(self.config["zero_optimization"])
        self._stage, self._offloads_states = stage, offload_states_in_rollouts
        self._sequence_parallel_size = sequence_parallel_size
        self._sequences: SequenceParts | None = None
        self._gathered: list[nn.Module] = []
        self._told_memory = False

    # -------------------------------------------------------- set-up, on CPU too

    @property
    def _on_cpu(self) -> bool:
        return isinstance(self.accelerator, CPUAccelerator)

    @property
    def root_device(self) -> torch.device:
        """The device of this process; DeepSpeed wants an index, on CPU too."""
        return torch.device("cpu", self.local_rank) if self._on_cpu else super().root_device

    def setup_environment(self) -> None:
        """Lightning's own, without its check for CUDA where the accelerator is the CPU."""
        if self._on_cpu:
            check_cpu_toolchain()
            DDPStrategy.setup_environment(self)
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        """Join the process group."""
        if not self._on_cpu:
            return super().setup_distributed()
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _init_deepspeed_distributed(self) -> None:
        super()._init_deepspeed_distributed()
        self.start_watchdog(self.collective_timeout)

    def _format_config(self) -> None:
        assert isinstance(self.config, dict)
        settings = getattr(self.lightning_module, "optimizer_settings", None)
        if settings is not None:
            self.config.setdefault("gradient_clipping", settings.max_grad_norm or 0.0)
        for half, key in HALF_PRECISION_MASTERS.items():
            if self.config.get(half, {}).get(key):
                raise UserError(
                    f"trainer.strategy.init_args.config sets {half}.{key}, with which DeepSpeed steps weights in half "
                    "precision, and most small steps are rounded away: leave it out."
                )
        super()._format_config()
        if self.config.get("fp16", {}).get("enabled"):
            from deepspeed.accelerator import get_accelerator

            if not get_accelerator().is_fp16_supported():
                raise UserError(
                    "trainer.precision is float16 (16-mixed or 16-true), which DeepSpeed does not have on this device: "
                    "set it to bf16-mixed."
                )

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Under ZeRO-3 transformers shards what it loads, in here only; Lightning's own way gives wrong weights."""
        self._init_config_if_needed()
        if not self.zero_stage_3:
            yield
            return
        from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

        # transformers looks at this object, through a weak reference, in every from_pretrained while it lives.
        config = HfDeepSpeedConfig(deepcopy(self.config))
        try:
            yield
        finally:
            unset_hf_deepspeed_config()
            del config

    def setup(self, trainer: Trainer) -> None:
        """Make the engine, and let ZeRO-3 gather the head for whole passes: its chunks are no modules to DeepSpeed."""
        import deepspeed

        if self._sequence_parallel_size != 1 and trainer.state.fn == TrainerFn.FITTING:
            from laser_lightning.distributed.sequence_parts import SequenceParts, check_sequence_parts

            trained = check_sequence_parts(self.lightning_module, self._sequence_parallel_size, self.world_size)
            self._sequences = SequenceParts(trained, self._sequence_parallel_size, self.collective_timeout)
        super().setup(trainer)
        if self._offloads_states and self._has_optimizer:
            check_optimizer(self.deepspeed_engine.optimizer, self._stage)
        if self.gradient_scale is not None:
            # At its smallest scale DeepSpeed would raise an error, and the module stops the run with a checkpoint.
            self.deepspeed_engine.optimizer.loss_scaler.raise_error_at_min_scale = False
        if self.zero_stage_3:
            # DeepSpeed places the parameters that it shards, and leaves metrics and buffers on the CPU.
            assert self.lightning_module is not None
            self.lightning_module.to(self.root_device)
        # DeepSpeed makes this group of its own without the limit.
        _set_pg_timeout(self.collective_timeout, deepspeed.utils.groups._get_data_parallel_group())
        policy = getattr(self.lightning_module, "policy", None)
        if self.zero_stage_3 and policy is not None:
            for parameter in policy.lm.get_output_embeddings().parameters():
                deepspeed.zero.register_external_parameter(self.lightning_module, parameter)

    # ------------------------------------------------------------- training step

    @property
    def steps_on_host(self) -> bool:
        """Whether the optimizer's states and step are in host memory (``offload_optimizer``)."""
        assert isinstance(self.config, dict)
        return "offload_optimizer" in self.config["zero_optimization"]

    @property
    def keeps_float32_copies(self) -> bool:
        """DeepSpeed does, at every stage."""
        return True

    @property
    def writes_checkpoints(self) -> bool:
        """DeepSpeed's engine does."""
        return True

    @property
    def gradient_scale(self) -> float | None:
        """DeepSpeed's own for float16, whose gradients it divides before it clips; None for a fixed one."""
        optimizer: Any = getattr(self.model, "optimizer", None)  # there is none before the engine, nor in evaluations
        if not getattr(optimizer, "dynamic_loss_scale", False):
            return None
        return float(optimizer.loss_scaler.cur_scale)

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Forward and backward of one micro-batch; the last one completes the gradients."""
        self.deepspeed_engine.set_gradient_accumulation_boundary(last)
        with nullcontext() if self._sequences is None else self._sequences.together():
            yield

    @property
    def together(self) -> int:
        """As many as ``sequence_parallel_size`` says."""
        return self._sequence_parallel_size

    def step_if_finite(self, optimizer: LightningOptimizer, limit: float | None) -> tuple[float, bool]:
        """Clip and step, both by DeepSpeed, which knows the limit from its config."""
        try:
            optimizer.step()
        except StepNotAppliedError:
            return float("inf"), False
        return float(self.deepspeed_engine.get_global_grad_norm()), True

    def optimizer_step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Clip and step, both by DeepSpeed.

        Raises:
            StepNotAppliedError: if it found the gradients not finite, on whichever rank; Lightning then does not count
                the step.
        """
        output = super().optimizer_step(optimizer, *args, **kwargs)
        if not self.deepspeed_engine.was_step_applied():
            raise StepNotAppliedError
        return output

    # ------------------------------------------------------------ whole weights

    @property
    def _has_optimizer(self) -> bool:
        """Whether this is training; an evaluation alone has none."""
        return hasattr(getattr(self.model, "optimizer", None), "optimizer")

    def offloaded_states(self) -> AbstractContextManager[None]:
        """Around rollouts and passes without gradient: the optimizer's states may be in host memory."""
        return offloaded(self.deepspeed_engine) if self._offloads_states and self._has_optimizer else nullcontext()

    @property
    def shards_weights(self) -> bool:
        """Whether this is ZeRO-3."""
        return self.zero_stage_3

    def gathers(self, *modules: nn.Module) -> bool:
        """Whether the weights of a module are sharded and not gathered already."""
        return self.zero_stage_3 and any(module not in self._gathered for module in modules)

    @contextmanager
    def gathered(self, *modules: nn.Module) -> Iterator[None]:
        """Hold the modules' weights whole on every rank (see ``TrainingStrategy``)."""
        with ExitStack() as stack:
            for module in modules:
                if self.gathers(module):
                    stack.enter_context(self._gathered_module(module))
            yield

    @contextmanager
    def _gathered_module(self, module: nn.Module) -> Iterator[None]:
        import deepspeed

        parameters = [p for p in module.parameters() if hasattr(p, "ds_id")]
        self._tell_memory(parameters)
        with ExitStack() as stack:
            stack.enter_context(deepspeed.zero.GatheredParameters(parameters))
            if not self._gathered:
                stack.enter_context(self._without_hooks())
            self._gathered.append(module)
            stack.callback(self._gathered.remove, module)
            yield

    @contextmanager
    def held(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Hold some parameters whole on every rank (see ``TrainingStrategy``)."""
        whole = {id(parameter) for module in self._gathered for parameter in module.parameters()}
        sharded = [p for p in parameters if hasattr(p, "ds_id") and id(p) not in whole]
        if not sharded:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(sharded):
            yield

    def whole_weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The state dict of a module; under ZeRO-3 each parameter is gathered in turn, for rank 0."""
        state = module.state_dict()
        if not self.zero_stage_3:
            return state
        import deepspeed

        copies: dict[int, Tensor] = {}  # by parameter, so that tied weights stay one tensor
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if not hasattr(parameter, "ds_id"):
                continue
            with deepspeed.zero.GatheredParameters([parameter]):
                if self.is_global_zero and parameter.ds_id not in copies:
                    copies[parameter.ds_id] = parameter.detach().cpu().clone()
            if self.is_global_zero:
                state[name] = copies[parameter.ds_id]
        return state

    @contextmanager
    def _without_hooks(self) -> Iterator[None]:
        """Take the engine's hooks off, which would gather and free parameters layer by layer, and put them back."""
        optimizer = getattr(self.model, "optimizer", None)
        offload = getattr(optimizer, "parameter_offload", optimizer)
        if offload is None:  # before the engine there are no hooks
            yield
            return
        for hook in (*offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload._register_deepspeed_module(offload.module)

    def _tell_memory(self, parameters: list[nn.Parameter]) -> None:
        if self._told_memory:
            return
        self._told_memory = True
        size = sum(p.ds_numel * p.element_size() for p in parameters)  # type: ignore[attr-defined]
        rank_zero_info(
            f"Rollouts gather the whole model on every process, once per round: {size / 2**30:.3g} GiB on each, beside "
            "its shard. Where that does not fit, use trainer.precision: bf16-mixed, more memory per process, or "
            "engine/vllm, which takes the weights layer by layer."
        )

    # -------------------------------------------------------------- checkpoints

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write the shards beside their place, and put them there when all are complete."""
        target = Path(self.broadcast(filepath))
        partial = target.with_name(f".{target.name}.partial")
        write_on_first(Ranks(self), "The checkpoint", target, lambda: _remove_left_over(partial))
        try:
            super().save_checkpoint(checkpoint, partial, storage_options)
        except (OSError, RuntimeError) as error:
            if is_of_the_disk(error):
                raise not_saved(target, error) from error
            raise
        self.barrier()
        write_on_first(Ranks(self), "The checkpoint", target, lambda: put_in_place(partial, target))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Resume from a directory of as many processes at this stage, or deal out what any other checkpoint holds."""
        path = Path(checkpoint_path)
        assert self.lightning_module is not None
        fits = self.lightning_module.trainer.state.fn == TrainerFn.FITTING
        if fits and path.is_dir() and writer(path) == (self.world_size, self._stage):
            return super().load_checkpoint(checkpoint_path, weights_only)
        take_up_weights(self.lightning_module, path, self.is_global_zero)
        if fits:
            self.deepspeed_engine.optimizer.refresh_fp32_params()  # the copies that it steps
            return carried_over(path, left=take_up_optimizer(self.deepspeed_engine, path))
        return (
            client_state(path)
            if path.is_dir()
            else dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        )


def _remove_left_over(directory: Path) -> None:
    """Remove what a run that was killed had not finished, if there is any."""
    if directory.exists():
        shutil.rmtree(directory)
