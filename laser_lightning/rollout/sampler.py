"""Problems in, judged solutions out: the one place where solutions are drawn, verified and scored."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
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
from laser_lightning.policy.distributions import AskedReading, DistributionReading, DistributionReadings
from laser_lightning.policy.model import AdaptersOff, FrozenPolicy, Policy
from laser_lightning.policy.precision import precision_of_steps
from laser_lightning.policy.weight_stream import WeightStream, stream_weights
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.meanwhile import Meanwhile
from laser_lightning.rollout.non_finite import leave_out_non_finite
from laser_lightning.shapes import Float, Shaped
from laser_lightning.verifiers import Submission, Verification, VerifierPool

Gather = Callable[..., AbstractContextManager[None]]
"""Holds the whole weights of some models, around any use of them outside of the differentiated passes."""

Stream = Callable[[Policy], AbstractContextManager[WeightStream]]
"""Hands a model's weights on, whole layers in turn; all ranks enter it together."""


@contextmanager
def unsharded_stream(model: Policy) -> Iterator[WeightStream]:
    """Hand on the weights of a model that has them whole."""
    yield stream_weights(model.lm)


class SolutionLogProbs(NamedTuple):
    """What a model says of N given solutions.

    Attributes:
        tokens: [N, R] float32, log-probs of the response tokens at the sampling temperature; 0 outside the responses.
        reward_tokens: [N, K] float32, log pi(z) behind each response's last token, at temperature 1, of the tokens that
            scores are made of.
        reading: [N, R, ...] what was read off the distributions of the response tokens; None where not asked for.
    """

    tokens: Float[Tensor, "N R"]
    reward_tokens: Float[Tensor, "N K"]
    reading: Shaped[Tensor, "N R ..."] | None = None


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
        stream: hands the policy's weights on to an engine that has a copy of its own.
        meanwhile: draws rounds while an update runs; whoever else needs the engine waits for them.
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
    stream: Stream = unsharded_stream
    meanwhile: Meanwhile = field(default_factory=Meanwhile)

    @property
    def computing_models(self) -> list[Policy | AdaptersOff]:
        """The models that ``rollout`` computes with in this process, whose weights must be whole in it."""
        models: list[Policy | AdaptersOff] = []
        if self.engine.needs_whole_weights or self.self_reward.reads_hidden:
            models.append(self.policy)
        if self.self_reward.is_exact and self.reference is not None:
            models.append(self.reference)
        return models

    def hand_over_weights(self) -> None:
        """Let an engine with a copy of the weights renew it where it is stale; all ranks call it together."""
        self.meanwhile.wait()
        if not self.engine.needs_whole_weights:
            # Some callers draw outside of the trainer's steps, and the engine may ask in which precision those compute.
            with precision_of_steps(self.parts.strategy.precision_plugin):
                self.engine.take_weights(self.policy, self.stream(self.policy))

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
        return self.judge(problems, rollouts, sampling)

    def judge(self, problems: Sequence[Problem], rollouts: Rollouts, sampling: Sampling) -> Rollout:
        """Judge solutions that were drawn: verification, self-rewards.

        Args:
            problems: P problems.
            rollouts: their solutions.
            sampling: how they were drawn.
        """
        texts = self.texts_of(rollouts)
        solved = [problem for problem in problems for _ in range(rollouts.group_size)]
        verifications = self.verify(solved, [self.solution_of(text) for text in texts])
        rewards = torch.tensor([v.reward for v in verifications], dtype=torch.float32, device=self.policy.device)
        of_reference = None
        if self.self_reward.is_exact:
            assert self.reference is not None
            of_reference = self.log_probs(self.reference, rollouts, sampling.temperature, "reference_pass")
        tokens, references = (None, None) if of_reference is None else (of_reference.tokens, of_reference.reward_tokens)
        hidden = self.hidden_states(rollouts) if self.self_reward.reads_hidden else None
        with torch.no_grad():
            scores = self.self_reward.score(Readings(rollouts.reward_token_log_probs, hidden, references))
        # Without a log-prob there is as little to judge by as without an <eos> (see `is_judged`).
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
        with self.parts(part), self.gathered(self.policy if self.engine.needs_whole_weights else None):
            self.hand_over_weights()
            asked = self.self_reward.score_token_ids
            self.engine.progress = self.parts.progress.advance
            try:
                rollouts = self.engine.generate(self.policy, prompts, group_size, sampling, asked, generator)
            finally:
                self.engine.progress = None
        return self._checked(rollouts)

    def draw_meanwhile(
        self, rounds: Sequence[Sequence[Problem]], group_size: int, samplings: Sequence[Sampling], seeds: Sequence[int]
    ) -> "list[Future[Rollouts]]":
        """Draw rounds from the policy as it is now, one after the other, while the caller goes on.

        Args:
            rounds: the problems of each.
            group_size: solutions of each problem.
            samplings: how each round is drawn.
            seeds: the source of randomness of each round.

        Returns:
            The solutions of each round, once they are there.
        """
        self.hand_over_weights()

        def draw(problems: Sequence[Problem], sampling: Sampling, seed: int) -> Rollouts:
            generator = torch.Generator(self.policy.device).manual_seed(seed)
            prompts = [problem.prompt_ids for problem in problems]
            asked = self.self_reward.score_token_ids
            return self._checked(self.engine.generate(self.policy, prompts, group_size, sampling, asked, generator))

        return self.meanwhile.start([partial(draw, *one) for one in zip(rounds, samplings, seeds, strict=True)])

    def _checked(self, rollouts: Rollouts) -> Rollouts:
        """What an engine returned, without tokens whose log-probs are no numbers."""
        asked = self.self_reward.score_token_ids
        if (found := rollouts.reward_token_log_probs).shape != (len(rollouts), len(asked)):
            raise UserError(
                f"model.engine, a {type(self.engine).__name__}, returned reward_token_log_probs of shape "
                f"{list(found.shape)} for {len(rollouts)} responses and {len(asked)} reward tokens: engines are given "
                "the ids of all tokens to read, and return one column for each of them."
            )
        return leave_out_non_finite(rollouts)

    def verify(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verification]:
        """Have solutions judged by the verifier.

        Args:
            problems: the problem of each.
            texts: N solutions.
        """
        submissions = [
            Submission(text, problem.answer, problem.verifier, problem.problem, problem.prompt, problem.row)
            for text, problem in zip(texts, problems, strict=True)
        ]
        with self.parts("verification"):
            return self.verifier_pool.verify(submissions, self.parts.progress.advance)

    def solution_of(self, text: str) -> str:
        """What the verifier is asked about; here all of a response.

        Args:
            text: a response.
        """
        return text

    def texts_of(self, rollouts: Rollouts) -> list[str]:
        """Decode N responses, without special tokens."""
        return self.tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)

    @torch.no_grad()
    def log_probs(
        self,
        model: Policy | AdaptersOff,
        rollouts: Rollouts,
        temperature: float,
        part: str,
        asked: AskedReading | None = None,
    ) -> SolutionLogProbs:
        """Run a model over given solutions, in a pass of its own.

        Args:
            model: the policy, or a frozen one.
            rollouts: N solutions.
            temperature: the one that they were sampled at.
            part: the part of the step that this is.
            asked: what is to be read off the tokens' distributions, given [N, R, ...].
        """
        found = SolutionLogProbs(
            torch.zeros_like(rollouts.sampling_log_probs), torch.zeros_like(rollouts.reward_token_log_probs)
        )
        reading: Tensor | None = None
        rows = torch.arange(len(rollouts), device=found.tokens.device)
        with self.parts(part), self.gathered(model):
            batches = model.micro_batches(rollouts, rows, self.micro_batch_tokens)
            for number, batch in enumerate(batches):
                self.parts.progress.advance(number, len(batches))
                width = batch.loss_mask.shape[1]
                own = None if asked is None else asked.of(batch.rows, width)
                outputs = model(batch, self.self_reward.score_token_ids, temperature, asked=own)
                found.tokens[batch.rows, :width] = outputs.log_probs
                found.reward_tokens[batch.rows] = outputs.reward_token_log_probs
                if outputs.reading is not None:
                    if reading is None:
                        reading = outputs.reading.new_zeros(*found.tokens.shape, *outputs.reading.shape[2:])
                    reading[batch.rows, :width] = outputs.reading
        return found._replace(reading=reading)

    def fixed_log_probs(
        self,
        rollout: Rollout,
        temperature: float,
        old: bool,
        reference: bool,
        readings: DistributionReadings = DistributionReadings(),
    ) -> FixedLogProbs:
        """What policies say of given tokens before an update, and no gradient reaches.

        Args:
            rollout: N solutions.
            temperature: the one that they were sampled at.
            old: ask the policy as it is now.
            reference: ask the frozen policy of before training; the teacher is asked where there is one.
            readings: what is read off the distributions of those that are asked.
        """

        def of(
            model: Policy | AdaptersOff | None,
            part: str,
            reading: DistributionReading | None = None,
            given: Tensor | None = None,
        ) -> SolutionLogProbs:
            assert model is not None
            asked = None if reading is None else AskedReading(reading, given)
            return self.log_probs(model, rollout.rollouts, temperature, part, asked)

        known = rollout.reference_log_probs  # of the pass that gave exact scores, where there was one
        of_old = of(self.policy, "old_log_probs_pass", readings.old) if old else None
        read = None if of_old is None else of_old.reading
        of_teacher = None if self.teacher is None else of(self.teacher, "teacher_pass", readings.teacher, read)
        return FixedLogProbs(
            old=None if of_old is None else of_old.tokens,
            reference=(of(self.reference, "reference_pass").tokens if known is None else known) if reference else None,
            teacher=None if of_teacher is None else of_teacher.tokens,
            old_reading=read,
            teacher_reading=None if of_teacher is None else of_teacher.reading,
            old_reward_tokens=None if of_old is None else of_old.reward_tokens,
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
            batches = self.policy.micro_batches(rollouts, rows, self.micro_batch_tokens)
            for number, batch in enumerate(batches):
                self.parts.progress.advance(number, len(batches))
                found[batch.rows] = self.policy.hidden_at_end(batch)
        return found
