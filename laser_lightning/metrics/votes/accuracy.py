"""How often a rule is right."""

import torch
from torch import Tensor

from laser_lightning.metrics.groups import SampleGroups
from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.rule import VoteRule
from laser_lightning.shapes import Float


def problem_accuracy(rule: VoteRule, groups: SampleGroups) -> Float[Tensor, " P"]:
    """Correctness of what a rule chooses, for each problem.

    Of an answer: a class of equal answers is as correct as the mean of its members. If several win, the value is the
    mean over them: the expectation of breaking the tie at random. A problem without any answer is 0. Of a solution: the
    mean over the solutions that win.

    Args:
        rule: chooses.
        groups: the solutions of P problems.

    Returns:
        [P], float32 in [0, 1].
    """
    candidates = Candidates.of(groups)
    won = rule.winners(candidates)
    if rule.chooses == "solution":
        return groups.sum((won & groups.correct).long()) / groups.sum(won.long())
    rows, row_class, problem = candidates.classes
    wins = torch.zeros_like(problem, dtype=torch.bool)
    wins[row_class] = won[rows]
    class_size = row_class.bincount(minlength=len(problem))
    correct = torch.zeros_like(problem).index_add(0, row_class, groups.correct[rows].long())
    nothing = torch.zeros_like(groups.problem_ids, dtype=torch.float32)
    winners = nothing.index_add(0, problem, wins.float())
    correctness = nothing.index_add(0, problem, correct / class_size * wins)
    return correctness / winners.clamp(min=1)
