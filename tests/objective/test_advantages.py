"""Advantages against values worked out by hand."""

import math
import statistics
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.objective.advantages import (
    AdvantageEstimator,
    BatchNormalized,
    GroupRelative,
    LeaveOneOut,
    SelfRewardMixing,
)
from laser_lightning.objective.context import StepContext
from laser_lightning.records.rollout import Rollout

NO_ROLLOUT: Rollout = None  # type: ignore[assignment]  # not looked at


def ranks_with(all_sum: Callable[[Tensor], Tensor]) -> Ranks:
    """Ranks whose sums are computed in the test."""
    ranks = Ranks()
    ranks.sum = all_sum  # type: ignore[method-assign]
    return ranks


def estimated(
    rewards: Tensor, estimator: AdvantageEstimator, all_sum: Callable[[Tensor], Tensor] = lambda total: total
) -> Tensor:
    """What an estimator that looks at rewards alone says of them."""
    return estimator(rewards, NO_ROLLOUT, StepContext(ranks=ranks_with(all_sum)))


def mixed(
    rewards: Tensor,
    scores: Tensor,
    mixing: SelfRewardMixing,
    estimator: AdvantageEstimator,
    all_sum: Callable[[Tensor], Tensor] = lambda total: total,
    verdicts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mixed advantages [P, G], and which groups were mixed; ``verdicts`` are rewards before shaping."""
    own = rewards if verdicts is None else verdicts
    rollout: Any = SimpleNamespace(rewards=own.flatten(), grouped=lambda values: values.view(rewards.shape))
    found = mixing(rewards, scores, lambda values: estimated(values, estimator, all_sum), rollout, StepContext())
    return found.values.view(rewards.shape), found.mixed_groups


def group_relative(rewards: Tensor, divide_by_std: bool = True, epsilon: float = 1e-6) -> Tensor:
    return estimated(rewards, GroupRelative(divide_by_std, epsilon))


EXACT = GroupRelative(epsilon=0.0)


def test_group_relative_uses_the_sample_standard_deviation() -> None:
    # Group 1, 0, 0, 0: mean 1/4, squared deviations 9/16 + 3/16 = 3/4, sample variance 3/4 / 3 = 1/4, std 1/2.
    # Advantages 3/4 / (1/2) = 1.5 and -1/4 / (1/2) = -0.5.
    # Group 1, 1, 0, 0: mean 1/2, squared deviations 4/4 = 1, variance 1/3, std 0.577350; 0.5 / 0.577350 = 0.866025.
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    expected = torch.tensor([[1.5, -0.5, -0.5, -0.5], [0.866025, 0.866025, -0.866025, -0.866025]])
    torch.testing.assert_close(group_relative(rewards, epsilon=0.0), expected, rtol=0, atol=1e-6)


def test_epsilon_is_added_to_the_standard_deviation() -> None:
    # As above, with 1/2 + 1/4 below the line: 3/4 / (3/4) = 1 and -1/4 / (3/4) = -1/3.
    advantages = group_relative(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), epsilon=0.25)
    torch.testing.assert_close(advantages, torch.tensor([[1.0, -1 / 3, -1 / 3, -1 / 3]]))


def test_without_division_it_is_the_distance_from_the_mean() -> None:
    # Dr.GRPO: 2 - 1 = 1, 1 - 1 = 0, 0 - 1 = -1.
    advantages = group_relative(torch.tensor([[2.0, 1.0, 0.0]]), divide_by_std=False)
    assert advantages.tolist() == [[1.0, 0.0, -1.0]]


@pytest.mark.parametrize("divide_by_std", [True, False])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, -7.3, 1e6 + 0.1])
@pytest.mark.parametrize("group_size", [3, 7, 11])
def test_a_unanimous_group_has_advantage_exactly_zero(value: float, group_size: int, divide_by_std: bool) -> None:
    # 0.1 and 1/3 are no binary fractions: their mean over 3, 7 or 11 may differ from them in the last place.
    rewards = torch.full((2, group_size), value)
    assert torch.equal(group_relative(rewards, divide_by_std), torch.zeros(2, group_size))


def test_a_unanimous_group_has_advantage_zero_without_epsilon_too() -> None:
    # 0 / (0 + epsilon) must not become 0 / 0, since epsilon may be 0.
    rewards = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert group_relative(rewards, epsilon=0.0)[0].tolist() == [0.0, 0.0, 0.0]
    advantages, _ = mixed(rewards, torch.zeros(2, 3), SelfRewardMixing(), EXACT)
    assert advantages[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("divide_by_std", [True, False])
def test_a_group_of_one_has_advantage_zero(divide_by_std: bool) -> None:
    assert group_relative(torch.tensor([[1.0], [0.0]]), divide_by_std).tolist() == [[0.0], [0.0]]


def test_groups_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randint(0, 2, (20, 8), generator=generator).float()
    together = group_relative(rewards)
    alone = torch.cat([group_relative(row[None]) for row in rewards])
    assert torch.equal(together, alone)


MIX = SelfRewardMixing(tau=0.25, min_std=0.1)


def test_mixing_by_hand() -> None:
    # Rewards 1, 0, 0: mean 1/3, squared deviations 4/9 + 2/9 = 2/3, variance 1/3, std 0.577350;
    #   A_v = 0.666667 / 0.577350 = 1.154701, and twice -0.333333 / 0.577350 = -0.577350.
    # Self-rewards 0, 0.5, 1: mean 0.5, variance (0.25 + 0.25) / 2 = 0.25, std 0.5; A_s = -1, 0, 1.
    # Mixed 3/4 A_v + 1/4 A_s: 0.866025 - 0.25 = 0.616025; -0.433013; -0.433013 + 0.25 = -0.183013.
    advantages, is_mixed = mixed(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 1.0]]), MIX, EXACT)
    torch.testing.assert_close(advantages, torch.tensor([[0.616025, -0.433013, -0.183013]]), rtol=0, atol=2e-6)
    assert is_mixed.tolist() == [True]


def test_self_rewards_are_clamped_before_they_are_normalised() -> None:
    # -3, 0.5 and 9 count as 0, 0.5 and 1.
    rewards = torch.tensor([[1.0, 0.0, 0.0]])
    clamped, _ = mixed(rewards, torch.tensor([[-3.0, 0.5, 9.0]]), MIX, EXACT)
    plain, _ = mixed(rewards, torch.tensor([[0.0, 0.5, 1.0]]), MIX, EXACT)
    assert torch.equal(clamped, plain)


def test_a_truncated_solution_counts_as_zero_for_the_group_and_for_itself() -> None:
    # The published code gave truncated solutions the highest self-rewarding advantage. Here the second one is truncated
    # (self-reward 0, as zero_if_truncated has it). Scores 1, 0, 1, 0: std 0.577350, A_s = 0.866025 or -0.866025.
    rewards, scores = torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    advantages, _ = mixed(rewards, scores, SelfRewardMixing(tau=1.0), EXACT)
    torch.testing.assert_close(
        advantages, torch.tensor([[0.866025, -0.866025, 0.866025, -0.866025]]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("min_std", "expected"), [(0.4999, True), (0.5, False), (0.5001, False)])
def test_a_group_is_mixed_only_above_min_std(min_std: float, expected: bool) -> None:
    # 0, 0.5 and 1 have a sample std of exactly 0.5, which is "at most min_std" for min_std = 0.5.
    rewards = torch.tensor([[1.0, 0.0, 0.0]])
    mixing = SelfRewardMixing(tau=0.5, min_std=min_std)
    advantages, is_mixed = mixed(rewards, torch.tensor([[0.0, 0.5, 1.0]]), mixing, GroupRelative())
    assert is_mixed.tolist() == [expected]
    assert torch.equal(advantages, group_relative(rewards)) != expected


def test_min_std_looks_at_clamped_self_rewards() -> None:
    # 1, 5 and 9 are all 1 once clamped: a std of 0, though the raw values vary widely.
    rewards = torch.tensor([[1.0, 0.0, 0.0]])
    advantages, is_mixed = mixed(rewards, torch.tensor([[1.0, 5.0, 9.0]]), MIX, EXACT)
    assert is_mixed.tolist() == [False]
    assert torch.equal(advantages, group_relative(rewards, epsilon=0.0))


def test_the_filter_is_per_group() -> None:
    rewards = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    advantages, is_mixed = mixed(rewards, torch.tensor([[0.5, 0.5], [0.0, 1.0]]), MIX, EXACT)
    # Second group: A_v = 0.707107, -0.707107 and A_s the opposite; (3/4 - 1/4) * 0.707107 = 0.353553.
    assert is_mixed.tolist() == [False, True]
    torch.testing.assert_close(
        advantages, torch.tensor([[0.707107, -0.707107], [0.353553, -0.353553]]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("unanimous", [0.0, 1.0])
@pytest.mark.parametrize("mix_unanimous_groups", [True, False])
def test_unanimous_groups_are_mixed_only_if_asked_for(unanimous: float, mix_unanimous_groups: bool) -> None:
    mixing = SelfRewardMixing(tau=0.25, mix_unanimous_groups=mix_unanimous_groups)
    rewards = torch.tensor([[unanimous] * 3, [1.0, 0.0, 0.0]])
    advantages, is_mixed = mixed(rewards, torch.tensor([[0.0, 0.5, 1.0]] * 2), mixing, GroupRelative())
    # A_v is 0, A_s is -1, 0, 1, so mixing leaves tau * A_s.
    expected = [-0.25, 0.0, 0.25] if mix_unanimous_groups else [0.0, 0.0, 0.0]
    torch.testing.assert_close(advantages[0], torch.tensor(expected))
    assert is_mixed.tolist() == [mix_unanimous_groups, True]


def test_unanimous_is_what_the_verifier_says() -> None:
    # All right, with shaped rewards by length; and one right, with shaped rewards that happen to be equal.
    verdicts, shaped = torch.tensor([[1.0, 1, 1], [1, 0, 0]]), torch.tensor([[1.5, 1.0, 0.5], [1, 1, 1]])
    mixing, scores = SelfRewardMixing(tau=0.25, mix_unanimous_groups=False), torch.tensor([[0.0, 0.5, 1.0]] * 2)
    advantages, is_mixed = mixed(shaped, scores, mixing, EXACT, verdicts=verdicts)
    assert is_mixed.tolist() == [False, True]
    # 1.5, 1 and 0.5 have the std 0.5: A_v is 1, 0 and -1 without a share of A_s; then 0 and a quarter of -1, 0 and 1.
    assert advantages.tolist() == [[1, 0, -1], [-0.25, 0, 0.25]]


@pytest.mark.parametrize("divide_by_std", [True, False])
def test_tau_of_zero_is_the_verifier_alone_and_tau_of_one_the_score_alone(divide_by_std: bool) -> None:
    rewards, scores = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.2, 1.0]])
    none, is_mixed = mixed(rewards, scores, SelfRewardMixing(tau=0.0), GroupRelative(divide_by_std))
    assert torch.equal(none, group_relative(rewards, divide_by_std))
    assert is_mixed.tolist() == [False]
    full, is_mixed = mixed(rewards, scores, SelfRewardMixing(tau=1.0), GroupRelative(divide_by_std))
    torch.testing.assert_close(full, group_relative(scores, divide_by_std))
    assert is_mixed.tolist() == [True]


def test_a_group_of_one_is_never_mixed() -> None:
    advantages, is_mixed = mixed(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.3], [0.9]]), MIX, EXACT)
    assert advantages.tolist() == [[0.0], [0.0]]
    assert is_mixed.tolist() == [False, False]


@pytest.mark.parametrize("divide_by_std", [True, False])
@pytest.mark.parametrize("mix_unanimous_groups", [True, False])
def test_against_plain_python(divide_by_std: bool, mix_unanimous_groups: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    rewards = torch.randint(0, 2, (60, 4), generator=generator).float()
    spread = torch.rand(60, 1, generator=generator)
    scores = 0.5 + spread * torch.randn(60, 4, generator=generator)
    mixing = SelfRewardMixing(tau=0.1, min_std=0.3, mix_unanimous_groups=mix_unanimous_groups)

    def normalised(values: list[float]) -> list[float]:
        if len(set(values)) == 1:
            return [0.0] * len(values)
        scale = statistics.stdev(values) + 1e-6 if divide_by_std else 1.0
        return [(value - statistics.fmean(values)) / scale for value in values]

    expected, expected_mixed = [], []
    for group_rewards, group_scores in zip(rewards.tolist(), scores.tolist(), strict=True):
        clamped = [min(max(score, 0.0), 1.0) for score in group_scores]
        mix = statistics.stdev(clamped) > 0.3 and (mix_unanimous_groups or len(set(group_rewards)) > 1)
        pairs = zip(normalised(group_rewards), normalised(clamped), strict=True)
        expected.append([0.9 * v + 0.1 * s if mix else v for v, s in pairs])
        expected_mixed.append(mix)
    assert 10 < sum(expected_mixed) < 50  # both kinds are there
    advantages, is_mixed = mixed(rewards, scores, mixing, GroupRelative(divide_by_std))
    assert is_mixed.tolist() == expected_mixed
    torch.testing.assert_close(advantages, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_advantages_have_no_path_for_gradients_when_self_rewards_have_none() -> None:
    advantages, _ = mixed(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), MIX, EXACT)
    assert not advantages.requires_grad
    assert not group_relative(torch.tensor([[1.0, 0.0]])).requires_grad


def test_leave_one_out_by_hand() -> None:
    # RLOO: 3 - (1 + 2 + 0) / 3 = 2; 1 - (3 + 2 + 0) / 3 = -2/3; 2 - (3 + 1 + 0) / 3 = 2/3; 0 - (3 + 1 + 2) / 3 = -2.
    advantages = estimated(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), LeaveOneOut())
    torch.testing.assert_close(advantages, torch.tensor([[2.0, -2 / 3, 2 / 3, -2.0]]))


BATCH = BatchNormalized(epsilon=0.0)
WITH_BASELINE = BatchNormalized(baseline=True, epsilon=0.0)
TWO_GROUPS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])


def test_batch_normalized_by_hand() -> None:
    # REINFORCE++: mean of all eight 1/2, every squared deviation 1/4, sample variance 2 / 7, std 0.534522;
    # 0.5 / 0.534522 = 0.935414.
    a = 0.935414
    expected = torch.tensor([[a, -a, -a, -a], [a, a, a, -a]])
    torch.testing.assert_close(estimated(TWO_GROUPS, BATCH), expected, rtol=0, atol=1e-6)


def test_batch_normalized_with_baseline_by_hand() -> None:
    # Distances from the group's mean: 3/4, -1/4 (3 times) and 1/4 (3 times), -3/4. Their mean is 0, and their squares
    # sum to 2 * 9/16 + 6 * 1/16 = 3/2; variance 3/14, std 0.462910; 0.75 / 0.462910 = 1.620185, 0.25 / ... = 0.540062.
    a, b = 1.620185, 0.540062
    expected = torch.tensor([[a, -b, -b, -b], [b, b, b, -a]])
    torch.testing.assert_close(estimated(TWO_GROUPS, WITH_BASELINE), expected, rtol=0, atol=1e-6)


def test_epsilon_is_added_to_the_standard_deviation_of_the_batch() -> None:
    # As above with a std of 0.534522 + 0.5: 0.5 / 1.034522.
    assert estimated(TWO_GROUPS, BatchNormalized(epsilon=0.5))[0, 0].item() == pytest.approx(0.5 / 1.034522, abs=1e-6)


def test_a_unanimous_group_has_a_signal_only_against_the_whole_batch() -> None:
    rewards = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    # Mean 3/4, squared deviations 3 * 1/16 + 9/16 = 3/4, variance 1/4: (1 - 3/4) / (1/2) = 0.5 and -0.75 / 0.5 = -1.5.
    assert estimated(rewards, BATCH).tolist() == [[0.5, 0.5], [0.5, -1.5]]
    assert estimated(rewards, WITH_BASELINE)[0].tolist() == [0.0, 0.0]
    assert estimated(rewards, LeaveOneOut()).tolist() == [[0.0, 0.0], [1.0, -1.0]]


ALL = [GroupRelative(), GroupRelative(divide_by_std=False), LeaveOneOut(), BatchNormalized(), BatchNormalized(True)]
EACH_ESTIMATOR = pytest.mark.parametrize("estimator", ALL)


@pytest.mark.parametrize("estimator", [*ALL, EXACT, BatchNormalized(False, 0.0), BatchNormalized(True, 0.0)])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, -7.3, 1e6 + 0.1])
def test_without_any_difference_every_advantage_is_exactly_zero(estimator: AdvantageEstimator, value: float) -> None:
    for shape in ((3, 7), (1, 11), (5, 1), (1, 1)):
        assert torch.equal(estimated(torch.full(shape, value), estimator), torch.zeros(shape))


def on_two_ranks(
    rewards: Tensor, scores: Tensor, mixing: SelfRewardMixing, estimator: AdvantageEstimator, first: int
) -> tuple[Tensor, Tensor]:
    """The advantages of both halves, computed by two threads that meet in every sum."""
    barrier = threading.Barrier(2, timeout=10)
    given: dict[int, Tensor] = {}

    def advantages(rank: int, part: slice) -> tuple[Tensor, Tensor]:
        def all_sum(values: Tensor) -> Tensor:
            given[rank] = values
            barrier.wait()
            total = given[0] + given[1]
            barrier.wait()
            return total

        return mixed(rewards[part], scores[part], mixing, estimator, all_sum)

    with ThreadPoolExecutor(2) as pool:
        halves = [pool.submit(advantages, 0, slice(first)), pool.submit(advantages, 1, slice(first, None))]
        (a, mixed_a), (b, mixed_b) = halves[0].result(), halves[1].result()
    return torch.cat((a, b)), torch.cat((mixed_a, mixed_b))


@EACH_ESTIMATOR
@pytest.mark.parametrize("first", [1, 5])
@pytest.mark.parametrize("mix", [0.0, 0.3])
def test_the_number_of_ranks_does_not_change_the_advantages(
    estimator: AdvantageEstimator, first: int, mix: float
) -> None:
    generator = torch.Generator().manual_seed(2)
    rewards = torch.randint(0, 2, (10, 4), generator=generator).float()
    rewards[first:] += 3.0  # the halves differ in their mean
    scores = torch.rand(10, 4, generator=generator)
    mixing = SelfRewardMixing(tau=mix)
    whole, whole_mixed = mixed(rewards, scores, mixing, estimator)
    parts, parts_mixed = on_two_ranks(rewards, scores, mixing, estimator, first)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    assert torch.equal(parts_mixed, whole_mixed)


@EACH_ESTIMATOR
def test_both_rewards_are_mixed_by_the_same_estimator(estimator: AdvantageEstimator) -> None:
    rewards, scores = TWO_GROUPS, torch.tensor([[0.9, 0.1, 0.3, 0.5], [0.4, 1.0, 0.0, 0.2]])
    advantages, is_mixed = mixed(rewards, scores, SelfRewardMixing(tau=0.25, min_std=0.0), estimator)
    assert is_mixed.tolist() == [True, True]
    by_verifier, by_self = (estimated(values, estimator) for values in (rewards, scores))
    torch.testing.assert_close(advantages, 0.75 * by_verifier + 0.25 * by_self)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tau": 1.1}, "tau"),
        ({"tau": -0.1}, "tau"),
        ({"tau": math.nan}, "tau"),
        ({"min_std": -0.1}, "min_std"),
    ],
)
def test_a_mixing_out_of_range_is_refused(fields: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=rf"advantage\.mixing\.{named}"):
        SelfRewardMixing(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", [GroupRelative, BatchNormalized])
def test_a_negative_epsilon_is_refused(estimator: type[GroupRelative] | type[BatchNormalized]) -> None:
    with pytest.raises(UserError, match=r"advantage\.estimator\.epsilon is -1"):
        estimator(epsilon=-1.0)
