"""Sequence parallelism in the update: a few processes compute a micro-batch together, each a part of its places.

    a sequence of 8    A B C d e f g .        process 0: A B C d     process 1: e f g .

All layers but attention see one place at a time. For attention the processes exchange places for heads and back
(Ulysses, arXiv 2309.14509, by DeepSpeed's integration): each has all places of a part of the heads. Behind the last
layer all have the hidden states of all places, and compute the head and the loss, each with its share of 1 / processes:
so every gradient and every number that is logged is a sum over ranks, as without.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.sharing import sharing_obstacle

KEY = "trainer.strategy.init_args.sequence_parallel_size"

ATTENTION = "sdpa"
"""The attention in whose place the exchange stands."""


class SequenceParts:
    """The processes that compute a micro-batch together, as one of them sees them.

    Args:
        policy: which computes; one that ``check_sequence_parts`` lets pass. Its solutions share no prompts any more.
        size: how many there are: ranks 0 to ``size`` - 1, and so on. All ranks make theirs together.
        timeout: of their operations.
    """

    def __init__(self, policy: Policy, size: int, timeout: Any) -> None:
        from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

        self._policy, self.size = policy, size
        policy.sharing = None
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        groups = [
            torch.distributed.new_group(list(range(first, first + size)), timeout=timeout)
            for first in range(0, world, size)
        ]
        self._index, self._group = rank % size, groups[rank // size]
        config = policy.lm.config.get_text_config()
        heads = config.num_attention_heads
        self._exchange = UlyssesSPAttentionHF(
            ALL_ATTENTION_FUNCTIONS[ATTENTION],
            batch_size=1,
            attn_head_count=heads,
            attn_head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            kv_head_count=config.num_key_value_heads,
            num_hidden_layers=config.num_hidden_layers,
            process_group=self._group,
            seq_length_is_variable=True,
        )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around forward and backward pass of a micro-batch, which is the same on these processes."""
        plain = ALL_ATTENTION_FUNCTIONS[ATTENTION]
        # transformers looks the function up in each layer, and in a backward pass that recomputes them too.
        ALL_ATTENTION_FUNCTIONS[ATTENTION] = self._attend
        self._policy.decode_rows = self._decode
        try:
            yield
        finally:
            self._policy.decode_rows = None
            ALL_ATTENTION_FUNCTIONS[ATTENTION] = plain

    def _attend(self, module: nn.Module, query: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Attention over all places, of which each process gives its own and gets its own."""
        exchange, (key, value, _, *rest) = self._exchange, args
        exchange.batch_size = len(query)
        for name in ("required_query_shape", "required_key_value_shape", "required_context_shape"):
            places, _, *width = getattr(exchange, name)
            setattr(exchange, name, torch.Size([places, len(query), *width]))
        # Transformers' mask is that of this process's places, and attention to all places in front needs none.
        found: tuple[Tensor, Tensor | None] = exchange(module, query, key, value, None, *rest, **options)
        return found

    def _decode(self, decode: Callable[..., tuple[Tensor, Any]], input_ids: Tensor) -> Tensor:
        """Hidden states [B, L, D] of right-padded rows [B, L], this process's part of them computed by it."""
        width = input_ids.shape[1]
        share = -(-width // self.size)
        # What fills the last part up lies behind every token, and none looks at it.
        filled = nn.functional.pad(input_ids, (0, share * self.size - width))
        positions = torch.arange(share * self.size, device=input_ids.device).expand(filled.shape)
        own = slice(self._index * share, (self._index + 1) * share)
        hidden, _ = decode(filled[:, own], positions[:, own])
        return _AllParts.apply(hidden, self._group, self._index, self.size)[:, :width]


class _AllParts(torch.autograd.Function):
    """Parts [B, l, D] of all processes, one behind the other.

    All of them go on with the same loss, each with 1 / size of it: so the gradient of the whole loss by this process's
    part is size times its own.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Any, index: int, size: int) -> Tensor:
        ctx.index, ctx.size = index, size
        parts = [torch.empty_like(part) for _ in range(size)]
        torch.distributed.all_gather(parts, part.contiguous(), group=group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0].chunk(ctx.size, dim=1)[ctx.index] * ctx.size, None, None, None


def check_sequence_parts(module: Any, size: int, world_size: int) -> Policy:
    """Refuse what cannot be computed in parts, before the first step.

    Args:
        module: the LightningModule.
        size: processes that compute a micro-batch together.
        world_size: all processes.

    Returns:
        The policy that is trained.

    Raises:
        UserError: with the reason.
    """
    if size < 1 or world_size % size:
        raise UserError(f"{KEY} is {size}, and has to divide the number of processes, which is {world_size}.")
    if not hasattr(module, "aligned_batches"):
        raise UserError(f"{KEY} is for the updates of LaSeRModule, and the module is {type(module).__name__}.")
    policy: Policy = module.policy
    config = policy.lm.config.get_text_config()
    if config._attn_implementation != ATTENTION or policy.packs or module.policy_settings.compile:
        raise UserError(
            f"{KEY} needs policy.attention sdpa, without policy.packing and policy.compile: the exchange stands in its "
            "place, and takes each sequence in a row of its own."
        )
    if why := sharing_obstacle(policy.lm):
        raise UserError(f"{KEY} needs attention of all tokens to all in front of them, and {why}.")
    for name in ("num_attention_heads", "num_key_value_heads"):
        if getattr(config, name) % size:
            raise UserError(f"{KEY} is {size}, and has to divide the model's {name}, {getattr(config, name)}.")
    if module.objective.needs_routers:
        raise UserError(f"{KEY} has no balance of experts over whole sequences: set update.router_aux_loss to 0.")
    if policy.shares_always:
        raise UserError(f"{KEY} computes each solution's prompt by itself: set policy.shared_prompts to auto or never.")
    return policy
