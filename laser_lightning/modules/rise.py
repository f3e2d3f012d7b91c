"""RISE (arXiv 2505.13445), the baseline that verifies by generation: the policy also answers a question about each of
its solutions, and both kinds of trajectory update it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.verification_prompts import VerificationPrompts
from laser_lightning.objective.advantages import estimated
from laser_lightning.objective.phases import Phase
from laser_lightning.objective.self_reward.last_token import CORRECT_THRESHOLD, settled_scores
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rounds import Round, joined
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import Verification


class RISEModule(LaSeRModule):
    """Trains reasoning and verification by generation: each solution costs a second response, its verification.

    A verification is rewarded with 1 if its verdict is the verifier's, else with 0 (also without a verdict). Its
    advantage is relative to the verifications of the other solutions of its problem. Solutions and verifications make
    one optimizer step, with one mean over the tokens of all of them. (RISE itself trains by PPO with a value model, and
    rewards -0.5 and -1; rewards and advantages here are those of the other methods, for comparison.)

    The verdict takes the place of the self-reward in training and evaluation: 1 for "correct", else 0, which are
    "incorrect", no verdict, and any verdict on a truncated solution. Each evaluated solution is verified once.

    Args:
        verification_prompts: how the policy is asked about its solutions.
        laser: arguments of LaSeRModule. ``self_reward.loss_weight`` must be 0.

    Attributes:
        last_verifications: the verifications of the latest training or evaluation round, each as the only solution of
            its problem.
    """

    judges_by_score = False
    last_verifications: Round

    def __init__(self, verification_prompts: VerificationPrompts = VerificationPrompts(), **laser: Any) -> None:
        super().__init__(**laser)
        if self.self_reward.loss_weight != 0:
            raise UserError(
                f"self_reward.loss_weight is {self.self_reward.loss_weight}, and RISE trains no self-rewards: set it "
                "to 0."
            )
        if self.sampling_rounds != 1:
            raise UserError(
                f"sampling_rounds is {self.sampling_rounds}, and RISE verifies the solutions of one round: set it to 1."
            )
        self.verification_prompts = verification_prompts

    # ---------------------------------------------------------------- training

    def sample_groups(self, problems: list[Problem]) -> tuple[Round, Round]:
        """The step's solutions, and all that it trains on: these and the verifications behind them, groups of one."""
        solutions, _ = super().sample_groups(problems)
        self._verified = self._drawn(len(problems))
        verified = solutions.select(self._verified)
        self.last_verifications = self.verify(verified, self.sampling, self.generator)
        solutions.self_rewards = torch.full_like(solutions.self_rewards, torch.nan)
        solutions.self_rewards[solutions.rows_of(self._verified)] = verified.self_rewards
        self._solutions = solutions
        return solutions, joined(solutions.ungrouped(), self.last_verifications)

    def _drawn(self, problems: int) -> Tensor:
        """[M] problems whose solutions are verified."""
        share = self.verification_prompts.share
        if share == 1:
            return torch.arange(problems, device=self.device)
        order = torch.randperm(problems, generator=self.generator, device=self.device)
        return order[: max(1, round(share * problems))].sort().values

    def advantages(self, round_: Round, phase: Phase) -> Tensor:
        """[N + V] advantages: of solutions in their groups, and of verifications among those of their problem."""
        of_solutions = super().advantages(self._solutions, phase)
        rewards = self.last_verifications.rewards.view(len(self._verified), self.group_size)
        return torch.cat((of_solutions, estimated(rewards, self.advantage, self.all_sum).flatten()))

    def mini_batches(self, round_: Round) -> Iterator[Tensor]:
        """The trajectories of each optimizer step: some problems' solutions, and the verifications of these."""
        solutions = torch.arange(len(self._solutions.rollouts), device=self.device)
        solution_of = torch.cat((solutions, self._solutions.rows_of(self._verified)))
        for rows in super().mini_batches(self._solutions):
            yield torch.isin(solution_of, rows).nonzero().squeeze(-1)

    def round_values(self, round_: Round, phase: Phase) -> dict[str, float | Tensor]:
        """What the step sampled, its verifications included."""
        values = super().round_values(round_, phase)
        made = self.last_verifications
        found = sum(verification.answer is not None for verification in made.verifications)
        counts = (made.rollouts.response_lengths.sum(), len(made.rollouts), made.rewards.sum(), found)
        row = torch.tensor([float(count) for count in counts], dtype=torch.float64, device=self.device)
        tokens, number, right, found = self.all_sum(row).tolist()
        return values | {
            "train/verification/accuracy": right / number,
            "train/verification/verdict_rate": found / number,
            "train/verification/response_tokens": tokens,
            "train/generated_tokens": values["train/generated_tokens"] + tokens,
        }

    # -------------------------------------------------------------- evaluation

    def solve(
        self, problems: list[Problem], samples: int, sampling: Sampling, generator: torch.Generator
    ) -> Round | None:
        """The solutions of an evaluation batch, each of them verified by the policy."""
        round_ = super().solve(problems, samples, sampling, generator)
        if round_ is not None:
            self.last_verifications = self.verify(round_, sampling, generator)
        elif self.engine.collective:
            self._generate([], sampling, generator)
        return round_

    def judgement_settings(self) -> dict[str, Any]:
        """How it is asked."""
        return super().judgement_settings() | {"verification_prompts": asdict(self.verification_prompts)}

    # ------------------------------------------------------------ verification

    def verify(self, round_: Round, sampling: Sampling, generator: torch.Generator) -> Round:
        """Let the policy verify solutions, and put its verdicts in the place of their self-rewards.

        Args:
            round_: N solutions; its ``self_rewards`` are replaced.
            sampling: how they were drawn; verifications are, too, up to their own length limit.
            generator: the source of randomness, on the policy's device.

        Returns:
            The N verifications as a round of N problems with one solution each; their ``rewards`` say which verdicts
            are right.
        """
        asked = range(len(round_.rollouts))
        prompts = [
            self.verification_prompts.encode(round_.problem_of(row).problem, round_.texts[row], self.tokenizer)
            for row in asked
        ]
        rollouts = self._generate(prompts, sampling, generator)
        texts = self.tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
        verdicts = [self.verification_prompts.verdict(text) for text in texts]
        round_.self_rewards = settled_scores(
            torch.tensor([float(verdict is True) for verdict in verdicts], device=self.device),
            round_.rollouts.finished,
        )
        correct = (round_.rewards > CORRECT_THRESHOLD).tolist()
        rewards = [float(verdict == truth) for verdict, truth in zip(verdicts, correct, strict=True)]
        answers = [None if verdict is None else str(verdict) for verdict in verdicts]
        return Round(
            [round_.problem_of(row) for row in asked],
            rollouts,
            texts,
            [Verification(reward, answer) for reward, answer in zip(rewards, answers, strict=True)],
            torch.tensor(rewards, device=self.device),
            None,
            torch.full((len(rewards),), torch.nan, device=self.device),
        )

    def _generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, generator: torch.Generator) -> Rollouts:
        """One verification for each of N prompts."""
        limit = self.verification_prompts.max_response_tokens
        longest = max((len(prompt) for prompt in prompts), default=0)
        positions = self.policy.positions
        if positions is not None and longest + limit > positions:
            raise UserError(
                f"A verification prompt of {longest} tokens and verification_prompts.max_response_tokens = {limit} do "
                f"not fit into the {positions} positions of the model: lower sampling.max_response_tokens, "
                "data.max_prompt_tokens or the latter."
            )
        shorter = replace(sampling, max_response_tokens=limit)
        with self.part("self_verification"), self.gathered_weights(self.policy):
            return self.engine.generate(self.policy, prompts, 1, shorter, self.self_reward.token_id, generator)
