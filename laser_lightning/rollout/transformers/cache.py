"""A key-value cache that is written in place: a step of decoding adds its token and copies nothing else."""

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from laser_lightning.errors import UserError

LEAST_ROOM = 64  # tokens
_NAMES = ("cache", "past_key_values")


def has_cache_argument(decoder: nn.Module) -> bool:
    """Whether a decoder takes a cache of keys and values, and does not ignore one."""
    known = inspect.signature(type(decoder).forward).parameters  # of what decorators of transformers wrap
    return any(name in known for name in _NAMES)


def cache_argument(decoder: nn.Module) -> str:
    """The name under which a decoder takes its cache: ``cache``, or ``past_key_values`` before transformers 5.24.

    Raises:
        UserError: if it knows neither, and would take a cache for an argument to ignore.
    """
    known = inspect.signature(type(decoder).forward).parameters  # of what decorators of transformers wrap
    for name in _NAMES:
        if name in known:
            return name
    raise UserError(
        f"{type(decoder).__name__} takes no cache of keys and values (its `forward` has neither `cache` nor "
        "`past_key_values`), so its past cannot be kept: set engine.use_cache to false."
    )


@dataclass
class Room:
    """How large the tensors of a cache become, which may change while it is in use.

    Attributes:
        columns: most tokens of a row, prompt and response; no room is made for more.
        rows: room is made for at least so many, so that others can take the places of those dropped.
    """

    columns: int
    rows: int = 0


class GrowingCache(DynamicCache):
    """A DynamicCache for a running batch, whose attention layers have room for more tokens and rows.

    transformers' own layers copy all keys and values for every token. Layers of other types (linear attention, ...) are
    transformers' own here too.

    Rows end in the same column, that of the last token, and may begin in any: the attention mask says where.

    Args:
        config: the model's.
        rows: rows of the first forward pass.
        room: how large the layers become.
    """

    def __init__(self, config: PretrainedConfig, rows: int, room: Room) -> None:
        super().__init__(config=config)
        self.rows = rows
        for index, layer in enumerate(self.layers):
            if type(layer) is DynamicLayer:
                self.layers[index] = GrowingLayer(room)
            elif type(layer) is DynamicSlidingWindowLayer:
                self.layers[index] = GrowingSlidingWindowLayer(layer.sliding_window, room)

    @property
    def only_attention(self) -> bool:
        """Whether every layer keeps nothing but keys and values: then rows can be added, and columns cut off."""
        return all(isinstance(layer, GrowingLayer) for layer in self.layers)

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

    def add_rows(self, other: "GrowingCache", repeats: int) -> None:
        """Put the rows of another cache behind these, each ``repeats`` times; all end in the same column.

        Columns in front of a row are 0. Needs ``only_attention``.
        """
        for layer, added in zip(self.layers, other.layers, strict=True):
            assert isinstance(layer, GrowingLayer)
            assert isinstance(added, GrowingLayer)
            layer.add_rows(added, repeats)
        self.rows += other.rows * repeats

    def cut(self, length: int) -> None:
        """Keep the last ``length`` columns. Copies nothing. Needs ``only_attention``."""
        for layer in self.layers:
            assert isinstance(layer, GrowingLayer)
            layer.cut(length)


class _Buffer:
    """States [B, H, L, D] that grow along L, inside a tensor with room at its end."""

    def __init__(self, states: Tensor, room: Room) -> None:
        # Without room: the prompts' states are repeated for the groups next, which makes room.
        self.data, self.room = states, room
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

    def renew(self, room: int = 0, repeats: int = 1, more_rows: int = 0, in_front: int = 0) -> None:
        """Move to a new tensor with more room, each row ``repeats`` times and ``in_front`` columns of 0 before it."""
        rows, heads, length, size = self.states.shape
        columns = in_front + length
        # A share of the length, so that moving costs each token the same, however long the sequence becomes.
        columns += max(room, min(max(LEAST_ROOM, columns // 4), self.room.columns - columns))
        data = self.data.new_empty(max(rows * repeats + more_rows, self.room.rows), heads, columns, size)
        repeated = data[: rows * repeats].view(rows, repeats, heads, columns, size)
        repeated[:, :, :, :in_front] = 0
        repeated[:, :, :, in_front : in_front + length] = self.states[:, None]
        self.data, self.rows, self.start, self.end = data, rows * repeats, 0, in_front + length

    def add_rows(self, other: "_Buffer", repeats: int) -> None:
        rows, _, length, _ = other.states.shape
        in_front = max(length - (self.end - self.start), 0)
        if in_front > self.start or self.rows + rows * repeats > self.data.shape[0]:
            self.renew(more_rows=rows * repeats, in_front=in_front)
        else:
            self.start -= in_front
            self.states[:, :, :in_front] = 0
        added = self.data[self.rows : self.rows + rows * repeats, :, self.start : self.end]
        unused = self.end - self.start - length
        added[:, :, :unused] = 0  # masked, but NaN times a weight of 0 would be NaN
        added.unflatten(0, (rows, repeats))[:, :, :, unused:] = other.states[:, None]
        self.rows += rows * repeats

    def cut(self, length: int) -> None:
        self.start = max(self.start, self.end - length)

    def move(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        self.states[targets] = self.states[sources]
        self.rows = rows


class GrowingLayer(DynamicLayer):
    """Full attention: the keys and values of all tokens."""

    key_buffer: _Buffer
    value_buffer: _Buffer

    def __init__(self, room: Room) -> None:
        super().__init__()
        self.room = room

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add states [B, H, L, D]; return all."""
        if self.is_initialized:
            states = self.key_buffer.append(key_states), self.value_buffer.append(value_states)
        else:
            self.lazy_initialization(key_states, value_states)
            states = key_states, value_states
            self.key_buffer, self.value_buffer = (_Buffer(new, self.room) for new in states)
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

    def add_rows(self, other: "GrowingLayer", repeats: int) -> None:
        """Put the rows of another layer behind these, each ``repeats`` times."""
        if self.is_initialized:
            self.key_buffer.add_rows(other.key_buffer, repeats)
            self.value_buffer.add_rows(other.value_buffer, repeats)
            self.show()

    def cut(self, length: int) -> None:
        """Keep the last ``length`` columns."""
        if self.is_initialized:
            self.key_buffer.cut(length)
            self.value_buffer.cut(length)
            self.show()


class GrowingSlidingWindowLayer(GrowingLayer, DynamicSlidingWindowLayer):
    """Attention within a window: the keys and values of the last ``sliding_window`` - 1 tokens."""

    def __init__(self, sliding_window: int, room: Room) -> None:
        DynamicSlidingWindowLayer.__init__(self, sliding_window)
        self.room = room

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

    def add_rows(self, other: GrowingLayer, repeats: int) -> None:
        """Put the rows of another layer behind these, each ``repeats`` times."""
        super().add_rows(other, repeats)
        self.cumulative_length = max(self.cumulative_length, other.get_seq_length())

    def cut(self, length: int) -> None:
        """Keep the last ``length`` columns."""
        super().cut(length)
        self.cumulative_length = min(self.cumulative_length, length)
