"""What the RL and the supervised module share: a policy, its optimizer, guarded steps, and exact resume."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from laser_lightning.arguments import Part, made_from
from laser_lightning.data.module import PromptDataModule, data_module
from laser_lightning.data.seeds import seed_or_global
from laser_lightning.distributed.parts import StepParts
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.distributed.strategies import TrainingStrategy, training_strategy
from laser_lightning.errors import UserError
from laser_lightning.modules.averaging import Exchange, average_exactly, let_left_out_weights_be_missing
from laser_lightning.modules.optimization import (
    OptimizerSettings,
    build_optimizer,
    build_schedule,
    embedding_parameters,
)
from laser_lightning.modules.optimizer_steps import OptimizerSteps
from laser_lightning.modules.self_tested import SelfTested
from laser_lightning.modules.trainer_checks import check_trainer
from laser_lightning.old_settings import renewed_arguments
from laser_lightning.policy.exports import refuse_failed, try_exports
from laser_lightning.policy.loading import mend_generation_config, refuse_quantised
from laser_lightning.policy.model import AdaptersOff, FrozenPolicy, Policy, PolicySettings, load_tokenizer, model_path
from laser_lightning.policy.quantised import refuse_quantised_checkpoint
from laser_lightning.policy.sharing import sharing_obstacle
from laser_lightning.policy.weight_stream import WeightStream, stream_weights
from laser_lightning.runs.checkpoints import read_checkpoint
from laser_lightning.runs.interruption import Interruption
from laser_lightning.runs.random_state import random_state, restore_random_state


class TrainingModule(Part, SelfTested, OptimizerSteps):
    """A LightningModule that trains a causal LM with manual optimization.

    Args:
        policy: which model.
        optimizer: how gradients change weights.
        max_skipped_steps: stop the run after this many optimizer steps in a row without a usable gradient.
        seed: seed of all sampling; each rank adds its own number. Default: that of ``seed_everything``.

    Attributes:
        tokenizer: the policy's tokenizer.
        policy: the model, from ``configure_model`` on.
        generator: the source of all training randomness of this rank, saved in checkpoints.
        interruption: breaks off what may be broken off when the run is told to stop.
        parts: times the parts of a step.
    """

    policy: Policy
    generator: torch.Generator

    def __init__(
        self, policy: PolicySettings, optimizer: OptimizerSettings, max_skipped_steps: int = 10, seed: int | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy_settings, self.optimizer_settings = policy, optimizer
        self.max_skipped_steps, self.seed = max_skipped_steps, seed_or_global(seed)
        self.tokenizer = load_tokenizer(policy)
        self.strict_loading = policy.lora is None  # with LoRA checkpoints lack the frozen weights, see saved_weights
        self.interruption = Interruption()
        self.parts = StepParts()
        self._restored_random_states: list[dict[str, Any]] | None = None
        self._exchanges: list[Exchange] = []
        self.register_load_state_dict_post_hook(let_left_out_weights_be_missing)

    def configure_callbacks(self) -> list[Callback]:
        """Refuse settings and callbacks of the trainer that cannot work here: Lightning calls this hook first."""
        if not self.automatic_optimization:
            check_trainer(self.trainer)
            self._exchanges = average_exactly(self.trainer)
        return []

    def configure_model(self) -> None:
        """Load the weights (once, whichever of fit and validate comes first)."""
        self.parts.strategy = self.training_strategy
        if self.policy_settings.compile and self.training_strategy.shards_weights:
            raise UserError("policy.compile does not work under ZeRO-3, which gathers weights layer by layer.")
        if self.policy_settings.gguf_file is not None and self.training_strategy.shards_weights:
            raise UserError(
                "policy.gguf_file does not work under ZeRO-3, since transformers reads such a file whole: overlay "
                "strategy/zero2, or export the model once and train the export."
            )
        lora = self.policy_settings.lora
        if lora is not None and lora.experts and self.training_strategy.shards_weights:
            raise UserError(
                "policy.lora.experts does not work under ZeRO-3, which gathers weights layer by layer: overlay "
                "strategy/zero2, or set it to false."
            )
        if not hasattr(self, "policy"):
            chosen = self.policy_settings
            refuse_quantised_checkpoint(chosen.path, model_path(chosen.path), chosen.trust_remote_code)
            self.policy = Policy(self.policy_settings, self.tokenizer)
            refuse_quantised(self.policy.lm, self.policy_settings.path)
            mend_generation_config(self.policy.lm, self.policy_settings.path)
            with self.gathered_weights(self.policy):
                self.policy.check_adapters()
            if self.policy.adapters is not None:
                rank_zero_info(str(self.policy.adapters))
            if self.has_groups and chosen.shared_prompts == "auto" and (why := sharing_obstacle(self.policy.lm)):
                rank_zero_info(f"Each solution computes its prompt itself, and none is shared: {why}.")
        data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        if isinstance(data, PromptDataModule):
            self.check_data(data)

    def check_data(self, data: PromptDataModule) -> None:
        """Refuse texts with tokens that the model has no rows for, or no places, before the first step.

        Args:
            data: set up.
        """
        data.check_vocabulary(self.policy.vocabulary_size)

    @property
    def has_tokens_beyond(self) -> bool:
        """Whether the tokenizer has ids that the model has no rows for."""
        return max(self.tokenizer.get_vocab().values()) >= self.policy.vocabulary_size

    def load_reference(self) -> FrozenPolicy | AdaptersOff:
        """The frozen policy of before training: a model of its own, or with LoRA the policy without its adapters."""
        if self.policy_settings.random_init:
            raise UserError(
                "policy.random_init has no reference model to be held to: a KL term (update.kl_coef) and "
                "self_reward.reference 'exact' need pretrained weights."
            )
        if self.policy_settings.lora is not None:
            return AdaptersOff(self.policy)
        return FrozenPolicy(self.policy_settings, self.tokenizer)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer of all that is trained, and its schedule in optimizer steps."""
        optimizer = build_optimizer(
            self.parameters(),  # those of the policy, and of a self-reward head that has any; frozen ones are left out
            self.optimizer_settings,
            on_host=self.training_strategy.steps_on_host,
            strategy_copies=self.training_strategy.keeps_float32_copies,
            embeddings=embedding_parameters(self.policy.lm),
        )
        schedule = build_schedule(optimizer, self.optimizer_settings, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_fit_start(self) -> None:
        """Try the exports, create this rank's generator, on the policy's device, and try the policy."""
        self.check_exports()
        half = any(p.requires_grad and p.dtype == torch.float16 for p in self.parameters())
        if half and self.training_strategy.gradient_scale is None:
            rank_zero_warn(
                "The weights are float16 and the loss is not scaled, so gradients below 6e-8 become 0, as most are "
                "where a step has many tokens: set policy.dtype to float32 and trainer.precision to 16-mixed, which "
                "scales, or to bf16-mixed."
            )
        self.generator = torch.Generator(self.device).manual_seed(self.seed * 100_003 + self.global_rank)
        super().on_fit_start()

    def check_exports(self, adapter: bool = False) -> None:
        """Refuse a model whose export would fail, on all ranks; rank 0 tries it, which will write it.

        Args:
            adapter: the export is that of the adapter, in place of a whole model.
        """
        trials = try_exports(self.policy, self.tokenizer) if self.trainer.is_global_zero else []
        refuse_failed(self.trainer.strategy.broadcast(trials), adapter)

    def on_train_start(self) -> None:
        """Continue the random streams of a resumed run."""
        if self._restored_random_states is not None:
            states = self._restored_random_states
            if len(states) != self.trainer.world_size:
                rank_zero_warn(
                    f"The checkpoint was written by {len(states)} processes and {self.trainer.world_size} resume it: "
                    "weights and step carry over, the random streams start anew."
                )
            else:
                restore_random_state(states[self.global_rank], self.generator)
            self._restored_random_states = None

    @property
    def strategy(self) -> Strategy | None:
        """The trainer's strategy; None without a trainer."""
        return None if self._trainer is None else self._trainer.strategy

    @property
    def training_strategy(self) -> TrainingStrategy:
        """The same, as training sees it.

        Raises:
            UserError: if the gradients would be wrong under it.
        """
        return training_strategy(self.strategy)

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return Ranks(self.strategy, self.interruption.together)

    @property
    def data(self) -> PromptDataModule:
        """The trainer's data.

        Raises:
            UserError: if it is not a PromptDataModule, which checks the gold answers by the verifier.
        """
        return data_module(self.trainer, type(self).__name__)

    @contextmanager
    def gathered_weights(self, *models: Policy | AdaptersOff | None) -> Iterator[None]:
        """Around any use of a model outside of ``differentiable``; all ranks enter it together."""
        strategy = self.training_strategy
        holders = [model.policy if isinstance(model, AdaptersOff) else model for model in models if model is not None]
        if not strategy.gathers(*holders):
            yield
            return
        with ExitStack() as stack:
            with self.interruption.together():
                stack.enter_context(strategy.gathered(*holders))
            yield

    @contextmanager
    def weight_stream(self, model: Policy) -> Iterator[WeightStream]:
        """Hand a model's weights on, whole layers in turn; all ranks enter it together, and leave behind the last."""
        with self.interruption.together(), closing(stream_weights(model.lm, self.training_strategy.held)) as stream:
            yield stream
            for _ in stream:  # whoever took them may have stopped before the end, where other ranks gather on
                pass

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random states of all ranks, the skipped steps in a row, and what the model is: another is refused."""
        states: list[Any] = [random_state(self.generator)] if hasattr(self, "generator") else []
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, states)
            states = [state for rank_states in gathered for state in rank_states]
        checkpoint["laser_random_states"] = states
        checkpoint["laser_fingerprint"] = self.fingerprint()
        checkpoint["laser_skipped_steps"] = self._skipped_in_a_row
        checkpoint["laser_arguments"] = {"plain": self.plain_arguments, "other": self.other_arguments}
        if "current_model_state" in checkpoint and any(exchange.exchanged for exchange in self._exchanges):
            # The callback takes the weights for the average, and the average for the weights.
            exchanged = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = exchanged
        for key in ("state_dict", "current_model_state"):  # the second beside an average in the first
            if key in checkpoint:
                checkpoint[key] = self.saved_weights(checkpoint[key])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model, and go on with its random states, once training starts, and its count
        of skipped steps."""
        theirs, ours = checkpoint.get("laser_fingerprint"), self.fingerprint()
        if theirs is None:
            raise UserError("This checkpoint was not written by laser-lightning: it says nothing about its model.")
        self._check_resumable(checkpoint)
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise UserError(
                    f"The checkpoint is of another model: its {key.replace('_', ' ')} is {theirs.get(key)!r}, and the "
                    f"configured one is {value!r}. Set model.policy and model.self_reward to those of the checkpoint."
                )
        if "state_dict" in checkpoint:
            missing = sorted(self.saved_weights(self.state_dict()).keys() - checkpoint["state_dict"].keys())
            if missing:
                raise UserError(f"The checkpoint lacks {len(missing)} of the model's tensors, such as {missing[0]}.")
            unknown = sorted(k for k in checkpoint["state_dict"].keys() - self.state_dict().keys() if ".lora_" in k)
            if unknown:
                raise UserError(
                    f"The checkpoint has {len(unknown)} tensors of adapters that the model has no place for, such as "
                    f"{unknown[0]}: name the layers of its run in policy.lora.target_modules."
                )
        self._restored_random_states = checkpoint["laser_random_states"] or None
        self._skipped_in_a_row = checkpoint.get("laser_skipped_steps", 0)

    def _check_resumable(self, checkpoint: dict[str, Any]) -> None:
        fits = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if fits and self.trainer.strategy.lightning_restore_optimizer and "optimizer_states" not in checkpoint:
            raise UserError(
                "ckpt_path: the checkpoint holds weights alone (save_weights_only), and no optimizer to go on with: "
                "resume from one that was saved without it, or start a run from the weights, which `laser-lightning "
                "export` writes as a directory for model.policy.path."
            )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **arguments: Any) -> Self:  # type: ignore[override]
        """The module of a checkpoint, with its weights, for ``validate``, ``test``, ``predict``, or a new ``fit``.

        The module is made with the arguments of the run that wrote the checkpoint, from the command line or from
        Python. Its weights are on the CPU; a trainer moves them. To resume the run itself give the checkpoint to the
        trainer: ``trainer.fit(module, datamodule=data, ckpt_path=...)``.

        Args:
            checkpoint_path: file, or directory of DeepSpeed.
            arguments: arguments of the class that take the place of the run's, such as another ``engine``.

        Raises:
            UserError: if the checkpoint is incomplete, of another class or model, or does not hold an argument that is
                not given.
        """
        saved = read_checkpoint(Path(checkpoint_path))
        module = cls(**_arguments_of(cls, saved, arguments))
        module.configure_model()
        module.on_load_checkpoint(saved)
        module.load_state_dict(saved["state_dict"], strict=False)
        module.forget_position()
        return module

    def put_back_step(self) -> None:
        """Go back to before a training step that was broken off, as far as it changed more than random states."""

    def forget_position(self) -> None:
        """Let the next ``fit`` be a run of its own, with random streams from their beginning and no step skipped."""
        self._restored_random_states, self._skipped_in_a_row = None, 0

    def saved_weights(self, state: dict[str, Any]) -> dict[str, Any]:
        """The part of a state dict that belongs into checkpoints: with LoRA without the frozen weights, which a resumed
        run loads from ``policy.path`` as the first run did."""
        if self.policy_settings.lora is None:
            return state
        frozen = {name for name, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return {name: value for name, value in state.items() if name not in frozen}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint's model must have in common with the configured one."""
        config = self.policy.lm.config.get_text_config()
        return {
            "module": type(self).__name__,
            "architecture": type(self.policy.lm).__name__,
            "vocabulary_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "number_of_layers": config.num_hidden_layers,
            "lora": None if self.policy_settings.lora is None else self.policy_settings.lora.fingerprint(),
        }


def _arguments_of(cls: type[TrainingModule], saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a checkpoint's module, those that are given in the place of its own."""
    if (written_by := saved.get("laser_fingerprint", {}).get("module", cls.__name__)) != cls.__name__:
        raise UserError(f"The checkpoint is of a {written_by}: {written_by}.load_from_checkpoint loads it.")
    if "laser_arguments" not in saved and not given:
        raise UserError(
            "This checkpoint does not hold the arguments of its module, as those of earlier releases: give them, "
            f"{cls.__name__}.load_from_checkpoint(path, policy=..., ...)."
        )
    held = saved.get("laser_arguments", {"plain": {}, "other": {}})
    if missing := {name: what for name, what in held["other"].items() if name not in given}:
        raise UserError(
            f"The checkpoint holds plain values only, and lacks {', '.join(f'{k} ({v})' for k, v in missing.items())}: "
            f"give it again, {cls.__name__}.load_from_checkpoint(path, {next(iter(missing))}=...)."
        )
    plain = renewed_arguments(held["plain"])
    return {name: made_from(value) for name, value in plain.items() if name not in given} | given
