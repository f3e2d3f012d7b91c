"""The last-token self-reward: score, weights, loss, constant, and the tokens it refuses."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.self_reward.head import Readings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision, class_counts, zero_if_truncated
from laser_lightning.objective.self_reward.weights import EqualWeights
from laser_lightning.policy.character_tokenizer import character_tokenizer

TOKEN = "<|reward|>"


def loss_of_scores(scores: Tensor, rewards: Tensor, weights: Tensor) -> Tensor:
    """The loss where the scores are 1 * (log-prob - 0), the log-probs themselves."""
    readings = Readings(scores[:, None], references=torch.zeros_like(scores)[:, None])
    return make(beta=1.0, reference="exact").loss(readings, Supervision(rewards, weights))


def make(**fields: Any) -> LastTokenSelfReward:
    settings: dict[str, Any] = {"token": TOKEN, "reference": -23.0} | fields
    return LastTokenSelfReward(**settings)


def read(log_probs: list[float], references: list[float] | None = None) -> Readings:
    """Readings of one token."""
    return Readings(torch.tensor(log_probs)[:, None], None, references and torch.tensor(references)[:, None])


# ------------------------------------------------------------------- score


def test_score_by_hand() -> None:
    # 0.1 * (-13 + 23) = 1, 0.1 * (-23 + 23) = 0, 0.1 * (-25 + 23) = -0.2
    scores = make(beta=0.1).score(read([-13.0, -23.0, -25.0]))
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.0, -0.2]))


def test_an_exact_score_takes_each_solutions_own_reference() -> None:
    # 0.2 * (-13 + 18) = 1 and 0.2 * (-13 + 13) = 0
    reward = make(beta=0.2, reference="exact")
    assert reward.is_exact
    assert not reward.needs_calibration
    torch.testing.assert_close(reward.score(read([-13.0, -13.0], [-18.0, -13.0])), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="reference"):
        reward.score(read([-13.0]))


def test_truncated_solutions_have_no_score_until_they_are_settled_at_zero() -> None:
    scores, finished = make().score(read([-13.0, torch.nan])), torch.tensor([True, False])
    assert scores.isnan().tolist() == [False, True]
    torch.testing.assert_close(zero_if_truncated(scores, finished), torch.tensor([1.0, 0.0]))


def test_a_score_of_a_truncated_solution_counts_as_zero_even_if_it_is_high() -> None:
    assert zero_if_truncated(torch.tensor([0.9, 5.0]), torch.tensor([False, False])).tolist() == [0.0, 0.0]


def test_an_unknown_constant_is_refused() -> None:
    reward = make(reference="calibrate")
    assert reward.needs_calibration
    with pytest.raises(UserError, match="ReferenceConstantCalibration"):
        reward.score(read([-13.0]))
    reward.reference_constant.fill_(-23.0)
    assert not reward.needs_calibration
    assert reward.score(read([-13.0])).item() == pytest.approx(1.0)


# ----------------------------------------------------- class weights and loss


@pytest.mark.parametrize(
    ("rewards", "finished", "class_weights", "expected"),
    [
        # 3 correct, 1 incorrect, N = 4: class weights 4 / 6 and 4 / 2, over N: 1/6 each and 1/2
        ([1, 1, 1, 0], [1, 1, 1, 1], True, [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        ([1, 1, 1, 0], [1, 1, 1, 1], False, [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
        # truncated ones count neither as a class nor as a solution
        ([1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 0], True, [1 / 6, 1 / 6, 1 / 6, 1 / 2, 0, 0]),
        ([1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 0], False, [1 / 4, 1 / 4, 1 / 4, 1 / 4, 0, 0]),
        # an absent class contributes nothing: class weight N / (2 N) = 1/2, over N = 2
        ([1, 1], [1, 1], True, [1 / 4, 1 / 4]),
        ([0, 0, 1], [1, 1, 0], True, [1 / 4, 1 / 4, 0]),
        ([0, 0], [1, 1], False, [1 / 2, 1 / 2]),
        # nothing finished
        ([1, 0], [0, 0], True, [0, 0]),
        ([1, 0], [0, 0], False, [0, 0]),
        # real-valued rewards: correct means above 0.5
        ([0.51, 0.5, 0.2, -3.0], [1, 1, 1, 1], True, [1 / 2, 1 / 6, 1 / 6, 1 / 6]),
    ],
)
def test_weights_by_hand(
    rewards: list[float],
    finished: list[int],
    class_weights: bool,
    expected: list[float],
    step_solutions: Callable[..., StepSolutions],
) -> None:
    values, flags = torch.tensor(rewards, dtype=torch.float32), torch.tensor(finished, dtype=torch.bool)
    targets, weights = make(class_weights=class_weights).supervise(step_solutions(values, flags))
    assert torch.equal(targets, values)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))
    assert weights.dtype == torch.float32


class WithAnotherRank(Ranks):
    """Sums of this rank's counts and those of another."""

    def __init__(self, of_the_other: Tensor) -> None:
        super().__init__()
        self.of_the_other = of_the_other

    def sum(self, values: Tensor) -> Tensor:
        return values + self.of_the_other


