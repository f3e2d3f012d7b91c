"""Settings made in Python with their fields of version 0.1."""

import pytest

from laser_lightning.objective.advantages.settings import AdvantageSettings
from laser_lightning.objective.settings import UpdateSettings


@pytest.mark.against_signatures
def test_advantages() -> None:
    settings = AdvantageSettings(estimator="batch_normalized", epsilon=0.1, self_reward_mix=0.3)  # type: ignore[call-arg, arg-type]
    assert settings.estimator.plain_arguments == {"baseline": False, "epsilon": 0.1}
    assert type(settings.estimator).__name__ == "BatchNormalized"
    assert settings.mixing is not None
    assert settings.mixing.plain_arguments == {"tau": 0.3}


@pytest.mark.against_signatures
def test_updates() -> None:
    assert UpdateSettings(importance="none", importance_cap=2.0).importance is None  # type: ignore[call-arg, arg-type]
    importance = UpdateSettings(importance="sequence", importance_cap=3.0).importance  # type: ignore[call-arg, arg-type]
    assert importance is not None
    assert importance.plain_arguments == {"level": "sequence", "cap": 3.0}
    assert UpdateSettings(kl_estimator="k1").kl.plain_arguments == {"estimator": "k1"}  # type: ignore[call-arg]
