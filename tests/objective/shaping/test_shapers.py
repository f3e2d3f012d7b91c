"""Shaped rewards by hand, and that a group's are its own, whatever the others and wherever they are."""

import math
import re
from collections.abc import Callable

import pytest
import torch

from laser_lightning import (
    CosineReward,
    FormatLengthReward,
    FormatReward,
    FunctionShaper,
    KimiLengthReward,
    RepetitionPenalty,
    RewardShaper,
    SolutionGroup,
)
from laser_lightning.errors import UnusableFunctionError, UserError
from laser_lightning.objective.advantages import AdvantageSettings
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.shaping.repetition import repeated_share
from laser_lightning.records.rollout import Rollout

Solutions = Callable[..., Rollout]


def shaped(
    shaper: RewardShaper, rollout: Rollout, so_far: list[float] | None = None, step: int = 0, limit: int = 40
) -> list[float]:
    rewards = rollout.rewards if so_far is None else torch.tensor(so_far)
    before = rewards.clone()
    found = shaper(rewards, rollout, StepContext(step, limit))
    assert torch.equal(rewards, before)
    assert found.dtype == torch.float32
    return found.tolist()


def test_the_cosine_reward(make_solutions: Solutions) -> None:
    # A quarter, half, three quarters and all of 40 tokens: (1 + cos) / 2 is 0.853553, 0.5, 0.146447, 0.
    lengths = [10, 20, 30, 40]
    expected = [0.853553, 0.5, 0.146447, 0.0]
    assert shaped(CosineReward(), make_solutions([1.0] * 4, lengths)) == pytest.approx(expected, abs=1e-6)
    wrong = [-value for value in expected]
    assert shaped(CosineReward(), make_solutions([0.0] * 4, lengths)) == pytest.approx(wrong, abs=1e-6)
    # From 2 to 1 and from -10 to -2, with -3 for what was cut; what other shapers made does not matter.
    shaper = CosineReward(2.0, 1.0, -10.0, -2.0, truncated=-3.0)
    rollout = make_solutions([1.0, 0.0, 1.0, 0.0], [20, 20, 40, 40], cut=(2,))
    assert shaped(shaper, rollout, [9.0] * 4) == pytest.approx([1.5, -6.0, -3.0, -2.0], abs=1e-6)


def test_the_penalty_of_repetition(make_solutions: Solutions) -> None:
    # Pairs of 1 2 1 2 1 2: 12 21 12 21 12, 2 of 5 distinct; of 1 2 3 4: all; of a single token: none.
    assert repeated_share([1, 2, 1, 2, 1, 2], 2) == pytest.approx(0.6)
    tokens = [[1, 2, 1, 2, 1, 2], [1, 2, 3, 4], [7], [1, 2, 1, 2, 1, 2]]
    rollout = make_solutions([0.0, 0.0, 0.0, 1.0], tokens=tokens)
    assert shaped(RepetitionPenalty(0.5, size=2), rollout) == pytest.approx([-0.3, 0.0, 0.0, 1.0])
    every = RepetitionPenalty(0.5, size=2, only_wrong=False)
    assert shaped(every, rollout) == pytest.approx([-0.3, 0.0, 0.0, 0.7])


def test_the_cosine_reward_with_the_penalty_of_repetition(make_solutions: Solutions) -> None:
    rollout = make_solutions([0.0, 1.0], tokens=[[1, 2] * 10, [1, 2] * 10])
    shaping: list[RewardShaper] = [CosineReward(), RepetitionPenalty(1.0, size=19)]
    # Half of 40 tokens: -0.5 and 0.5. Of 19 tokens there are two windows, both distinct; of 18 three, of which two are.
    found = AdvantageSettings(shaping=shaping).shape_rewards(rollout, StepContext(0, 40))
    assert found.tolist() == pytest.approx([-0.5, 0.5])
    shaping[1] = RepetitionPenalty(1.0, size=18)
    found = AdvantageSettings(shaping=shaping).shape_rewards(rollout, StepContext(0, 40))
    assert found.tolist() == pytest.approx([-0.5 - 1 / 3, 0.5])


def test_the_length_reward_of_kimi(make_solutions: Solutions) -> None:
    # In the first group, from 10 to 30 tokens: 1/2, 0, -1/2 and -1/4. The second has one length.
    rollout = make_solutions([1.0, 0, 1, 0, 0, 1, 0, 1], [10, 20, 30, 25, 7, 7, 7, 7], group_size=4)
    expected = [1.5, 0.0, 0.5, -0.25, 0.0, 1.0, 0.0, 1.0]
    assert shaped(KimiLengthReward(), rollout) == pytest.approx(expected)
    wrong_and_shortest = make_solutions([0.0, 1.0], [10, 20])
    assert shaped(KimiLengthReward(0.2), wrong_and_shortest) == pytest.approx([0.0, 0.9])
    warming = KimiLengthReward(after_steps=5)
    assert shaped(warming, rollout, step=4) == rollout.rewards.tolist()
    assert shaped(warming, rollout, step=5) == pytest.approx(expected)


