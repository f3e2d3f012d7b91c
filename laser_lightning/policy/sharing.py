"""For which models solutions may share the computation of their prompt, and how they are told who sees whom."""

import inspect
import math
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laser_lightning.errors import UserError
from laser_lightning.policy.structure import decoder_of, position_limit
from laser_lightning.records.sharing import PromptSharing

MASKED = ("sdpa", "eager")
"""Attention implementations that take any mask."""

ATTENTION_PLACES = 2.0
"""Places that cost as much to attend to as all else of a layer that a token goes through, in widths D of the model.

A usual layer has 12 * D^2 weights, which take 24 * D^2 FLOPs a token, and attention takes 4 * D for each place: 6
widths, of which a third is taken, since attention with a mask runs at a lower speed than products of weights.
"""

MOST_COST = 0.9
"""Of shared prompts, in parts of the tokens of each solution alone: less is not worth another way of computing."""

_BY_DISTANCE = ("alibi", "index_topk", "attention_chunk_size")
_NO_WINDOWS = ("max_window_layers", "use_sliding_window", "sliding_window_pattern")


def prompt_sharing(lm: PreTrainedModel, wanted: Literal["auto", "always", "never"]) -> PromptSharing | None:
    """Which solutions share the computation of their prompt; None for none.

    Args:
        lm: the model.
        wanted: ``policy.shared_prompts``.

    Raises:
        UserError: if it is ``always``, and not exact for this model.
    """
    if wanted == "never":
        return None
    obstacle = sharing_obstacle(lm)
    if wanted == "always":
        if obstacle is not None:
            raise UserError(f"policy.shared_prompts is 'always', and {obstacle}: set it to auto or never.")
        return PromptSharing()
    if obstacle is not None:
        return None
    width = getattr(lm.config.get_text_config(), "hidden_size", None)
    width = lm.get_output_embeddings().in_features if width is None else width
    return PromptSharing(ATTENTION_PLACES * float(width), MOST_COST)


def sharing_obstacle(lm: PreTrainedModel) -> str | None:
    """Why a response that lies behind others of its prompt would not be computed as if it lay behind the prompt; None
    if nothing that the model's classes and config tell speaks against it.

    Args:
        lm: the model.

    Returns:
        The reason, as a sentence without its end.
    """
    config, decoder = lm.config.get_text_config(), decoder_of(lm)
    name, attention = type(decoder).__name__, str(config._attn_implementation)
    if attention not in MASKED:
        return f"attention '{attention}' takes no mask of who sees whom (policy.attention sdpa and eager do)"
    if not {"position_ids", "attention_mask"} <= inspect.signature(type(decoder).forward).parameters.keys():
        return f"{name} takes no positions and mask"
    kinds = getattr(config, "layer_types", None)
    if others := sorted({str(kind) for kind in kinds or ()} - {"full_attention"}):
        return f"layers of {name} do not attend to all that is in front of them ({', '.join(others)})"
    if (reach := _reach(lm, windows=kinds is None)) is not None:
        return f"tokens of {name} attend to others by their distance ({reach})"
    return None


def _reach(lm: PreTrainedModel, windows: bool) -> str | None:
    """The setting that says which places a token sees, or how well, by their distance; None if there is none.

    Args:
        lm: the model.
        windows: whether its settings of windows count: not where all layers are said to have none. One as wide as the
            model has positions is none.
    """
    limit = position_limit(lm.config.get_text_config()) or math.inf
    for key, value in vars(lm.config.get_text_config()).items():
        # Of several widths one may be narrow.
        widths = [value] if isinstance(value, int) else [0] if value else []
        is_window = windows and "window" in key and key not in _NO_WINDOWS and any(0 <= w < limit for w in widths)
        if (is_window or key in _BY_DISTANCE) and value:
            return f"{key}: {value}"
    return None


def mask_for(lm: PreTrainedModel, mask: Tensor) -> Tensor:
    """A mask as the model's attention takes it: ``eager`` adds it.

    Args:
        lm: the model.
        mask: [rows, 1, width, width] bool, which places each place sees.
    """
    if lm.config.get_text_config()._attn_implementation != "eager":
        return mask
    least = torch.finfo(lm.dtype).min
    return torch.zeros(mask.shape, dtype=lm.dtype, device=mask.device).masked_fill(~mask, least)
