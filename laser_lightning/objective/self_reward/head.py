"""The contract of a self-reward head: which tokens it reads behind ``<eos>``, its score, and the loss it learns by."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from laser_lightning.arguments import Part
from laser_lightning.errors import UserError
from laser_lightning.metrics import SelfVerification
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD, StepSolutions, Supervision
from laser_lightning.objective.self_reward.target import SelfRewardTarget, VerifierTarget
from laser_lightning.objective.self_reward.weights import ClassBalancedWeights, EqualWeights, SelfRewardWeights
from laser_lightning.shapes import Float


class Readings(NamedTuple):
    """What the policy says behind the last token of B solutions.

    Attributes:
        log_probs: [B, K] float32, at temperature 1: with gradient those of all ``token_ids`` in the update, and of
            ``score_token_ids`` alone elsewhere, NaN for truncated solutions.
        hidden: [B, D] last hidden states if the head ``reads_hidden``: with gradient in the update, and elsewhere NaN
            for truncated solutions; else None.
        references: [B, K] log-probs of ``score_token_ids`` under the frozen reference if the head ``is_exact``, else
            None.
    """

    log_probs: Float[Tensor, "B K"]
    hidden: Float[Tensor, "B D"] | None = None
    references: Float[Tensor, "B K"] | None = None


class SelfRewardHead(Part, nn.Module, ABC):
    """A judgement of solutions, read off the policy behind ``<eos>``, and the loss it learns by.

    Parameters of its own, if it has any, are trained by the optimizer of the policy and saved in checkpoints.

    Args:
        tokens: the tokens that it reads, at least one, by the names of their arguments.
        loss_weight: weight of the loss; 0 trains plain GRPO.
        class_weights: false is version 0.1's word for ``weights: EqualWeights``.
        weights: what each solution's error weighs in the loss.
        target: what each solution's self-reward is trained towards.

    Attributes:
        is_exact: whether each solution has its own reference, from the frozen reference model.
        reads_hidden: whether it needs the last hidden state. Rollouts then cost a forward pass without gradient more.
        tokens_in_score: how many of the tokens, the first ones, scores are made of, and rollouts read; None for all.
        squares_errors: whether the loss is the weighted squared error between score and target.
        token_ids: ids of the tokens, known after ``bind``.
        metrics: how well the scores judge.
    """

    is_exact: bool = False
    reads_hidden: bool = False
    tokens_in_score: int | None = None
    squares_errors: bool = False

    def __init__(
        self,
        tokens: dict[str, str],
        loss_weight: float,
        class_weights: bool = True,
        weights: SelfRewardWeights = ClassBalancedWeights(),
        target: SelfRewardTarget = VerifierTarget(),
    ) -> None:
        super().__init__()
        if loss_weight < 0:
            raise UserError(f"self_reward.loss_weight is {loss_weight}, and must be 0 or more.")
        if not class_weights and type(weights) not in (ClassBalancedWeights, EqualWeights):
            raise UserError(
                f"self_reward.class_weights is false, which stands for equal weights, and self_reward.weights is "
                f"{type(weights).__name__}: leave the first out."
            )
        if target.moves_with_scores and not self.squares_errors:
            raise UserError(
                f"self_reward.target is {type(target).__name__}, which moves the target of a squared error, and the "
                f"loss of {type(self).__name__} is another: take a head whose loss is one, such as "
                "LastTokenSelfReward, or another target."
            )
        self.tokens, self.loss_weight = tokens, loss_weight
        self.weights = weights if class_weights else EqualWeights()
        self.target = target
        self.token_ids = (-1,) * len(tokens)
        self.metrics = SelfVerification(threshold=CORRECT_THRESHOLD)

    @property
    def token(self) -> str:
        """The first token."""
        return next(iter(self.tokens.values()))

    @property
    def token_id(self) -> int:
        """Its id."""
        return self.token_ids[0]

    @property
    def score_token_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that scores are made of."""
        return self.token_ids[: self.tokens_in_score]

    def parts(self) -> dict[str, ObjectivePart]:
        """The parts by their keys below ``model``."""
        return {"self_reward.weights": self.weights, "self_reward.target": self.target}

    def bind(self, tokenizer: PreTrainedTokenizerBase, eos_token_ids: tuple[int, ...]) -> None:
        """Look up the ids of the tokens.

        Raises:
            UserError: if the vocabulary lacks a token, the tokenizer splits it, it ends responses, or two are the same.
        """
        ends = (*eos_token_ids, tokenizer.pad_token_id)
        ids = tuple(_id_of(key, token, tokenizer, ends) for key, token in self.tokens.items())
        if len(set(ids)) < len(ids):
            names = " and ".join(f"self_reward.{key}" for key in self.tokens)
            raise UserError(f"{names} are the same token '{self.token}': choose different ones.")
        self.token_ids = ids

    def build(self, hidden_size: int) -> None:
        """Make parameters whose shape depends on the policy's; called once, before weights are loaded or trained.

        Args:
            hidden_size: D, the width of the hidden states.
        """

    def prepare(self, hidden_size: int, sharded: bool) -> None:
        """Make the parameters, and let them be trained if there is a loss to train them.

        Args:
            hidden_size: D, as in ``build``.
            sharded: whether ranks hold parts of all parameters alone (ZeRO-3).

        Raises:
            UserError: if parameters of the head would be sharded.
        """
        self.build(hidden_size)
        if sharded and next(self.parameters(), None) is not None:
            raise UserError(
                f"self_reward, a {type(self).__name__}, has parameters of its own, which ZeRO-3 would shard where the "
                "score is computed: overlay strategy/zero2 or strategy/ddp."
            )
        # Strategies wait for the gradients of all parameters that have one.
        self.requires_grad_(self.loss_weight > 0)

    def check_vocabulary(self, size: int) -> None:
        """Refuse tokens that a model with a vocabulary of this size does not have."""
        for (key, token), token_id in zip(self.tokens.items(), self.token_ids, strict=True):
            if token_id >= size:
                raise UserError(
                    f"self_reward.{key} '{token}' has the id {token_id}, and the model's vocabulary ends at "
                    f"{size - 1}: choose a token that the model has."
                )

    def score_settings(self) -> dict[str, Any]:
        """What scores depend on besides the model, as plain values."""
        settings = {"score": type(self).__name__, "reward_token": self.token, "reward_token_id": self.token_id}
        several = len(self.score_token_ids) > 1
        return settings | ({"reward_token_ids": list(self.score_token_ids)} if several else {})

    @abstractmethod
    def score(self, readings: Readings) -> Float[Tensor, " N"]:
        """The self-reward r_s; above 0.5 it says "correct".

        Args:
            readings: of N solutions. Only the tokens of ``score_token_ids`` are surely there.

        Returns:
            [N] float32 self-rewards, NaN where the readings are (truncated solutions).
        """

    @abstractmethod
    def loss(self, readings: Readings, supervision: Supervision) -> Float[Tensor, ""]:
        """The weighted loss, summed over these solutions; its sum over micro-batches and ranks is the step's.

        Args:
            readings: of B solutions, with gradient; those of weight 0 may be NaN.
            supervision: their targets and weights.
        """

    def supervise(self, solutions: StepSolutions, weigh: SelfRewardWeights | None = None) -> Supervision:
        """Fix targets and weights of an optimizer step; all ranks call it together.

        Args:
            solutions: those of the step on this rank.
            weigh: weighs the errors in the place of ``weights``.

        Returns:
            Targets and weights of all N solutions of the rollout, 0 for those that are not of the step.

        Raises:
            UserError: if a part returns another shape, or a weight below 0.
        """
        weigh = self.weights if weigh is None else weigh
        targets, weights = self.target.aim(solutions), weigh.weigh(solutions)
        for key, part, values in (("target", self.target, targets), ("weights", weigh, weights)):
            if values.shape != solutions.rewards.shape:
                raise UserError(
                    f"self_reward.{key}, a {type(part).__name__}, returned values of shape {list(values.shape)} for "
                    f"rewards of shape {list(solutions.rewards.shape)}: one is needed for each solution."
                )
        weights = weights.where(solutions.finished, 0.0)
        if not bool((weights >= 0).all()):
            raise UserError(
                f"self_reward.weights, a {type(weigh).__name__}, returned a weight that is below 0 or no number."
            )
        return Supervision(solutions.on_rollout(targets), solutions.on_rollout(weights))


def _id_of(key: str, token: str, tokenizer: PreTrainedTokenizerBase, ends: tuple[int | None, ...]) -> int:
    ids = tokenizer.encode(token, add_special_tokens=False)
    known = token in tokenizer.get_vocab()
    if not known and len(ids) != 1:
        raise UserError(
            f"self_reward.{key} is '{token}', which the tokenizer splits into {len(ids)} tokens: "
            "choose one token of its vocabulary that normal text does not contain, such as an unused special token."
        )
    token_id = tokenizer.get_vocab()[token] if known else ids[0]
    if token_id == tokenizer.unk_token_id:
        raise UserError(f"self_reward.{key} is '{token}', which the tokenizer does not know.")
    if token_id in ends:
        raise UserError(f"self_reward.{key} is '{token}', which ends or pads responses: choose another token.")
    return token_id
