"""Which figures a run draws, when, and from which numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laser_lightning.callbacks import SelfRewardFigures, figures
from laser_lightning.errors import UserError
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.objective.phases import Phases
from laser_lightning.policy.model import PolicySettings


class Drawn:
    """Takes the places of the drawing functions and keeps what they were given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.self_rewards: list[tuple[Any, ...]] = []
        self.training: list[tuple[Any, ...]] = []
        for name, kept in (("self_reward_figure", self.self_rewards), ("training_figure", self.training)):
            monkeypatch.setattr(figures, name, self._keeping(kept, getattr(figures, name)))

    def _keeping(self, kept: list[tuple[Any, ...]], draw: Callable[..., Any]) -> Callable[..., Any]:
        def keep(*args: Any) -> Any:
            kept.append(args)
            return draw(*args)

        return keep


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return Drawn(monkeypatch)


def test_a_run_draws_its_figures(make_run: Callable[..., Any], tmp_path: Path, drawn: Drawn) -> None:
    make_run(SelfRewardFigures(dpi=50), max_steps=2, tensorboard=True).fit()

    # evaluations before the first step and after each; the whole set, before the module forgets it
    assert [(name, step) for name, step, *_ in drawn.self_rewards] == [("sums", 0), ("sums", 1), ("sums", 2)]
    for _, _, scores, correct, problem in drawn.self_rewards:
        assert scores.tolist() == pytest.approx([1.0, 0.0, 0.8, 0.0] * 3)
        assert correct.tolist() == [True, False, True, False] * 3
        assert problem.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    # at each evaluation, and at the end
    assert [step for step, *_ in drawn.training] == [0, 1, 2, 2]
    _, training, evaluations, phases = drawn.training[-1]
    assert phases == {"integrated": 0}
    assert training["train/reward"] == [(0, 0.5), (1, 0.5)]  # half of the scripted solutions are right
    assert training["train/response_length_tokens"] == [(0, 4.0), (1, 4.0)]  # (4 + 5 + 3 + 4) / 4
    for name in ("auroc", "auroc_within"):
        assert [step for step, _ in training[f"train/self_reward/{name}"]] == [0, 1]
    assert evaluations["sums"]["pass@1"] == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert {"maj@4", "weighted_maj@4"} <= set(evaluations["sums"])

    folder = tmp_path / "run" / "figures"
    assert sorted(path.name for path in folder.iterdir()) == [
        "sums_self_reward.png",
        "sums_votes.png",
        "training.png",
        "votes.csv",
    ]
    height, width, _ = imread(folder / "sums_self_reward.png").shape
    # 4.6 and 18 inches at 50 dpi; matplotlib 3.9 cuts off where later ones round
    assert height in (229, 230)
    assert width == 900
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == ["figures/sums_self_reward", "figures/sums_votes", "figures/training"]
    assert [image.step for image in events.Images("figures/sums_self_reward")] == [0, 1, 2]


@pytest.mark.slow
def test_the_latest_figure_replaces_the_one_before(make_run: Callable[..., Any], tmp_path: Path) -> None:
    class Reader(Callback):
        images: list[bytes] = []  # noqa: RUF012

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            self.images.append((tmp_path / "run/figures/training.png").read_bytes())

    make_run(SelfRewardFigures(dpi=30), Reader(), max_steps=2).fit()
    assert len({*Reader.images, (tmp_path / "run/figures/training.png").read_bytes()}) == 3


def test_only_at_the_end(make_run: Callable[..., Any], tmp_path: Path, drawn: Drawn) -> None:
    make_run(SelfRewardFigures(every_validation=False, dpi=30), max_steps=2).fit()
    assert [(name, step) for name, step, *_ in drawn.self_rewards] == [("sums", 2)]
    assert [step for step, *_ in drawn.training] == [2]
    assert len(list((tmp_path / "run" / "figures").iterdir())) == 4