def test_weights_follow_the_counts_of_all_ranks(step_solutions: Callable[..., StepSolutions]) -> None:
    # This rank has 1 of the step's 5 correct and 1 of its 2 incorrect solutions: 1/10 and 1/4; unweighted 1/7.
    rewards = torch.tensor([1.0, 0.0])
    balanced = make().supervise(
        step_solutions(rewards, context=StepContext(ranks=WithAnotherRank(torch.tensor([1, 4]))))
    )
    torch.testing.assert_close(balanced.weights, torch.tensor([1 / 10, 1 / 4]))
    equal = make(weights=EqualWeights()).supervise(
        step_solutions(rewards, context=StepContext(ranks=WithAnotherRank(torch.tensor(5))))
    )
    torch.testing.assert_close(equal.weights, torch.tensor([1 / 7, 1 / 7]))


def test_class_counts_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5])
    finished = torch.tensor([True, True, False, True, True])
    assert class_counts(rewards, finished).tolist() == [2, 2]
    assert class_counts(rewards, torch.zeros(5, dtype=torch.bool)).tolist() == [0, 0]


def test_loss_by_hand() -> None:
    # Scores 0.5, 1, 0.8 against rewards 1, 1, 0: errors 0.25, 0, 0.64. Weights 1/4, 1/4, 1/2:
    # 0.0625 + 0 + 0.32 = 0.3825. Derivatives 2 * weight * (score - reward): -0.25, 0, 0.8.
    scores = torch.tensor([0.5, 1.0, 0.8], requires_grad=True)
    rewards = torch.tensor([1.0, 1.0, 0.0])
    loss = loss_of_scores(scores, rewards, torch.tensor([0.25, 0.25, 0.5]))
    torch.testing.assert_close(loss, torch.tensor(0.3825))
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], torch.tensor([-0.25, 0.0, 0.8]))


def test_scores_are_not_clamped_in_the_loss() -> None:
    # 1.5 against 1 is an error of 0.5 too.
    assert loss_of_scores(torch.tensor([1.5]), torch.tensor([1.0]), torch.tensor([1.0])).item() == 0.25


def test_nan_at_truncated_rows_reaches_neither_loss_nor_gradient(step_solutions: Callable[..., StepSolutions]) -> None:
    reward = make(beta=0.1)
    log_probs = torch.tensor([[-13.0], [torch.nan], [-18.0]], requires_grad=True)
    rewards, finished = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([True, False, True])
    loss = reward.loss(Readings(log_probs), reward.supervise(step_solutions(rewards, finished)))
    # 1/2 * (1 - 0)^2 + 1/2 * (0.5 - 1)^2 = 0.625; derivatives 2 * 1/2 * error * beta: 0.1 and -0.05.
    torch.testing.assert_close(loss, torch.tensor(0.625))
    torch.testing.assert_close(torch.autograd.grad(loss, log_probs)[0], torch.tensor([[0.1], [0.0], [-0.05]]))


def test_all_solutions_truncated_give_a_loss_of_zero() -> None:
    log_probs = torch.full((3, 1), torch.nan, requires_grad=True)
    reward, rewards = make(), torch.tensor([0.0, 1.0, 1.0])
    loss = reward.loss(Readings(log_probs), Supervision(rewards, torch.zeros(3)))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, log_probs)[0].tolist() == [[0.0], [0.0], [0.0]]


# ---------------------------------------------------------------- the constant


