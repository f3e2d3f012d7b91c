"""Which weights of a model get LoRA's adapters, which do not, and why."""

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from laser_lightning.errors import UserError

_LINEAR = (nn.Linear, Conv1D)

_HEAD = "that make the logits"
_OF_ITS_OWN = "which compute more than a linear layer"
_SHARED = "whose weight other layers share"
_READ_PAST = "whose weight is read past the layer"
_CHOOSES = "which choose tokens, without a gradient"
_NO_TEXT = "which no text goes through"


@dataclass(frozen=True)
class AdapterTargets:
    """The weights of a model that get adapters.

    Attributes:
        layers: names of linear layers.
        experts: names of experts' fused weights, [experts, out, in] or [experts, in, out].
        left_out: names of linear layers that adapters cannot stand beside, by the reason; without the head.
        bare_experts: names of experts' fused weights without adapters.
        bare_share: the share of these in all weights of the model.
    """

    layers: tuple[str, ...]
    experts: tuple[str, ...] = ()
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bare_experts: tuple[str, ...] = ()
    bare_share: float = 0.0

    def __str__(self) -> str:
        """One line for the log: what has adapters, and what has none."""
        with_adapters = [f"{len(self.layers)} linear layers ({_ends(self.layers)})"]
        if self.experts:
            with_adapters.append(f"{len(self.experts)} fused weights of experts ({_ends(self.experts)})")
        without = [f"{_ends(names)}, {reason}" for reason, names in self.left_out.items()]
        if self.bare_experts:
            without.append(
                f"the fused weights of experts ({_ends(self.bare_experts)}), {self.bare_share:.0%} of all weights, "
                "unless policy.lora.experts is set"
            )
        line = f"LoRA adapts {' and '.join(with_adapters)}"
        return f"{line}; without adapters: {'; '.join(without)}." if without else f"{line}."


def choose_targets(lm: PreTrainedModel, names: list[str] | None, experts: bool) -> AdapterTargets:
    """Choose the weights that get adapters.

    Args:
        lm: the model, without adapters.
        names: of linear layers, or the ends of them; None for all that can have adapters.
        experts: choose the fused weights of experts too.

    Raises:
        UserError: if a name is of no layer, or of one that an adapter cannot stand beside; if there are no layers to
            choose, or no fused weights of experts where they are asked for.
    """
    reasons = _linear_layers(lm)
    eligible = [name for name, reason in reasons.items() if reason is None]
    fused = dict(_fused_experts(lm))
    if not eligible:
        raise UserError(
            f"policy.lora is set, and {type(lm).__name__} has no linear layer for adapters: set it to null."
        )
    if experts and not fused:
        raise UserError(
            f"policy.lora.experts is set, and {type(lm).__name__} has no fused weights of experts: set it to false."
        )
    for target in names or []:
        _check_name(lm, target, reasons, fused)
    if names is not None:
        eligible = [name for name in eligible if any(_is_end(target, name) for target in names)]
    left_out: dict[str, tuple[str, ...]] = {}
    for name, reason in reasons.items():
        if names is None and reason is not None and reason != _HEAD:
            left_out[reason] = (*left_out.get(reason, ()), name)
    if experts:
        return AdapterTargets(tuple(eligible), tuple(fused), left_out)
    share = sum(map(_size, fused.values())) / sum(map(_size, lm.parameters()))
    return AdapterTargets(tuple(eligible), (), left_out, tuple(fused), share)


def _check_name(lm: PreTrainedModel, target: str, reasons: dict[str, str | None], fused: dict[str, Tensor]) -> None:
    """Refuse a name that is not one of linear layers alone, or of layers that an adapter cannot stand beside."""
    found = [name for name, _ in lm.named_modules() if _is_end(target, name)]
    if found and all(name in reasons and reasons[name] is None for name in found):
        return
    remedy = f"choose from {', '.join(sorted({_leaf(name) for name, reason in reasons.items() if reason is None}))}."
    if any(_is_end(target, name) or _is_end(target, _parent(name)) for name in fused):
        what, remedy = "is a weight of all experts together", f"set policy.lora.experts to true for these, or {remedy}"
    elif not found:
        what = "no layer has"
    elif reason := next((reasons[name] for name in found if reasons.get(name) not in (None, _HEAD)), None):
        what = f"is the name of layers {reason}"
    else:
        what = "is the name of something else than linear layers below the head"
    raise UserError(f"policy.lora.target_modules has '{target}', which {what}: {remedy}")


def _linear_layers(lm: PreTrainedModel) -> dict[str, str | None]:
    """The names of all linear layers, and why one can have no adapter; None where it can."""
    modules = dict(lm.named_modules())
    has_other_parts = lm.config.get_text_config() is not lm.config  # towers for images, or sound
    text = {id(module) for module in (lm.get_decoder() if has_other_parts else lm).modules()}
    holders = Counter(id(parameter) for _, parameter in lm.named_parameters(remove_duplicate=False))
    reasons: dict[str, str | None] = {}
    for name, module in modules.items():
        if not isinstance(module, _LINEAR):
            continue
        if module is lm.get_output_embeddings():
            reasons[name] = _HEAD
        elif type(module) not in _LINEAR:
            reasons[name] = _OF_ITS_OWN
        elif holders[id(module.weight)] > 1:
            reasons[name] = _SHARED  # adapters of their own would make them differ: a checkpoint holds one weight
        elif id(module) not in text:
            reasons[name] = _NO_TEXT
        elif "indexer" in type(modules[_parent(name)]).__name__.lower():
            reasons[name] = _CHOOSES
        elif _is_read_past(modules[_parent(name)], _leaf(name)):
            reasons[name] = _READ_PAST
        else:
            reasons[name] = None
    return reasons


def _is_read_past(parent: nn.Module, child: str) -> bool:
    """Whether the code of a layer takes a child's weight for itself: never calls it, or not on every path.

    The kernels of state-space layers do so on GPUs; without these the child is called, and nothing would be noticed.
    """
    source = "".join(_source(kind) for kind in type(parent).__mro__ if kind not in (nn.Module, object))
    if not re.search(rf"\.{child}\.weight\b(?!\.(device|dtype|shape))", source):
        return False
    is_mixer = any(isinstance(module, nn.Conv1d) for module in parent.children())
    return is_mixer or not re.search(rf"\.{child}\(", source)


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # made in an interpreter
        return ""


def _fused_experts(lm: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Names of the parameters that hold a matrix for each expert, and these."""
    for name, module in lm.named_modules():
        if "expert" in f"{name}.{type(module).__name__}".lower():
            for leaf, parameter in module.named_parameters(recurse=False):
                shape = getattr(parameter, "ds_shape", parameter.shape)
                if len(shape) == 3 and shape[0] > 1 and not isinstance(module, nn.Conv1d):
                    yield f"{name}.{leaf}", parameter


def _size(parameter: Tensor) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO-3 leaves nothing of a sharded one


def _is_end(end: str, name: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _ends(names: tuple[str, ...]) -> str:
    """The last parts of names that are no numbers."""
    return ", ".join(sorted({_leaf(re.sub(r"(\.\d+)+$", "", name)) for name in names}))
