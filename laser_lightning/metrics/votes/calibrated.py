"""Log-odds of probabilities that scores are calibrated to, on solutions of training problems."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.metrics.groups import SampleGroups
from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.isotonic import Point, check_curve, interpolate, isotonic_curve
from laser_lightning.metrics.votes.log_odds import LogOddsVote
from laser_lightning.shapes import Bool, Float

UNCALIBRATED: list[Point] = [(0.0, 0.0), (1.0, 1.0)]


class JudgedScores(NamedTuple):
    """The scores of a training round's solutions that have an answer.

    Attributes:
        scores: [N] float32, finite.
        correct: [N] bool.
    """

    scores: Float[Tensor, " N"]
    correct: Bool[Tensor, " N"]


class CalibratedVote(LogOddsVote):
    """The answer with the highest sum of log-odds of being correct, scores calibrated by isotonic regression (ours).

    The curve from scores to probabilities is fitted to the solutions with an answer of the last training rounds, whose
    rewards are known, over problems: nothing of an evaluation goes into it. Scores are those of before the policy was
    trained on those solutions, so a problem that the run meets for the first time is held out; in later epochs it no
    longer is. Without any such solution, as before the first step, a score stands for itself, as in ``LogOddsVote``.

    Args:
        rounds: training rounds that the curve is fitted to, the last ones.
        limit: log-odds are clamped to +- this, in nats.
        curve: points (score, probability) to be used in place of training rounds; null fits them.
    """

    name = "calibrated"

    def __init__(self, rounds: int = 12, limit: float = 4.0, curve: list[tuple[float, float]] | None = None) -> None:
        super().__init__(limit)
        if rounds < 1:
            raise UserError(f"rounds of CalibratedVote is {rounds}, and must be at least 1.")
        self.rounds = rounds
        self.learns = curve is None
        self._given = None if curve is None else check_curve(curve, "curve of CalibratedVote")
        if self._given is not None:
            ends = torch.tensor([self._given[0][1], self._given[-1][1]], dtype=torch.float64)
            self.least, self.most = self.log_odds(ends).tolist()
        self._seen: list[JudgedScores] = []
        self._fitted: list[Point] | None = None

    @property
    def curve(self) -> list[Point]:
        """The points that are used now."""
        if self._given is not None:
            return self._given
        if self._fitted is None:
            seen = [round for round in self._seen if len(round.scores)]
            self._fitted = UNCALIBRATED
            if seen:
                scores, correct = (torch.cat(columns) for columns in zip(*seen, strict=True))
                self._fitted = isotonic_curve(scores, correct)
        return self._fitted

    def probabilities(self, candidates: Candidates) -> Float[Tensor, " N"]:
        """[N] float64 in [0, 1], how probably each solution is correct by the curve."""
        return interpolate(self.curve, candidates.self_rewards)

    def learn(self, groups: SampleGroups) -> None:
        """Take a training round into account (see ``VoteRule.learn``)."""
        votes = (groups.answer_ids >= 0) & groups.self_rewards.isfinite()
        judged = JudgedScores(groups.self_rewards[votes].cpu(), groups.correct[votes].cpu())
        self._seen = [*self._seen, judged][-self.rounds :]
        self._fitted = None

    def settled(self) -> "CalibratedVote":
        """The rule with the present curve as its argument."""
        return self if self._given is not None else CalibratedVote(self.rounds, self.limit, self.curve)

    @property
    def lacks(self) -> str | None:
        """That there was nothing to fit the curve to, if so."""
        if self._given is not None or any(len(seen.scores) for seen in self._seen):
            return None
        what = "answer with a finite score in its training rounds" if self._seen else "training round"
        return f"has no {what} to calibrate scores with"

    def state_dict(self) -> dict[str, Any]:
        """The solutions of the last rounds."""
        return {"rounds": [judged._asdict() for judged in self._seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these solutions."""
        self._seen = [JudgedScores(**judged) for judged in state.get("rounds", [])]
        self._fitted = None
