"""A key-value cache of constant shape, written in place where a tensor says: what compiled steps of decoding need."""

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import StaticLayer

from laser_lightning.rollout.transformers.cache import GrowingCache, GrowingLayer


class RingLayer(StaticLayer):
    """Full attention over all columns of a ring; the mask says which of them hold a row's tokens.

    Args:
        keys: [B, H, C, D].
        values: [B, H, C, D'].
        column: [1] int64, where the next token is written. A tensor, since a graph would keep a number as it was.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys, self.values, self.column, self.is_initialized = keys, values, column, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the states [B, H, 1, D] of one token; return all columns."""
        self.keys.index_copy_(2, self.column, key_states)
        self.values.index_copy_(2, self.column, value_states)
        return self.keys, self.values


class RingCache:
    """Keys and values of a running batch in tensors that stay where they are, as captured graphs need it.

    As in ``GrowingCache``, rows end in the same column, that of the last token. Behind the last column comes the first
    again, over tokens that no row needs any more: attention does not ask for the order of its keys, which hold their
    own positions, so nothing ever has to move to the left.

    Args:
        like: a cache of the same model that has seen tokens, for numbers of heads, sizes, dtype and device.
        rows: most rows, B.
        columns: most tokens of a row, C.
    """

    def __init__(self, like: GrowingCache, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.states = [states.new_zeros(rows, states.shape[1], columns, states.shape[3]) for states in _states(like)]
        self.column = torch.zeros(1, dtype=torch.long, device=self.states[0].device)
        torch._dynamo.mark_static_address(self.column)
        self._parts: dict[int, Cache] = {}
        self._next = 0  # the column of the token that comes next

    def fits(self, like: GrowingCache, rows: int, columns: int) -> bool:
        """Whether a new ring would be no other than this one, but for more rows."""
        kinds = [[(s.shape[1], s.shape[3], s.dtype, s.device) for s in all_] for all_ in (self.states, _states(like))]
        return kinds[0] == kinds[1] and columns == self.columns and rows <= self.rows

    def clear(self) -> None:
        """Forget all tokens. Masked places are 0 then, since NaN of damaged weights times a weight of 0 is NaN."""
        for states in self.states:
            states.zero_()

    def add(self, cache: GrowingCache, row: int, repeats: int) -> None:
        """Write the rows of another cache from ``row`` on, each ``repeats`` times; all end in the same column."""
        rows = cache.rows * repeats
        for states, added in zip(self.states, _states(cache), strict=True):
            # Columns below 0 count from the end, which is where a ring goes on.
            columns = torch.arange(self._next - added.shape[2], self._next, device=added.device)
            states[row : row + rows].unflatten(0, (cache.rows, repeats))[:, :, :, columns] = added[:, None]

    def move(self, rows: Tensor) -> None:
        """Make row ``rows[i]`` [B'] row i. Only rows that change their place are copied."""
        targets = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(-1)
        for states in self.states:
            states[targets] = states[rows[targets]]

    def advance(self) -> None:
        """Go to the next column, where the next step writes."""
        self.column.fill_(self._next)
        self._next = (self._next + 1) % self.columns

    def part(self, rows: int) -> Cache:
        """The first rows, as a model takes them; the very same object each time."""
        if rows not in self._parts:
            # Slices along the first axis share their addresses, so that graphs of all sizes work on one memory.
            parts = [states[:rows] for states in self.states]
            for states in parts:
                torch._dynamo.mark_static_address(states)  # else CUDA graphs would copy them in every step
            pairs = zip(parts[::2], parts[1::2], strict=True)
            self._parts[rows] = Cache(layers=[RingLayer(keys, values, self.column) for keys, values in pairs])
        return self._parts[rows]


def _states(cache: GrowingCache) -> list[Tensor]:
    """Keys and values [B, H, L, D] of the layers in turn."""
    layers = [layer for layer in cache.layers if isinstance(layer, GrowingLayer) and layer.is_initialized]
    return [buffer.states for layer in layers for buffer in (layer.key_buffer, layer.value_buffer)]
