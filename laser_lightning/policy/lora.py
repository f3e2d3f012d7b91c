"""LoRA (arXiv 2106.09685) through peft: adapters beside frozen weights, switched off, merged, or saved on their own."""

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D

from laser_lightning.errors import UserError
from laser_lightning.policy.lora_targets import AdapterTargets, choose_targets
from laser_lightning.policy.quantised import quantisation, remedy

ADAPTER = "default"
"""peft's name of a model's only adapter."""

ADAPTER_CONFIG = "adapter_config.json"
"""The file that tells an adapter from a whole model."""

_PREFIX = "base_model.model."
"""What stands before a model's own names in peft's files."""


@dataclass(frozen=True)
class LoRASettings:
    """Which layers get adapters, and of what size. There is no dropout: the policy that is trained is the one that was
    sampled from.

    Args:
        rank: inner width of an adapter, r: it adds ``scale * B A`` to a weight, with A [r, in] random and B [out, r]
            zero at the start.
        alpha: the scale is ``alpha / rank``.
        target_modules: names of linear layers, or the ends of them (``[q_proj, v_proj]``); null for all but the head,
            and but those whose adapters would be passed over or could not be merged. The log says which.
        use_rslora: make the scale ``alpha / sqrt(rank)``, which keeps large ranks learning (arXiv 2312.03732).
        experts: give the experts of a mixture adapters too where their weights are fused to one tensor, ``rank`` for
            each expert. Every pass then adds them to all experts' weights, which costs memory and time; not under
            ZeRO-3. Experts that are linear layers of their own have adapters in either case.
    """

    rank: int = 16
    alpha: float = 32.0
    target_modules: list[str] | None = None
    use_rslora: bool = False
    experts: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"policy.lora.rank is {self.rank}, and must be at least 1.")
        if self.alpha <= 0:
            raise UserError(f"policy.lora.alpha is {self.alpha}, and must be above 0.")
        if self.target_modules == []:
            raise UserError("policy.lora.target_modules is empty: name layers, or give null for all linear ones.")

    def fingerprint(self) -> dict[str, Any]:
        """What the adapters of a checkpoint must have in common with these."""
        values = asdict(self)
        if not self.experts:  # checkpoints of before know nothing of it
            del values["experts"]
        return values


def add_adapters(lm: PreTrainedModel, settings: LoRASettings) -> AdapterTargets:
    """Freeze a model, and put trainable adapters into it; its outputs stay the same, since B is zero.

    Adapters are float32 whatever the model's type, so that small steps are not rounded away.

    Args:
        lm: changed in place; it stays the transformers model that it was.
        settings: which layers, and what size.

    Returns:
        What got adapters, and what did not.

    Raises:
        UserError: if peft is missing, the model is quantised, or the settings ask for adapters where none can be (see
            ``choose_targets``).
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("policy.lora needs peft, which is missing: pip install 'laser-lightning[lora]'.") from error
    if (method := quantisation(lm.config)) is not None:
        raise UserError(
            f"policy.path is a quantised model ({method}), and adapters are merged into float weights: "
            f"{remedy(method)}."
        )
    targets = choose_targets(lm, settings.target_modules, settings.experts)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a plain factor, to which peft's int is no limit
        target_modules=[f"lm.{name}" for name in targets.layers],
        target_parameters=[f"lm.{name}" for name in targets.experts] or None,
        use_rslora=settings.use_rslora,
        # GPT-2's Conv1D holds its weight transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in lm.modules()),
        task_type="CAUSAL_LM",
    )
    # In a transformers model of a mixture peft takes some names of layers for names of experts' weights, and adapts
    # these in their place; in another module it takes them as they are.
    holder = nn.Module()
    holder.lm = lm
    inject_adapter_in_model(config, holder, ADAPTER)
    config.target_modules, config.target_parameters = list(targets.layers), list(targets.experts) or None
    vars(lm)["peft_config"] = {ADAPTER: config}
    for parameter in lm.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return targets


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
def check_adapters(lm: PreTrainedModel, input_ids: Tensor) -> None:
    """Run one pass, and refuse a model that has none with adapters in it, or that goes past some.

    Args:
        lm: the model with its adapters, in the mode of training.
        input_ids: [B, L] token ids.
    """
    layers = _adapted(lm)
    # Which experts are called depends on the tokens.
    waiting = {name for name in layers if "expert" not in name}
    hooks = [layer.register_forward_hook(lambda *_, name=name: waiting.discard(name)) for name, layer in layers.items()]
    try:
        lm(input_ids=input_ids, use_cache=False)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"policy.lora: {type(lm).__name__} does not run with adapters in its layers ({error}): name those that can "
            "have some in policy.lora.target_modules."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if waiting:
        leaves = ", ".join(sorted({name.rpartition(".")[2] for name in waiting}))
        raise UserError(
            f"policy.lora: {type(lm).__name__} does not call {len(waiting)} of the layers with adapters ({leaves}), "
            "which would not learn: name the other ones in policy.lora.target_modules."
        )


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
    adapted = {_adapted_weight(name, layer): (name, layer) for name, layer in layers.items()}
    for name, value in state.items():
        if not _is_adapter(name):
            merged = _merged(value, *adapted[name], state) if name in adapted else value
            yield _plain_name(name, layers), merged


def _adapted_weight(name: str, layer: Any) -> str:
    """The name, in the model with its adapters, of the weight that a layer's adapter is added to."""
    parameter = getattr(layer, "parameter_name", "weight")
    while hasattr(layer, "base_layer"):  # several weights of one module have as many wrappers around it
        name, layer = f"{name}.base_layer", layer.base_layer
    return f"{name}.{parameter}"


