"""Responses that hold a solution and its own evaluation, and further attempts at it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.self_evaluation import SelfEvaluation
from laser_lightning.objective.self_reward.solutions import zero_if_truncated
from laser_lightning.records.batching import Rollouts, append_responses, concat_solutions
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.sampler import Sampler
from laser_lightning.shapes import Bool


@dataclass
class SelfEvaluatingSampler(Sampler):
    """Draws responses whose own score is read from their text.

    Attributes:
        self_evaluation: their form.
    """

    self_evaluation: SelfEvaluation = field(default_factory=SelfEvaluation)

    def solution_of(self, text: str) -> str:
        """The solution alone: an evaluation has an answer of its own."""
        return self.self_evaluation.read(text).solution

    def texts_of(self, rollouts: Rollouts) -> list[str]:
        """Decode the last attempt of each of N responses, without special tokens."""
        last = [self._last_attempt(ids) for ids in rollouts.responses()]
        return self.tokenizer.batch_decode(last, skip_special_tokens=True)

    def _last_attempt(self, ids: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(ids[:-1]) if token in self.policy.eos_token_ids]
        return ids[ends[-1] + 1 :] if ends else ids

    def judge(self, problems: Sequence[Problem], rollouts: Rollouts, sampling: Sampling) -> Rollout:
        """Judge responses and read them (see ``Sampler.judge``)."""
        rollout = super().judge(problems, rollouts, sampling)
        rollout.self_rewards = self._own_scores(rollout)
        columns = (rollout.texts, rollout.policy_rewards.tolist(), rollout.rewards.clamp(0, 1).tolist())
        rewards = torch.tensor([self.self_evaluation.reward(*row) for row in zip(*columns, strict=True)])
        rollout.train_on(zero_if_truncated(rewards.to(rollout.rewards.device), rollout.rollouts.finished))
        rollout.judging_tokens = torch.zeros_like(rollout.rollouts.response_lengths)  # they are part of the response
        return rollout

    def _own_scores(self, rollout: Rollout) -> Tensor:
        scores = [self.self_evaluation.read(text).score or 0.0 for text in rollout.texts]
        return zero_if_truncated(torch.tensor(scores, device=rollout.rewards.device), rollout.rollouts.finished)

    def refine(self, rollout: Rollout | None, sampling: Sampling, generator: torch.Generator) -> None:
        """Write every solution anew whose own score is below 1, as that of a truncated one is.

        The new attempt takes the place of the old one, unless the new one was cut and the old one was not. The response
        holds both (see ``append_attempts``).

        Args:
            rollout: N solutions; None on a rank without, which takes part where the engine is collective.
            sampling: how they were drawn.
            generator: the source of randomness, on the policy's device.

        Raises:
            UserError: the prompt that asks for a new attempt does not fit into the model with it.
        """
        rows: list[int] = []
        if rollout is not None:
            rows = (rollout.self_rewards < 1).nonzero().flatten().tolist()
        if not rows and not self.engine.collective:
            return
        prompts = []
        for row in rows:
            assert rollout is not None
            problem = rollout.problem_of(row).problem
            prompts.append(self.self_evaluation.encode_refinement(problem, rollout.texts[row], self.tokenizer))
        longest = max(map(len, prompts), default=0)
        refuse_long_refinements("A refinement prompt has", longest, sampling.max_response_tokens, self.policy.positions)
        drawn = self.draw(prompts, 1, sampling, generator, part="refinement")
        if rollout is None or not rows:
            return
        eos, pad = self.policy.eos_token_ids[0], self.policy.pad_token_id
        taken = append_attempts(rollout.rollouts, rows, drawn, eos, pad).tolist()
        new = [(row, text) for row, text, counts in zip(rows, self.texts_of(drawn), taken, strict=True) if counts]
        asked = [rollout.problem_of(row) for row, _ in new], [self.solution_of(text) for _, text in new]
        for (row, text), verification in zip(new, self.verify(*asked), strict=True):
            rollout.texts[row], rollout.verifications[row] = text, verification
            rollout.rewards[row] = verification.reward
        rollout.self_rewards = self._own_scores(rollout)


def append_attempts(rollouts: Rollouts, rows: Sequence[int], drawn: Rollouts, eos: int, pad: int) -> Bool[Tensor, " M"]:
    """Let some of N responses hold a further attempt, the one that counts in the last place.

    That is the new one, unless it was cut at the length limit and the old one was not:

        old <eos>             + new <eos>   ->   old <eos> new <eos>
        old <eos>             + new (cut)   ->   new <eos> old <eos>
        old (cut)             + new         ->   old <eos> new

    The last token of an attempt that was cut gives way to an ``<eos>`` where another one follows, so that the tokens
    alone tell attempts apart, and are as many as were drawn.

    Args:
        rollouts: the N; changed in place. No longer to be trained on: their ``loss_mask`` is taken away.
        rows: M of them.
        drawn: M new attempts.
        eos: id that ends a response.
        pad: id that fills unused places.

    Returns:
        [M] bool: where the new attempt counts.
    """
    both = concat_solutions((rollouts.ungrouped(), drawn))
    everyone = torch.arange(len(both), device=drawn.finished.device)
    old, new = everyone[list(rows)], everyone[len(rollouts) :]
    taken = drawn.finished | ~rollouts.finished[old]
    first, last = old.where(taken, new), new.where(taken, old)
    cut = first[~both.finished[first]]
    both.response_ids[cut, both.response_lengths[cut] - 1] = eos
    order = everyone[: len(rollouts)].scatter(0, old, first)
    rollouts.response_ids, rollouts.response_lengths = both.response_ids[order], both.response_lengths[order]
    rollouts.sampling_log_probs, rollouts.loss_mask = both.sampling_log_probs[order], None
    append_responses(rollouts, rows, both.select(last), pad)
    return taken


def refuse_long_refinements(what: str, tokens: int, limit: int, positions: int | None) -> None:
    """Refuse a prompt that does not leave room for another attempt.

    Args:
        what: the prompt and a verb, for the error.
        tokens: in it.
        limit: most tokens of the attempt.
        positions: of the model; None for no limit.

    Raises:
        UserError: they do not fit.
    """
    if positions is not None and tokens + limit > positions:
        raise UserError(
            f"{what} {tokens} tokens, the last response among them, which do not fit into the {positions} positions of "
            f"the model with sampling.max_response_tokens = {limit} for the next one: lower it (for evaluations alone: "
            "evaluation.sampling), shorten self_evaluation.refinement_template, or set refinements to 0."
        )
