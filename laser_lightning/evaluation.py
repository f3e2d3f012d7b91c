"""What is measured on an evaluation set."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from laser_lightning.metrics import (
    BestOfK,
    MajorityVote,
    PassAt1,
    PassAt1ByKind,
    PassAtK,
    ResponseStatistics,
    SelfVerification,
    WeightedMajorityVote,
    answer_ids,
)
from laser_lightning.rounds import Round

Equivalent = Callable[[str, str], bool]


class EvaluationMetrics(nn.Module):
    """The metrics of one named set, with k solutions per problem.

    Args:
        samples: solutions per problem, k.
        kinds: kinds of problems to report apart; empty for none.
    """

    def __init__(self, samples: int, kinds: list[str]) -> None:
        super().__init__()
        groups: dict[str, nn.Module] = {"pass@1": PassAt1()}
        if samples > 1:
            groups[f"pass@{samples}"] = PassAtK(samples)
            groups[f"maj@{samples}"] = MajorityVote()
            groups[f"weighted_maj@{samples}"] = WeightedMajorityVote()
            groups[f"best_of@{samples}"] = BestOfK()
        self.groups = MetricCollection(groups)  # type: ignore[arg-type]
        self.self_verification = SelfVerification()
        self.responses = ResponseStatistics()
        self.kind_names = kinds
        self.by_kind = PassAt1ByKind(kinds) if kinds else None

    def update(self, round_: Round, equivalent: Equivalent) -> None:
        """Count the solutions of one round.

        Args:
            round_: the solutions.
            equivalent: the verifier's equivalence of two answers, which decides who votes together.
        """
        size, device = round_.rollouts.group_size, round_.rewards.device
        indices = torch.tensor([problem.index for problem in round_.problems], device=device)
        answers: list[str | None] = []
        for start in range(0, len(round_.texts), size):
            group = round_.verifications[start : start + size]
            answers += representatives([verification.answer for verification in group], equivalent)
        self.groups.update(
            problem_ids=indices.repeat_interleave(size),
            sample_indices=torch.arange(size, device=device).repeat(len(indices)),
            rewards=round_.rewards,
            answer_ids=answer_ids(answers).to(device),
            self_rewards=round_.self_rewards,
        )
        self.self_verification.update(round_.self_rewards, round_.rewards)
        self.responses.update(round_.rollouts.response_lengths, round_.rollouts.finished)
        if self.by_kind is not None:
            kinds = torch.tensor([self.kind_names.index(problem.kind or "") for problem in round_.problems])
            self.by_kind.update(kinds.to(device).repeat_interleave(size), round_.rewards)

    def compute(self) -> dict[str, Tensor]:
        """All values, by the names that follow ``val/<set>/``."""
        values = dict(self.groups.compute())
        values |= {
            f"self_verification/{name}": value for name, value in self.self_verification.compute().items()
        }
        values |= {f"response/{name}": value for name, value in self.responses.compute().items()}
        if self.by_kind is not None:
            values |= {f"pass@1/{kind}": value for kind, value in self.by_kind.compute().items()}
        return values

    def reset(self) -> None:
        """Start anew."""
        for metric in (self.groups, self.self_verification, self.responses, self.by_kind):
            if metric is not None:
                metric.reset()


def representatives(answers: list[str | None], equivalent: Equivalent) -> list[str | None]:
    """Replace each answer by the first one it is equivalent to, so that equal answers become equal strings.

    Args:
        answers: canonical answers to one problem; None stays None.
        equivalent: decides on the strings that differ.
    """
    first_of: dict[str, str] = {}
    classes: list[str] = []
    for answer in sorted({a for a in answers if a is not None}):
        match = next((known for known in classes if equivalent(answer, known)), None)
        if match is None:
            classes.append(answer)
        first_of[answer] = match or answer
    return [None if answer is None else first_of[answer] for answer in answers]
