"""What is done with a policy besides training it: solutions are sampled and judged."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.distributed.progress import Progress
from laser_lightning.distributed.watchdog import part
from laser_lightning.errors import UserError
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.training import PolicyModule
from laser_lightning.modules.training_log import TrainingLog
from laser_lightning.objective.self_reward.last_token import SelfRewardHead, settled_scores
from laser_lightning.policy.model import AdaptersOff, FrozenPolicy, Policy, PolicySettings
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.records.rounds import Round
from laser_lightning.rollout import RolloutEngine, Sampling, TransformersEngine
from laser_lightning.verifiers import Submission, Verifier, VerifierPool


@dataclass(frozen=True)
class VerificationSettings:
    """How responses are verified.

    Args:
        workers: verifier processes; 0 verifies in the training process, without a time limit.
        timeout_seconds: a response that takes longer gets reward 0, and its worker is replaced. Time limits that the
            verifier itself has, such as those of an endpoint or of unit tests, come on top.
        max_failing_steps: stop the run after this many training steps in a row in which the verifier, or one of its
            reward functions, failed on every response.
    """

    workers: int = 1
    timeout_seconds: float = 5.0
    max_failing_steps: int = 3

    def __post_init__(self) -> None:
        if self.max_failing_steps < 1:
            raise UserError(f"verification.max_failing_steps is {self.max_failing_steps}, and must be at least 1.")


class RolloutModule(PolicyModule):
    """A policy with its rollout engine, verifier and self-reward: everything but the training step.

    Args:
        policy: which model.
        self_reward: how the model judges its solutions, and learns to.
        verifier: judges final answers.
        sampling: how solutions are drawn in training.
        engine: draws them.
        verification: processes and time limit of the verifier.
        micro_batch_tokens: token budget of a forward pass without gradient.
        needs_reference: load the frozen reference model (with LoRA it is the policy itself, its adapters off).
        optimizer: how gradients change weights.
        max_skipped_steps: stop after this many optimizer steps in a row without a usable gradient.
        seed: seed of all sampling; None for that of ``seed_everything``.

    Attributes:
        last_round: the latest training or evaluation round, for callbacks.
        reference: the frozen policy of before training, where the objective needs one.
        progress: what the step is doing.
    """

    def __init__(
        self,
        policy: PolicySettings,
        self_reward: SelfRewardHead,
        verifier: Verifier,
        sampling: Sampling,
        engine: RolloutEngine | None,
        verification: VerificationSettings,
        micro_batch_tokens: int,
        needs_reference: bool,
        optimizer: OptimizerSettings,
        max_skipped_steps: int,
        seed: int | None,
    ) -> None:
        super().__init__(policy, optimizer, max_skipped_steps, seed)
        self.self_reward, self.verifier, self.sampling = self_reward, verifier, sampling
        self.engine = TransformersEngine() if engine is None else engine
        self.verifier_pool = VerifierPool(verifier, verification.workers, verification.timeout_seconds)
        self.micro_batch_tokens, self.needs_reference = micro_batch_tokens, needs_reference
        self.reference: FrozenPolicy | AdaptersOff | None = None
        self.last_round: Round | None = None
        self.strict_loading = False  # checkpoints lack the reference, see saved_weights
        self.log_of_step = TrainingLog(self.all_sum)
        self.progress = Progress()

    @property
    def last_rollout(self) -> Round | None:
        """What the latest training step or evaluation batch sampled and how it was judged; None before the first."""
        return self.last_round

    # ------------------------------------------------------------------ set-up

    def configure_model(self) -> None:
        """Load the policy, and the reference where the objective needs one."""
        super().configure_model()
        self.self_reward.bind(self.tokenizer, self.policy.eos_token_ids)
        size = self.policy.lm.config.get_text_config().vocab_size
        for (key, token), token_id in zip(self.self_reward.tokens.items(), self.self_reward.token_ids, strict=True):
            if token_id >= size:
                raise UserError(
                    f"self_reward.{key} '{token}' has the id {token_id}, and the model's vocabulary ends at "
                    f"{size - 1}: choose a token that the model has."
                )
        if self.needs_reference and self.reference is None:
            if self.policy_settings.random_init:
                raise UserError(
                    "policy.random_init has no reference model to be held to: a KL term (update.kl_coef) and "
                    "self_reward.reference 'exact' need pretrained weights."
                )
            if self.policy_settings.lora is None:
                self.reference = FrozenPolicy(self.policy_settings, self.tokenizer)
            else:
                self.reference = AdaptersOff(self.policy)

    def saved_weights(self, state: dict[str, Any]) -> dict[str, Any]:
        """Without the frozen reference too, which a resumed run loads from ``policy.path`` as the first run did."""
        kept = super().saved_weights(state)
        return {name: value for name, value in kept.items() if not name.startswith("reference.")}

    def fingerprint(self) -> dict[str, Any]:
        """The model's, and the tokens that carry its judgement."""
        return super().fingerprint() | {"reward_token": " / ".join(self.self_reward.tokens.values())}

    def judgement_settings(self) -> dict[str, Any]:
        """What the model's judgement of its solutions depends on besides its weights, as plain values."""
        return self.self_reward.score_settings()

    def setup(self, stage: str) -> None:
        """Refuse other data than that of a PromptDataModule, which checks the gold answers by ``verifier``."""
        self.engine.weights_changed()  # a checkpoint may be loaded next
        if self.trainer.datamodule is None:  # type: ignore[attr-defined]
            raise UserError(f"{type(self).__name__} needs a PromptDataModule: pass the trainer a `datamodule`.")
        if stage == "fit" and self.engine.replays:
            raise UserError(
                f"model.engine is {type(self.engine).__name__}, which hands out solutions that were kept and draws "
                "no new ones: fit needs an engine that does, such as laser_lightning.rollout.TransformersEngine."
            )

    def apply_gradients(self, loss: Tensor) -> float | None:
        """Take an optimizer step, and tell the engine."""
        norm = super().apply_gradients(loss)
        if norm is not None:
            self.engine.weights_changed()
        return norm

    # ---------------------------------------------------------------- rollouts

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around a part of the step: its time is logged, and errors of other ranks name it.

        Args:
            name: such as ``rollout``.
        """
        started = time.perf_counter()
        with part(self.strategy, name), self.progress.part(name):
            yield
        self.log_of_step.seconds[name] += time.perf_counter() - started

    def play(
        self, problems: Sequence[Problem], group_size: int, sampling: Sampling, generator: torch.Generator
    ) -> Round:
        """Sample solutions and judge them: rollout with scores, verification, self-rewards.

        Args:
            problems: P problems.
            group_size: solutions of each.
            sampling: how they are drawn.
            generator: the source of randomness, on the policy's device.
        """
        rollouts = self.sample(problems, group_size, sampling, generator)
        texts = self.tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
        submissions = [
            Submission(text, one.answer, one.verifier, one.problem, one.prompt, one.row)
            for text, one in zip(texts, (problem for problem in problems for _ in range(group_size)), strict=True)
        ]
        with self.part("verification"):
            verifications = self.verifier_pool.verify(submissions)
        rewards = torch.tensor([v.reward for v in verifications], dtype=torch.float32, device=self.device)
        reference_log_probs, references = None, None
        if self.self_reward.is_exact:
            reference_log_probs, references = self.no_grad_pass(self.reference, rollouts)
        scores = self.self_reward.score(rollouts.reward_token_log_probs, references)
        self_rewards = settled_scores(scores, rollouts.finished)
        self.last_round = Round(
            problems, rollouts, texts, verifications, rewards, references, self_rewards, reference_log_probs
        )
        return self.last_round

    def sample(
        self, problems: Sequence[Problem], group_size: int, sampling: Sampling, generator: torch.Generator
    ) -> Rollouts:
        """Draw solutions with the reward token's log-prob, from the policy as it is now."""
        prompts = [problem.prompt_ids for problem in problems]
        with self.part("rollout"), self.gathered_weights(self.policy):
            return self.engine.generate(
                self.policy, prompts, group_size, sampling, self.self_reward.token_id, generator
            )

    @torch.no_grad()
    def no_grad_pass(self, model: Policy | AdaptersOff | None, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """[N, R] log-probs of the response tokens and [N] of the reward token under ``model``, in a pass of its own."""
        assert model is not None
        log_probs = torch.zeros_like(rollouts.sampling_log_probs)
        reward_token = torch.zeros_like(rollouts.reward_token_log_probs)
        rows = torch.arange(len(rollouts), device=self.device)
        name = "reference_pass" if model is self.reference else "old_log_probs_pass"
        pad, packed = self.policy.pad_token_id, self.policy.packs
        with self.part(name), self.gathered_weights(model):
            for batch in micro_batches(rollouts, rows, self.micro_batch_tokens, pad, packed):
                outputs = model(batch, self.self_reward.token_id, self.sampling.temperature)
                log_probs[batch.rows, : outputs.log_probs.shape[1]] = outputs.log_probs
                reward_token[batch.rows] = outputs.reward_token_log_probs
        return log_probs, reward_token

    def all_sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        with self.interruption.together():
            return self.trainer.strategy.reduce(values, reduce_op="sum")

    def all_stacked(self, values: Tensor) -> Tensor:
        """[ranks, ...] the tensors of all ranks, which are of one shape."""
        with self.interruption.together():
            gathered = self.trainer.strategy.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered

    def all_max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        with self.interruption.together():
            return int(self.trainer.strategy.reduce(torch.tensor(number, device=self.device), reduce_op="max"))

    def teardown(self, stage: str) -> None:
        """Stop the verifier's processes and the engine."""
        self.verifier_pool.close()
        self.engine.close()
