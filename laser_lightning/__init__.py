"""Reinforcement learning with last-token self-rewarding (LaSeR, arXiv 2510.14943) on Lightning.

The names below are imported on first use, so that light-weight users of the package (the command line's help, and the
verifier's worker processes, above all) do not pay for torch and Lightning.
"""

import sys
from typing import TYPE_CHECKING

from laser_lightning.lazy import on_first_use
from laser_lightning.moved import OldPlaces

if TYPE_CHECKING:
    from laser_lightning.data import PromptDataModule
    from laser_lightning.inference.scorer import LaSeRScorer
    from laser_lightning.metrics.votes import AdditiveRule, Candidates, VoteRule
    from laser_lightning.modules.laser import LaSeRModule
    from laser_lightning.modules.outcome_rewards import OutcomeRewards
    from laser_lightning.modules.reference_answer import ReferenceAnswer
    from laser_lightning.modules.rise import RISEModule
    from laser_lightning.modules.rlpr import RLPRModule
    from laser_lightning.modules.self_correction import SelfCorrection
    from laser_lightning.modules.self_evaluating import SelfEvaluatingModule
    from laser_lightning.modules.self_evaluation import SelfEvaluation
    from laser_lightning.modules.spoc import SPOCModule
    from laser_lightning.modules.supervised import SupervisedModule
    from laser_lightning.objective.advantages import (
        NGRPO,
        AdvantageEstimator,
        AdvantageMixing,
        Advantages,
        BatchNormalized,
        DiscrepancyWeighting,
        EMABaseline,
        GroupRelative,
        LeaveOneOut,
        LitePPO,
        SelfRewardMixing,
        TrustWeightedMixing,
    )
    from laser_lightning.objective.context import StepContext
    from laser_lightning.objective.judging import JudgingSettings, KLHold, PolicyHold, SampledCrossEntropy
    from laser_lightning.objective.losses import (
        ImportanceCorrection,
        KLDivergence,
        KLEstimate,
        MaskedImportance,
        NoImportance,
        TruncatedImportance,
    )
    from laser_lightning.objective.self_reward.between_within import BetweenWithinTarget
    from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
    from laser_lightning.objective.self_reward.hybrid_target import HybridTarget
    from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
    from laser_lightning.objective.self_reward.probe import ProbeSelfReward
    from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision
    from laser_lightning.objective.self_reward.target import SelfRewardTarget, VerifierTarget
    from laser_lightning.objective.self_reward.two_token import TwoTokenSelfReward
    from laser_lightning.objective.self_reward.weights import (
        ClassBalancedWeights,
        EqualWeights,
        GroupBalancedWeights,
        MixedGroupWeights,
        RepresentedGroupWeights,
        SelfRewardWeights,
    )
    from laser_lightning.objective.self_reward.yes_no import YesNoSelfReward
    from laser_lightning.objective.shaping import (
        CosineReward,
        DropLowSpread,
        FormatLengthReward,
        FormatReward,
        FunctionShaper,
        KimiLengthReward,
        OverlongPenalty,
        RepetitionPenalty,
        RewardShaper,
        SolutionGroup,
    )
    from laser_lightning.objective.term import LossTerm
    from laser_lightning.policy.muon import MuonWithAdamW
    from laser_lightning.records.batching import Rollouts
    from laser_lightning.rollout.process.engine import EngineProcess

__version__ = "0.1.0"

