"""RLPR (arXiv 2506.18254): rewards from the policy's own probability of the reference answer, without a verifier."""

from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.module import PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.data.prompts import check_vocabulary
from laser_lightning.errors import UserError
from laser_lightning.modules.fit_checks import room_lacking
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.reference_answer import ReferenceAnswer
from laser_lightning.modules.reference_step import ReferenceStep
from laser_lightning.modules.training_log import TrainingLog
from laser_lightning.objective.advantages import Advantages
from laser_lightning.objective.losses.policy_loss import refuse_unused_rewards
from laser_lightning.objective.phases import Phase
from laser_lightning.policy.text_places import tokens_before
from laser_lightning.records.batching import Rollouts, length_mask, pad_rows
from laser_lightning.records.rollout import Rollout, SampledStep
from laser_lightning.shapes import Float


class RLPRModule(LaSeRModule):
    """Trains the policy on how probable reasoning makes the reference answer, as the policy itself sees it.

    The reward is the mean probability (not log-probability) of the reference answer's tokens in the place of the
    solution's own, less that without reasoning, not below 0, with a share for the format. What is taken from the
    authors' code: the mean of probabilities, the bound at 0, the weight 0.1, and that a response without exactly one
    place for an answer has probability 0. Another than theirs: the probability without reasoning is that of the policy
    as it is, where their code asks the initial one once. ``advantage.shaping`` with ``DropLowSpread`` is the paper's
    filter of groups by the standard deviation of their rewards.

    The verifier has no say in what the policy is trained on; it measures, and judges for the self-reward, which is
    trained as in LaSeR where ``self_reward.loss_weight`` is above 0.

    Args:
        reference_answer: where answers stand, and what the format is worth.
        laser: those of LaSeRModule; ``sampling_rounds`` must be 1, and ``policy_loss`` use advantages.
    """

    def __init__(self, reference_answer: ReferenceAnswer = ReferenceAnswer(), **laser: Any) -> None:
        super().__init__(**laser)
        if self.sampling_rounds != 1:
            raise UserError(
                f"sampling_rounds is {self.sampling_rounds}, and RLPR rewards the solutions of one round: set it to 1, "
                "and drop groups by laser_lightning.DropLowSpread in advantage.shaping."
            )
        refuse_unused_rewards(self.objective.policy_loss, "RLPR")
        self.reference_answer = reference_answer

    def check_data(self, data: PromptDataModule) -> None:
        """Refuse prompts, and reference answers of training problems, with tokens that the model has no rows for, or
        with too many for it, or for a micro-batch, behind the longest reasoning."""
        super().check_data(data)
        limit = data.curriculum.longest_response(self.sampling.max_response_tokens)
        for problem in data.train_problems:
            ids, _ = self._answered([], self.reference_answer.direct, problem.answer)
            what = f"The reference answer of row {problem.index} of the set '{problem.dataset}'"
            check_vocabulary(ids, self.tokenizer, self.policy.vocabulary_size, what)
            # At most: reasoning ends in front of the response's own answer, maybe with a piece of that token's text.
            tokens = len(problem.prompt_ids) + limit + len(ids)
            if room := room_lacking(tokens, self.policy.positions, self.update.micro_batch_tokens):
                raise UserError(
                    f"{what} has {len(ids)} tokens, which behind a prompt of {len(problem.prompt_ids)} and reasoning "
                    f"of up to {limit} (sampling.max_response_tokens, or that of a stage of data.curriculum) do not "
                    f"fit into {room} this limit or data.max_prompt_tokens, or leave the row out."
                )

    def sample_groups(self, problems: list[Problem]) -> ReferenceStep:
        """The step's solutions, with the rewards of their reference answers."""
        sampled = super().sample_groups(problems).sampled
        found = self.reference_probabilities(sampled)
        formats = torch.tensor([float(self.reference_answer.has_format(text)) for text in sampled.texts])
        step = ReferenceStep(sampled, sampled, found[:, :-1].flatten(), found[:, -1], formats.to(self.device))
        sampled.train_on(step.rewards(self.reference_answer.format_weight))
        return step

    def reference_probabilities(self, rollout: Rollout) -> Float[Tensor, "P G+1"]:
        """[P, G + 1] mean probabilities of the reference answers' tokens, in one pass; the last is without reasoning.

        Args:
            rollout: P problems with G solutions each.
        """
        solutions, group = rollout.rollouts.responses(), rollout.rollouts.group_size
        rows: list[tuple[list[int], int]] = []  # what is put behind a prompt, and where the answer in it begins
        for number, problem in enumerate(rollout.problems):
            direct = self._answered([], self.reference_answer.direct, problem.answer)
            for row in range(number * group, (number + 1) * group):
                text = rollout.texts[row]
                place = self.reference_answer.place(text)
                if place is None:
                    rows.append((direct[0], len(direct[0])))  # nothing of it counts
                    continue
                kept = solutions[row][: tokens_before(self.tokenizer, solutions[row], place)]
                written = self.tokenizer.decode(kept, skip_special_tokens=True)
                rows.append(self._answered(kept, text[len(written) : place], problem.answer))
            rows.append(direct)
        asked = self._asked(rollout, [ids for ids, _ in rows])
        log_probs = self.sampler.log_probs(self.policy, asked, 1.0, "reference_answer_pass").tokens
        begins = torch.tensor([begin for _, begin in rows], device=self.device)
        counted = asked.response_mask & ~length_mask(begins, log_probs.shape[1])
        means = (log_probs.exp() * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return means.view(len(rollout.problems), group + 1)

    def _answered(self, kept: list[int], lead: str, answer: str) -> tuple[list[int], int]:
        """Tokens that end in an answer, and where those of the answer begin; one that reaches into it is its first."""
        written = self.tokenizer.encode(lead + answer, add_special_tokens=False)
        return kept + written, len(kept) + tokens_before(self.tokenizer, written, len(lead))

    def _asked(self, rollout: Rollout, responses: list[list[int]]) -> Rollouts:
        """Given responses to a round's problems, as rollouts of which nothing else is known."""
        response_ids, lengths = pad_rows(responses, self.policy.pad_token_id)
        tokens_read = len(self.self_reward.score_token_ids)
        return Rollouts(
            rollout.rollouts.prompt_ids,
            rollout.rollouts.prompt_lengths,
            response_ids.to(self.device),
            lengths.to(self.device),
            torch.zeros(len(responses), dtype=torch.bool, device=self.device),
            torch.zeros(response_ids.shape, device=self.device),
            torch.full((len(responses), tokens_read), torch.nan, device=self.device),
        )

    def step_values(
        self, log: TrainingLog, step: SampledStep, phase: Phase, advantages: Advantages
    ) -> dict[str, float | Tensor]:
        """What the step sampled, and how probable it made the reference answers."""
        assert isinstance(step, ReferenceStep)
        columns = (step.probabilities, step.direct, step.formats)
        sums = [torch.stack((column.double().sum(), column.new_tensor(len(column)).double())) for column in columns]
        totals = self.ranks.sum(torch.stack(sums)).tolist()
        names = ("probability", "direct_probability", "format_rate")
        means = {name: total / number for name, (total, number) in zip(names, totals, strict=True)}
        return super().step_values(log, step, phase, advantages) | {
            f"train/reference_answer/{name}": mean for name, mean in means.items()
        }