@pytest.mark.slow
def test_the_curves_of_a_resumed_run_are_whole(make_run: Callable[..., Any], tmp_path: Path) -> None:
    def callbacks() -> tuple[SelfRewardFigures, ModelCheckpoint]:
        checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        return SelfRewardFigures(every_validation=False, dpi=30), checkpoint

    whole = callbacks()
    make_run(*whole, max_steps=4, val_check_interval=3).fit()
    resumed = callbacks()
    make_run(*resumed, max_steps=4, val_check_interval=3).fit(tmp_path / "step=2.ckpt")

    assert [step for step, _ in resumed[0].training["train/reward"]] == [0, 1, 2, 3]
    assert [step for step, _ in resumed[0].evaluations["sums"]["pass@1"]] == [0, 3, 4]
    assert resumed[0].training == whole[0].training
    for callback in (resumed[0], whole[0]):
        assert len(callback.evaluations["sums"].pop("seconds")) == 3
    assert resumed[0].evaluations == whole[0].evaluations


def test_an_evaluation_behind_the_checkpoint_is_not_lost(make_run: Callable[..., Any], tmp_path: Path) -> None:
    def callbacks() -> tuple[SelfRewardFigures, ModelCheckpoint]:
        return SelfRewardFigures(every_validation=False, dpi=30), ModelCheckpoint(tmp_path, "last")

    # the checkpoint of step 2 is written before the evaluation at the end, which no evaluation of a longer run repeats
    make_run(*callbacks(), max_steps=2, val_check_interval=3).fit()
    resumed = callbacks()
    (tmp_path / "run/metrics.csv").rename(tmp_path / "run/metrics.1.csv")
    make_run(*resumed, max_steps=4, val_check_interval=3).fit(tmp_path / "last.ckpt")
    assert resumed[0].evaluations["sums"]["pass@1"] == [(step, 0.5) for step in (0, 2, 3, 4)]


def test_what_a_resumed_run_does_anew_is_left_out() -> None:
    known = {"sums": {"pass@1": [(0, 0.1), (2, 0.2)]}}
    logged = {"sums": {"pass@1": [(0, 0.9), (1, 0.3), (4, 0.4)], "reward": [(2, 0.5)]}, "more": {"reward": [(3, 0.6)]}}
    figures.add_missing(known, logged, last=3)
    assert known == {
        "sums": {"pass@1": [(0, 0.1), (1, 0.3), (2, 0.2)], "reward": [(2, 0.5)]},
        "more": {"reward": [(3, 0.6)]},
    }


def test_phases_are_looked_up(make_run: Callable[..., Any], drawn: Drawn) -> None:
    make_run(SelfRewardFigures(dpi=30), max_steps=1, phases=Phases(reasoning_steps=3, self_reward_steps=2)).fit()
    assert drawn.training[-1][3] == {"self-rewarding": 3, "integrated": 5}


@pytest.mark.slow
def test_a_stand_alone_evaluation_draws_no_training(make_run: Callable[..., Any], tmp_path: Path, drawn: Drawn) -> None:
    make_run(SelfRewardFigures(dpi=30), ModelCheckpoint(tmp_path, "last"), max_steps=1, directory="first").fit()
    drawn.self_rewards.clear()
    # also without `every_validation`: there is no later moment
    run = make_run(SelfRewardFigures(every_validation=False, dpi=30))
    run.validate(tmp_path / "last.ckpt")
    run.test()
    assert [(name, step) for name, step, *_ in drawn.self_rewards] == [("sums", 1), ("sums", 0)]
    found = sorted(path.name for path in (tmp_path / "run/figures").iterdir())
    assert found == ["sums_self_reward.png", "sums_votes.png", "votes.csv"]


def test_a_sanity_check_draws_nothing(make_run: Callable[..., Any], drawn: Drawn) -> None:
    make_run(SelfRewardFigures(dpi=30), max_steps=1, trainer_options={"num_sanity_val_steps": 1}).fit()
    assert [step for _, step, *_ in drawn.self_rewards] == [0, 1]


def test_a_repeated_step_replaces_its_point() -> None:
    series: dict[str, list[tuple[int, float]]] = {}
    for step, value in ((0, 0.1), (2, 0.2), (2, 0.3), (4, 0.4)):
        figures.add_point(series, "pass@1", step, value)
    assert series == {"pass@1": [(0, 0.1), (2, 0.3), (4, 0.4)]}


def test_refusals(make_run: Callable[..., Any], policy_dir: Path) -> None:
    with pytest.raises(UserError, match=r"figures\.dpi is 0"):
        SelfRewardFigures(dpi=0)
    supervised = SupervisedModule(PolicySettings(path=str(policy_dir)))
    with pytest.raises(UserError, match="SupervisedModule: set `figures: null`"):
        make_run(SelfRewardFigures(), module=supervised).fit()
