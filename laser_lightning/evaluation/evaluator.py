"""A policy measured on named sets of problems: k solutions of each, counted."""

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from laser_lightning.data.problem import Problem
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.evaluation.kept_rounds import KeptRounds
from laser_lightning.evaluation.metrics import EvaluationMetrics, MetricsOfSets
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.evaluation.training_votes import gather_groups
from laser_lightning.metrics.answers import Compare
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import VerifierPool

Solve = Callable[[list[Problem], int, Sampling, torch.Generator], Rollout | None]
"""Solves P problems k times each; None on a rank without problems."""


class Evaluator(nn.Module):
    """Solves the problems of evaluation sets, or takes kept solutions of them, and counts.

    Args:
        settings: how problems are evaluated.
        sampling: of training, which evaluations share where the settings give none.
        seed: of all sampling.

    Attributes:
        metrics: the metrics of each set, by its name, from ``prepare`` on.
        votes: the rules of ``settings.votes``; what they learn from training is this run's own.
        kept: the solutions of this evaluation on disk; None where none are kept.
    """

    metrics: MetricsOfSets

    def __init__(self, settings: EvaluationSettings, sampling: Sampling, seed: int) -> None:
        super().__init__()
        self.settings, self.seed = settings, seed
        self.sampling = settings.sampling or sampling
        self.metrics = MetricsOfSets()
        self.votes = deepcopy(settings.votes)
        self.kept: KeptRounds | None = None

    def prepare(
        self,
        sets: Mapping[str, Sequence[Problem]],
        kinds: Callable[[str], list[str]],
        reward_names: Sequence[str] = (),
    ) -> None:
        """Make the metrics of the evaluation sets.

        Args:
            sets: their problems, by name.
            kinds: the kinds of problems in a set of this name that are reported apart.
            reward_names: names of the verifier's reward functions, each of which is reported.

        Raises:
            UserError: if ``samples_per_set`` names a set that is not there.
        """
        self.metrics = MetricsOfSets()
        for name in sets:
            self.metrics[name] = EvaluationMetrics(self.samples_of(name), kinds(name), reward_names, self.votes)
        unknown = set(self.settings.samples_per_set) - set(sets)
        if unknown and sets:
            raise UserError(f"evaluation.samples_per_set names {sorted(unknown)}, which no data set has as its key.")

    def samples_of(self, dataset: str) -> int:
        """Solutions per problem of one set."""
        return self.settings.samples_per_set.get(dataset, self.settings.samples)

    def metrics_of(self, dataset: str) -> EvaluationMetrics:
        """The metrics of one set."""
        return self.metrics[dataset]

    def load_or_rollout(
        self, problems: list[Problem], batch: int, dataset: str, rank: int, device: torch.device, solve: Solve
    ) -> Rollout | None:
        """Take the solutions of a batch from disk, or else draw them, and keep them.

        Args:
            problems: of this rank, maybe none.
            batch: its number in the set.
            dataset: name of the set.
            rank: number of this rank.
            device: where randomness is drawn.
            solve: draws and judges.

        Returns:
            The solutions; None for a rank without problems.
        """
        if self.kept is not None and self.kept.has(dataset, batch):
            return self.kept.take(dataset, batch, problems)
        # A stream of its own: an evaluation is the same at every step, and training is the same without it.
        name = problems[0].dataset if problems else ""
        seed = zlib.crc32(f"{self.seed}/{name}/{batch}/{rank}".encode())
        started = time.perf_counter()
        rollout = solve(problems, self.samples_of(name), self.sampling, torch.Generator(device).manual_seed(seed))
        if rollout is not None:
            rollout.seconds = time.perf_counter() - started
        if self.kept is not None:
            self.kept.put(dataset, rollout)
        return rollout

    def count(self, rollout: Rollout, pool: VerifierPool) -> None:
        """Count the solutions of one batch.

        Args:
            rollout: the solutions.
            pool: says which answers are equivalent, and vote together.
        """
        self.metrics_of(rollout.problems[0].dataset).update(rollout, _compare(pool))

    def teach_votes(self, rollout: Rollout, pool: VerifierPool, ranks: Ranks) -> None:
        """Let the vote rules that learn take a training round into account; all ranks call together.

        Args:
            rollout: the round, as it was sampled.
            pool: as in ``count``.
            ranks: whose solutions are gathered.
        """
        learning = [rule for rule in self.votes if rule.learns]
        if learning:
            groups = gather_groups(rollout, _compare(pool), ranks)
            for rule in learning:
                rule.learn(groups)

    def votes_state(self) -> dict[str, dict[str, Any]]:
        """What vote rules remember, by their names; those without memory are left out."""
        return {rule.name: state for rule in self.votes if (state := rule.state_dict())}

    def load_votes_state(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Let vote rules go on from what they remember; those that are not among the states begin anew."""
        for rule in self.votes:
            rule.load_state_dict(states.get(rule.name, {}))

    def compute(self) -> dict[str, Tensor]:
        """The values of all sets, by ``<set>/<metric>``; counting starts anew."""
        values: dict[str, Tensor] = {}
        for name in self.metrics:
            metrics = self.metrics_of(name)
            values |= {f"{name}/{key}": value.float() for key, value in metrics.compute().items()}
            metrics.reset()
        return values


def _compare(pool: VerifierPool) -> Compare | None:
    """The verifier's equivalence of answers, where canonical texts do not decide."""
    return None if pool.verifier.canonical_decides else pool.equivalent
