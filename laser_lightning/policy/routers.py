"""How evenly the routers of a mixture of experts spread the tokens of a solution."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laser_lightning.errors import UserError
from laser_lightning.policy.structure import decoder_of


def router_balance(
    logits: Sequence[Tensor], places: Tensor, solutions: Tensor, count: int, experts_per_token: int
) -> Tensor:
    """The load-balancing loss of each solution, the mean over the layers: E * sum over the experts of f * P.

    f is the share of the solution's tokens that a layer sends to an expert, and P the mean probability of the expert
    over the same tokens. Evenly spread it is ``experts_per_token``. As in Switch Transformer (arXiv 2101.03961,
    equations 4 to 6) and transformers, but over the tokens of each solution and layer alone, as in DeepSeek-V3 (arXiv
    2412.19437, equations 17 to 20): a product of means over a batch would depend on how the optimizer step is cut into
    micro-batches and ranks.

    Args:
        logits: [T, E] or [B, L, E] of each layer, for all places of a pass.
        places: [n] int64, the places that count, in their flat order.
        solutions: [n] int64, whose token each of them is.
        count: solutions, B.
        experts_per_token: experts that a token is sent to.

    Returns:
        [B] float32, with gradient; 0 for a solution without tokens.
    """
    if not logits:
        raise UserError("update.router_aux_loss is set, and no layer of the model has experts: leave it out.")
    tokens = torch.bincount(solutions, minlength=count).clamp(min=1)[:, None]
    losses = []
    for layer in logits:
        probs = layer.flatten(0, -2)[places].float().softmax(dim=-1)
        chosen = torch.zeros_like(probs).scatter_(1, probs.topk(experts_per_token, dim=-1).indices, 1.0)
        empty = probs.new_zeros(count, probs.shape[1])
        share, mean = (empty.index_add(0, solutions, values) / tokens for values in (chosen, probs))
        losses.append(probs.shape[1] * (share * mean).sum(dim=1))
    return torch.stack(losses).mean(dim=0)


def auxiliary_coefficient(lm: PreTrainedModel) -> float:
    """The weight that a model's config gives its auxiliary loss, where transformers would add it; 0 if it would not."""
    config = lm.config.get_text_config()
    applied = getattr(config, "output_router_logits", False)
    return float(getattr(config, "router_aux_loss_coef", None) or 0.0) if applied else 0.0


def experts_per_token(lm: PreTrainedModel) -> int:
    """Experts that a token is sent to.

    Raises:
        UserError: if transformers has no auxiliary loss for this model, or does not return its routers' logits.
    """
    config, decoder = lm.config.get_text_config(), decoder_of(lm)
    count = getattr(config, "num_experts_per_tok", None)
    records = "router_logits" in (getattr(decoder, "_can_record_outputs", None) or {})
    if not hasattr(config, "router_aux_loss_coef") or not records or not count:
        raise UserError(
            f"update.router_aux_loss is set, and transformers has no auxiliary loss for the routers of "
            f"{type(lm).__name__}, or does not return their logits: leave it out."
        )
    return int(count)
