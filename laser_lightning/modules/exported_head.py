"""Which self-reward an export of a module carries."""

from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.modules.training import TrainingModule
from laser_lightning.objective.self_reward.head import SelfRewardHead


def exported_head(module: TrainingModule) -> SelfRewardHead | None:
    """The head whose score is the model's judgement behind ``<eos>``; None for a module without one."""
    if isinstance(module, SupervisedModule):
        return module.self_reward
    return module.self_reward if isinstance(module, LaSeRModule) and module.judges_by_score else None
