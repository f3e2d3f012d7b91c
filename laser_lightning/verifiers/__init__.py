"""Verifiers: judges of final answers, and the pool of processes that runs them safely."""

from laser_lightning.verifiers.arithmetic import ArithmeticVerifier
from laser_lightning.verifiers.base import Decision, Explanation, Submission, Verification, Verifier
from laser_lightning.verifiers.exact import ExactVerifier
from laser_lightning.verifiers.function import FunctionVerifier
from laser_lightning.verifiers.math import MathVerifier
from laser_lightning.verifiers.mixed import MixedVerifier
from laser_lightning.verifiers.model_judge import JudgeVerifier
from laser_lightning.verifiers.multiple_choice import MultipleChoiceVerifier
from laser_lightning.verifiers.pool import VerifierPool
from laser_lightning.verifiers.python import PythonVerifier
from laser_lightning.verifiers.weighted import WeightedReward, WeightedRewards

__all__ = [
    "ArithmeticVerifier",
    "Decision",
    "ExactVerifier",
    "Explanation",
    "FunctionVerifier",
    "JudgeVerifier",
    "MathVerifier",
    "MixedVerifier",
    "MultipleChoiceVerifier",
    "PythonVerifier",
    "Submission",
    "Verification",
    "Verifier",
    "VerifierPool",
    "WeightedReward",
    "WeightedRewards",
]