_EXPORTS = {
    "AdditiveRule": "laser_lightning.metrics.votes",
    "LaSeRModule": "laser_lightning.modules.laser",
    "OutcomeRewards": "laser_lightning.modules.outcome_rewards",
    "RISEModule": "laser_lightning.modules.rise",
    "RLPRModule": "laser_lightning.modules.rlpr",
    "ReferenceAnswer": "laser_lightning.modules.reference_answer",
    "SPOCModule": "laser_lightning.modules.spoc",
    "SelfCorrection": "laser_lightning.modules.self_correction",
    "SelfEvaluatingModule": "laser_lightning.modules.self_evaluating",
    "SelfEvaluation": "laser_lightning.modules.self_evaluation",
    "SupervisedModule": "laser_lightning.modules.supervised",
    "LastTokenSelfReward": "laser_lightning.objective.self_reward.last_token",
    "Readings": "laser_lightning.objective.self_reward.head",
    "SelfRewardHead": "laser_lightning.objective.self_reward.head",
    "BetweenWithinTarget": "laser_lightning.objective.self_reward.between_within",
    "HybridTarget": "laser_lightning.objective.self_reward.hybrid_target",
    "ProbeSelfReward": "laser_lightning.objective.self_reward.probe",
    "VerifierTarget": "laser_lightning.objective.self_reward.target",
    "ClassBalancedWeights": "laser_lightning.objective.self_reward.weights",
    "EqualWeights": "laser_lightning.objective.self_reward.weights",
    "GroupBalancedWeights": "laser_lightning.objective.self_reward.weights",
    "MixedGroupWeights": "laser_lightning.objective.self_reward.weights",
    "RepresentedGroupWeights": "laser_lightning.objective.self_reward.weights",
    "SelfRewardTarget": "laser_lightning.objective.self_reward.target",
    "SelfRewardWeights": "laser_lightning.objective.self_reward.weights",
    "StepSolutions": "laser_lightning.objective.self_reward.solutions",
    "Supervision": "laser_lightning.objective.self_reward.solutions",
    "TwoTokenSelfReward": "laser_lightning.objective.self_reward.two_token",
    "YesNoSelfReward": "laser_lightning.objective.self_reward.yes_no",
    "LaSeRScorer": "laser_lightning.inference.scorer",
    "MuonWithAdamW": "laser_lightning.policy.muon",
    "PromptDataModule": "laser_lightning.data",
    "Rollouts": "laser_lightning.records.batching",
    "EngineProcess": "laser_lightning.rollout.process.engine",
    "AdvantageEstimator": "laser_lightning.objective.advantages",
    "AdvantageMixing": "laser_lightning.objective.advantages",
    "BatchNormalized": "laser_lightning.objective.advantages",
    "DiscrepancyWeighting": "laser_lightning.objective.advantages",
    "EMABaseline": "laser_lightning.objective.advantages",
    "GroupRelative": "laser_lightning.objective.advantages",
    "LeaveOneOut": "laser_lightning.objective.advantages",
    "LitePPO": "laser_lightning.objective.advantages",
    "NGRPO": "laser_lightning.objective.advantages",
    "SelfRewardMixing": "laser_lightning.objective.advantages",
    "TrustWeightedMixing": "laser_lightning.objective.advantages",
    "RewardShaper": "laser_lightning.objective.shaping",
    "DropLowSpread": "laser_lightning.objective.shaping",
    "OverlongPenalty": "laser_lightning.objective.shaping",
    "CosineReward": "laser_lightning.objective.shaping",
    "FormatLengthReward": "laser_lightning.objective.shaping",
    "FormatReward": "laser_lightning.objective.shaping",
    "FunctionShaper": "laser_lightning.objective.shaping",
    "KimiLengthReward": "laser_lightning.objective.shaping",
    "RepetitionPenalty": "laser_lightning.objective.shaping",
    "SolutionGroup": "laser_lightning.objective.shaping",
    "ImportanceCorrection": "laser_lightning.objective.losses",
    "MaskedImportance": "laser_lightning.objective.losses",
    "NoImportance": "laser_lightning.objective.losses",
    "TruncatedImportance": "laser_lightning.objective.losses",
    "KLDivergence": "laser_lightning.objective.losses",
    "KLEstimate": "laser_lightning.objective.losses",
    "LossTerm": "laser_lightning.objective.term",
    "JudgingSettings": "laser_lightning.objective.judging",
    "KLHold": "laser_lightning.objective.judging",
    "PolicyHold": "laser_lightning.objective.judging",
    "SampledCrossEntropy": "laser_lightning.objective.judging",
    "StepContext": "laser_lightning.objective.context",
    "Advantages": "laser_lightning.objective.advantages",
    "Candidates": "laser_lightning.metrics.votes",
    "VoteRule": "laser_lightning.metrics.votes",
}

__all__ = [
    "NGRPO",
    "AdditiveRule",
    "AdvantageEstimator",
    "AdvantageMixing",
    "Advantages",
    "BatchNormalized",
    "BetweenWithinTarget",
    "Candidates",
    "ClassBalancedWeights",
    "CosineReward",
    "DiscrepancyWeighting",
    "DropLowSpread",
    "EMABaseline",
    "EngineProcess",
    "EqualWeights",
    "FormatLengthReward",
    "FormatReward",
    "FunctionShaper",
    "GroupBalancedWeights",
    "GroupRelative",
    "HybridTarget",
    "ImportanceCorrection",
    "JudgingSettings",
    "KLDivergence",
    "KLEstimate",
    "KLHold",
    "KimiLengthReward",
    "LaSeRModule",
    "LaSeRScorer",
    "LastTokenSelfReward",
    "LeaveOneOut",
    "LitePPO",
    "LossTerm",
    "MaskedImportance",
    "MixedGroupWeights",
    "MuonWithAdamW",
    "NoImportance",
    "OutcomeRewards",
    "OverlongPenalty",
    "PolicyHold",
    "ProbeSelfReward",
    "PromptDataModule",
    "RISEModule",
    "RLPRModule",
    "Readings",
    "ReferenceAnswer",
    "RepetitionPenalty",
    "RepresentedGroupWeights",
    "RewardShaper",
    "Rollouts",
    "SPOCModule",
    "SampledCrossEntropy",
    "SelfCorrection",
    "SelfEvaluatingModule",
    "SelfEvaluation",
    "SelfRewardHead",
    "SelfRewardMixing",
    "SelfRewardTarget",
    "SelfRewardWeights",
    "SolutionGroup",
    "StepContext",
    "StepSolutions",
    "SupervisedModule",
    "Supervision",
    "TruncatedImportance",
    "TrustWeightedMixing",
    "TwoTokenSelfReward",
    "VerifierTarget",
    "VoteRule",
    "YesNoSelfReward",
]

sys.meta_path.append(OldPlaces())

__getattr__, __dir__ = on_first_use(__name__, _EXPORTS)
