"""A question to the policy about each of its solutions, and the verdicts in what it writes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from laser_lightning.errors import UserError
from laser_lightning.modules.verification_prompts import VerificationPrompts
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD, zero_if_truncated
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.sampler import Sampler
from laser_lightning.verifiers import Verification


@dataclass
class SelfVerifyingSampler(Sampler):
    """Draws solutions, and the policy's verifications of them.

    Attributes:
        verification_prompts: how it is asked, and how often.
    """

    verification_prompts: VerificationPrompts = field(default_factory=VerificationPrompts)

    def ask_about(self, rollout: Rollout, sampling: Sampling, generator: torch.Generator) -> Rollout:
        """Let the policy verify solutions k times, and put its mean verdicts in the place of their self-rewards.

        Args:
            rollout: N solutions; its ``self_rewards``, ``scores`` and ``judging_tokens`` are replaced.
            sampling: how they were drawn; verifications are, too, up to their own length limit.
            generator: the source of randomness, on the policy's device.

        Returns:
            The N * k verifications as a round of N problems with k solutions each; their ``rewards`` say which
            verdicts are right.

        Raises:
            UserError: a prompt does not fit into the model with its verification.
        """
        samples = self.verification_prompts.samples
        problems = [rollout.problem_of(row) for row in range(len(rollout.rollouts))]
        ask, known = self.verification_prompts.question, (self.tokenizer, self.policy.vocabulary_size)
        prompts = [ask(problem, text, *known) for problem, text in zip(problems, rollout.texts, strict=True)]
        rollouts = self.draw_verifications(prompts, sampling, generator)
        texts = self.texts_of(rollouts)
        verdicts = [self.verification_prompts.verdict(text) for text in texts]
        found_correct = rollout.rewards.new_tensor([float(verdict is True) for verdict in verdicts]).view(-1, samples)
        rollout.self_rewards = zero_if_truncated(found_correct.mean(dim=1), rollout.rollouts.finished)
        rollout.judging_tokens = rollouts.response_lengths.view(-1, samples).sum(dim=1)
        if samples > 1:
            rollout.scores = found_correct * rollout.rollouts.finished[:, None]
        correct = (rollout.rewards > CORRECT_THRESHOLD).repeat_interleave(samples).tolist()
        rewards = [float(verdict == truth) for verdict, truth in zip(verdicts, correct, strict=True)]
        answers = [None if verdict is None else str(verdict) for verdict in verdicts]
        judged = [Verification(reward, answer) for reward, answer in zip(rewards, answers, strict=True)]
        unscored = rollout.rewards.new_full((len(rewards),), torch.nan)
        return Rollout(problems, rollouts, texts, judged, rollout.rewards.new_tensor(rewards), None, unscored)

    def draw_verifications(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, generator: torch.Generator
    ) -> Rollouts:
        """Draw k verifications for each of N prompts; all ranks call it together where the engine is collective.

        Args:
            prompts: N lists of token ids.
            sampling: how solutions were drawn.
            generator: the source of randomness, on the policy's device.

        Raises:
            UserError: a prompt does not fit into the model with its verification.
        """
        limit, positions = self.verification_prompts.max_response_tokens, self.policy.positions
        longest = max((len(prompt) for prompt in prompts), default=0)
        if positions is not None and longest + limit > positions:
            raise UserError(
                f"A verification prompt of {longest} tokens and verification_prompts.max_response_tokens = {limit} do "
                f"not fit into the {positions} positions of the model: lower sampling.max_response_tokens, "
                "data.max_prompt_tokens or the latter."
            )
        shorter = replace(sampling, max_response_tokens=limit)
        return self.draw(prompts, self.verification_prompts.samples, shorter, generator, part="self_verification")
