"""Vote rules: one answer from several solutions, by their answers and their scores."""

from laser_lightning.metrics.votes.best_scored import BestScored
from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.majority import Majority
from laser_lightning.metrics.votes.rule import VoteRule, check_names
from laser_lightning.metrics.votes.weighted_majority import WeightedMajority

FIXED_RULES: tuple[VoteRule, ...] = (Majority(), WeightedMajority(), BestScored())
"""The rules that every evaluation reports."""

__all__ = ["FIXED_RULES", "BestScored", "Candidates", "Majority", "VoteRule", "WeightedMajority", "check_names"]
