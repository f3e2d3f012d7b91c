"""Rollouts, the one data record that flows through a training step, and the micro-batches cut from them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from laser_lightning.errors import UserError
from laser_lightning.records.sharing import PromptSharing, number_prompts, plant_trees
from laser_lightning.shapes import Bool, Float, Int, Shaped


@dataclass
class Rollouts:
    """Sampled solutions of one round. N solutions of P prompts, the G solutions of a prompt next to each other.

    Every mask comes from lengths, never from token values.

    Attributes:
        prompt_ids: [P, Lp] int64, right-padded.
        prompt_lengths: [P] int64, in tokens.
        response_ids: [N, R] int64, right-padded; ``<eos>`` is a response token.
        response_lengths: [N] int64, in tokens.
        finished: [N] bool, True where the last token is one of the model's ``<eos>`` ids (also in the last
            allowed place), False where the response was cut at the length limit.
        sampling_log_probs: [N, R] float32, log-probs of the sampled tokens at the sampling temperature, before
            top-p, top-k and min-p.
        reward_token_log_probs: [N, K] float32, log pi(z given x, y) at temperature 1 of the K tokens that scores are
            made of; NaN where not finished.
        loss_mask: [N, R] bool, the response tokens that the policy is trained on: those that it sampled; None for all.
    """

    prompt_ids: Int[Tensor, "P Lp"]
    prompt_lengths: Int[Tensor, " P"]
    response_ids: Int[Tensor, "N R"]
    response_lengths: Int[Tensor, " N"]
    finished: Bool[Tensor, " N"]
    sampling_log_probs: Float[Tensor, "N R"]
    reward_token_log_probs: Float[Tensor, "N K"]
    loss_mask: Bool[Tensor, "N R"] | None = None

    def __len__(self) -> int:
        return self.response_ids.shape[0]

    @property
    def group_size(self) -> int:
        """Solutions per prompt, G."""
        return len(self) // self.prompt_ids.shape[0]

    @property
    def response_mask(self) -> Bool[Tensor, "N R"]:
        """[N, R] bool: which places hold response tokens."""
        return length_mask(self.response_lengths, self.response_ids.shape[1])

    @property
    def trained_mask(self) -> Bool[Tensor, "N R"]:
        """[N, R] bool: which places hold response tokens that the policy is trained on."""
        return self.response_mask if self.loss_mask is None else self.response_mask & self.loss_mask

    @property
    def finite_log_probs(self) -> Float[Tensor, "N R"]:
        """[N, R] ``sampling_log_probs`` with 0 for those that are no numbers, which no loss may look at."""
        return self.sampling_log_probs.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    @property
    def non_finite(self) -> Int[Tensor, " N"]:
        """[N] int64: log-probs that are no numbers, of response tokens and of what is read behind an ``<eos>``."""
        of_tokens = ~self.sampling_log_probs.isfinite() & self.response_mask
        read = ~self.reward_token_log_probs.isfinite() & self.finished[:, None]
        return of_tokens.sum(dim=1) + read.sum(dim=1)

    def responses(self) -> list[list[int]]:
        """Token ids of every response, without padding."""
        rows, lengths = self.response_ids.tolist(), self.response_lengths.tolist()
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def select(self, prompts: Int[Tensor, " M"] | Bool[Tensor, " P"]) -> "Rollouts":
        """The solutions of some prompts alone, in their order: [M] their numbers, or [P] bool."""
        prompts = numbers_of(prompts, len(self.prompt_ids))
        rows = (prompts[:, None] * self.group_size + torch.arange(self.group_size, device=prompts.device)).flatten()
        of_prompts = {name: getattr(self, name)[prompts] for name in ("prompt_ids", "prompt_lengths")}
        of_solutions = (f.name for f in fields(self) if f.name not in (*of_prompts, "loss_mask"))
        loss_mask = None if self.loss_mask is None else self.loss_mask[rows]
        return Rollouts(**of_prompts, **{name: getattr(self, name)[rows] for name in of_solutions}, loss_mask=loss_mask)

    def to(self, device: torch.device) -> "Rollouts":
        """The same N solutions on a device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "loss_mask"}
        return Rollouts(**moved, loss_mask=None if self.loss_mask is None else self.loss_mask.to(device))

    def ungrouped(self) -> "Rollouts":
        """The same N solutions as N groups of one, each with a prompt of its own."""
        group_size = self.group_size
        return replace(
            self,
            prompt_ids=self.prompt_ids.repeat_interleave(group_size, dim=0),
            prompt_lengths=self.prompt_lengths.repeat_interleave(group_size),
        )

    def contains(self, token_id: int) -> Bool[Tensor, " N"]:
        """[N] bool: responses in which this token was sampled."""
        return ((self.response_ids == token_id) & self.response_mask).any(dim=1)


