"""The offline stage: the score is learned from recorded solutions, and writing from the right ones beside it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from laser_lightning.data.problem import Problem
from laser_lightning.data.prompts import check_vocabulary
from laser_lightning.errors import UserError
from laser_lightning.metrics import SelfVerification, WithinProblems
from laser_lightning.modules.judging import auroc_within
from laser_lightning.modules.recorded_batch import RecordedBatch, draw_recorded
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.losses.aggregation import weighted_sum
from laser_lightning.objective.part import ObjectiveParts
from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision, zero_if_truncated
from laser_lightning.policy.model import PolicyOutputs, written_eos
from laser_lightning.records.batching import MicroBatch
from laser_lightning.rollout.fingerprints import prompt_fingerprint

if TYPE_CHECKING:
    from laser_lightning.modules.supervised import SupervisedModule


class Judgement(NamedTuple):
    """What the policy says of recorded solutions, without gradient.

    Attributes:
        log_probs: [N, K] of the head's tokens behind each solution; NaN where it was not asked.
        scores: [N] self-rewards; 0 where it was not asked.
        token_losses: scalar, the sum of the losses (nats) of the tokens of the solutions that are taught.
        tokens: scalar int64, how many these are.
    """

    log_probs: Tensor
    scores: Tensor
    token_losses: Tensor
    tokens: Tensor


class OfflineStage(nn.Module):
    """Trains and measures the score of a ``SupervisedModule`` on recorded solutions.

    The place behind ``<eos>`` belongs to the score here: solutions are taught to end in ``<eos>`` once.

    Args:
        module: whose policy and self-reward are trained.
        head: its self-reward.
        supervised_weight: weight of the next-token loss on right and worked solutions.
        solutions_per_problem: most solutions of a problem in a step; None for all.
    """

    def __init__(
        self,
        module: "SupervisedModule",
        head: SelfRewardHead,
        supervised_weight: float,
        solutions_per_problem: int | None,
    ) -> None:
        super().__init__()
        if head.loss_weight == 0:
            raise UserError(
                "self_reward.loss_weight is 0, which trains no score: set it above 0, or self_reward to null."
            )
        if head.is_exact:
            raise UserError(
                "self_reward.reference is exact, which the offline stage has no reference model for: set it to "
                "calibrate, or give it a number."
            )
        if head.target.needs_groups or head.target.moves_with_scores:
            raise UserError(
                f"self_reward.target is {type(head.target).__name__}, which looks at all solutions of a problem as the "
                "policy draws them, and the offline stage has recorded ones: take another target, such as "
                "laser_lightning.VerifierTarget."
            )
        self._module, self._head = (module,), (head,)  # in tuples: parameters are registered once, in the module
        self.supervised_weight, self.solutions_per_problem = supervised_weight, solutions_per_problem
        self.parts = ObjectiveParts(head.parts())
        self.parts.check_teacher(False)
        if self.parts.need_reference:
            raise UserError("A part of self_reward needs a reference model, which the offline stage has not.")
        self._verification, self._within = nn.ModuleList(), nn.ModuleList()

    @property
    def module(self) -> "SupervisedModule":
        """Whose policy is trained."""
        return self._module[0]

    @property
    def head(self) -> SelfRewardHead:
        """The score."""
        return self._head[0]

    # ------------------------------------------------------------------ set-up

    def check(self, sets: dict[str, list[Problem]], trains: bool) -> None:
        """Refuse sets without solutions, training sets without rewards, and solutions of other prompts.

        Args:
            sets: the problems of each set, by name, the training set first.
            trains: whether there is one.
        """
        for name, problems in sets.items():
            for problem in problems:
                if problem.solution is None and not problem.recorded:
                    raise UserError(
                        f"Row {problem.index} of the set '{name}' has no solution: name the columns that hold recorded "
                        "ones and their rewards (solution_column and reward_column)."
                    )
                known = {s.prompt_fingerprint for s in problem.recorded} - {None}
                if known and known != {prompt_fingerprint(problem.prompt_ids)}:
                    raise UserError(
                        f"The kept solutions in row {problem.index} of the set '{name}' are of another prompt than the "
                        "problem there has: the source under problems must be that of the evaluated set, with the same "
                        "template and tokenizer. For another model's tokenizer set check_prompts: false."
                    )
        if trains:
            rewards = [s.reward for p in next(iter(sets.values())) for s in p.recorded if s.reward is not None]
            if not rewards:
                raise UserError(
                    "model.self_reward is to learn from recorded solutions, and data.train has no rewards: name their "
                    "column (reward_column), or set model.self_reward to null."
                )

    def prepare_metrics(self, sets: int) -> None:
        """Make the metrics of so many validation sets."""
        self._verification = nn.ModuleList(SelfVerification() for _ in range(sets)).to(self.module.device)
        self._within = nn.ModuleList(WithinProblems() for _ in range(sets)).to(self.module.device)

    # ---------------------------------------------------------------- training

    def train_on(self, problems: Sequence[Problem]) -> dict[str, float | Tensor]:
        """Take an optimizer step on recorded solutions; all ranks call it together.

        Returns:
            The step's metrics, over all ranks; none where there was nothing to learn.
        """
        module, head, ranks = self.module, self.head, self.module.ranks
        step = module.trainer.global_step
        batch = self.batch(problems, self.solutions_per_problem, f"{module.seed} {step}")
        rollout, rollouts = batch.rollout, batch.rollout.rollouts
        context = StepContext(step, int(rollouts.response_lengths.max()), ranks)
        rows = torch.arange(len(rollouts), device=module.device)
        solutions = StepSolutions.of(rollout, rows, context)
        solutions = StepSolutions(
            solutions.rewards,
            rollout.grouped(batch.judged),
            torch.zeros_like(solutions.rewards),
            rollout,
            solutions.rows,
            context,
        )
        supervision = head.supervise(solutions)
        tokens = ranks.sum(rollouts.response_lengths[batch.taught].sum())
        token_weights = batch.taught / tokens.clamp(min=1)
        needed = ((supervision.weights > 0) | (batch.taught & (self.supervised_weight > 0))).nonzero().flatten()
        if ranks.sum(torch.tensor(len(needed), device=module.device)) == 0:
            module.skip_step("no recorded solution of the step has a reward or is to be taught")
            return {}
        number = ranks.max(-(-len(needed) // module.micro_batch_sequences))
        shares = torch.zeros(3, device=module.device)  # loss, next-token loss, self-rewarding loss
        scores = torch.zeros_like(rollout.rewards)
        micro = batch.micro_batches(needed, module.micro_batch_sequences, module.policy, least=number)
        for place, (part, weight) in enumerate(micro):
            breakable = module.interruption.interruptible(communicates=True)
            with breakable, module.parts("update"), module.micro_step(last=place + 1 == len(micro)):
                outputs = module.differentiable(part)
                written = weight * weighted_sum(-outputs.log_probs, part.response_mask, token_weights[part.rows])
                own = Supervision(supervision.targets[part.rows], supervision.weights[part.rows])
                judged = weight * head.loss(_readings(head, outputs), own)
                share = self.supervised_weight * written + head.loss_weight * judged
                module.backward_share(share)
            shares += torch.stack((share, written, judged)).detach()
            with torch.no_grad():
                scores[part.rows] = head.score(_readings(head, outputs))
        norm = module.apply_gradients(shares[0])
        self.parts.learn(rollout, context)
        totals = ranks.sum(shares)
        size = rollouts.group_size
        groups = (rows // size) * ranks.count + ranks.index
        learned = supervision.weights > 0
        within = auroc_within(groups[learned], scores[learned], rollout.rewards[learned], ranks)
        values: dict[str, float | Tensor] = {
            "train/loss": totals[0],
            "train/supervised_loss": totals[1],
            "train/self_reward_loss": totals[2],
            "train/self_reward/auroc_within": within,
            "train/solutions": ranks.sum((batch.taught | batch.rewarded).sum()).float(),
        }
        return values if norm is None else values | {"train/gradient_norm": norm}

    def batch(self, problems: Sequence[Problem], most: int | None = None, seed: str = "") -> RecordedBatch:
        """The recorded solutions of some problems, at most ``most`` of each, chosen by the seed."""
        module = self.module
        return RecordedBatch.of(
            problems,
            [draw_recorded(problem, most, seed) for problem in problems],
            self._encode,
            written_eos(module.policy.eos_token_ids, module.tokenizer),
            module.policy,
            len(self.head.token_ids),
        )

    def _encode(self, texts: list[str]) -> list[list[int]]:
        module = self.module
        found: list[list[int]] = module.tokenizer(texts, add_special_tokens=False)["input_ids"]
        for text, ids in zip(texts, found, strict=True):
            check_vocabulary(ids, module.tokenizer, module.policy.vocabulary_size, f"The recorded solution '{text}'")
        return found

    def forward(self, batch: MicroBatch) -> PolicyOutputs:
        """One pass: log-probs of the solutions, and what is read behind each."""
        outputs: PolicyOutputs = self.module.policy(batch, self.head.token_ids)
        return outputs

    # --------------------------------------------------------------- measuring

    @torch.no_grad()
    def judge(self, batch: RecordedBatch, score: bool = True) -> Judgement:
        """Ask the policy for its judgement, and for the losses of what is taught; its weights are gathered.

        Args:
            batch: recorded solutions.
            score: compute self-rewards, which need a known reference constant.
        """
        module, rollouts = self.module, batch.rollout.rollouts
        log_probs = rollouts.reward_token_log_probs.clone()
        scores, total = torch.zeros_like(batch.rollout.rewards), torch.zeros((), device=module.device)
        rows = (batch.judged | batch.taught).nonzero().flatten()
        trains = module.policy.lm.training
        module.policy.lm.eval()
        for part, _ in batch.micro_batches(rows, module.micro_batch_sequences, module.policy):
            outputs = self(part)
            log_probs[part.rows] = outputs.reward_token_log_probs
            if score:
                scores[part.rows] = self.head.score(_readings(self.head, outputs))
            total -= weighted_sum(outputs.log_probs, part.response_mask, batch.taught[part.rows].float())
        module.policy.lm.train(trains)
        tokens = rollouts.response_lengths[batch.taught].sum()
        return Judgement(log_probs, zero_if_truncated(scores, rollouts.finished), total, tokens)

    def count(self, problems: Sequence[Problem], place: int) -> Tensor:
        """Measure the score on solutions of the validation set at ``place``.

        Returns:
            [2] the sum of the losses of taught tokens, and their number.
        """
        batch = self.batch(problems)
        found, rows = self.judge(batch), batch.rewarded
        index = torch.tensor([p.index for p in problems], device=rows.device)
        size = batch.rollout.rollouts.group_size
        scores, rewards = found.scores[rows], batch.rollout.rewards[rows]
        verification, within = self._metrics(place)
        verification.update(scores, rewards)
        samples = torch.arange(size, device=rows.device).repeat(len(index))
        within.update(index.repeat_interleave(size)[rows], samples[rows], scores, rewards)
        return torch.stack((found.token_losses, found.tokens.float()))

    def _metrics(self, place: int) -> tuple[SelfVerification, WithinProblems]:
        verification, within = self._verification[place], self._within[place]
        assert isinstance(verification, SelfVerification)
        assert isinstance(within, WithinProblems)
        return verification, within

    def metrics(self, place: int) -> dict[str, Tensor]:
        """What was counted, over all ranks, and begin anew."""
        values: dict[str, Tensor] = {}
        for metric in self._metrics(place):
            values |= {f"self_verification/{name}": value.float() for name, value in metric.compute().items()}
            metric.reset()
        return values


def _readings(head: SelfRewardHead, outputs: PolicyOutputs) -> Readings:
    return Readings(outputs.reward_token_log_probs, outputs.hidden if head.reads_hidden else None)
