"""The supervised stage before RL: next-token training on worked solutions."""

import time
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from laser_lightning.data.module import PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.data.prompts import check_vocabulary
from laser_lightning.errors import UserError
from laser_lightning.modules.offline import OfflineStage
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.training import TrainingModule
from laser_lightning.objective.self_reward.head import SelfRewardHead
from laser_lightning.policy.logprobs import token_statistics
from laser_lightning.policy.model import PolicyOutputs, PolicySettings, written_eos
from laser_lightning.policy.precision import float32_by_default
from laser_lightning.records.batching import MicroBatch, length_mask, pad_rows


class SupervisedModule(TrainingModule):
    """Trains a causal LM to write the worked solution of each problem, and then ``<eos>``.

    The position behind ``<eos>`` is trained too, with ``<eos>`` as its target. Language models see the next document
    there; one whose distribution at that place was never trained gives every solution another log pi(z_c), and no
    constant could stand for it.

    With ``self_reward`` it is the offline stage: the score is trained on recorded solutions, right and wrong, and the
    model to write the right ones beside it. Rows without a reward are worked solutions, which are written alone. The
    place behind ``<eos>`` is then the score's.

    Args:
        policy: which model is trained.
        micro_batch_sequences: sequences of like length in a forward pass; it changes memory and speed, not results.
        optimizer: how gradients change weights.
        max_skipped_steps: stop after this many optimizer steps in a row without a usable gradient.
        seed: seed of all randomness. Default: that of ``seed_everything``.
        self_reward: how the model judges recorded solutions, and learns to; null trains on worked solutions alone.
        supervised_weight: weight of the next-token loss beside ``self_reward``, whose own is ``loss_weight``; 0 trains
            the score alone, and nothing then holds the model's writing.
        solutions_per_problem: most recorded solutions of a problem in a step, drawn anew each time; null takes all.

    Attributes:
        offline: what trains the score, where there is one.
    """

    def __init__(
        self,
        policy: PolicySettings,
        micro_batch_sequences: int = 16,
        optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-3),
        max_skipped_steps: int = 10,
        seed: int | None = None,
        self_reward: SelfRewardHead | None = None,
        supervised_weight: float = 1.0,
        solutions_per_problem: int | None = None,
    ) -> None:
        super().__init__(policy, optimizer, max_skipped_steps, seed)
        if micro_batch_sequences < 1:
            raise UserError(f"micro_batch_sequences is {micro_batch_sequences}, and must be at least 1.")
        self.micro_batch_sequences = micro_batch_sequences
        if supervised_weight < 0:
            raise UserError(f"supervised_weight is {supervised_weight}, and must be 0 or more.")
        if solutions_per_problem is not None and solutions_per_problem < 2:
            raise UserError(
                f"solutions_per_problem is {solutions_per_problem}: a score is learned by comparing, so at least 2."
            )
        self.self_reward = self_reward
        self.offline: OfflineStage | None = None
        if self_reward is not None:
            self.offline = OfflineStage(self, self_reward, supervised_weight, solutions_per_problem)

    def configure_model(self) -> None:
        """Load the weights, and say which ``<eos>`` is taught where the tokenizer's does not end responses."""
        super().configure_model()
        own, ends = self.tokenizer.eos_token_id, self.policy.eos_token_ids
        if own not in ends:
            taught = written_eos(ends, self.tokenizer)
            rank_zero_warn(
                f"The tokenizer's <eos> is '{self.tokenizer.eos_token}' ({own}), and the model's generation config "
                f"ends responses at {', '.join(map(str, ends))}: solutions are taught to end with "
                f"'{self.tokenizer.convert_ids_to_tokens(taught)}' ({taught}), as the engines end them."
            )

        if self.self_reward is not None:
            self.self_reward.bind(self.tokenizer, self.policy.eos_token_ids)
            self.self_reward.check_vocabulary(self.policy.vocabulary_size)
            self.self_reward.prepare(self.policy.hidden_size, sharded=self.training_strategy.shards_weights)

    def setup(self, stage: str) -> None:
        """Check the recorded solutions, and make the metrics of the score."""
        super().setup(stage)
        data = self.data
        training = {"train": data.train_problems} if stage == "fit" else {}
        sets = {**training, **data.evaluation_problems}
        if self.offline is not None:
            self.offline.check(sets, trains=stage == "fit")
            self.offline.prepare_metrics(len(data.evaluation_problems))
        elif recorded := next((name for name, problems in sets.items() if any(p.recorded for p in problems)), None):
            raise UserError(
                f"The set '{recorded}' has recorded solutions with rewards (reward_column), and there is no "
                "model.self_reward to learn from them: set one, or leave the rewards out."
            )

    def check_data(self, data: PromptDataModule) -> None:
        """Refuse prompts, and worked solutions, with tokens that the model has no rows for."""
        super().check_data(data)
        if self.has_tokens_beyond:
            for problems in (data.train_problems, *data.evaluation_problems.values()):
                if solved := [problem for problem in problems if problem.solution is not None]:
                    self.encode(solved)

    @float32_by_default()
    def training_step(self, problems: list[Problem], batch_idx: int) -> None:
        """One optimizer step: the mean loss over all target tokens of the step on all ranks."""
        started = time.perf_counter()
        if self.offline is not None:
            values = self.offline.train_on(problems)
            numbers = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}
            self.log_dict(numbers | {"step": torch.tensor(float(self.trainer.global_step))})
            return
        # Sequences of like length share a forward pass, so that little is padded.
        prompts, targets = self.encode(sorted(problems, key=lambda p: len(p.prompt_ids) + len(p.solution or "")))
        local_tokens = torch.tensor(sum(len(target) for target in targets), device=self.device)
        tokens = self.ranks.sum(local_tokens)
        loss = torch.zeros((), device=self.device)
        for start in range(0, len(problems), self.micro_batch_sequences):
            rows = slice(start, start + self.micro_batch_sequences)
            # All ranks have the same number of sequences, and so of micro-batches.
            breakable = self.interruption.interruptible(communicates=True)
            with breakable, self.parts("update"), self.micro_step(last=rows.stop >= len(problems)):
                share = self.differentiable(prompts[rows], targets[rows]).sum() / tokens
                self.backward_share(share)
            loss += share.detach()
        norm = self.apply_gradients(loss)
        loss = self.ranks.sum(loss)
        seconds = time.perf_counter() - started
        self.log_dict({"train/loss": loss, "train/tokens_per_second": float(tokens) / seconds}, prog_bar=True)
        self.log("step", float(self.trainer.global_step))
        if norm is not None:
            self.log("train/gradient_norm", norm)

    @float32_by_default()
    def validation_step(self, problems: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> None:
        """The mean loss over the target tokens of all ranks."""
        # A rank without problems gathers weights and sums for those that have some.
        total = torch.zeros(2, device=self.device)  # of losses, and their number
        breakable = self.interruption.interruptible()
        with breakable, self.parts("evaluation"), self.gathered_weights(self.policy):
            if problems and self.offline is not None:
                total += self.offline.count(problems, dataloader_idx)
            elif problems:
                losses = self(*self.encode(problems))
                total += torch.stack((losses.sum(), torch.tensor(float(len(losses)), device=self.device)))
        total = self.ranks.sum(total)
        name = list(self.data.evaluation_problems)[dataloader_idx]
        self.log(
            f"val/{name}/loss",
            total[0] / total[1],
            batch_size=int(total[1]),
            prog_bar=True,
            add_dataloader_idx=False,
            sync_dist=True,
        )

    def on_validation_epoch_end(self) -> None:
        """Log how well the score judges the recorded solutions of each set that has some."""
        if self.offline is None:
            return
        for place, (name, problems) in enumerate(self.data.evaluation_problems.items()):
            if any(s.reward is not None for problem in problems for s in problem.recorded):
                values = {f"val/{name}/{metric}": value for metric, value in self.offline.metrics(place).items()}
                # The values are those of all ranks; the largest of equal numbers is that number, bit for bit.
                self.log_dict(values, sync_dist=True, reduce_fx="max")

    def encode(self, problems: list[Problem]) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of the prompts, and of what is to follow: solution, ``<eos>``, and ``<eos>`` once more."""
        missing = next((problem for problem in problems if problem.solution is None), None)
        if missing is not None:
            raise UserError(
                f"Row {missing.index} of the set '{missing.dataset}' has no worked solution: "
                "name the column that holds it (solution_column)."
            )
        eos = written_eos(self.policy.eos_token_ids, self.tokenizer)
        solutions = self.tokenizer([problem.solution for problem in problems], add_special_tokens=False)["input_ids"]
        for problem, ids in zip(problems, solutions, strict=True):
            where = f"The worked solution in row {problem.index} of the set '{problem.dataset}'"
            check_vocabulary(ids, self.tokenizer, self.policy.vocabulary_size, where)
        return [problem.prompt_ids for problem in problems], [[*ids, eos, eos] for ids in solutions]

    def forward(self, *batch: Any) -> Tensor | PolicyOutputs:
        """The one differentiable pass: ``token_losses`` of prompts and targets, or ``offline`` of a micro-batch."""
        if self.offline is not None and isinstance(batch[0], MicroBatch):
            return self.offline(batch[0])
        return self.token_losses(*batch)

    def token_losses(self, prompts: list[list[int]], targets: list[list[int]]) -> Tensor:
        """[T] losses (nats) of all target tokens, given the prompt and the targets before them."""
        rows = [prompt + target[:-1] for prompt, target in zip(prompts, targets, strict=True)]
        input_ids, lengths = (t.to(self.device) for t in pad_rows(rows, self.policy.pad_token_id))
        target_ids, target_lengths = (t.to(self.device) for t in pad_rows(targets, self.policy.pad_token_id))
        hidden = self.policy.hidden_states(input_ids)
        target_mask = length_mask(target_lengths, target_ids.shape[1])
        places = torch.arange(input_ids.shape[1], device=self.device)
        predicts = (places >= (lengths - target_lengths)[:, None]) & (places < lengths[:, None])
        statistics = token_statistics(
            hidden[predicts],
            target_ids[target_mask],
            self.policy.head,
            temperature=1.0,
            chunk_size=self.policy.chunk_size,
        )
        return -statistics.log_probs

    # ------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the parts of the score's objective remember."""
        super().on_save_checkpoint(checkpoint)
        if self.offline is not None:
            checkpoint["laser_objective_parts"] = self.offline.parts.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the parts of the score's objective go on from what they remember."""
        super().on_load_checkpoint(checkpoint)
        if self.offline is not None:
            self.offline.parts.load_state_dict(checkpoint.get("laser_objective_parts", {}))

    def fingerprint(self) -> dict[str, Any]:
        """The model's, and the tokens that carry its judgement, where it has one."""
        head = self.self_reward
        own = {} if head is None else {"reward_token": " / ".join(head.tokens.values())}
        return super().fingerprint() | own
