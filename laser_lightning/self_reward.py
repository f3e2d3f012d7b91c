"""The last-token self-reward: its score, its loss and its metrics (LaSeR, arXiv 2510.14943)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from laser_lightning.errors import UserError
from laser_lightning.metrics import SelfVerification

CORRECT_THRESHOLD = 0.5
"""Rewards above this count as correct; self-rewards above it are the verdict "correct"."""


class LastTokenSelfReward(nn.Module):
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
        token_id: id of z_c, known after ``bind``.
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
        super().__init__()
        if beta <= 0:
            raise UserError(f"self_reward.beta is {beta}, and must be above 0.")
        if loss_weight < 0:
            raise UserError(f"self_reward.loss_weight is {loss_weight}, and must be 0 or more.")
        self.token, self.beta, self.loss_weight = token, beta, loss_weight
        self.reference, self.class_weights = reference, class_weights
        self.token_id = -1
        constant = torch.nan if isinstance(reference, str) else float(reference)
        self.register_buffer("reference_constant", torch.tensor(constant, dtype=torch.float32))
        self.metrics = SelfVerification(threshold=CORRECT_THRESHOLD)
        if not isinstance(reference, str):
            self.check_reachable()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LastTokenSelfReward":
        # A model cast to bfloat16 must not round the constant: -23.11 would become -23.125.
        exact = self.reference_constant
        super()._apply(fn, recurse)
        self.reference_constant = exact.to(self.reference_constant.device)
        return self

    @property
    def is_exact(self) -> bool:
        """Whether each solution has its own reference, from the frozen reference model."""
        return self.reference == "exact"

    @property
    def needs_calibration(self) -> bool:
        """Whether the constant is still unknown."""
        return not self.is_exact and bool(self.reference_constant.isnan())

    def bind(self, tokenizer: PreTrainedTokenizerBase, eos_token_ids: tuple[int, ...]) -> None:
        """Look up the reward token's id.

        Raises:
            UserError: if the vocabulary lacks the token, the tokenizer splits it, or it ends responses.
        """
        ids = tokenizer.encode(self.token, add_special_tokens=False)
        known = self.token in tokenizer.get_vocab()
        if not known and len(ids) != 1:
            raise UserError(
                f"self_reward.token is '{self.token}', which the tokenizer splits into {len(ids)} tokens: "
                "choose one token of its vocabulary that normal text does not contain, such as an unused special token."
            )
        token_id = tokenizer.get_vocab()[self.token] if known else ids[0]
        if token_id == tokenizer.unk_token_id:
            raise UserError(f"self_reward.token is '{self.token}', which the tokenizer does not know.")
        if token_id in (*eos_token_ids, tokenizer.pad_token_id):
            raise UserError(f"self_reward.token is '{self.token}', which ends or pads responses: choose another token.")
        self.token_id = token_id

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

    def loss_weights(self, rewards: Tensor, finished: Tensor, class_counts: Tensor) -> Tensor:
        """What each solution's squared error weighs in the optimizer step's loss (ALGORITHM step 5).

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

    def loss(self, self_rewards: Tensor, rewards: Tensor, weights: Tensor) -> Tensor:
        """The weighted squared error between self-reward and reward, summed over these solutions.

        Args:
            self_rewards: [B] with gradient; entries of weight 0 may be NaN.
            rewards: [B] verifier rewards.
            weights: [B] of ``loss_weights``.
        """
        errors = (self_rewards - rewards).where(weights > 0, 0.0)
        return (weights * errors.square()).sum()

    def extra_repr(self) -> str:
        """Settings in the module's printout."""
        return f"token={self.token!r}, beta={self.beta}, loss_weight={self.loss_weight}, reference={self.reference}"


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