def test_the_constant_is_saved_and_restored_with_the_model() -> None:
    calibrated = make(reference="calibrate")
    calibrated.reference_constant.fill_(-23.11)
    state = calibrated.state_dict()
    assert state["reference_constant"].item() == pytest.approx(-23.11)
    fresh = make(reference="calibrate")
    fresh.load_state_dict(state)
    assert not fresh.needs_calibration
    assert torch.equal(fresh.score(read([-13.0])), calibrated.score(read([-13.0])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_casting_the_model_leaves_the_constant_as_it_was(dtype: torch.dtype) -> None:
    parent = nn.ModuleDict({"reward": make(reference=-23.11), "linear": nn.Linear(2, 2)}).to(dtype)
    reward = parent["reward"]
    assert isinstance(reward, LastTokenSelfReward)
    assert reward.reference_constant.dtype == torch.float32
    assert torch.equal(reward.reference_constant, torch.tensor(-23.11))
    assert torch.equal(parent.state_dict()["reward.reference_constant"], torch.tensor(-23.11))
    scores = reward.score(Readings(torch.tensor([[-13.0]], dtype=torch.bfloat16)))
    torch.testing.assert_close(scores, torch.tensor([1.011]))  # float32, 0.1 * (-13 + 23.11)


def test_casting_keeps_the_constant_in_the_state_that_a_checkpoint_restores() -> None:
    reward = make(reference="calibrate").to(torch.bfloat16)
    reward.load_state_dict({"reference_constant": torch.tensor(-23.11)}, strict=False)
    assert torch.equal(reward.reference_constant, torch.tensor(-23.11))


@pytest.mark.parametrize(
    ("constant", "beta", "smallest"),
    [(-23.11, 0.04, "0.0433"), (-10.0, 0.1, "0.101"), (-4.3, 0.1, "0.233")],  # 1 / 23.11 = 0.04327, 1 / 4.3 = 0.2326
)
def test_an_unreachable_self_reward_of_one_is_refused(constant: float, beta: float, smallest: str) -> None:
    with pytest.raises(UserError, match=rf"beta to {re.escape(smallest)} or more"):
        make(reference=constant, beta=beta)


@pytest.mark.parametrize("constant", [-23.11, -21.0, -24.87, -17.8, -7.0, -3.0, -1.1])
def test_the_beta_that_the_refusal_names_works(constant: float) -> None:
    with pytest.raises(UserError) as refusal:
        make(reference=constant, beta=1e-3)
    named = re.search(r"beta to ([0-9.e-]+) or more", str(refusal.value))
    assert named is not None
    beta = float(named[1])
    assert 1 < beta * -constant < 1.011, "rounded up, in the third digit"
    make(reference=constant, beta=beta)


@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_a_constant_that_no_beta_can_cure_is_refused(constant: float) -> None:
    with pytest.raises(UserError, match="choose a token"):
        make(reference=constant)


def test_a_calibrated_constant_is_checked_too() -> None:
    reward = make(reference="calibrate", beta=0.1)
    reward.reference_constant.fill_(-9.0)
    with pytest.raises(UserError, match=r"beta to 0\.112 or more"):
        reward.check_reachable()
    reward.reference_constant.fill_(-11.0)
    reward.check_reachable()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": -0.1}, "beta"),
        ({"loss_weight": -0.1}, "loss_weight"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make(**fields)


# -------------------------------------------------------------------- the token


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return character_tokenizer()


def test_bind_finds_the_token(tokenizer: PreTrainedTokenizerFast) -> None:
    reward = make()
    reward.bind(tokenizer, (1,))
    assert reward.token_id == tokenizer.get_vocab()[TOKEN] == 3


def test_bind_takes_a_text_that_is_one_token_without_being_its_name() -> None:
    # As " the" is one token of a byte-level vocabulary, whose name there is "Ġthe".
    backend = Tokenizer(models.WordLevel({"Ġx": 0, "<|eos|>": 1}))
    backend.normalizer = normalizers.Replace(" ", "Ġ")
    reward = make(token=" x")
    reward.bind(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>"), (1,))
    assert reward.token_id == 0


@pytest.mark.parametrize(
    ("token", "eos_ids", "sentence"),
    [
        ("<|unknown|>", (1,), "does not know"),
        ("<|vision_start|>", (1,), "splits into 16 tokens"),
        ("", (1,), "splits into 0 tokens"),
        ("<|eos|>", (1,), "ends or pads"),
        ("<|pad|>", (1,), "ends or pads"),
        (TOKEN, (1, 3), "ends or pads"),
    ],
)
def test_bind_refuses_tokens_that_cannot_serve(
    tokenizer: PreTrainedTokenizerFast, token: str, eos_ids: tuple[int, ...], sentence: str
) -> None:
    reward = make(token=token)
    with pytest.raises(UserError, match=sentence) as refusal:
        reward.bind(tokenizer, eos_ids)
    assert f"'{token}'" in str(refusal.value)
    assert reward.token_id == -1


def test_metrics_belong_to_the_head() -> None:
    reward = make()
    scores: Tensor = torch.tensor([0.9, 0.2, 0.7, 0.1])
    reward.metrics.update(scores, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    # One of two correct solutions and one of two incorrect ones judged right; the harmonic mean of 1/2 and 1/2.
    assert float(reward.metrics.compute()["f1"]) == pytest.approx(0.5)
