"""Importance weights for an engine whose log-probs differ from the trainer's."""

from abc import abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.shapes import Bool, Float

Level = Literal["token", "sequence", "geometric"]


class ImportanceWeights(NamedTuple):
    """What the policy losses of tokens are multiplied by.

    Attributes:
        weights: [B, R], without gradient; places outside the mask hold no meaning.
        capped: [B, R] bool, trained tokens whose ratio was changed by a bound.
    """

    weights: Float[Tensor, "B R"]
    capped: Bool[Tensor, "B R"]


class ImportanceCorrection(ObjectivePart):
    """Makes up for the mismatch between the policy that drew the tokens and the one whose gradient is taken.

    Tokens are drawn by the engine, and the policy gradient is that of the trainer's policy, which differs by rounding
    or more (other kernels, lower precision).
    """

    @abstractmethod
    def __call__(self, log_ratios: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"]) -> ImportanceWeights:
        """Weights of tokens.

        Args:
            log_ratios: [B, R] log pi_trainer - log pi_engine of each token, pi_trainer the policy that the update
                started from; without gradient, and 0 outside the mask.
            mask: [B, R] bool, the tokens that are trained on.
        """


def ratios_of(level: Level, log_ratios: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"]) -> Float[Tensor, "B R"]:
    """Ratios at a level: a response's own ratio stands at each of its tokens.

    Args:
        level: ``token`` for a ratio of each token, ``sequence`` for their product over the response, ``geometric`` for
            the geometric mean over its tokens, (pi_trainer(y) / pi_engine(y))^(1 / |y|).
        log_ratios: [B, R], 0 outside the mask.
        mask: [B, R] bool, the tokens that are trained on.
    """
    if level == "token":
        return log_ratios.exp()
    of_response = log_ratios.sum(dim=1, keepdim=True)
    if level == "geometric":
        of_response = of_response / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return of_response.exp().expand_as(log_ratios)


class TruncatedImportance(ImportanceCorrection):
    """min(max(pi_trainer / pi_engine, floor), cap) of each token, or of each whole response.

    The cap bounds the variance of the ratio (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You
    Off-Policy RL Training"); a floor above 0 keeps tokens that the trainer finds unlikely in the gradient (truncation
    on both sides).

    Args:
        level: ``token`` for a ratio of each token, ``sequence`` for their product over the response, ``geometric`` for
            their geometric mean over the response.
        cap: largest weight.
        floor: smallest weight; 0 for no bound.
    """

    def __init__(self, level: Level = "token", cap: float = 2.0, floor: float = 0.0) -> None:
        if cap < 1:
            raise UserError(f"update.importance.cap is {cap}, and must be at least 1.")
        if not 0 <= floor <= 1:
            raise UserError(f"update.importance.floor is {floor}, and must be between 0 and 1.")
        self.level, self.cap, self.floor = level, cap, floor

    def __call__(self, log_ratios: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"]) -> ImportanceWeights:
        """The truncated ratios (see ``ImportanceCorrection``)."""
        ratios = ratios_of(self.level, log_ratios, mask)
        weights = ratios.clamp(self.floor, self.cap)
        return ImportanceWeights(weights, (weights != ratios) & mask)


class NoImportance(ImportanceCorrection):
    """Weights of 1: no correction, where ``rollout.ahead`` would otherwise ask for one."""

    def __call__(self, log_ratios: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"]) -> ImportanceWeights:
        """Ones (see ``ImportanceCorrection``)."""
        return ImportanceWeights(torch.ones_like(log_ratios), torch.zeros_like(mask))


@torch.no_grad()
def correct_importance(
    correction: ImportanceCorrection,
    log_probs: Float[Tensor, "B R"],
    sampling_log_probs: Float[Tensor, "B R"],
    mask: Bool[Tensor, "B R"],
) -> ImportanceWeights:
    """The weights of a correction.

    Args:
        correction: which one.
        log_probs: [B, R] of the trainer's policy that the update started from.
        sampling_log_probs: [B, R] of the engine.
        mask: [B, R] bool, the tokens that are trained on.
    """
    return correction((log_probs - sampling_log_probs).where(mask, 0.0), mask)
