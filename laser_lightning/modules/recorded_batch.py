"""Recorded solutions of some problems as a rollout that was sampled elsewhere."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem, RecordedSolution
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import MicroBatch, Rollouts, micro_batches, pad_rows, shortest
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Bool
from laser_lightning.verifiers import Verification

_NO_LIMIT = 2**62  # a budget of tokens that cuts nothing
_FILLER = RecordedSolution("", 0.0, finished=False)


@dataclass(frozen=True)
class RecordedBatch:
    """Recorded solutions of P problems, N = P * G for the G of the problem that has most.

    Attributes:
        rollout: the solutions; a problem with fewer than G has truncated ones of reward 0 in the last places. Scores
            and log-probs are NaN.
        rewarded: [N] bool, solutions that a verifier judged.
        taught: [N] bool, those to be written: right ones, and worked ones, which nobody judged.
    """

    rollout: Rollout
    rewarded: Bool[Tensor, " N"]
    taught: Bool[Tensor, " N"]

    @classmethod
    def of(
        cls,
        problems: Sequence[Problem],
        solutions: Sequence[Sequence[RecordedSolution]],
        encode: Callable[[list[str]], list[list[int]]],
        eos_token_id: int,
        policy: Policy,
        tokens_read: int,
    ) -> "RecordedBatch":
        """Encode solutions.

        Args:
            problems: P problems, at least one.
            solutions: those of each.
            encode: texts to token ids.
            eos_token_id: ends the ones that were not cut.
            policy: whose the tokens are.
            tokens_read: K, how many tokens scores are made of.
        """
        size, device = max(len(group) for group in solutions), policy.device
        rows = [s for group in solutions for s in (*group, *[_FILLER] * (size - len(group)))]
        real = torch.tensor([s is not _FILLER for s in rows], device=device)
        texts = [s.text for s in rows]
        ids = [[*text, eos_token_id] if s.finished else text for s, text in zip(rows, encode(texts), strict=True)]
        # A response has at least one token; what is cut and empty is neither judged nor taught.
        response_ids, lengths = pad_rows([row or [eos_token_id] for row in ids], policy.pad_token_id)
        prompt_ids, prompt_lengths = pad_rows([p.prompt_ids for p in problems], policy.pad_token_id)
        finished = torch.tensor([s.finished for s in rows], device=device)
        given = torch.tensor([math.nan if s.reward is None else s.reward for s in rows], device=device)
        rewards, nowhere = given.nan_to_num(nan=0.0), torch.full((len(rows),), torch.nan, device=device)
        rollouts = Rollouts(
            prompt_ids.to(device),
            prompt_lengths.to(device),
            response_ids.to(device),
            lengths.to(device),
            finished,
            nowhere[:, None].expand(response_ids.shape).clone(),
            nowhere[:, None].repeat(1, tokens_read),
        )
        verifications = [Verification(reward, None) for reward in rewards.tolist()]
        rollout = Rollout(problems, rollouts, texts, verifications, rewards, None, nowhere)
        taught = real & finished & (given.isnan() | (given > CORRECT_THRESHOLD))
        return cls(rollout, real & ~given.isnan(), taught)

    @property
    def judged(self) -> Bool[Tensor, " N"]:
        """[N] bool: solutions with a reward and an ``<eos>`` behind which the score is read."""
        return self.rewarded & self.rollout.rollouts.finished

    def micro_batches(
        self, rows: Tensor, sequences: int, policy: Policy, least: int = 0
    ) -> list[tuple[MicroBatch, float]]:
        """Cut solutions [M] into micro-batches, longest first, with their weights.

        Args:
            rows: numbers of the solutions.
            sequences: solutions of a micro-batch.
            policy: who runs them.
            least: how many there shall be; where these are fewer, a solution of weight 0 fills the places.
        """
        rollouts, pad = self.rollout.rollouts, policy.pad_token_id
        lengths = rollouts.prompt_lengths[rows // rollouts.group_size] + rollouts.response_lengths[rows]
        ordered = rows[lengths.argsort(descending=True, stable=True)]
        batches = [
            (micro_batches(rollouts, part, _NO_LIMIT, pad, policy.packs)[0], 1.0)
            for part in (ordered.split(sequences) if len(rows) else ())
        ]
        return batches + [(shortest(rollouts, pad), 0.0)] * (least - len(batches))


def draw_recorded(problem: Problem, most: int | None, seed: str) -> Sequence[RecordedSolution]:
    """Choose some of a problem's solutions, whichever rank it is on; a worked one where none is recorded.

    Args:
        problem: with recorded solutions, or a worked one.
        most: how many to choose, if it has more; None for all.
        seed: of the choice.
    """
    if not problem.recorded:
        return () if problem.solution is None else (RecordedSolution(problem.solution, None),)
    if most is None or len(problem.recorded) <= most:
        return problem.recorded
    chosen = random.Random(f"{seed} {problem.index}").sample(range(len(problem.recorded)), most)
    return [problem.recorded[number] for number in sorted(chosen)]
