"""Short digests by which kept solutions know what they came from: weights, problems, and parts of the config."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from laser_lightning.verifiers import Verifier, WeightedReward

if TYPE_CHECKING:  # the scorer does without the trainer, which the package of data imports
    from laser_lightning.data.problem import Problem

AT_ONCE = 2**22
"""Numbers of a tensor that are summed at a time; bounds the memory of copies."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size in bytes


def prompt_fingerprint(prompt_ids: Sequence[int]) -> str:
    """16 hexadecimal digits of a prompt's token ids."""
    return _digest(",".join(map(str, prompt_ids)))


def problems_fingerprint(problems: "Sequence[Problem]") -> str:
    """16 hexadecimal digits of problems in their order: row numbers, prompts, gold answers and verifiers."""
    return _digest(json.dumps([(p.index, p.prompt_ids, p.answer, p.verifier) for p in problems]))


@torch.no_grad()
def weights_fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits of a model's parameters: their names, shapes, dtypes and bits.

    The bits are summed as integers, each times its place, so that the result is exact and the same on every device, and
    one changed number or two exchanged ones change it. Under ZeRO-3 the weights must be gathered.

    Args:
        model: any module; its buffers do not count.
    """
    found = hashlib.sha256()
    for name, parameter in model.named_parameters():
        bits = parameter.detach().contiguous().view(-1).view(_INTEGERS[parameter.element_size()])
        places = torch.arange(1, min(len(bits), AT_ONCE) + 1, device=bits.device)
        sums = [(part.long() * places[: len(part)]).sum() for part in bits.split(AT_ONCE)]
        found.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} {torch.stack(sums).tolist()}\n".encode())
    return found.hexdigest()[:16]


def described(part: object) -> dict[str, Any]:
    """A configurable part as JSON holds it: its class and its public attributes, without those that JSON lacks.

    Verifiers among them are described too.
    """
    described_part: dict[str, Any] = {"class": f"{type(part).__module__}.{type(part).__qualname__}"}
    for name, value in vars(part).items():
        if not name.startswith("_") and (text := _as_json(value)) is not None:
            described_part[name] = json.loads(text)
    return described_part


def _as_json(value: object) -> str | None:
    try:
        return json.dumps(value, default=_described_verifier)
    except (TypeError, ValueError):
        return None


def _described_verifier(value: object) -> dict[str, Any]:
    if not isinstance(value, Verifier | WeightedReward):
        raise TypeError(f"{type(value).__name__} is no verifier.")
    return described(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
