"""What a rollout engine is: prompts in, solutions with their scores out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from laser_lightning.arguments import Part
from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightStream
from laser_lightning.records.batching import Rollouts


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Args:
        max_response_tokens: length limit of a response, ``<eos>`` included; a longer one is cut (truncated).
        temperature: divides the logits; 0 takes the most likely token.
        top_p: keep the smallest set of tokens whose probability is at least this much; 1 keeps all.
        top_k: keep this many most likely tokens; 0 keeps all.
        min_p: drop tokens less likely than this share of the most likely one; 0 drops none.
    """

    max_response_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("max_response_tokens", self.max_response_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("min_p", 0 <= self.min_p < 1, "at least 0 and below 1"),
        ):
            if not good:
                raise UserError(f"sampling.{name} is {getattr(self, name)}, and must be {rule}.")


class RolloutEngine(Part, ABC):
    """Draws solutions and reads the reward tokens' log-probs off the same pass.

    Attributes:
        collective: whether all ranks must call ``generate`` together, those without prompts too.
        replays: whether its responses are old ones, so that it cannot train.
        needs_whole_weights: whether ``generate`` computes with the policy's own weights, which are then whole on each
            rank all the while. An engine with a copy of its own takes them layer by layer (``take_weights``) instead.
        elsewhere: whether ``generate`` may run in another thread while the policy is updated (``rollout.ahead``): it
            computes with a copy of the weights, in another process or on another machine, and looks at nothing of the
            policy that an update changes. ``weights_changed`` is called meanwhile, and nothing else.
        progress: told, by an engine that knows, how many responses of a round have ended, and how many there are; set
            by who waits for them.
    """

    collective: bool = False
    replays: bool = False
    needs_whole_weights: bool = True
    elsewhere: bool = False
    progress: Callable[[int, int], None] | None = None

    @abstractmethod
    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        """Draw ``group_size`` responses for each prompt.

        Args:
            policy: the model as it is now, with whole weights on each rank if the engine needs them.
            prompts: P token id sequences, none of them empty; P is 0 for an engine that is ``collective`` alone.
            group_size: responses per prompt, G.
            sampling: how to draw.
            reward_token_ids: ids of the K tokens to read behind each ``<eos>``.
            generator: the source of all randomness, on the policy's device.

        Returns:
            P * G solutions, those of a prompt next to each other, on the policy's device.
        """

    def trial(self, rows: int) -> "RolloutEngine | None":
        """Make an engine that decodes as this one does, for the small batch of the self-test, in memory of its own.

        Args:
            rows: most responses decoded together, a multiple of the group size.

        Returns:
            None, by default, for an engine that cannot be tried so.
        """
        return None

    def weights_changed(self) -> None:
        """The policy has other weights than before: a copy of them is stale. Called when a stage of the trainer begins
        (a checkpoint may have been loaded) and after each optimizer step."""

    def take_weights(self, policy: Policy, weights: AbstractContextManager[WeightStream]) -> None:
        """Copy the policy's weights where the copy at hand is stale. All ranks call it together before ``generate``,
        some more often than others; it is not called where the engine needs whole weights.

        Args:
            policy: the model as it is now; its weights may be sharded.
            weights: gives the weights as they stand in a checkpoint of transformers, LoRA merged in, those of a layer
                whole until the next layer is asked for. All ranks enter it, or none, since they gather in it.
        """

    def sleep(self) -> None:
        """Give memory back until the next ``generate``. Called before each update."""

    def close(self) -> None:
        """Release everything; a later ``generate`` starts anew. Called when a stage of the trainer ends."""
