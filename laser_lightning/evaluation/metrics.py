"""What is measured on an evaluation set."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from laser_lightning.metrics import (
    BrierByKind,
    MeanReward,
    PassAt1,
    PassAt1ByKind,
    PassAtK,
    ResponseStatistics,
    SampleGroups,
    SelfVerification,
    VoteAccuracy,
    VoteRule,
    WallTime,
    WithinProblems,
    answer_ids,
)
from laser_lightning.metrics.answers import Compare, representatives
from laser_lightning.metrics.votes import FIXED_RULES
from laser_lightning.records.rollout import Rollout


def solution_columns(rollout: Rollout, compare: Compare | None) -> dict[str, Tensor]:
    """A round's solutions as metrics over problems take them (see ``GroupMetric.update``).

    Args:
        rollout: P problems with G solutions each, N = P * G.
        compare: the verifier's equivalence of answers, which decides who votes together; None if answers with
            different canonical texts are never equivalent.

    Returns:
        Columns [N] by their names, and ``scores`` [N, S] where the solutions have several.
    """
    size, device = rollout.rollouts.group_size, rollout.rewards.device
    indices = torch.tensor([problem.index for problem in rollout.problems], device=device)
    answers = [verification.answer for verification in rollout.verifications]
    groups = [answers[start : start + size] for start in range(0, len(answers), size)]
    if compare is not None:
        groups = representatives(groups, compare, [problem.verifier for problem in rollout.problems])
    columns = {
        "problem_ids": indices.repeat_interleave(size),
        "sample_indices": torch.arange(size, device=device).repeat(len(indices)),
        "rewards": rollout.rewards,
        "answer_ids": answer_ids([answer for group in groups for answer in group]).to(device),
        "self_rewards": rollout.self_rewards,
        "finished": rollout.rollouts.finished,
    }
    return columns if rollout.scores is None else columns | {"scores": rollout.scores}


class EvaluationMetrics(nn.Module):
    """The metrics of one named set, with k solutions per problem.

    Args:
        samples: solutions per problem, k.
        kinds: kinds of problems to report apart; empty for none.
        reward_names: names of the verifier's reward functions, each of which is reported as ``reward/<name>``.
        votes: rules beside those that are always there; each is reported as ``<its name>@<k>``.
    """

    def __init__(
        self, samples: int, kinds: list[str], reward_names: Sequence[str] = (), votes: Sequence[VoteRule] = ()
    ) -> None:
        super().__init__()
        groups: dict[str, nn.Module] = {"reward": MeanReward(), "pass@1": PassAt1()}
        if samples > 1:
            groups[f"pass@{samples}"] = PassAtK(samples)
            groups |= {f"{rule.name}@{samples}": VoteAccuracy(rule) for rule in (*FIXED_RULES, *votes)}
        self.groups = MetricCollection(groups)  # type: ignore[arg-type]
        self.rewards = nn.ModuleDict({name: MeanReward() for name in reward_names})
        self.self_verification = SelfVerification()
        self.within_problems = WithinProblems(kinds)
        self.responses = ResponseStatistics()
        self.wall_time = WallTime()
        self.kind_names = kinds
        self.by_kind = PassAt1ByKind(kinds) if kinds else None
        self.brier_by_kind = BrierByKind(kinds) if kinds else None

    def update(self, rollout: Rollout, compare: Compare | None) -> None:
        """Count the solutions of one round.

        Args:
            rollout: the solutions.
            compare: the verifier's equivalence of answers, which decides who votes together; None if answers with
                different canonical texts are never equivalent.
        """
        size, device = rollout.rollouts.group_size, rollout.rewards.device
        columns = solution_columns(rollout, compare)
        self.groups.update(**columns)
        for name, metric in self._of_rewards().items():
            # Only the rows that the function was asked about, in a MixedVerifier; 0 where it failed.
            said = [verification.rewards.get(name, math.nan) or 0.0 for verification in rollout.verifications]
            column = torch.tensor(said, dtype=torch.float32, device=device)
            asked = ~column.isnan()
            metric.update(**{key: value[asked] for key, value in (columns | {"rewards": column}).items()})
        self.self_verification.update(rollout.self_rewards, rollout.rewards)
        self.responses.update(rollout.rollouts.response_lengths, rollout.rollouts.finished, rollout.judging_tokens)
        self.wall_time.update(rollout.seconds)
        kinds = None
        if self.by_kind is not None and self.brier_by_kind is not None:
            of_problems = [self.kind_names.index(problem.kind or "") for problem in rollout.problems]
            kinds = torch.tensor(of_problems, device=device).repeat_interleave(size)
            self.by_kind.update(kinds, rollout.rewards)
            self.brier_by_kind.update(kinds, rollout.self_rewards, rollout.rewards)
        self.within_problems.update(
            columns["problem_ids"], columns["sample_indices"], rollout.self_rewards, rollout.rewards, kinds
        )

    def compute(self) -> dict[str, Tensor]:
        """All values, by the names that follow ``val/<set>/``."""
        values = dict(self.groups.compute())
        values |= {f"reward/{name}": metric.compute() for name, metric in self._of_rewards().items()}
        values |= {f"self_verification/{name}": value for name, value in self.self_verification.compute().items()}
        values |= {f"self_verification/{name}": value for name, value in self.within_problems.compute().items()}
        values |= {f"response/{name}": value for name, value in self.responses.compute().items()}
        values["seconds"] = self.wall_time.compute()
        if self.by_kind is not None and self.brier_by_kind is not None:
            values |= {f"pass@1/{kind}": value for kind, value in self.by_kind.compute().items()}
            of_kinds = self.brier_by_kind.compute()
            values |= {f"self_verification/brier/{kind}": value for kind, value in of_kinds.items()}
        return values

    def sample_groups(self) -> SampleGroups:
        """The solutions of all ranks by problem; gathers, so call it on every rank."""
        pass_at_1 = self.groups["pass@1"]
        assert isinstance(pass_at_1, PassAt1)
        return pass_at_1.sample_groups()

    def reset(self) -> None:
        """Start anew."""
        single = (self.groups, self.self_verification, self.within_problems, self.responses, self.wall_time)
        for metric in (*single, self.by_kind, self.brier_by_kind, *self._of_rewards().values()):
            if metric is not None:
                metric.reset()

    def _of_rewards(self) -> dict[str, MeanReward]:
        return {name: metric for name, metric in self.rewards.items() if isinstance(metric, MeanReward)}


class MetricsOfSets(nn.Module):
    """The metrics of evaluation sets by any name: ``nn.ModuleDict`` refuses those with dots and its own attributes'."""

    def __init__(self) -> None:
        super().__init__()
        self._metrics = nn.ModuleList()
        self._places: dict[str, int] = {}

    def __setitem__(self, name: str, metrics: EvaluationMetrics) -> None:
        self._places[name] = len(self._metrics)
        self._metrics.append(metrics)

    def __getitem__(self, name: str) -> EvaluationMetrics:
        metrics = self._metrics[self._places[name]]
        assert isinstance(metrics, EvaluationMetrics)
        return metrics

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)