def _plain_name(name: str, layers: Mapping[str, Any]) -> str:
    """A weight's name in the model without adapters."""
    head, _, tail = name.rpartition(".base_layer.")
    while head in layers:
        name = f"{head}.{tail}"
        head, _, tail = name.rpartition(".base_layer.")
    return name


def _merged(weight: Tensor, name: str, layer: Any, state: Mapping[str, Tensor]) -> Tensor:
    """A layer's weight with its adapter, rounded to the weight's type once."""
    inner, outer = (state[f"{name}.{half}.{ADAPTER}.weight"].float() for half in ("lora_A", "lora_B"))
    transposed = layer.fan_in_fan_out
    if weight.ndim == 3:  # of E experts: A is [E times r, in], and B [out, r times E]
        inner = inner.view(len(weight), -1, inner.shape[1])
        outer = outer.view(len(outer), -1, len(weight)).permute(2, 0, 1)
        transposed = getattr(layer.get_base_layer(), "is_transposed", False)  # as peft asks
    with _own_types(weight.device):
        product = outer @ inner
    return (weight + (product.mT if transposed else product) * layer.scaling[ADAPTER]).to(weight.dtype)


def _own_types(device: torch.device) -> AbstractContextManager[Any]:
    """Around products that are not rounded, within a step in half precision neither; on meta nothing is computed."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _is_adapter(name: str) -> bool:
    return name.endswith((f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"))


def adapter_weights(lm: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the adapters, under the names in a file from which peft finds them again.

    These are the model's own, with peft's prefix. Of some models peft renames what it reads, as transformers renames
    what it reads from a checkpoint, and would rename the model's own names to those of no layer: there they are the
    checkpoint's.

    Args:
        lm: the model with its adapters.
        state: its whole weights, under the names of its state dict.
    """
    own = own_adapter_weights(lm, state)
    if weights_in_model(lm, own).keys() == own.keys():
        return own
    plain = {name.removeprefix(_PREFIX): value for name, value in own.items()}
    written = {f"{_PREFIX}{name}": value for name, value in revert_weight_conversion(lm, plain).items()}
    read = weights_in_model(lm, written)
    if read.keys() == own.keys() and all(read[name] is value for name, value in own.items()):
        return written
    return own


def own_adapter_weights(lm: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the adapters, under the model's own names with peft's prefix.

    Args:
        lm: the model with its adapters.
        state: its whole weights, under the names of its state dict.
    """
    own = {name: value for name, value in state.items() if _is_adapter(name)}
    return {f"{_PREFIX}{name.replace(f'.{ADAPTER}.', '.')}": value for name, value in own.items()}


def weights_in_model(lm: PreTrainedModel, written: dict[str, Tensor]) -> dict[str, Tensor]:
    """What peft makes of the weights in a file: those of which ``own_adapter_weights`` has the names, if all is well.

    Args:
        lm: the model that they are read for.
        written: the file's.
    """
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    return convert_peft_adapter_state_dict_for_transformers(lm, lm.peft_config[ADAPTER], written, ADAPTER)


def save_adapter(lm: PreTrainedModel, state: Mapping[str, Tensor], directory: Path) -> None:
    """Write the adapters in peft's form: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        lm: the model with its adapters.
        state: its whole weights, under the names of its state dict.
        directory: where the two files go.
    """
    from safetensors.torch import save_file

    adapter_config(lm).save_pretrained(directory)
    weights = {name: value.detach().cpu().contiguous() for name, value in adapter_weights(lm, state).items()}
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def adapter_config(lm: PreTrainedModel) -> Any:
    """The adapters' config, by which peft finds the same weights again in the model that was loaded.

    Args:
        lm: the model with its adapters.
    """
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config: Any = copy.copy(lm.peft_config[ADAPTER])
    base = str(lm.name_or_path)
    config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    config.inference_mode = True
    layers, parameters = config.target_modules, list(config.target_parameters or [])

    def is_taken_for_experts(layer: str) -> bool:
        trial = copy.copy(config)
        trial.target_modules = [layer]
        try:
            convert_peft_config_for_transformers(trial, model=lm, conversions=None)
        except ValueError:  # one half of what is fused
            return True
        return bool(list(trial.target_modules) != [layer])

    renamed = {layer for layer in layers if is_taken_for_experts(layer)}
    # Adapters beside a layer and on its weight are the same tensors under the same names.
    parameters += [f"{layer}.weight" for layer in renamed]
    config.target_modules = _shortest(set(layers) - renamed, lm)
    config.target_parameters = sorted(parameters) or None
    return config


def _shortest(layers: set[str], lm: PreTrainedModel) -> list[str]:
    """The last parts of layers' names where all modules with that ending are among the layers, else whole names."""
    others = {name.rpartition(".")[2] for name, _ in lm.named_modules() if name not in layers}
    ends = {name: name.rpartition(".")[2] for name in layers}
    return sorted({name if end in others else end for name, end in ends.items()})


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
        UserError: if peft is missing, or does not find the adapters' weights in the file.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise UserError(
            f"{directory} holds a LoRA adapter, which needs peft: pip install 'laser-lightning[lora]'."
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")  # they would stay without effect
        try:
            return PeftModel.from_pretrained(lm, directory).merge_and_unload()
        except UserWarning as warning:
            raise UserError(f"The adapter in {directory} is not one of its base model: {warning}") from warning
