"""Vote rules: one answer from several solutions, by their answers and their scores."""

from laser_lightning.metrics.votes.additive import AdditiveRule
from laser_lightning.metrics.votes.best_rule import BestRule
from laser_lightning.metrics.votes.best_scored import BestScored
from laser_lightning.metrics.votes.calibrated import CalibratedVote
from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.log_odds import LogOddsVote
from laser_lightning.metrics.votes.majority import Majority
from laser_lightning.metrics.votes.mean_score import MeanScoreVote
from laser_lightning.metrics.votes.pessimistic import PessimisticVote
from laser_lightning.metrics.votes.rule import VoteRule, check_names
from laser_lightning.metrics.votes.weighted_majority import WeightedMajority

FIXED_RULES: tuple[VoteRule, ...] = (Majority(), WeightedMajority(), BestScored())
"""The rules that every evaluation reports."""

__all__ = [
    "FIXED_RULES",
    "AdditiveRule",
    "BestRule",
    "BestScored",
    "CalibratedVote",
    "Candidates",
    "LogOddsVote",
    "Majority",
    "MeanScoreVote",
    "PessimisticVote",
    "VoteRule",
    "WeightedMajority",
    "check_names",
]
