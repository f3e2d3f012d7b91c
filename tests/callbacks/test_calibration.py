"""The reference constant is the mean over scripted solutions, worked out by hand, or the run is refused."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from laser_lightning.callbacks import Calibration, ReferenceConstantCalibration
from laser_lightning.errors import UserError
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.character_tokenizer import REWARD_TOKEN
from laser_lightning.policy.model import PolicySettings
from laser_lightning.rollout import Sampling, TransformersEngine

# 2 prompts give each of the three finished solutions twice. Mean of -20, -22, -24: -22; sample variance
# (2 * 2^2 + 2 * 0 + 2 * 2^2) / (6 - 1) = 3.2.
SOLUTIONS = (("#2", -20.0), ("a#2", -22.0), ("#3", -24.0), ("dddd", None))
RESULT = Calibration(mean=-22.0, std=3.2**0.5, minimum=-24.0, maximum=-20.0, solutions=6)


def calibrated_head(beta: float = 0.1) -> LastTokenSelfReward:
    return LastTokenSelfReward(REWARD_TOKEN, beta=beta, reference="calibrate")


@pytest.fixture
def scripted_run(make_run: Callable[..., Any], scripted_engine: Callable[..., Any]) -> Callable[..., Any]:
    """``scripted_run(callback, solutions=..., beta=..., **options)``: a run whose constant is to be calibrated."""

    def make(*callbacks: Any, solutions: Any = SOLUTIONS, beta: float = 0.1, **options: Any) -> Any:
        defaults = {"engine": scripted_engine(solutions), "self_reward": calibrated_head(beta), "max_steps": 1}
        return make_run(*callbacks, **(defaults | options))

    return make


def test_the_constant_is_the_mean_over_finished_solutions(scripted_run: Callable[..., Any], tmp_path: Path) -> None:
    callback = ReferenceConstantCalibration(prompts=2, group_size=4)
    run = scripted_run(callback)
    run.fit()

    assert callback.result == RESULT
    assert run.module.self_reward.reference_constant.item() == -22.0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["calibration/mean"]]
    logged = [(float(row[f"calibration/{name}"])) for row in rows for name in ("mean", "std", "min", "max")]
    assert logged == pytest.approx([-22.0, 3.2**0.5, -24.0, -20.0])


def test_the_order_of_the_solutions_does_not_matter(scripted_run: Callable[..., Any]) -> None:
    callback = ReferenceConstantCalibration(prompts=2, group_size=4)
    scripted_run(callback, solutions=SOLUTIONS[::-1]).fit()
    assert callback.result == RESULT


def test_one_finished_solution_has_no_spread(scripted_run: Callable[..., Any]) -> None:
    callback = ReferenceConstantCalibration(prompts=1, group_size=2)
    scripted_run(callback, solutions=(("#2", -20.0), ("dddd", None))).fit()
    assert callback.result == Calibration(-20.0, 0.0, -20.0, -20.0, 1)


def test_it_samples_the_first_training_problems(scripted_run: Callable[..., Any], scripted_engine: type[Any]) -> None:
    class Recorder(scripted_engine):
        calls: list[tuple[int, int]] = []  # noqa: RUF012

        def generate(self, policy: Any, prompts: Any, group_size: int, *rest: Any) -> Any:
            self.calls.append((prompts, group_size))
            return super().generate(policy, prompts, group_size, *rest)

    run = scripted_run(ReferenceConstantCalibration(prompts=3, group_size=5), engine=Recorder())
    run.fit()
    assert Recorder.calls[0] == ([problem.prompt_ids for problem in run.data.train_problems[:3]], 5)


def test_a_stand_alone_evaluation_calibrates_on_its_own_problems(scripted_run: Callable[..., Any]) -> None:
    for evaluate in ("validate", "test", "predict"):
        callback = ReferenceConstantCalibration(prompts=2, group_size=4)
        run = scripted_run(callback)
        getattr(run, evaluate)()
        assert callback.result == RESULT


def test_kept_solutions_are_no_ground_to_calibrate_on(
    scripted_run: Callable[..., Any], scripted_engine: type[Any]
) -> None:
    engine = scripted_engine()
    engine.replays = True
    with pytest.raises(UserError, match=r"draws no solutions to calibrate on.*give model\.self_reward\.reference"):
        scripted_run(ReferenceConstantCalibration(prompts=2, group_size=4), engine=engine).test()


@pytest.mark.parametrize("beta", [0.1, 0.2], ids=["below", "just at the limit"])
def test_an_unreachable_beta_is_refused(scripted_run: Callable[..., Any], beta: float) -> None:
    # log pi_ref = -5: a self-reward of 1 needs log pi = -5 + 1 / beta, which is below 0 for beta above 0.2
    run = scripted_run(ReferenceConstantCalibration(), solutions=(("#2", -5.0), ("#3", -5.0)), beta=beta)
    with pytest.raises(UserError, match=r"unreachable.*raise self_reward\.beta to 0\.201 or more\."):
        run.fit()
    assert run.trainer.global_step == 0


def test_a_reachable_beta_is_taken(scripted_run: Callable[..., Any]) -> None:
    run = scripted_run(ReferenceConstantCalibration(), solutions=(("#2", -5.0), ("#3", -5.0)), beta=0.21)
    run.fit()
    assert run.trainer.global_step == 1


def test_a_reward_token_in_normal_text_is_refused(scripted_run: Callable[..., Any]) -> None:
    solutions = (("#2", -20.0), (f"{REWARD_TOKEN}#2", -20.0), ("#3", -20.0), ("dddd", None))
    run = scripted_run(ReferenceConstantCalibration(prompts=2, group_size=4), solutions=solutions)
    with pytest.raises(UserError, match=r"writes the reward token '<\|reward\|>' in 2 of 8 solutions"):
        run.fit()
    assert run.trainer.global_step == 0
    # exactly the share that is allowed
    scripted_run(ReferenceConstantCalibration(2, 4, max_emission_rate=0.25), solutions=solutions).fit()


def test_a_model_that_never_finishes_is_refused(scripted_run: Callable[..., Any]) -> None:
    run = scripted_run(ReferenceConstantCalibration(prompts=2, group_size=4), solutions=(("dddd", None),))
    with pytest.raises(UserError, match=r"None of 8 calibration solutions ended within .*max_response_tokens = 8"):
        run.fit()
    assert run.trainer.global_step == 0


@pytest.mark.parametrize("reference", [-19.5, "exact"])
def test_a_reference_from_the_config_is_left_alone(scripted_run: Callable[..., Any], reference: Any) -> None:
    callback = ReferenceConstantCalibration()
    head = LastTokenSelfReward(REWARD_TOKEN, reference=reference)
    run = scripted_run(callback, self_reward=head)
    run.fit()
    assert callback.result is None
    assert head.reference_constant.isnan() if reference == "exact" else head.reference_constant == reference


def test_a_resumed_run_keeps_its_constant(
    scripted_run: Callable[..., Any], scripted_engine: Callable[..., Any], tmp_path: Path
) -> None:
    checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    scripted_run(ReferenceConstantCalibration(), checkpoint).fit()
    callback = ReferenceConstantCalibration()
    run = scripted_run(callback, engine=scripted_engine([("#2", -9.0), ("#3", -9.0)]), max_steps=2)
    run.fit(tmp_path / "step=1.ckpt")
    assert run.trainer.global_step == 2
    assert callback.result is None
    assert run.module.self_reward.reference_constant.item() == -22.0


def test_calibrating_leaves_no_trace_in_the_training(make_run: Callable[..., Any]) -> None:
    """The same run with the number in its config, which samples nothing beforehand, is the same bit for bit."""

    sampling = Sampling(max_response_tokens=32)  # long enough for the random model to finish now and then

    def trained(*callbacks: Any, reference: Any) -> Any:
        head = LastTokenSelfReward(REWARD_TOKEN, beta=0.5, reference=reference)
        run = make_run(*callbacks, max_steps=2, engine=TransformersEngine(), sampling=sampling, self_reward=head)
        run.fit()
        return run.module

    callbacks = [ReferenceConstantCalibration(prompts=8, max_emission_rate=1.0, seed=seed) for seed in (0, 0, 1)]
    first, second = (trained(callback, reference="calibrate") for callback in callbacks[:2])
    assert callbacks[0].result == callbacks[1].result is not None
    given = trained(reference=float(first.self_reward.reference_constant))
    for name, value in given.policy.state_dict().items():
        assert torch.equal(value, first.policy.state_dict()[name])
        assert torch.equal(value, second.policy.state_dict()[name])
    assert given.last_rollout.texts == first.last_rollout.texts
    # other solutions, another constant
    assert trained(callbacks[2], reference="calibrate").self_reward.reference_constant != (
        first.self_reward.reference_constant
    )


def test_refusals(make_run: Callable[..., Any], policy_dir: Path) -> None:
    for sizes in ({"prompts": 0}, {"group_size": 0}):
        with pytest.raises(UserError, match="must be at least 1"):
            ReferenceConstantCalibration(**sizes)
    supervised = SupervisedModule(PolicySettings(path=str(policy_dir)))
    with pytest.raises(UserError, match="SupervisedModule: set `calibration: null`"):
        make_run(ReferenceConstantCalibration(), module=supervised).fit()