def test_format_and_length(make_solutions: Solutions) -> None:
    # x = 1/4, 1/2, 3/4, 1: 1 - (1/2)^2, 1, 1 - 2 (1/2)^2, 1 - 2.
    lengths, length_values = [10, 20, 30, 40], [0.75, 1.0, 0.5, -1.0]
    texts, answers = ["a #1", "b #2", "c #3", "d #4"], ["1", "2", "3", "4"]
    shaper = FormatLengthReward(r"#\d$")
    with_both = make_solutions([0.0, 1.0, 0.0, 1.0], lengths, texts, answers)
    assert shaped(shaper, with_both) == pytest.approx([1 + value for value in length_values])
    without_form = make_solutions([0.0] * 4, lengths, ["1", "2", "3", "#4."], answers)
    assert shaped(shaper, without_form) == pytest.approx([0.5 + value for value in length_values])
    without_answer = make_solutions([0.0] * 4, lengths, texts)
    assert shaped(shaper, without_answer) == pytest.approx([0.0, 0.0, 0.0, -1.0])


def test_format(make_solutions: Solutions) -> None:
    texts = ["<think>a\nb</think><answer>1</answer>", "<answer>1</answer>", " <think></think><answer></answer>"]
    rollout = make_solutions([1.0, 1.0, 0.0], texts=texts)
    shaper = FormatReward(r"^<think>.*</think>\s*<answer>.*</answer>$", reward=0.25, penalty=0.5)
    assert shaped(shaper, rollout) == [1.25, 0.5, -0.5]


def described(group: SolutionGroup) -> list[float]:
    return [
        reward + 10 * verdict + 100 * length + 1000 * group.step
        for reward, verdict, length in zip(group.rewards, group.verdicts, group.lengths, strict=True)
    ]


def test_a_function(make_solutions: Solutions) -> None:
    groups: list[SolutionGroup] = []

    def kept(group: SolutionGroup) -> list[float]:
        groups.append(group)
        return described(group)

    rollout = make_solutions([1.0, 0, 0, 1], [1, 2, 3, 4], ["a", "b", "c", "d"], ["1", None, "3", "4"], None, (1,), 2)
    # 0.5 + 10 * verdict + 100 * length + 2000
    assert shaped(FunctionShaper(kept), rollout, [0.5] * 4, step=2) == [2110.5, 2200.5, 2300.5, 2410.5]
    first = groups[0]
    assert (first.texts, first.finished, first.answers) == (["a", "b"], [True, False], ["1", None])
    assert (first.self_rewards, first.max_response_tokens) == ([0.5, 0.0], 40)
    assert [group.problem.index for group in groups] == [0, 10]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda group: [1.0], r"returned \[1.0\] for the 2 solutions of row 0"),
        (lambda group: [1.0, math.nan], r"returned \[1.0, nan\]"),
    ],
)
def test_a_function_that_returns_no_numbers(
    function: Callable[[SolutionGroup], list[float]], message: str, make_solutions: Solutions
) -> None:
    with pytest.raises(UserError, match=message):
        shaped(FunctionShaper(function), make_solutions([1.0, 0.0]))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module.shape", "cannot be imported"),
        ("math.no_such", "cannot be imported"),
        ("math.pi", "is a float"),
        ("x", "cannot be imported"),
    ],
)
def test_a_function_that_there_is_not(path: str, message: str) -> None:
    with pytest.raises(UnusableFunctionError, match=rf"'{re.escape(path)}' {message}"):
        FunctionShaper(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineReward(correct_short=math.inf), "CosineReward .* must be finite"),
        (lambda: RepetitionPenalty(0.0), "penalty is 0.0"),
        (lambda: RepetitionPenalty(size=0), "size 0"),
        (lambda: KimiLengthReward(0.0), "weight is 0.0"),
        (lambda: KimiLengthReward(after_steps=-1), "after_steps -1"),
        (lambda: FormatLengthReward(turning_point=1.0), "turning_point is 1.0"),
        (lambda: FormatLengthReward("("), "no regular expression"),
        (lambda: FormatReward("[", 0.1), "FormatReward .* no regular expression"),
        (lambda: FormatReward("x", math.nan), "reward is nan"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], RewardShaper], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


SHAPERS = [
    CosineReward(),
    RepetitionPenalty(size=2),
    KimiLengthReward(),
    FormatLengthReward("b$"),
    FormatReward("b$"),
    FunctionShaper(described),
]


@pytest.mark.parametrize("shaper", SHAPERS, ids=lambda shaper: type(shaper).__name__)
def test_a_group_is_shaped_alike_on_any_rank_and_among_any_others(
    shaper: RewardShaper, make_solutions: Solutions
) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 20, (12,), generator=generator).tolist()
    tokens = [torch.randint(0, 3, (length,), generator=generator).tolist() for length in lengths]
    rewards = torch.randint(0, 2, (12,), generator=generator).float().tolist()
    texts = ["ab" if length % 2 else "ba" for length in lengths]
    answers = [None if length % 3 == 0 else "1" for length in lengths]
    rollout = make_solutions(rewards, None, texts, answers, tokens, (3, 8), 4)
    whole = torch.tensor(shaped(shaper, rollout)).view(3, 4)
    assert whole.unique().numel() > 2
    highest = shaper.highest_reward(1.0)
    assert (highest is None) == isinstance(shaper, FunctionShaper)
    assert highest is None or float(whole.max()) <= highest + 1e-6
    for places in ([0], [2, 1]):
        part = rollout.select(torch.tensor(places))
        assert torch.equal(torch.tensor(shaped(shaper, part)).view(-1, 4), whole[places])
