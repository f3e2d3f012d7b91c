"""Errors that all solutions of a group share, and errors among them, weighed apart (ours)."""

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.self_reward.solutions import StepSolutions
from laser_lightning.objective.self_reward.target import SelfRewardTarget
from laser_lightning.shapes import Float


class BetweenWithinTarget(SelfRewardTarget):
    """Weighs the part of the squared error that is within groups ``within`` times that between them.

    With the errors e = s - r of the n finished solutions of a group whose scores are known, and their mean m,

        sum e^2 = n m^2 + sum (e - m)^2,

    where the first part is about how hard the problem is, and the second about which solution is right. The loss is
    n m^2 + within * sum (e - m)^2, whose gradient by each score is 2 (m + within * (e - m)): a squared error has it
    with the target t = s - m - within * (e - m), s that of the rollout. That is exact in the first optimizer step of a
    rollout that the policy drew as it is, and with equal weights within a group: where s has moved on it overshoots, so
    that ``fit`` refuses several updates of a rollout, and rollouts drawn ahead. The logged loss is that of the moved
    targets. A finished solution whose score is not known is trained towards its reward.

    Args:
        within: what an error among the solutions of a group weighs, beside 1 for an error of their mean; 1 is
            ``VerifierTarget``.
    """

    moves_with_scores = True

    def __init__(self, within: float = 4.0) -> None:
        if within < 0:
            raise UserError(f"self_reward.target.within is {within}, and must be 0 or more.")
        self.within = within

    def aim(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """[P, G] scores less the error that is wanted of them; solutions without a score have their rewards."""
        scores, judged = solutions.self_rewards, solutions.judged
        errors = (scores - solutions.rewards).where(judged, 0.0)
        mean = errors.sum(dim=1, keepdim=True) / judged.sum(dim=1, keepdim=True).clamp(min=1)
        return (scores - mean - self.within * (errors - mean)).where(judged, solutions.rewards)
