"""LoRA (arXiv 2106.09685) through peft: adapters beside frozen weights, switched off, merged, or saved on their own."""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from laser_lightning.errors import UserError

ADAPTER = "default"
"""peft's name of a model's only adapter."""

ADAPTER_CONFIG = "adapter_config.json"
"""The file that tells an adapter from a whole model."""


@dataclass(frozen=True)
class LoRASettings:
    """Which layers get adapters, and of what size. There is no dropout: the policy that is trained is the one that was
    sampled from.

    Args:
        rank: inner width of an adapter, r: it adds ``scale * B A`` to a weight, with A [r, in] random and B [out, r]
            zero at the start.
        alpha: the scale is ``alpha / rank``.
        target_modules: names of linear layers, or the ends of them (``[q_proj, v_proj]``); null for all but the head.
        use_rslora: make the scale ``alpha / sqrt(rank)``, which keeps large ranks learning (arXiv 2312.03732).
    """

    rank: int = 16
    alpha: float = 32.0
    target_modules: list[str] | None = None
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"policy.lora.rank is {self.rank}, and must be at least 1.")
        if self.alpha <= 0:
            raise UserError(f"policy.lora.alpha is {self.alpha}, and must be above 0.")
        if self.target_modules == []:
            raise UserError("policy.lora.target_modules is empty: name layers, or give null for all linear ones.")


def add_adapters(lm: PreTrainedModel, settings: LoRASettings) -> None:
    """Freeze a model, and put trainable adapters into it; its outputs stay the same, since B is zero.

    Adapters are float32 whatever the model's type, so that small steps are not rounded away.

    Args:
        lm: changed in place; it stays the transformers model that it was.
        settings: which layers, and what size.

    Raises:
        UserError: if peft is missing, the model is quantised, or ``target_modules`` names no linear layer of it.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("policy.lora needs peft, which is missing: pip install 'laser-lightning[lora]'.") from error
    if getattr(lm.config, "quantization_config", None) is not None:
        raise UserError(
            "policy.path is a quantised model, and adapters are merged into float weights: take the model it was "
            "quantised from."
        )
    names = settings.target_modules
    _check_targets(lm, names)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a plain factor, to which peft's int is no limit
        target_modules="all-linear" if names is None else names,
        use_rslora=settings.use_rslora,
        # GPT-2's Conv1D holds its weight transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in lm.modules()),
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, lm, ADAPTER)
    for parameter in lm.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _check_targets(lm: PreTrainedModel, names: list[str] | None) -> None:
    """Refuse names that peft would pass over, and layers whose adapters could not be merged."""
    modules = dict(lm.named_modules())
    for target in names or []:
        found = [name for name in modules if name == target or name.endswith(f".{target}")]
        linear = sorted({name.split(".")[-1] for name, module in modules.items() if _is_target(lm, module)})
        if not found or not all(_is_target(lm, modules[name]) for name in found):
            what = "no layer has" if not found else "is the name of something else than linear layers below the head"
            raise UserError(
                f"policy.lora.target_modules has '{target}', which {what}: choose from {', '.join(linear)}."
            )


def _is_target(lm: PreTrainedModel, module: nn.Module) -> bool:
    return type(module) in (nn.Linear, Conv1D) and module is not lm.get_output_embeddings()


def _adapted(lm: PreTrainedModel) -> dict[str, Any]:
    """The layers with adapters, by name; none in a model without LoRA."""
    if not hasattr(lm, "peft_config"):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in lm.named_modules() if isinstance(module, LoraLayer)}


@contextmanager
def adapters_off(lm: PreTrainedModel) -> Iterator[None]:
    """In here the model is the one that was loaded, exactly: adapters are passed over, not subtracted."""
    layers = list(_adapted(lm).values())
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merged_weights(lm: PreTrainedModel, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights of the plain model that computes what the model with its adapters does: W + scale * B A.

    Args:
        lm: the model, which says what is adapted and how; nothing in it is changed.
        state: its whole weights, under the names of its state dict.

    Yields:
        Names and tensors as the model had them without LoRA; one adapted weight is computed at a time. A model
        without LoRA yields ``state``.
    """
    layers = _adapted(lm)
    for name, value in state.items():
        layer, _, part = name.rpartition(".base_layer.")
        if layer in layers:
            yield f"{layer}.{part}", _merged(value, layers[layer], layer, state) if part == "weight" else value
        elif not _is_adapter(name):
            yield name, value


def _merged(weight: Tensor, layer: Any, name: str, state: Mapping[str, Tensor]) -> Tensor:
    """A layer's weight with its adapter, rounded to the weight's type once."""
    inner, outer = (state[f"{name}.{half}.{ADAPTER}.weight"].float() for half in ("lora_A", "lora_B"))
    product = (outer @ inner).T if layer.fan_in_fan_out else outer @ inner
    return (weight + product * layer.scaling[ADAPTER]).to(weight.dtype)


def _is_adapter(name: str) -> bool:
    return name.endswith((f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"))


def save_adapter(lm: PreTrainedModel, state: Mapping[str, Tensor], directory: Path) -> None:
    """Write the adapters in peft's form: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        lm: the model with its adapters.
        state: its whole weights, under the names of its state dict.
        directory: where the two files go.
    """
    from safetensors.torch import save_file

    config: Any = copy.copy(lm.peft_config[ADAPTER])
    config.target_modules = sorted(config.target_modules)
    base = str(lm.name_or_path)
    config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    config.inference_mode = True
    config.save_pretrained(directory)
    weights = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": value.detach().cpu().contiguous()
        for name, value in state.items()
        if _is_adapter(name)
    }
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def base_model(directory: Path) -> str:
    """Directory or hub name of the model that the adapters of an export belong to."""
    return str(json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])


def merge_adapter(lm: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Load adapters that ``save_adapter`` wrote, and add them to a model's weights.

    Args:
        lm: the model that they belong to; changed in place.
        directory: of the two files.

    Returns:
        The plain model.

    Raises:
        UserError: if peft is missing.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise UserError(
            f"{directory} holds a LoRA adapter, which needs peft: pip install 'laser-lightning[lora]'."
        ) from error
    return PeftModel.from_pretrained(lm, directory).merge_and_unload()
