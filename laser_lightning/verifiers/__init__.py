"""Verifiers: judges of final answers, and the pool of processes that runs them safely."""

from laser_lightning.verifiers.base import Verification, Verifier
from laser_lightning.verifiers.exact import ExactVerifier
from laser_lightning.verifiers.function import FunctionVerifier
from laser_lightning.verifiers.math import MathVerifier
from laser_lightning.verifiers.multiple_choice import MultipleChoiceVerifier
from laser_lightning.verifiers.pool import VerifierPool

__all__ = [
    "ExactVerifier",
    "FunctionVerifier",
    "MathVerifier",
    "MultipleChoiceVerifier",
    "Verification",
    "Verifier",
    "VerifierPool",
]
