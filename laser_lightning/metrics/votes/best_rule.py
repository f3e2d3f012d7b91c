"""The rule among several that was right most often on training problems."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.metrics.groups import SampleGroups
from laser_lightning.metrics.votes.accuracy import problem_accuracy
from laser_lightning.metrics.votes.calibrated import CalibratedVote
from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.log_odds import LogOddsVote
from laser_lightning.metrics.votes.majority import Majority
from laser_lightning.metrics.votes.mean_score import MeanScoreVote
from laser_lightning.metrics.votes.pessimistic import PessimisticVote
from laser_lightning.metrics.votes.rule import VoteRule
from laser_lightning.metrics.votes.weighted_majority import WeightedMajority
from laser_lightning.shapes import Real


class BestRule(VoteRule):
    """Votes by the rule that was right most often on solutions of training problems, so that no evaluation chooses it.

    Of each training round the problems with even row numbers teach the rules that learn (``CalibratedVote``), and
    those with odd ones compare all rules, with as many solutions to a problem as a round has. Without any answer to
    compare on, as before the first step, the first rule votes; of equally good ones the first too.

    Args:
        rules: the rules to choose among; all choose answers.
        rounds: training rounds that they are compared on, the last ones.
    """

    name = "best_rule"
    learns = True

    def __init__(
        self,
        rules: Sequence[VoteRule] = (
            WeightedMajority(),
            Majority(),
            MeanScoreVote(),
            PessimisticVote(),
            LogOddsVote(),
            CalibratedVote(),
        ),
        rounds: int = 12,
    ) -> None:
        if rounds < 1:
            raise UserError(f"rounds of BestRule is {rounds}, and must be at least 1.")
        if not rules:
            raise UserError("rules of BestRule is empty: give it vote rules to choose among.")
        if wrong := [rule.name for rule in rules if rule.chooses != "answer" or isinstance(rule, BestRule)]:
            raise UserError(f"rules of BestRule has '{wrong[0]}', and must be rules that choose answers by themselves.")
        self.rules = [deepcopy(rule) for rule in rules]  # what they learn is this rule's own
        self.rounds = rounds
        self._seen: list[SampleGroups] = []
        self._best: VoteRule | None = None

    def accuracies(self) -> list[float]:
        """How often each rule was right on the problems that compare them; NaN before there are any."""
        found = [[problem_accuracy(rule, seen) for seen in self._seen] for rule in self.rules]
        return [float(torch.cat(values).double().mean()) if values else float("nan") for values in found]

    @property
    def best(self) -> VoteRule:
        """The rule that votes now."""
        if self._best is None:
            compared = [-1.0 if value != value else value for value in self.accuracies()]
            self._best = self.rules[compared.index(max(compared))]
        return self._best

    def standings(self, candidates: Candidates) -> Real[Tensor, " N"]:
        """Those of the best rule."""
        return self.best.standings(candidates)

    def learn(self, groups: SampleGroups) -> None:
        """Take a training round into account (see ``VoteRule.learn``)."""
        teaches = groups.problem_ids % 2 == 0
        for rule in self.rules:
            if rule.learns:
                rule.learn(groups.select(teaches))
        self._seen = [*self._seen, _on_cpu(groups.select(~teaches))][-self.rounds :]
        self._best = None

    def settled(self) -> VoteRule:
        """The best rule, as it decides now."""
        return self.best.settled()

    @property
    def lacks(self) -> str | None:
        """That there was nothing to compare the rules on, or for one of them nothing to learn from, if so."""
        if not self._seen:
            return "has no training round to choose a rule by"
        if not any((seen.answer_ids >= 0).any() for seen in self._seen):
            return "has no answer to a problem with an odd row number in its training rounds to choose a rule by"
        lacking = [f"chooses among rules of which '{rule.name}' {rule.lacks}" for rule in self.rules if rule.lacks]
        return lacking[0] if lacking else None

    def state_dict(self) -> dict[str, Any]:
        """The solutions of the last rounds, and what the rules remember."""
        return {
            "rounds": [{field.name: getattr(seen, field.name) for field in fields(seen)} for seen in self._seen],
            "rules": [rule.state_dict() for rule in self.rules],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these; rules are told apart by their place."""
        self._seen = [SampleGroups(**columns) for columns in state.get("rounds", [])]
        for rule, own in zip(self.rules, state.get("rules", []), strict=False):
            rule.load_state_dict(own)
        self._best = None


def _on_cpu(groups: SampleGroups) -> SampleGroups:
    return SampleGroups(**{field.name: getattr(groups, field.name).cpu() for field in fields(groups)})