def numbers_of(chosen: Int[Tensor, " M"] | Bool[Tensor, " size"], size: int) -> Int[Tensor, " chosen"]:
    """[M] the numbers of the chosen ones of a list: as given, or those that a mask [size] is True for.

    Raises:
        ValueError: the mask has another size.
    """
    if chosen.dtype != torch.bool:
        return chosen
    if chosen.shape != (size,):
        raise ValueError(f"A mask of shape {tuple(chosen.shape)} does not fit a list of {size}.")
    return chosen.nonzero().flatten()


def concat_solutions(parts: Sequence[Rollouts]) -> Rollouts:
    """Several rollouts with groups of one size as one, right-padded to the widest."""
    names = [f.name for f in fields(Rollouts) if f.name != "loss_mask"]
    all_trained = all(part.loss_mask is None for part in parts)
    return Rollouts(
        **{name: stacked([getattr(part, name) for part in parts]) for name in names},
        loss_mask=None if all_trained else stacked([part.trained_mask for part in parts]),
    )


def append_responses(rollouts: Rollouts, rows: Sequence[int], more: Rollouts, pad: int) -> None:
    """Let some of N responses go on.

    Args:
        rollouts: the N; changed in place.
        rows: M of them.
        more: M responses, which follow theirs.
        pad: id that fills unused places.
    """
    device, responses = rollouts.response_ids.device, rollouts.responses()
    log_probs = [row[: len(ids)] for row, ids in zip(rollouts.sampling_log_probs, responses, strict=True)]
    for place, (row, ids) in enumerate(zip(rows, more.responses(), strict=True)):
        responses[row] = responses[row] + ids
        log_probs[row] = torch.cat((log_probs[row], more.sampling_log_probs[place, : len(ids)]))
    response_ids, lengths = pad_rows(responses, pad)
    rollouts.response_ids, rollouts.response_lengths = response_ids.to(device), lengths.to(device)
    rollouts.sampling_log_probs = nn.utils.rnn.pad_sequence(log_probs, batch_first=True)
    rollouts.finished[rows] = more.finished
    rollouts.reward_token_log_probs[rows] = more.reward_token_log_probs


def stacked(parts: Sequence[Shaped[Tensor, "_ ..."]]) -> Shaped[Tensor, " N"] | Shaped[Tensor, "N width"]:
    """The rows of several tensors [N] or [N, width], right-padded with 0 to the widest."""
    if parts[0].ndim == 1:
        return torch.cat(list(parts))
    width = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


def length_mask(lengths: Int[Tensor, " B"], width: int) -> Bool[Tensor, "B {width}"]:
    """[B, width] bool, True at the first ``lengths[b]`` places of row b."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def pad_rows(
    rows: Sequence[Sequence[int]], pad: int, left: bool = False
) -> tuple[Int[Tensor, "B longest"], Int[Tensor, " B"]]:
    """Stack ragged rows of token ids into [B, longest] int64, with their lengths [B]."""
    width = max((len(row) for row in rows), default=0)
    filled = [[pad] * (width - len(r)) + list(r) if left else list(r) + [pad] * (width - len(r)) for r in rows]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return torch.tensor(filled, dtype=torch.long).view(len(rows), width), lengths


@dataclass
class MicroBatch:
    """Some of a rollout's solutions as right-padded sequences prompt + response, ready for a forward pass.

    Attributes:
        rows: [B] int64, which solutions of the rollouts these are.
        input_ids: [B, L] int64.
        prompt_lengths: [B] int64.
        response_lengths: [B] int64.
        loss_mask: [B, R] bool, the response tokens that are trained on.
        trees: [B] int64, ascending from 0: solutions with the same number, which are next to each other, have the same
            prompt, and it is computed once for them; None for each alone.
    """

    rows: Int[Tensor, " B"]
    input_ids: Int[Tensor, "B L"]
    prompt_lengths: Int[Tensor, " B"]
    response_lengths: Int[Tensor, " B"]
    loss_mask: Bool[Tensor, "B R"]
    trees: Int[Tensor, " B"] | None = None

    @property
    def response_mask(self) -> Bool[Tensor, "B R"]:
        """[B, R] bool over the R places of the longest response here."""
        return length_mask(self.response_lengths, int(self.response_lengths.max()))

    @property
    def response_ids(self) -> Int[Tensor, "B R"]:
        """[B, R] int64 response tokens; places behind a response hold no meaning."""
        places = self.prompt_lengths[:, None] + torch.arange(self.loss_mask.shape[1], device=self.rows.device)
        return self.input_ids.gather(1, places.clamp(max=self.input_ids.shape[1] - 1))

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on another device."""
        held = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return MicroBatch(**{name: value.to(device) for name, value in held.items()})


