"""A penalty for saying the same again."""

from collections.abc import Sequence

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.objective.shaping.shaper import RewardShaper
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class RepetitionPenalty(RewardShaper):
    """Takes ``penalty`` (1 - distinct / all n-grams of a response) from its reward (Yeo et al., arXiv 2502.03373).

    As beside the cosine reward in the authors' code, which counts words in small letters; here tokens are counted,
    which every language has. (Their paper also penalises the repeated tokens themselves, through their returns.) A
    response shorter than an n-gram loses nothing.

    Args:
        penalty: what a response that says one thing without end comes close to losing.
        size: tokens in an n-gram.
        only_wrong: whether correct solutions are spared, as in the paper.
    """

    def __init__(self, penalty: float = 0.5, size: int = 20, only_wrong: bool = True) -> None:
        if not penalty > 0 or size < 1:
            raise UserError(
                f"RepetitionPenalty (advantage.shaping): penalty is {penalty} and size {size}; penalty must be above "
                "0, and size at least 1."
            )
        self.penalty, self.size, self.only_wrong = penalty, size, only_wrong

    def highest_reward(self, given: float | None) -> float | None:
        """What is given: it only takes away."""
        return given

    def __call__(self, rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """[N] rewards less the penalty of repetition (see ``RewardShaper``)."""
        shares = [repeated_share(response, self.size) for response in rollout.rollouts.responses()]
        penalties = self.penalty * rewards.new_tensor(shares)
        if self.only_wrong:
            penalties = penalties.where(rollout.rewards <= CORRECT_THRESHOLD, 0.0)
        return rewards - penalties


def repeated_share(tokens: Sequence[int], size: int) -> float:
    """The share of n-grams that were there before: 1 - distinct / all.

    Args:
        tokens: of a response.
        size: tokens in an n-gram.
    """
    found = list(zip(*(tokens[start:] for start in range(size)), strict=False))
    return 1 - len(set(found)) / len(found) if found else 0.0
