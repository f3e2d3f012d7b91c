"""A round as the replay buffer holds it, and checkpoints save it: in the host's memory, without padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.records.batching import Rollouts, length_mask
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Int, Shaped
from laser_lightning.verifiers import Verification

OF_SOLUTIONS = ("finished", "reward_token_log_probs")
"""Fields of ``Rollouts`` with a row for each solution, which are held as they are."""


@dataclass(frozen=True)
class HeldRound:
    """Some groups of a round: P problems, N solutions, T tokens of all responses behind each other.

    The log-probs of the frozen reference, which another pass yields, are not held.

    Attributes:
        number: of the round.
        problems: P problems.
        texts: N responses as text.
        verifications: N verdicts of the verifier.
        tensors: by name: ``prompt_ids`` and ``prompt_lengths`` of all prompts, int32; ``response_ids`` [T] int32 and
            ``sampling_log_probs`` [T] float32; ``response_lengths`` [N] int32, ``finished`` [N] and
            ``reward_token_log_probs`` [N, K]; ``rewards`` [N], ``self_rewards`` [N] and, with an exact reference,
            ``references`` [N, K]; ``loss_mask`` [T] where there is one.
    """

    number: int
    problems: Sequence[Problem]
    texts: list[str]
    verifications: list[Verification]
    tensors: Mapping[str, Shaped[Tensor, "..."]]

    @classmethod
    def of(cls, number: int, rollout: Rollout) -> Self:
        """Hold all groups of a round.

        Args:
            number: of the round.
            rollout: the groups, which may be none.
        """
        own = rollout.rollouts
        prompts, responses = length_mask(own.prompt_lengths, own.prompt_ids.shape[1]), own.response_mask
        tensors = {
            "prompt_ids": own.prompt_ids[prompts].int(),
            "prompt_lengths": own.prompt_lengths.int(),
            "response_ids": own.response_ids[responses].int(),
            "response_lengths": own.response_lengths.int(),
            "sampling_log_probs": own.sampling_log_probs[responses],
            **{name: getattr(own, name) for name in OF_SOLUTIONS},
            "rewards": rollout.rewards,
            "self_rewards": rollout.self_rewards,
        }
        if rollout.references is not None:
            tensors["references"] = rollout.references
        if own.loss_mask is not None:
            tensors["loss_mask"] = own.loss_mask[responses]
        # Clones: a part of a tensor would be saved with all of it.
        held = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        return cls(number, rollout.problems, rollout.texts, rollout.verifications, held)

    @property
    def group_size(self) -> int:
        """Solutions of each problem, G."""
        return len(self.texts) // max(1, len(self.problems))

    def groups(self, chosen: Int[Tensor, " M"], device: torch.device) -> Rollout:
        """Some of the groups as a round of their own.

        Args:
            chosen: [M] their numbers.
            device: where the tensors shall be.
        """
        group = torch.arange(self.group_size)
        rows = (chosen[:, None] * self.group_size + group).flatten()
        held, numbers = self.tensors, rows.tolist()

        def padded(name: str, lengths: str, of: Tensor) -> Tensor:
            return _padded(held[name], held[lengths], of).to(device)

        def of_solutions(name: str) -> Tensor:
            return held[name][rows].to(device)

        rollouts = Rollouts(
            prompt_ids=padded("prompt_ids", "prompt_lengths", chosen).long(),
            prompt_lengths=held["prompt_lengths"][chosen].long().to(device),
            response_ids=padded("response_ids", "response_lengths", rows).long(),
            response_lengths=of_solutions("response_lengths").long(),
            sampling_log_probs=padded("sampling_log_probs", "response_lengths", rows),
            loss_mask=padded("loss_mask", "response_lengths", rows) if "loss_mask" in held else None,
            **{name: of_solutions(name) for name in OF_SOLUTIONS},
        )
        return Rollout(
            [self.problems[number] for number in chosen.tolist()],
            rollouts,
            [self.texts[row] for row in numbers],
            [self.verifications[row] for row in numbers],
            of_solutions("rewards"),
            of_solutions("references") if "references" in held else None,
            of_solutions("self_rewards"),
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; problems are their row numbers."""
        return {
            "number": self.number,
            "problems": [problem.index for problem in self.problems],
            "texts": self.texts,
            "verifications": [{**one._asdict(), "rewards": dict(one.rewards)} for one in self.verifications],
            "tensors": dict(self.tensors),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], problems: Mapping[int, Problem]) -> Self:
        """The round of which ``state_dict`` was saved.

        Args:
            state: what it returned.
            problems: those of the training set, by their row numbers.

        Raises:
            UserError: if a problem is not there.
        """
        if missing := [number for number in state["problems"] if number not in problems]:
            raise UserError(
                f"The checkpoint has solutions to replay of row {missing[0]} of the training set, which data.train "
                "does not have: resume with the problems of the run, or leave model.update.judging out."
            )
        verifications = [Verification(**one) for one in state["verifications"]]
        return cls(
            state["number"],
            [problems[number] for number in state["problems"]],
            state["texts"],
            verifications,
            state["tensors"],
        )


def _padded(
    flat: Shaped[Tensor, " T"], lengths: Int[Tensor, " N"], rows: Int[Tensor, " M"]
) -> Shaped[Tensor, "M width"]:
    """Some rows of those that lie behind each other in a flat tensor, right-padded with 0."""
    starts, own = (lengths.cumsum(0) - lengths)[rows], lengths[rows]
    width = int(own.max())
    places = starts[:, None] + torch.arange(width)
    return flat[places.clamp(max=len(flat) - 1)].masked_fill(~length_mask(own, width), 0)
