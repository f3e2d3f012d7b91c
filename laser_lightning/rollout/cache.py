"""A key-value cache that is written in place: a step of decoding adds its token and copies nothing else."""

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

LEAST_ROOM = 64  # tokens


class GrowingCache(DynamicCache):
    """A DynamicCache for one batch of decoding, whose attention layers have room for more tokens.

    transformers' own layers copy all keys and values for every token. Layers of other types (linear attention, ...) are
    transformers' own here too.

    Args:
        config: the model's.
        rows: rows of the first forward pass.
        max_length: tokens of the longest row, prompt and response; no room is made for more.
    """

    def __init__(self, config: PretrainedConfig, rows: int, max_length: int) -> None:
        super().__init__(config=config)
        self.rows = rows
        for index, layer in enumerate(self.layers):
            if type(layer) is DynamicLayer:
                self.layers[index] = GrowingLayer(max_length)
            elif type(layer) is DynamicSlidingWindowLayer:
                self.layers[index] = GrowingSlidingWindowLayer(layer.sliding_window, max_length)

    @property
    def only_full_attention(self) -> bool:
        """Whether every layer sees all tokens, and keeps nothing but keys and values."""
        return all(type(layer) is GrowingLayer for layer in self.layers)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        for layer in self.layers:
            if isinstance(layer, GrowingLayer):
                layer.batch_repeat_interleave(repeats)
            else:  # the one operation on rows that layers of all types have
                layer.reorder_cache(torch.arange(self.rows).repeat_interleave(repeats))  # type: ignore[arg-type]
        self.rows *= repeats

    def batch_select_indices(self, indices: Tensor) -> None:
        """Make row ``indices[i]`` of the batch row i, and drop the others.

        Only rows that change their place are copied.

        Args:
            indices: [B'] int64, at most as many as there are rows.
        """
        targets = (indices != torch.arange(len(indices), device=indices.device)).nonzero().squeeze(-1)
        sources = indices[targets]
        for layer in self.layers:
            if isinstance(layer, GrowingLayer):
                layer.move(sources, targets, len(indices))
            else:
                layer.reorder_cache(indices)  # type: ignore[arg-type]
        self.rows = len(indices)


class _Buffer:
    """States [B, H, L, D] that grow along L, inside a tensor with room at its end."""

    def __init__(self, states: Tensor, max_length: int) -> None:
        # Without room: the prompts' states are repeated for the groups next, which makes room.
        self.data, self.max_length = states, max_length
        self.rows, self.start, self.end = states.shape[0], 0, states.shape[2]

    @property
    def states(self) -> Tensor:
        return self.data[: self.rows, :, self.start : self.end]

    def append(self, states: Tensor) -> Tensor:
        """All states with these behind them."""
        added = states.shape[2]
        if self.end + added > self.data.shape[2]:
            self.renew(room=added)
        self.data[: self.rows, :, self.end : self.end + added] = states
        self.end += added
        return self.states

    def renew(self, room: int = 0, repeats: int = 1) -> None:
        """Move to a new tensor with more room, each row ``repeats`` times."""
        rows, heads, length, size = self.states.shape
        # A share of the length, so that moving costs each token the same, however long the sequence becomes.
        room = max(room, min(max(LEAST_ROOM, length // 4), self.max_length - length))
        data = self.data.new_empty(rows * repeats, heads, length + room, size)
        data.view(rows, repeats, heads, length + room, size)[:, :, :, :length] = self.states[:, None]
        self.data, self.rows, self.start, self.end = data, rows * repeats, 0, length

    def move(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        self.states[targets] = self.states[sources]
        self.rows = rows


class GrowingLayer(DynamicLayer):
    """Full attention: the keys and values of all tokens."""

    key_buffer: _Buffer
    value_buffer: _Buffer

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add states [B, H, L, D]; return all."""
        if self.is_initialized:
            states = self.key_buffer.append(key_states), self.value_buffer.append(value_states)
        else:
            self.lazy_initialization(key_states, value_states)
            states = key_states, value_states
            self.key_buffer, self.value_buffer = (_Buffer(new, self.max_length) for new in states)
        self.show()
        return states

    def show(self) -> None:
        """Put the states where transformers looks for them."""
        self.keys, self.values = self.key_buffer.states, self.value_buffer.states

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        if self.is_initialized:  # not so where layers share one cache
            self.key_buffer.renew(repeats=repeats)
            self.value_buffer.renew(repeats=repeats)
            self.show()

    def move(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        """Copy rows ``sources`` over ``targets`` and keep the first ``rows``."""
        if self.is_initialized:
            self.key_buffer.move(sources, targets, rows)
            self.value_buffer.move(sources, targets, rows)
            self.show()


class GrowingSlidingWindowLayer(GrowingLayer, DynamicSlidingWindowLayer):
    """Attention within a window: the keys and values of the last ``sliding_window`` - 1 tokens."""

    def __init__(self, sliding_window: int, max_length: int) -> None:
        DynamicSlidingWindowLayer.__init__(self, sliding_window)
        self.max_length = max_length

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add states [B, H, L, D]; return those kept before and these."""
        states = super().update(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        for buffer in (self.key_buffer, self.value_buffer):
            buffer.start = max(buffer.start, buffer.end - self.sliding_window + 1)
        self.show()
        return states
