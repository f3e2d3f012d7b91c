"""KDRL: reinforcement learning with a KL divergence to a teacher, which fades."""

from typing import Any

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.losses.aggregation import weighted_sum
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.objective.targets import Targets
from laser_lightning.objective.term import LossTerm
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Bool, Float


class TeacherKL(LossTerm):
    """weight * (log pi_T - log pi)^2 / 2, the k2 estimate of KL(pi || pi_T) at each token, added to the loss.

    KDRL (arXiv 2506.02208): GRPO's objective less beta times the reverse KL to a teacher, estimated by k2, whose
    gradient is that of the true KL on the student's own tokens; beta goes from 5e-3 down to 1e-3. That it falls along a
    line, and the 80 steps that this takes here, could not be verified. With ``only_wrong`` the teacher speaks to wrong
    solutions alone (the paper's reward-guided masking of responses). Means are over all of the step's tokens
    (``update.aggregation``).

    Args:
        weight: beta of the first step.
        final_weight: beta that it falls to.
        steps: training steps in which it falls.
        only_wrong: leave out solutions with a reward above 0.5.
    """

    needs_teacher = True

    def __init__(
        self, weight: float = 5e-3, final_weight: float = 1e-3, steps: int = 80, only_wrong: bool = False
    ) -> None:
        if weight < 0 or final_weight < 0 or steps < 1:
            raise UserError("TeacherKL needs weight and final_weight of 0 or more, and steps of at least 1.")
        self.weight, self.final_weight, self.steps, self.only_wrong = weight, final_weight, steps, only_wrong
        self._taken = 0

    @property
    def weight_now(self) -> float:
        """Beta of the current training step."""
        return self.weight + (self.final_weight - self.weight) * min(1.0, self._taken / self.steps)

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Float[Tensor, ""]:
        """A micro-batch's share (see ``LossTerm``)."""
        assert targets.teacher_log_probs is not None
        mask = batch.loss_mask & self.has_gradient(targets)[batch.rows, None]
        distance = targets.teacher_log_probs[batch.rows, : mask.shape[1]] - outputs.log_probs
        return self.weight_now * weighted_sum(distance.square() / 2, mask, targets.policy_weights[batch.rows])

    def has_gradient(self, targets: Targets) -> Bool[Tensor, " N"]:
        """[N] bool: all, or the wrong ones."""
        if self.only_wrong:
            return targets.rewards <= CORRECT_THRESHOLD
        return torch.ones_like(targets.rewards, dtype=torch.bool)

    def learn(self, rollout: Rollout, context: StepContext) -> None:
        """Count a training step."""
        self._taken += 1

    def state_dict(self) -> dict[str, Any]:
        """The training steps taken."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""
        self._taken = state.get("taken", 0)
