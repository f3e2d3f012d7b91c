"""What the replay buffer holds, which of it an update sees, and how it is saved."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.objective.judging.replay import Replay, ReplayBuffer
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import Verification

CPU = torch.device("cpu")
RIGHT, WRONG, CUT = "r", "w", "t"


class OfTwo(Ranks):
    """One of two ranks; the other one has the tickets of another buffer."""

    def __init__(self, index: int, other: "ReplayBuffer | None" = None, **draw: Any) -> None:
        super().__init__()
        self.number, self.other, self.draw = index, other, draw

    @property
    def count(self) -> int:
        return 2

    @property
    def index(self) -> int:
        return self.number

    def stack(self, values: Tensor) -> Tensor:
        assert self.other is not None
        heard: list[Tensor] = []

        class Listening(Ranks):
            def stack(self, values: Tensor) -> Tensor:
                heard.append(values)
                return values[None]

        self.other.draw(**self.draw, ranks=Listening(), device=CPU, truncated=True)
        return torch.stack((values, heard[0]))


@pytest.fixture
def make_round(make_rollouts: Callable[..., Rollouts]) -> Callable[..., Rollout]:
    """``make_round("rrww", "rrrr", first=0)``: a group of solutions for each word, a letter for the class of each."""

    def make(*groups: str, first: int = 0, exact: bool = False) -> Rollout:
        letters = "".join(groups)
        rollouts = make_rollouts(prompts=len(groups), group_size=len(groups[0]), seed=first)
        rollouts.finished = torch.tensor([letter != CUT for letter in letters])
        rollouts.sampling_log_probs = torch.rand(rollouts.response_ids.shape) * rollouts.response_mask
        rollouts.reward_token_log_probs = torch.rand(len(letters), 1)
        rollouts.loss_mask = rollouts.response_ids % 3 > 0
        # A truncated solution may have the right answer in it.
        rewards = [float(letter != WRONG) for letter in letters]
        return Rollout(
            [Problem("train", first + number, "", "", [1], "") for number in range(len(groups))],
            rollouts,
            [f"{first} {row}" for row in range(len(letters))],
            [Verification(reward, str(row), None, {"a": reward}) for row, reward in enumerate(rewards)],
            torch.tensor(rewards),
            torch.rand(len(letters), 1) if exact else None,
            torch.rand(len(letters)),
        )

    return make


def held(*rounds: Rollout, size: int = 12) -> ReplayBuffer:
    buffer = ReplayBuffer(size)
    for rollout in rounds:
        buffer.keep(rollout)
    return buffer


def drawn(buffer: ReplayBuffer, groups: int = 100, seed: str = "0", ranks: Ranks | None = None) -> Replay:
    replay = buffer.draw(groups, seed, ranks or Ranks(), CPU, truncated=True)
    assert replay is not None
    return replay


def indexes(replay: Replay | None) -> list[int]:
    return [] if replay is None else [problem.index for problem in replay.rollout.problems]


def letters(replay: Replay) -> list[str]:
    """Of each group, the letters of the drawn solutions."""
    rollout = replay.rollout
    classes = [
        (RIGHT if reward > 0.5 else WRONG) if finished else CUT
        for reward, finished in zip(rollout.rewards.tolist(), rollout.rollouts.finished.tolist(), strict=True)
    ]
    seen = rollout.grouped(replay.stands_for > 0).tolist()
    grouped = [classes[start : start + len(seen[0])] for start in range(0, len(classes), len(seen[0]))]
    return [
        "".join(sorted(letter for letter, is_seen in zip(*pair, strict=True) if is_seen))
        for pair in zip(grouped, seen, strict=True)
    ]


def test_groups_with_finished_solutions_of_both_kinds_are_held(make_round: Callable[..., Rollout]) -> None:
    assert indexes(drawn(held(make_round("rrrr", "rwww", "wwww", "tttt", "rttt", "wttr")))) == [1, 5]
    assert held(make_round("rrrr", "tttw")).draw(10, "", Ranks(), CPU, truncated=True) is None


def test_rounds_are_let_go_of_in_their_order(make_round: Callable[..., Rollout]) -> None:
    rounds = [make_round("rrww", first=10), make_round("rrrr", first=20), make_round("rwrw", first=30)]
    assert indexes(drawn(held(*rounds, size=3))) == [10, 30]
    # The second round counts, although none of its groups is worth holding.
    assert indexes(drawn(held(*rounds, size=2))) == [30]


def test_what_is_drawn_is_what_was_kept(make_round: Callable[..., Rollout]) -> None:
    first, second = make_round("rrww", "rrrr", "wrrr", exact=True), make_round("ttrw", first=5, exact=True)
    rollout = drawn(held(first, second)).rollout
    wide = torch.nn.functional.pad
    for name in ("response_ids", "sampling_log_probs", "loss_mask"):
        rows = [getattr(one.rollouts, name) for one in (first, second)]
        mask = torch.cat([rows_of.rollouts.response_mask for rows_of in (first, second)])
        kept = torch.cat(rows).where(mask, 0)[[0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15]]
        ours = getattr(rollout.rollouts, name)
        assert torch.equal(wide(ours, (0, kept.shape[1] - ours.shape[1])), kept), name
    assert rollout.rollouts.prompt_ids.dtype == rollout.rollouts.response_ids.dtype == torch.int64
    for number, (one, prompt) in enumerate(((first, 0), (first, 2), (second, 0))):
        length = int(one.rollouts.prompt_lengths[prompt])
        assert int(rollout.rollouts.prompt_lengths[number]) == length
        ours = rollout.rollouts.prompt_ids[number, :length]
        assert torch.equal(ours, one.rollouts.prompt_ids[prompt, :length])
    assert rollout.texts == ["0 0", "0 1", "0 2", "0 3", "0 8", "0 9", "0 10", "0 11", "5 0", "5 1", "5 2", "5 3"]
    assert [one.answer for one in rollout.verifications] == [text.split()[1] for text in rollout.texts]
    assert first.references is not None
    assert rollout.references is not None
    assert torch.equal(rollout.references[:4], first.references[:4])
    assert torch.equal(rollout.self_rewards[8:], second.self_rewards)


def test_of_each_group_half_are_correct(make_round: Callable[..., Rollout]) -> None:
    replay = drawn(held(make_round("rwwwwwww", "rrrrrwwt", "rrwtwttt", "rrwwtwww")))
    assert letters(replay) == ["rw", "rrtww", "rrttww", "rrtww"]
    without = held(make_round("rrrrrwwt", "rwwwwttt")).draw(9, "", Ranks(), CPU, truncated=False)
    assert without is not None
    assert letters(without) == ["rrww", "rw"]


def test_drawn_solutions_stand_for_all_of_their_class(make_round: Callable[..., Rollout]) -> None:
    replay = drawn(held(make_round("rwwwwwww", "rrrrrwwt")))
    # 1 of 7 incorrect ones; 2 of 5 correct ones, both incorrect ones, and the truncated one.
    assert sorted(replay.stands_for[:8].tolist()) == [0] * 6 + [1.0, 7.0]
    assert sorted(replay.stands_for[8:].tolist()) == [0] * 3 + [1.0, 1.0, 1.0, 2.5, 2.5]


def test_every_solution_of_a_class_is_as_likely(make_round: Callable[..., Rollout]) -> None:
    buffer = held(make_round("rwwww"))
    seen = torch.stack([drawn(buffer, seed=str(seed)).stands_for > 0 for seed in range(800)]).float().mean(dim=0)
    assert seen[0] == 1
    assert ((seen[1:] - 0.25).abs() < 0.06).all()  # four standard errors of 800 draws


def test_groups_are_drawn_evenly_and_anew_for_each_update(make_round: Callable[..., Rollout]) -> None:
    buffer = held(make_round(*["rw"] * 4), make_round(*["rw"] * 4, first=4))
    draws = [indexes(drawn(buffer, 2, str(seed))) for seed in range(400)]
    assert all(len(set(draw)) == 2 for draw in draws)
    counts = torch.bincount(torch.tensor(draws).flatten(), minlength=8) / 400
    assert ((counts - 0.25).abs() < 0.09).all()  # four standard errors
    assert indexes(drawn(buffer, 2, "7")) == indexes(drawn(buffer, 2, "7"))


@pytest.mark.parametrize("groups", [1, 3, 8])
def test_two_ranks_see_what_one_sees(make_round: Callable[..., Rollout], groups: int) -> None:
    words = ["rwww", "rrww", "rrrw", "wwwr", "wrwr", "rwrr"]
    whole = make_round(*words)
    buffer = held(whole)
    first, second = held(whole.select(torch.tensor([0, 3, 4]))), held(whole.select(torch.tensor([1, 2, 5])))
    found: dict[int, list[float]] = {}
    for number, (own, other) in enumerate(((first, second), (second, first))):
        replay = own.draw(groups, "9", OfTwo(number, other, groups=groups, seed="9"), CPU, truncated=True)
        if replay is not None:
            found |= dict(zip(indexes(replay), replay.rollout.grouped(replay.stands_for).tolist(), strict=True))
    alone = drawn(buffer, groups, "9")
    assert found == dict(zip(indexes(alone), alone.rollout.grouped(alone.stands_for).tolist(), strict=True))
    assert len(found) == min(groups, 6)


def resumed(states: Sequence[dict[str, Any]], ranks: Ranks | None = None) -> ReplayBuffer:
    buffer = ReplayBuffer(12)
    problems = {number: Problem("train", number, "", "", [1], "") for number in range(40)}
    buffer.load_state_dicts(list(states), ranks or Ranks(), problems)
    return buffer


def test_a_resumed_buffer_goes_on_as_the_one_that_was_saved(make_round: Callable[..., Rollout]) -> None:
    rounds = [make_round("rrww", "rwww", exact=True), make_round("rrrr", first=7), make_round("wrwr", first=9)]
    buffer = held(*rounds[:2])
    again = resumed([buffer.state_dict()])
    for one in (buffer, again):
        one.keep(rounds[2])
    ours, theirs = drawn(again, 2), drawn(buffer, 2)
    assert indexes(ours) == indexes(theirs)
    assert torch.equal(ours.stands_for, theirs.stands_for)
    assert vars(ours.rollout.rollouts).keys() == vars(theirs.rollout.rollouts).keys()
    for name, value in vars(ours.rollout.rollouts).items():
        assert torch.equal(value, getattr(theirs.rollout.rollouts, name)), name
    assert ours.rollout.verifications == theirs.rollout.verifications


def test_the_solutions_of_two_ranks_are_resumed_by_one_and_by_three(make_round: Callable[..., Rollout]) -> None:
    first, second = held(make_round("rrww", first=1)), held(make_round("rwww", first=2))
    states = [first.state_dict(), second.state_dict()]
    assert sorted(indexes(drawn(resumed(states)))) == [1, 2]

    class OfThree(OfTwo):
        @property
        def count(self) -> int:
            return 3

    each = [resumed(states, OfThree(number)) for number in range(3)]
    assert [[problem.index for one in buffer._held for problem in one.problems] for buffer in each] == [[1], [2], []]
    assert {buffer.round for buffer in each} == {1}


def test_what_is_saved_is_small(make_round: Callable[..., Rollout]) -> None:
    tensors = held(make_round(*["rw"] * 32)).state_dict()["held"][0]["tensors"]
    tokens = len(tensors["response_ids"])
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    # Of each token id, log-prob and mask; of a solution length, finished, 1 log-prob, reward and score; of 32 prompts.
    assert size == tokens * (4 + 4 + 1) + 64 * (4 + 1 + 4 + 4 + 4) + 4 * (len(tensors["prompt_ids"]) + 32)


def test_a_problem_that_is_gone_is_named(make_round: Callable[..., Rollout]) -> None:
    state = held(make_round("rw", first=77)).state_dict()
    with pytest.raises(
        UserError, match=r"solutions to replay of row 77 of the training set, which data\.train does not"
    ):
        resumed([state])


def test_the_expected_gradient_of_an_unbiased_hold_is_zero(make_round: Callable[..., Rollout]) -> None:
    # Solutions are correct with probability p, and a policy with log-odds x has p = 1 / (1 + exp(-x)): the gradient of
    # log pi is 1 - p for a correct and -p for an incorrect one. Over all outcomes of a group of three:
    p = 0.2
    expected = {True: 0.0, False: 0.0}
    for outcome in itertools.product("rw", repeat=3):
        if len(set(outcome)) == 1:
            continue  # not replayed
        replay = drawn(held(make_round("".join(outcome))))
        probability = p ** outcome.count("r") * (1 - p) ** outcome.count("w")
        for row, letter in enumerate(outcome):
            gradient = float(replay.stands_for[row]) * (1 - p if letter == "r" else -p)
            expected[False] += probability * gradient
            expected[True] += probability * gradient * (not replay.is_deciding[row])
    assert expected[True] == pytest.approx(0, abs=1e-9)
    # 3 p^2 (1-p) (2 (1-p) - p) + 3 p (1-p)^2 ((1-p) - 2 p): with the deciding ones towards more correct solutions.
    assert expected[False] == pytest.approx(0.096 * 1.4 + 0.384 * 0.4)
