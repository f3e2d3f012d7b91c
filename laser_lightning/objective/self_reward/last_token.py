"""The self-reward: what the distribution behind ``<eos>`` says of the solution; LaSeR's own (arXiv 2510.14943)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from laser_lightning.arguments import Part
from laser_lightning.errors import UserError
from laser_lightning.metrics import SelfVerification

CORRECT_THRESHOLD = 0.5
"""Rewards above this count as correct; self-rewards above it are the verdict "correct"."""


class SelfRewardHead(Part, nn.Module, ABC):
    """A judgement of solutions, read off the next-token distribution behind ``<eos>``, and the loss it learns by.

    Args:
        tokens: the tokens that the loss reads, by the names of their arguments; the first is the one that scores are
            made of, and the only one that rollouts read.
        loss_weight: weight of the loss; 0 trains plain GRPO.
        class_weights: let correct and incorrect solutions weigh half each, however many there are.

    Attributes:
        token_ids: ids of the tokens, known after ``bind``.
        metrics: how well the scores judge.
        is_exact: whether each solution has its own reference, from the frozen reference model.
    """

    is_exact: bool = False

    def __init__(self, tokens: dict[str, str], loss_weight: float, class_weights: bool) -> None:
        super().__init__()
        if loss_weight < 0:
            raise UserError(f"self_reward.loss_weight is {loss_weight}, and must be 0 or more.")
        self.tokens, self.loss_weight, self.class_weights = tokens, loss_weight, class_weights
        self.token_ids = (-1,) * len(tokens)
        self.metrics = SelfVerification(threshold=CORRECT_THRESHOLD)

    @property
    def token(self) -> str:
        """The token that scores are made of."""
        return next(iter(self.tokens.values()))

    @property
    def token_id(self) -> int:
        """Its id."""
        return self.token_ids[0]

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
        return {"score": type(self).__name__, "reward_token": self.token, "reward_token_id": self.token_id}

    def trained_token_ids(self, rewards: Tensor) -> Tensor:
        """[B] int64: the token whose log-prob each solution's loss is made of.

        Args:
            rewards: [B] verifier rewards.
        """
        return torch.full_like(rewards, self.token_id, dtype=torch.int64)

    @abstractmethod
    def score(self, log_probs: Tensor, reference: Tensor | None = None) -> Tensor:
        """The self-reward r_s; above 0.5 it says "correct".

        Args:
            log_probs: [N] log-probs of ``token_id`` behind the last token, at temperature 1.
            reference: [N] the same under the frozen reference, if ``is_exact``, else None.

        Returns:
            [N] float32 self-rewards, NaN where ``log_probs`` is (truncated solutions).
        """

    @abstractmethod
    def loss(self, log_probs: Tensor, rewards: Tensor, weights: Tensor, reference: Tensor | None = None) -> Tensor:
        """The weighted loss, summed over these solutions.

        Args:
            log_probs: [B] with gradient, of ``trained_token_ids``; entries of weight 0 may be NaN.
            rewards: [B] verifier rewards.
            weights: [B] of ``loss_weights``.
            reference: [B] as in ``score``.
        """

    def loss_weights(self, rewards: Tensor, finished: Tensor, class_counts: Tensor) -> Tensor:
        """What each solution's error weighs in the optimizer step's loss (ALGORITHM step 5).

        With class weights N/(2 N_correct) and N/(2 N_incorrect) the weighted mean over N finished solutions gives a
        correct one 1/(2 N_correct) and an incorrect one 1/(2 N_incorrect). An absent class contributes nothing.

        Args:
            rewards: [N] verifier rewards.
            finished: [N] bool; the others weigh nothing.
            class_counts: [2] int64, finished (incorrect, correct) solutions of the optimizer step on all ranks.

        Returns:
            [N] float32.
        """
        correct = (rewards > CORRECT_THRESHOLD).long()
        denominators = 2 * class_counts if self.class_weights else class_counts.sum().expand(2)
        return finished / denominators.clamp(min=1)[correct]


class LastTokenSelfReward(SelfRewardHead):
    """Turns the reward token's log-prob after ``<eos>`` into the model's own judgement of its solution.

    The self-reward is r_s = beta * (log pi(z_c given x, y) - reference), where the reference is a constant for all
    solutions, or log pi_ref(z_c given x, y) of each one.

    Args:
        token: the reward token z_c, one token of the vocabulary that normal text does not contain.
        beta: KL coefficient beta_v of the verification objective; the scale of the score.
        loss_weight: alpha, the weight of the self-rewarding loss; 0 trains plain GRPO, with no self-rewards in the
            advantages either, and still reports the score.
        reference: ``calibrate`` takes the mean of log pi_ref(z_c) over solutions of the initial policy (needs the
            ReferenceConstantCalibration callback), a number is taken as it is, and ``exact`` runs the frozen
            reference model on every solution.
        class_weights: let correct and incorrect solutions weigh half each, however many there are.

    Attributes:
        reference_constant: float32 buffer, saved with the model; NaN until it is known, and for ``exact``.
    """

    reference_constant: Tensor

    def __init__(
        self,
        token: str,
        beta: float = 0.1,
        loss_weight: float = 0.1,
        reference: Literal["calibrate", "exact"] | float = "calibrate",
        class_weights: bool = True,
    ) -> None:
        super().__init__({"token": token}, loss_weight, class_weights)
        if beta <= 0:
            raise UserError(f"self_reward.beta is {beta}, and must be above 0.")
        self.beta, self.reference = beta, reference
        self.is_exact = reference == "exact"
        constant = torch.nan if isinstance(reference, str) else float(reference)
        self.register_buffer("reference_constant", torch.tensor(constant, dtype=torch.float32))
        if not isinstance(reference, str):
            self.check_reachable()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LastTokenSelfReward":
        # A model cast to bfloat16 must not round the constant: -23.11 would become -23.125.
        exact = self.reference_constant
        super()._apply(fn, recurse)
        self.reference_constant = exact.to(self.reference_constant.device)
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether the constant is still unknown."""
        return not self.is_exact and bool(self.reference_constant.isnan())

    def score_settings(self) -> dict[str, Any]:
        """With the scale and the constant (of an exact reference, the word)."""
        reference = "exact" if self.is_exact else float(self.reference_constant)
        return super().score_settings() | {"beta": self.beta, "reference": reference}

    def check_reachable(self) -> None:
        """Refuse a beta with which a self-reward of 1 lies above probability 1 (beta * -constant at most 1)."""
        constant = float(self.reference_constant)
        if self.beta * -constant <= 1:
            remedy = (
                f"raise self_reward.beta to {_rounded_up(1 / -constant)} or more"
                if constant < 0
                else "choose a token that the model gives next to no probability"
            )
            raise UserError(
                f"With beta = {self.beta} and a reference constant of {constant:.4g} a self-reward of 1 is "
                f"unreachable, since the reward token would need a probability of 1 or more: {remedy}."
            )

    def score(self, log_probs: Tensor, reference: Tensor | None = None) -> Tensor:
        """The self-reward r_s.

        Args:
            log_probs: [N] log pi(z_c given x, y).
            reference: [N] log pi_ref(z_c given x, y) with ``reference: exact``, else None.

        Returns:
            [N] float32 self-rewards, NaN where ``log_probs`` is (truncated solutions).
        """
        if self.is_exact:
            if reference is None:
                raise ValueError("An exact self-reward needs the reference model's log-probs.")
            return self.beta * (log_probs.float() - reference.float())
        if self.needs_calibration:
            raise UserError(
                "The self-reward's reference constant is not known yet: add the ReferenceConstantCalibration callback "
                "(config key `calibration`), or give self_reward.reference a number."
            )
        return self.beta * (log_probs.float() - self.reference_constant)

    def loss(self, log_probs: Tensor, rewards: Tensor, weights: Tensor, reference: Tensor | None = None) -> Tensor:
        """The weighted squared error between self-reward and reward, summed over these solutions.

        Args:
            log_probs: [B] log pi(z_c given x, y) with gradient; entries of weight 0 may be NaN.
            rewards: [B] verifier rewards.
            weights: [B] of ``loss_weights``.
            reference: [B] as in ``score``.
        """
        errors = (self.score(log_probs, reference) - rewards).where(weights > 0, 0.0)
        return (weights * errors.square()).sum()

    def extra_repr(self) -> str:
        """Settings in the module's printout."""
        return f"token={self.token!r}, beta={self.beta}, loss_weight={self.loss_weight}, reference={self.reference}"


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


def _rounded_up(value: float) -> str:
    """The smallest number of three significant digits above a positive value."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{(math.floor(value / unit) + 1) * unit:.3g}"


def class_counts(rewards: Tensor, finished: Tensor) -> Tensor:
    """[2] int64: finished incorrect and finished correct solutions."""
    return torch.bincount((rewards > CORRECT_THRESHOLD)[finished].long(), minlength=2)


def settled_scores(self_rewards: Tensor, finished: Tensor) -> Tensor:
    """[N] self-rewards with 0 for truncated solutions, which have no ``<eos>`` to be judged at."""
    return self_rewards.where(finished, 0.0)
