"""The messages of a step's responses: their tokens, rewards and advantages."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from laser_lightning.modules.self_correction import Message
from laser_lightning.objective.advantages import GroupRelative
from laser_lightning.objective.advantages.by_message import message_advantages
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.policy.text_places import tokens_before
from laser_lightning.records.batching import Rollouts, length_mask
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Bool, Float
from laser_lightning.verifiers import Verification


@dataclass
class Messages:
    """M messages of N responses, those of a response next to each other in their order.

    Attributes:
        response: [M] the number of each one's response.
        turn: [M] its number in it; solutions have even ones, and verifications odd ones.
        begin: [M] its first token in the response.
        end: [M] the token behind its last one.
        verdict: [M] of a verification, whether it finds its solution correct; None for a solution.
        texts: [M].
        rewards: [M] the verifier's of a solution; 1 for a right verdict, else 0. Empty before ``reward``.
    """

    response: list[int]
    turn: list[int]
    begin: list[int]
    end: list[int]
    verdict: list[bool | None]
    texts: list[str]
    rewards: list[float]

    @classmethod
    def of(cls, rollout: Rollout, read: Sequence[Sequence[Message]], tokenizer: PreTrainedTokenizerBase) -> "Messages":
        """Find messages in the tokens of their responses.

        Args:
            rollout: N responses.
            read: the messages of each.
            tokenizer: what they are decoded by.
        """
        found = cls([], [], [], [], [], [], [])
        rows = zip(rollout.texts, rollout.rollouts.responses(), read, strict=True)
        for number, (text, ids, messages) in enumerate(rows):
            begin = 0
            for turn, message in enumerate(messages):
                end = tokens_before(tokenizer, ids, message.end)
                found.response.append(number)
                found.turn.append(turn)
                found.begin.append(begin)
                found.end.append(end)
                found.verdict.append(message.verdict)
                found.texts.append(text[message.start : message.end])
                begin = end
        return found

    def solutions(self) -> list[int]:
        """The numbers of the messages that are solutions."""
        return [number for number, verdict in enumerate(self.verdict) if verdict is None]

    def reward(self, verifications: Sequence[Verification]) -> None:
        """Reward solutions by the verifier, and each verification for a right verdict on the solution in front of it.

        Args:
            verifications: of the solutions, in their order.
        """
        said = iter(verifications)
        correct = False
        self.rewards = []
        for verdict in self.verdict:
            if verdict is None:
                outcome = next(said)
                correct = outcome.reward > CORRECT_THRESHOLD
                self.rewards.append(outcome.reward if outcome.policy_reward is None else outcome.policy_reward)
            else:
                self.rewards.append(float(verdict == correct))

    def mask(self, rollouts: Rollouts) -> Bool[Tensor, "N R"]:
        """[N, R] bool: the tokens of messages.

        Args:
            rollouts: the N responses.
        """
        return self._spread(torch.ones(len(self.turn)), rollouts) > 0

    def advantages(self, rollouts: Rollouts, estimator: GroupRelative) -> Float[Tensor, "N R"]:
        """[N, R] advantages: at each token that of its message, 0 outside of them (see ``message_advantages``).

        Args:
            rollouts: the N responses.
            estimator: says how rewards are scaled.
        """
        problems = torch.tensor(self.response) // rollouts.group_size
        places = torch.stack((problems, torch.tensor(self.turn)), dim=1)
        rewards = torch.tensor(self.rewards)
        values = message_advantages(rewards, places, estimator.divide_by_std, estimator.epsilon)
        return self._spread(values, rollouts)

    def _spread(self, values: Tensor, rollouts: Rollouts) -> Tensor:
        width = rollouts.response_ids.shape[1]
        own = length_mask(torch.tensor(self.end), width) & ~length_mask(torch.tensor(self.begin), width)
        spread = torch.zeros(len(rollouts), width).index_add(0, torch.tensor(self.response), values[:, None] * own)
        return spread.to(rollouts.response_ids.device)

    def counts(self) -> Float[Tensor, "5"]:
        """[5] float64: responses, solutions, verifications, right ones of these, and the rewards of first solutions."""
        rows = list(zip(self.turn, self.rewards, strict=True))
        verifications = [reward for turn, reward in rows if turn % 2]
        first = [reward for turn, reward in rows if turn == 0]
        numbers = (len(first), len(rows) - len(verifications), len(verifications), sum(verifications), sum(first))
        return torch.tensor([float(number) for number in numbers], dtype=torch.float64)
