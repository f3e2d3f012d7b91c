"""Metrics of self-verification, voting and sampling, right under any split over ranks and any precision."""

from laser_lightning.metrics.answers import answer_ids
from laser_lightning.metrics.base import ExactMetric
from laser_lightning.metrics.bootstrap import percentile_interval, resampled_means
from laser_lightning.metrics.brier import BrierByKind
from laser_lightning.metrics.curves import curve_points, problem_curves
from laser_lightning.metrics.functional import (
    ReliabilityCurve,
    auroc,
    brier_score,
    expected_calibration_error,
    harmonic_mean,
    reliability_curve,
    standard_error,
)
from laser_lightning.metrics.groups import GroupMetric, SampleGroups
from laser_lightning.metrics.pass_at_k import PassAt1, PassAt1ByKind, PassAtK
from laser_lightning.metrics.responses import ResponseStatistics
from laser_lightning.metrics.reward import MeanReward
from laser_lightning.metrics.self_verification import SelfVerification
from laser_lightning.metrics.votes import (
    AdditiveRule,
    BestRule,
    BestScored,
    CalibratedVote,
    Candidates,
    LogOddsVote,
    Majority,
    MeanScoreVote,
    PessimisticVote,
    VoteRule,
    WeightedMajority,
)
from laser_lightning.metrics.voting import BestOfK, MajorityVote, VoteAccuracy, WeightedMajorityVote
from laser_lightning.metrics.wall_time import WallTime
from laser_lightning.metrics.within_problems import PairCounts, WithinProblems, pair_counts

__all__ = [
    "AdditiveRule",
    "BestOfK",
    "BestRule",
    "BestScored",
    "BrierByKind",
    "CalibratedVote",
    "Candidates",
    "ExactMetric",
    "GroupMetric",
    "LogOddsVote",
    "Majority",
    "MajorityVote",
    "MeanReward",
    "MeanScoreVote",
    "PairCounts",
    "PassAt1",
    "PassAt1ByKind",
    "PassAtK",
    "PessimisticVote",
    "ReliabilityCurve",
    "ResponseStatistics",
    "SampleGroups",
    "SelfVerification",
    "VoteAccuracy",
    "VoteRule",
    "WallTime",
    "WeightedMajority",
    "WeightedMajorityVote",
    "WithinProblems",
    "answer_ids",
    "auroc",
    "brier_score",
    "curve_points",
    "expected_calibration_error",
    "harmonic_mean",
    "pair_counts",
    "percentile_interval",
    "problem_curves",
    "reliability_curve",
    "resampled_means",
    "standard_error",
]