def micro_batches(
    rollouts: Rollouts,
    rows: Int[Tensor, " M"],
    token_budget: int,
    pad_token_id: int,
    packed: bool = False,
    at_least: int = 1,
    sharing: PromptSharing | None = None,
) -> list[MicroBatch]:
    """Cut solutions into micro-batches of at most ``token_budget`` places.

    Solutions are sorted by length first, so that little of the budget goes into padding. The order within the
    result is a function of the lengths, and with ``sharing`` of which prompts are equal, alone.

    Args:
        rollouts: the solutions.
        rows: [M] int64, the solutions to take.
        token_budget: largest number of places in a micro-batch.
        pad_token_id: fills unused places.
        packed: the forward pass leaves padding out: places are tokens, and not rows times the longest sequence.
        at_least: micro-batches to make, as equal in places as can be; fewer only where there are fewer solutions, or
            trees of them.
        sharing: solutions of the same prompt lie in trees, which are the sequences then; None for each alone.

    Raises:
        UserError: if a single sequence is longer than the budget.
    """
    prompts = rows // rollouts.group_size
    prompt_lengths, response_lengths = rollouts.prompt_lengths[prompts], rollouts.response_lengths[rows]
    lengths = prompt_lengths + response_lengths
    if len(rows) and int(lengths.max()) > token_budget:
        raise UserError(
            f"A sequence of {int(lengths.max())} tokens does not fit into update.micro_batch_tokens = {token_budget}: "
            "raise it, or lower sampling.max_response_tokens or data.max_prompt_tokens."
        )
    if sharing is not None:
        prompts = number_prompts(rollouts.prompt_ids, rollouts.prompt_lengths)[prompts]
    known = prompts.tolist(), prompt_lengths.tolist(), response_lengths.tolist()
    trees = sorted(plant_trees(*known, sharing, token_budget), key=lambda tree: -tree.tokens)
    tokens = [tree.tokens for tree in trees]
    sizes = _sizes(tokens, token_budget, packed)
    if sizes and at_least > 1:
        sizes = _even_sizes(tokens, token_budget, packed, min(max(at_least, len(sizes)), len(trees)))
    trained = rollouts.trained_mask
    batches, ends = [], list(accumulate(sizes))
    for start, end in pairwise((0, *ends)):
        of_batch = trees[start:end]
        chosen = torch.tensor([number for tree in of_batch for number in tree.solutions], device=rows.device)
        of_trees = [number for number, tree in enumerate(of_batch) for _ in tree.solutions]
        batches.append(
            MicroBatch(
                rows[chosen],
                join_solutions(rollouts, rows[chosen], int(lengths[chosen].max()), pad_token_id),
                prompt_lengths[chosen],
                response_lengths[chosen],
                trained[rows[chosen], : int(response_lengths[chosen].max())],
                torch.tensor(of_trees, device=rows.device) if len(of_trees) > len(of_batch) else None,
            )
        )
    return batches


def _sizes(lengths: list[int], budget: int, packed: bool) -> list[int]:
    """How many of the sequences, longest first, go into each micro-batch when each is filled up to the budget."""
    sizes: list[int] = []
    places = longest = 0
    for length in lengths:
        places += length if packed else longest
        if not sizes or places > budget:
            sizes.append(0)
            places = longest = length
        sizes[-1] += 1
    return sizes


def _even_sizes(lengths: list[int], budget: int, packed: bool, parts: int) -> list[int]:
    """The same for a given number of micro-batches, whose largest is as small as can be."""
    low = lengths[0]
    while low < budget:  # the smallest budget that needs no more parts
        middle = (low + budget) // 2
        if len(_sizes(lengths, middle, packed)) > parts:
            low = middle + 1
        else:
            budget = middle
    sizes = _sizes(lengths, budget, packed)
    while len(sizes) < parts:
        largest = sizes.index(max(sizes))
        sizes[largest : largest + 1] = [sizes[largest] - sizes[largest] // 2, sizes[largest] // 2]
    return sizes


def shortest(rollouts: Rollouts, pad_token_id: int) -> MicroBatch:
    """A micro-batch of the shortest solution alone."""
    lengths = rollouts.prompt_lengths.repeat_interleave(rollouts.group_size) + rollouts.response_lengths
    return micro_batches(rollouts, lengths.argmin()[None], int(lengths.min()), pad_token_id)[0]


def join_solutions(
    rollouts: Rollouts, rows: Int[Tensor, " B"], width: int, pad_token_id: int
) -> Int[Tensor, "B width"]:
    """Token ids of solutions: each prompt directly followed by its response, then padding.

    Args:
        rollouts: the solutions.
        rows: [B] int64, the solutions to take.
        width: places of a row, at least as many as the longest has tokens.
        pad_token_id: fills unused places.
    """
    prompts = rows // rollouts.group_size
    prompt_lengths, response_lengths = rollouts.prompt_lengths[prompts], rollouts.response_lengths[rows]
    joined = torch.full((len(rows), width), pad_token_id, dtype=torch.long, device=rollouts.response_ids.device)
    places = torch.arange(width, device=joined.device)
    prompt_part = places < prompt_lengths[:, None]
    response_part = ~prompt_part & (places < (prompt_lengths + response_lengths)[:, None])
    # Row-major masks on both sides visit the tokens in the same order.
    joined[prompt_part] = rollouts.prompt_ids[prompts][length_mask(prompt_lengths, rollouts.prompt_ids.shape[1])]
    joined[response_part] = rollouts.response_ids[rows][length_mask(response_lengths, rollouts.response_ids.shape[1])]
    return joined
