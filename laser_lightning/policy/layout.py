"""How the tokens of a micro-batch lie in a forward pass: a row for each sequence, all in one row, or in trees."""

from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.records.batching import MicroBatch, length_mask
from laser_lightning.shapes import Bool, Int


class Layout(NamedTuple):
    """The tokens of B sequences in rows.

    Attributes:
        input_ids: [rows, width] int64.
        positions: [rows, width] int64, each token's in its sequence; None where that is its place in the row.
        mask: [rows, 1, width, width] bool, which places each place sees; None for those of its own sequence in front.
        places: [B, L] int64, where each token of a sequence lies in the flattened rows; those behind its last one hold
            no meaning.
    """

    input_ids: Int[Tensor, "rows width"]
    positions: Int[Tensor, "rows width"] | None
    mask: Bool[Tensor, "rows 1 width width"] | None
    places: Int[Tensor, "B L"]


def lay_out(batch: MicroBatch, pad_token_id: int, packed: bool) -> Layout:
    """Lay a micro-batch out as it says, and as the policy wants it.

    Args:
        batch: B sequences; with ``trees``, solutions of a tree share its prompt.
        pad_token_id: fills unused places.
        packed: in one row without padding.
    """
    if batch.trees is not None:
        return _in_trees(batch, batch.trees, pad_token_id, packed)
    ids = batch.input_ids
    places = torch.arange(ids.shape[1], device=ids.device)
    if not packed:
        starts = torch.arange(len(ids), device=ids.device) * ids.shape[1]
        return Layout(ids, None, None, starts[:, None] + places)
    lengths = batch.prompt_lengths + batch.response_lengths
    mask = length_mask(lengths, ids.shape[1])
    # Where positions begin anew, transformers keeps attention from looking across.
    positions = places.expand(mask.shape)[mask][None]
    return Layout(ids[mask][None], positions, None, (lengths.cumsum(0) - lengths)[:, None] + places)


def _in_trees(batch: MicroBatch, trees: Tensor, pad_token_id: int, packed: bool) -> Layout:
    """Each tree is its prompt and, behind it, the responses one after the other, whose positions go on from the
    prompt's::

        prompt and response   A B C d e   A B C f        tree        A B C d e f
        positions             0 1 2 3 4   0 1 2 3        positions   0 1 2 3 4 3
        f sees                                           f sees      x x x     x

    Args:
        batch: solutions of a tree are next to each other.
        trees: [B] int64, their numbers 0, 1, ... in order.
        pad_token_id: fills unused places.
        packed: trees lie in one row, else in one each.
    """
    device, count = trees.device, int(trees[-1]) + 1
    solutions = torch.arange(len(trees), device=device)
    responses = batch.response_lengths
    tokens = responses.new_zeros(count).index_add(0, trees, responses)
    before = responses.cumsum(0) - responses - (tokens.cumsum(0) - tokens)[trees]  # in the same tree
    prompts = torch.zeros_like(tokens).index_copy(0, trees, batch.prompt_lengths)
    sizes = prompts + tokens
    rows, width = (1, int(sizes.sum())) if packed else (count, int(sizes.max()))
    starts = sizes.cumsum(0) - sizes if packed else torch.arange(count, device=device) * width
    positions = torch.arange(batch.input_ids.shape[1], device=device).expand(batch.input_ids.shape)
    is_response = positions >= batch.prompt_lengths[:, None]
    places = starts[trees][:, None] + positions + before[:, None] * is_response
    filled = length_mask(batch.prompt_lengths + responses, positions.shape[1])

    def spread(values: Tensor, empty: int) -> Tensor:
        """[rows, width] values of the tokens [B, L]; solutions of a tree have the same ones for its prompt."""
        flat = torch.full((rows * width,), empty, dtype=torch.long, device=device)
        flat[places[filled]] = values[filled]
        return flat.view(rows, width)

    tree = spread(trees[:, None].expand(positions.shape), -1)
    response = spread(solutions[:, None].expand(positions.shape).where(is_response, -1), -2)
    in_sight = (response[:, None, :] == -1) | (response[:, None, :] == response[:, :, None])
    mask = (in_sight & (tree[:, None, :] == tree[:, :, None])).tril()  # padding sees padding: softmax wants something
    return Layout(spread(batch.input_ids, pad_token_id), spread(positions, 0), mask[:, None], places)
