"""Metrics of self-verification, voting and sampling, right under any split over ranks and any precision."""

from laser_lightning.metrics.answers import answer_ids
from laser_lightning.metrics.base import ExactMetric
from laser_lightning.metrics.functional import (
    ReliabilityCurve,
    auroc,
    expected_calibration_error,
    harmonic_mean,
    reliability_curve,
    standard_error,
)
from laser_lightning.metrics.groups import GroupMetric, SampleGroups
from laser_lightning.metrics.pass_at_k import PassAt1, PassAt1ByKind, PassAtK
from laser_lightning.metrics.responses import ResponseStatistics
from laser_lightning.metrics.self_verification import SelfVerification
from laser_lightning.metrics.voting import BestOfK, MajorityVote, WeightedMajorityVote

__all__ = [
    "BestOfK",
    "ExactMetric",
    "GroupMetric",
    "MajorityVote",
    "PassAt1",
    "PassAt1ByKind",
    "PassAtK",
    "ReliabilityCurve",
    "ResponseStatistics",
    "SampleGroups",
    "SelfVerification",
    "WeightedMajorityVote",
    "answer_ids",
    "auroc",
    "expected_calibration_error",
    "harmonic_mean",
    "reliability_curve",
    "standard_error",
]
