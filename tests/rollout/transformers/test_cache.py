"""The cache written in place against transformers' own, which copies everything for every token."""

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, Gemma2Config, Lfm2Config, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer
from laser_lightning.rollout.transformers import cache as module
from laser_lightning.rollout.transformers.cache import (
    GrowingCache,
    GrowingLayer,
    GrowingSlidingWindowLayer,
    Room,
    cache_argument,
)


def hidden_states(lm: PreTrainedModel, cache: DynamicCache, pad: int) -> list[torch.Tensor]:
    """Prefill 2 prompts, repeat them 3 times, and decode 12 steps in which rows are dropped and change places."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
    mask = torch.ones(2, 6 + 12, dtype=torch.bool)
    mask[0, :pad] = False
    rows, outputs = torch.arange(2).repeat_interleave(3), []
    # 6 rows; then 5, row 5 in the place of row 1; then 4, in order; then 2, the last ones; and the same two once more
    selections = {2: [0, 5, 2, 3, 4], 5: [0, 1, 2, 3], 6: [3, 2], 9: [0, 1]}
    for step in range(13):
        width = 6 + step
        if step == 1:
            cache.batch_repeat_interleave(3)
            ids = torch.arange(20, 26)[:, None]
        if step in selections:
            kept = torch.tensor(selections[step])
            cache.batch_select_indices(kept)
            ids, rows = ids[kept], rows[kept]
        seen = mask[rows if step else [0, 1], :width]
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with torch.no_grad():
            decoder = lm.get_decoder()
            past = {cache_argument(decoder): cache}
            output = decoder(input_ids=ids, attention_mask=seen, position_ids=positions, use_cache=True, **past)
            outputs.append(output.last_hidden_state[:, -1])
        if step:
            ids = (ids + 7) % 90
    return outputs


@pytest.mark.parametrize("room", [1, 2, 5, 64])
@pytest.mark.parametrize("pad", [0, 2])
def test_a_model_sees_the_same_as_with_the_cache_of_transformers(
    family: tuple[Path, float], monkeypatch: pytest.MonkeyPatch, room: int, pad: int
) -> None:
    monkeypatch.setattr(module, "LEAST_ROOM", room)
    settings = PolicySettings(path=str(family[0]))
    lm = Policy(settings, load_tokenizer(settings)).lm.eval()
    ours = hidden_states(lm, GrowingCache(lm.config, 2, Room(18)), pad)
    theirs = hidden_states(lm, DynamicCache(config=lm.config), pad)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_layer_types(tiny_config: object) -> None:
    config = tiny_config(Gemma2Config, head_dim=16, sliding_window=4)  # type: ignore[operator]
    assert config.layer_types == ["sliding_attention", "full_attention"]
    cache = GrowingCache(config, 2, Room(10))
    assert [type(layer) for layer in cache.layers] == [GrowingSlidingWindowLayer, GrowingLayer]
    assert cache.layers[0].sliding_window == 4  # type: ignore[union-attr]
    assert cache.is_sliding == [True, False]
    assert not cache.only_full_attention
    assert GrowingCache(tiny_config(), 2, Room(10)).only_full_attention  # type: ignore[operator]
    # A layer of another type stays what it is.
    hybrid = GrowingCache(tiny_config(Lfm2Config, layer_types=["conv", "full_attention"]), 2, Room(10))  # type: ignore[operator]
    assert [type(layer) for layer in hybrid.layers] == [LinearAttentionLayer, GrowingLayer]
    assert not hybrid.only_full_attention


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (GrowingLayer(Room(300)), DynamicLayer()),
        (GrowingSlidingWindowLayer(5, Room(300)), DynamicSlidingWindowLayer(5)),
        (GrowingSlidingWindowLayer(100, Room(300)), DynamicSlidingWindowLayer(100)),
    ],
    ids=["full", "window-5", "window-100"],
)
def test_layers_return_the_states_of_transformers(ours: GrowingLayer, theirs: DynamicLayer) -> None:
    generator = torch.Generator().manual_seed(0)
    for step in range(200):  # through several renewals of 64 tokens
        shape = (2 if step == 0 else 6, 3, 7 if step == 0 else 1, 4)
        keys, values = torch.randn(2, *shape, generator=generator)
        assert ours.get_mask_sizes(shape[2]) == theirs.get_mask_sizes(shape[2])
        for mine, other in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
            assert torch.equal(mine, other)
        if step == 0:
            ours.batch_repeat_interleave(3)
            theirs.batch_repeat_interleave(3)
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
        assert ours.get_seq_length() == theirs.get_seq_length() == 7 + step


def test_a_token_is_written_in_place_and_room_is_made_for_no_more_than_there_can_be() -> None:
    layer = GrowingLayer(Room(100))
    layer.update(torch.zeros(1, 1, 10, 2), torch.zeros(1, 1, 10, 2))
    layer.batch_repeat_interleave(2)
    places, rooms = set(), set()
    for _ in range(90):
        layer.update(torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2))
        places.add((layer.keys.data_ptr(), layer.values.data_ptr()))
        rooms.add(layer.key_buffer.data.shape[2])
    # Room for 10 + 64 tokens after the prompt, then for min(74 + 64, 100).
    assert rooms == {74, 100}
    assert len(places) == 2


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_and_go_keep_their_states(
    monkeypatch: pytest.MonkeyPatch, window: int | None, seed: int
) -> None:
    """Against a list of the rows' own states; new memory holds NaN."""
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size: new_empty(self, *size).fill_(torch.nan))
    monkeypatch.setattr(module, "LEAST_ROOM", 6)
    generator = torch.Generator().manual_seed(seed)
    room = Room(columns=24, rows=7)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def prefilled(count: int, length: int) -> tuple[GrowingLayer, list[torch.Tensor]]:
        made = GrowingLayer(room) if window is None else GrowingSlidingWindowLayer(window, room)
        keys = torch.randn(count, 2, length, 3, generator=generator)
        made.update(keys, -keys)
        return made, list(keys)

    layer, rows = prefilled(2, 5)
    widened = 0
    for _ in range(60):
        for _ in range(draw(1, 4)):
            new = torch.randn(len(rows), 2, 1, 3, generator=generator)
            layer.update(new, -new)
            rows = [torch.cat((row, token), 1) for row, token in zip(rows, new, strict=True)]
        # Drop all rows of more than 12 tokens and perhaps others; some of the rest take their places.
        kept = [i for i, row in enumerate(rows) if row.shape[1] <= 12 and draw(0, 4)] or [len(rows) - 1]
        order = list(range(len(kept)))
        behind = [i for i in kept if i >= len(kept)]
        order = [i if i in kept else behind.pop() for i in order]
        moved = [i for i in order if i != order.index(i)]
        layer.move(
            torch.tensor(moved, dtype=torch.long), torch.tensor([order.index(i) for i in moved]).long(), len(kept)
        )
        rows = [rows[i] for i in order]
        longest = max(row.shape[1] for row in rows)
        layer.cut(longest)
        if len(rows) <= 5:
            length = draw(1, 13)
            widened += length > longest
            other, (prompt,) = prefilled(1, length)
            layer.add_rows(other, 2)
            rows += [prompt, prompt]
            longest = max(longest, length)
        assert layer.get_seq_length() == longest
        assert layer.keys.shape[:2] == (len(rows), 2)
        assert layer.keys.isfinite().all()
        assert torch.equal(layer.values, -layer.keys)
        for states, row in zip(layer.keys, rows, strict=True):
            seen = min(row.shape[1], states.shape[1])
            assert torch.equal(states[:, -seen:], row[:, -seen:])
        assert layer.key_buffer.data.shape[2] <= 24
        assert layer.keys.shape[2] == (longest if window is None else min(longest, window - 1))
    assert widened > 3


def test_the_cache_has_the_name_that_the_decoder_knows() -> None:
    class Old(torch.nn.Module):
        def forward(self, input_ids: object, past_key_values: object = None) -> None: ...

    class New(torch.nn.Module):
        def forward(self, input_ids: object, cache: object = None, **kwargs: object) -> None: ...

    class Neither(torch.nn.Module):
        def forward(self, input_ids: object, **kwargs: object) -> None: ...

    assert (cache_argument(Old()), cache_argument(New())) == ("past_key_values", "cache")
    with pytest.raises(UserError, match="Neither takes no cache of keys and values"):
        cache_argument(Neither())
