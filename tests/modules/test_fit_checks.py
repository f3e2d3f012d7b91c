"""What fit refuses of the parts of the self-reward, and what it leaves alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from laser_lightning import (
    AdvantageMixing,
    BetweenWithinTarget,
    DiscrepancyWeighting,
    EqualWeights,
    HybridTarget,
    LastTokenSelfReward,
    MixedGroupWeights,
    RepresentedGroupWeights,
    SelfRewardMixing,
    TrustWeightedMixing,
)
from laser_lightning.cli.command_line import main
from laser_lightning.cli.trainer import LaSeRCLI
from laser_lightning.errors import UserError
from laser_lightning.modules.fit_checks import check_fit
from laser_lightning.objective.advantages import AdvantageSettings
from laser_lightning.objective.settings import UpdateSettings


def check(
    head: LastTokenSelfReward,
    mixing: AdvantageMixing | None = None,
    ahead: int = 0,
    **update: Any,
) -> None:
    module: Any = SimpleNamespace(
        self_reward=head,
        advantage=AdvantageSettings(mixing=mixing),
        update=UpdateSettings(**update),
        ahead=SimpleNamespace(ahead=ahead),
        engine=SimpleNamespace(replays=False, elsewhere=True),
        data=SimpleNamespace(prompts_per_step=8),
        ranks=SimpleNamespace(count=1),
    )
    check_fit(module)


def made(loss_weight: float = 0.5, **parts: Any) -> LastTokenSelfReward:
    return LastTokenSelfReward("z", loss_weight=loss_weight, reference=-20.0, **parts)


@pytest.mark.parametrize("mixing", [DiscrepancyWeighting(), TrustWeightedMixing()])
def test_a_mixing_without_a_trained_score_is_refused(mixing: AdvantageMixing) -> None:
    kind = type(mixing).__name__
    with pytest.raises(
        UserError,
        match=rf"self_reward\.loss_weight is 0.*advantage\.mixing is {kind}, which would do nothing: "
        r"set self_reward\.loss_weight above 0, or leave advantage\.mixing out",
    ):
        check(made(0.0), mixing)
    check(made(), mixing)


@pytest.mark.parametrize("target", [HybridTarget(), BetweenWithinTarget()])
def test_a_target_without_a_trained_score_is_refused(target: Any) -> None:
    with pytest.raises(UserError, match=rf"loss_weight is 0.*self_reward\.target is {type(target).__name__}, which"):
        check(made(0.0, target=target))
    check(made(target=target))


@pytest.mark.parametrize("mixing", [None, SelfRewardMixing(), SelfRewardMixing(tau=0.0), SelfRewardMixing(tau=0.3)])
@pytest.mark.parametrize("weights", [RepresentedGroupWeights(), MixedGroupWeights(), EqualWeights()])
def test_what_a_config_behind_which_grpo_stands_may_set(mixing: AdvantageMixing | None, weights: Any) -> None:
    check(made(0.0, weights=weights), mixing)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 2}, r"update\.epochs = 2 .*set update\.epochs to 1"),
        ({"mini_batches": 4}, r"update\.mini_batches = 4 .*set update\.mini_batches to 1"),
        ({"ahead": 1}, r"rollout\.ahead = 1 .*set rollout\.ahead to 0"),
    ],
)
def test_a_target_that_moves_with_stale_scores_is_refused(options: dict[str, int], said: str) -> None:
    check(made(), **options)  # type: ignore[arg-type]
    check(made(target=BetweenWithinTarget()))
    with pytest.raises(UserError, match=rf"self_reward\.target is BetweenWithinTarget, which needs .*{said}"):
        check(made(target=BetweenWithinTarget()), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overlays", "refused"),
    [
        (["baselines/grpo"], None),
        (["baselines/dapo"], None),
        (["baselines/rise"], None),
        (["methods/between_within"], None),
        (["methods/discrepancy_weighting", "baselines/grpo"], "DiscrepancyWeighting"),
        (["methods/hybrid_target", "baselines/grpo"], "HybridTarget"),
    ],
    ids=str,
)
def test_overlays_on_the_quickstart(
    overlays: list[str], refused: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found: list[LaSeRCLI] = []
    monkeypatch.setattr(LaSeRCLI, "_run_subcommand", lambda cli, command: found.append(cli))
    given = [f"--config={name}" for name in ("quickstart", *overlays)]
    assert main(["fit", *given, "--run_dir=run"]) == 0
    model = found[0].model
    if refused is None:
        check(model.self_reward, model.advantage.mixing)
    else:
        with pytest.raises(UserError, match=refused):
            check(model.self_reward, model.advantage.mixing)
