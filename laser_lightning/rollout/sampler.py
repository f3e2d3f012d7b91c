"""Problems in, judged solutions out: the one place where solutions are drawn, verified and scored."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from laser_lightning.data.problem import Problem
from laser_lightning.distributed.parts import StepParts
from laser_lightning.errors import UserError
from laser_lightning.objective.context import FixedLogProbs
from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.solutions import zero_if_truncated
from laser_lightning.policy.model import AdaptersOff, FrozenPolicy, Policy
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.non_finite import leave_out_non_finite
from laser_lightning.shapes import Float
from laser_lightning.verifiers import Submission, VerifierPool

Gather = Callable[..., AbstractContextManager[None]]
"""Holds the whole weights of some models, around any use of them outside of the differentiated passes."""


class SolutionLogProbs(NamedTuple):
    """What a model says of N given solutions.

    Attributes:
        tokens: [N, R] float32, log-probs of the response tokens at the sampling temperature; 0 outside the responses.
        reward_tokens: [N, K] float32, log pi(z) behind each response's last token, at temperature 1, of the tokens that
            scores are made of.
    """

    tokens: Float[Tensor, "N R"]
    reward_tokens: Float[Tensor, "N K"]


@dataclass
class Sampler:
    """Draws solutions from a policy, and has them judged by the verifier and by the policy itself.

    Attributes:
        policy: who solves the problems.
        tokenizer: the policy's.
        engine: how solutions are drawn.
        verifier_pool: who judges the final answers.
        self_reward: how the policy judges its own.
        reference: the frozen policy of before training, where the objective needs one.
        gathered: holds whole weights under strategies that shard them; all ranks enter it together.
        parts: is told which part of a step is under way.
        micro_batch_tokens: token budget of a pass without gradient.
        teacher: another frozen policy, where a part of the objective asks for one.
    """

    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    engine: RolloutEngine
    verifier_pool: VerifierPool
    self_reward: SelfRewardHead
    reference: FrozenPolicy | AdaptersOff | None
    gathered: Gather
    parts: StepParts
    micro_batch_tokens: int
    teacher: FrozenPolicy | None = None

    def rollout(
        self, problems: Sequence[Problem], group_size: int, sampling: Sampling, generator: torch.Generator
    ) -> Rollout:
        """Sample solutions and judge them: rollout with scores, verification, self-rewards.

        Args:
            problems: P problems.
            group_size: solutions of each.
            sampling: how they are drawn.
            generator: the source of randomness, on the policy's device.
        """
        rollouts = self.draw([problem.prompt_ids for problem in problems], group_size, sampling, generator)
        texts = self.texts_of(rollouts)
        solved = [problem for problem in problems for _ in range(group_size)]
        submissions = [
            Submission(text, problem.answer, problem.verifier, problem.problem, problem.prompt, problem.row)
            for text, problem in zip(texts, solved, strict=True)
        ]
        with self.parts("verification"):
            verifications = self.verifier_pool.verify(submissions, self.parts.progress.advance)
        rewards = torch.tensor([v.reward for v in verifications], dtype=torch.float32, device=self.policy.device)
        of_reference = None
        if self.self_reward.is_exact:
            assert self.reference is not None
            of_reference = self.log_probs(self.reference, rollouts, sampling.temperature, "reference_pass")
        tokens, references = (None, None) if of_reference is None else of_reference
        hidden = self.hidden_states(rollouts) if self.self_reward.reads_hidden else None
        with torch.no_grad():
            scores = self.self_reward.score(Readings(rollouts.reward_token_log_probs, hidden, references))
        # Without a log-prob there is as little to judge by as without an <eos>.
        self_rewards = zero_if_truncated(scores, rollouts.finished & scores.isfinite())
        return Rollout(problems, rollouts, texts, verifications, rewards, references, self_rewards, tokens)

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        generator: torch.Generator,
        part: str = "rollout",
    ) -> Rollouts:
        """Draw solutions with the reward token's log-prob, from the policy as it is now.

        Args:
            prompts: token ids of P prompts; none on a rank that only takes part in the others' generation, where the
                engine is collective.
            group_size: solutions of each.
            sampling: how they are drawn.
            generator: the source of randomness, on the policy's device.
            part: the part of the step that this is.
        """
        with self.parts(part), self.gathered(self.policy):
            asked = self.self_reward.score_token_ids
            self.engine.progress = self.parts.progress.advance
            try:
                rollouts = self.engine.generate(self.policy, prompts, group_size, sampling, asked, generator)
            finally:
                self.engine.progress = None
        if (found := rollouts.reward_token_log_probs).shape != (len(rollouts), len(asked)):
            raise UserError(
                f"model.engine, a {type(self.engine).__name__}, returned reward_token_log_probs of shape "
                f"{list(found.shape)} for {len(rollouts)} responses and {len(asked)} reward tokens: engines are given "
                "the ids of all tokens to read, and return one column for each of them."
            )
        return leave_out_non_finite(rollouts)

    def texts_of(self, rollouts: Rollouts) -> list[str]:
        """Decode N responses, without special tokens."""
        return self.tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)

    @torch.no_grad()
    def log_probs(
        self, model: Policy | AdaptersOff, rollouts: Rollouts, temperature: float, part: str
    ) -> SolutionLogProbs:
        """Run a model over given solutions, in a pass of its own.

        Args:
            model: the policy, or a frozen one.
            rollouts: N solutions.
            temperature: the one that they were sampled at.
            part: the part of the step that this is.
        """
        found = SolutionLogProbs(
            torch.zeros_like(rollouts.sampling_log_probs), torch.zeros_like(rollouts.reward_token_log_probs)
        )
        rows = torch.arange(len(rollouts), device=found.tokens.device)
        with self.parts(part), self.gathered(model):
            batches = micro_batches(
                rollouts, rows, self.micro_batch_tokens, self.policy.pad_token_id, self.policy.packs
            )
            for number, batch in enumerate(batches):
                self.parts.progress.advance(number, len(batches))
                outputs = model(batch, self.self_reward.score_token_ids, temperature)
                found.tokens[batch.rows, : outputs.log_probs.shape[1]] = outputs.log_probs
                found.reward_tokens[batch.rows] = outputs.reward_token_log_probs
        return found

    def fixed_log_probs(self, rollout: Rollout, temperature: float, old: bool, reference: bool) -> FixedLogProbs:
        """What policies say of given tokens before an update, and no gradient reaches.

        Args:
            rollout: N solutions.
            temperature: the one that they were sampled at.
            old: ask the policy as it is now.
            reference: ask the frozen policy of before training; the teacher is asked where there is one.
        """

        def asked(model: Policy | AdaptersOff | None, part: str) -> Tensor:
            assert model is not None
            return self.log_probs(model, rollout.rollouts, temperature, part).tokens

        known = rollout.reference_log_probs  # of the pass that gave exact scores, where there was one
        return FixedLogProbs(
            old=asked(self.policy, "old_log_probs_pass") if old else None,
            reference=(asked(self.reference, "reference_pass") if known is None else known) if reference else None,
            teacher=None if self.teacher is None else asked(self.teacher, "teacher_pass"),
        )

    @torch.no_grad()
    def hidden_states(self, rollouts: Rollouts) -> Float[Tensor, "N D"]:
        """Read the policy's last hidden states behind given solutions, in a pass of its own, whatever the engine.

        Args:
            rollouts: N solutions.

        Returns:
            [N, D], NaN for truncated solutions.
        """
        shape = len(rollouts), self.policy.hidden_size
        found = torch.full(shape, torch.nan, dtype=self.policy.lm.dtype, device=self.policy.device)
        rows = rollouts.finished.nonzero().squeeze(-1)
        with self.parts("hidden_states_pass"), self.gathered(self.policy):
            batches = micro_batches(
                rollouts, rows, self.micro_batch_tokens, self.policy.pad_token_id, self.policy.packs
            )
            for number, batch in enumerate(batches):
                self.parts.progress.advance(number, len(batches))
                found[batch.rows] = self.policy.hidden_at_end(batch)
        return found
