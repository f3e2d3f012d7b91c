from typing import Any

import pytest

from laser_lightning.data.loader import PromptLoader
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError


def make_problems(count: int) -> list[Problem]:
    return [Problem("train", i, f"p{i}", f"p{i}", [i], str(i)) for i in range(count)]


def indices(batches: Any) -> list[list[int]]:
    return [[problem.index for problem in batch] for batch in batches]


def training_loader(count: int, batch_size: int, **settings: Any) -> PromptLoader:
    return PromptLoader(make_problems(count), batch_size, shuffle=True, drop_last=True, **settings)


def test_training_without_shuffling_deals_full_batches_in_turn() -> None:
    # 11 problems, 2 ranks with 2 each: global batches 0-3 and 4-7; 8, 9, 10 fill none
    problems = make_problems(11)
    ranks = [PromptLoader(problems, 2, rank=rank, world_size=2, drop_last=True) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [2, 2]
    assert [indices(rank) for rank in ranks] == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


def test_shuffled_training_deals_each_problem_once_per_epoch() -> None:
    ranks = [training_loader(12, 2, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(2):
        dealt = [index for rank in ranks for batch in indices(rank) for index in batch]
        assert sorted(dealt) == list(range(12))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    loader, twin, other = training_loader(40, 8), training_loader(40, 8), training_loader(40, 8, seed=1)
    epochs = [indices(loader) for _ in range(3)]
    assert epochs == [indices(twin) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert indices(other) not in epochs


def test_global_batches_are_the_same_for_any_number_of_ranks() -> None:
    alone = indices(training_loader(12, 4))
    pair = [indices(training_loader(12, 2, rank=rank, world_size=2)) for rank in range(2)]
    for batch, first, second in zip(alone, *pair, strict=True):
        assert batch == [first[0], second[0], first[1], second[1]]


def test_training_is_a_stream_that_goes_on_where_the_last_pass_stopped() -> None:
    whole = training_loader(12, 2)
    expected = indices(whole) + indices(whole)
    loader = training_loader(12, 2)
    iterator = iter(loader)
    seen = indices([next(iterator) for _ in range(4)])
    iter(loader)  # makes an iterator that is never used, as Lightning does
    seen += indices(loader)  # 6 batches: 2 of this epoch and 4 of the next
    assert seen == expected[:10]


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size", "expected"),
    [
        # 3 batches of all ranks, with 10*0//3=0, 10*1//3=3, 10*2//3=6 and 10 as borders
        (10, 2, 2, [[[0, 2], [3, 5], [6, 8]], [[1], [4], [7, 9]]]),
        # one batch is enough, and the last rank gets nothing
        (3, 2, 4, [[[0]], [[1]], [[2]], [[]]]),
        (5, 3, 1, [[[0, 1], [2, 3, 4]]]),
    ],
)
def test_evaluation_deals_all_problems_evenly(
    count: int, batch_size: int, world_size: int, expected: list[list[list[int]]]
) -> None:
    problems = make_problems(count)
    ranks = [PromptLoader(problems, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [indices(rank) for rank in ranks] == expected


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_evaluation_batches_on_any_ranks(batch_size: int, world_size: int) -> None:
    for count in range(1, 40):
        problems = make_problems(count)
        ranks = [
            indices(PromptLoader(problems, batch_size, rank=rank, world_size=world_size)) for rank in range(world_size)
        ]
        batches = [batch for rank in ranks for batch in rank]
        sizes = [len(batch) for batch in batches]
        assert len({len(rank) for rank in ranks}) == 1
        assert sorted(index for batch in batches for index in batch) == list(range(count))
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
        if count >= world_size and batch_size > 1:
            assert min(sizes) > 0


def test_evaluation_starts_at_the_beginning_every_time() -> None:
    loader = PromptLoader(make_problems(5), 2)
    next(iter(loader))
    assert indices(loader) == indices(loader) == [[0], [1, 2], [3, 4]]


@pytest.mark.parametrize("stop", range(8))
def test_resume_anywhere(stop: int) -> None:
    # 7 problems in steps of 2: 3 batches per epoch
    whole = training_loader(7, 2)
    expected = [batch for _ in range(4) for batch in indices(whole)]
    interrupted = training_loader(7, 2)
    stream = (batch for _ in range(3) for batch in interrupted)
    for _ in range(stop):
        next(stream)
    resumed = training_loader(7, 2)
    early_iterator = iter(resumed)  # made before the position is restored
    resumed.load_state_dict(interrupted.state_dict())
    assert indices(early_iterator) == expected[stop : stop + 3]


def test_state_names_the_epoch_and_its_batches() -> None:
    loader = training_loader(7, 2)
    list(loader)
    next(iter(loader))
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == (1, 1)


def test_resume_on_another_number_of_ranks_keeps_the_global_batches() -> None:
    alone, again = training_loader(12, 4), training_loader(12, 4)
    next(iter(alone))
    next(iter(again))
    pair = [training_loader(12, 2, rank=rank, world_size=2) for rank in range(2)]
    for rank in pair:
        rank.load_state_dict(alone.state_dict())
    second = indices([next(iter(again))])[0]
    shares = [indices([next(iter(rank))])[0] for rank in pair]
    assert second == [shares[0][0], shares[1][0], shares[0][1], shares[1][1]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (training_loader(12, 3), "prompts_per_step was 4 and is 3"),
        (training_loader(12, 4, seed=1), "seed was 0 and is 1"),
        (training_loader(13, 4), "problems was 12 and is 13"),
        (PromptLoader(make_problems(12), 4, drop_last=True), "shuffle was True and is False"),
        (
            PromptLoader(make_problems(13)[1:], 4, shuffle=True, drop_last=True),
            "with other training data or another order of it: problems_sha256 was",
        ),
    ],
)
def test_position_in_other_data_is_refused(other: PromptLoader, message: str) -> None:
    with pytest.raises(UserError, match=message):
        other.load_state_dict(training_loader(12, 4).state_dict())


def with_kinds(kinds: str) -> PromptLoader:
    problems = [problem._replace(kind=kind) for problem, kind in zip(make_problems(4), kinds, strict=True)]
    return PromptLoader(problems, 2, shuffle=True, drop_last=True)


def test_position_among_other_kinds_is_refused() -> None:
    state = with_kinds("aabb").state_dict()
    with_kinds("aabb").load_state_dict(state)
    for other in (with_kinds("abab"), with_kinds("aabc"), training_loader(4, 2)):  # the last has no kinds
        with pytest.raises(UserError, match=r"another order of it: kinds_sha256 was .* Resume with"):
            other.load_state_dict(state)


def test_older_positions_do_not_name_the_kinds() -> None:
    loader = with_kinds("aabb")
    next(iter(loader))
    older = loader.state_dict()
    del older["kinds_sha256"]
    resumed = with_kinds("abab")
    resumed.load_state_dict(older)
    assert resumed.state_dict()["batches"] == 1


def test_a_training_set_smaller_than_a_step_is_repeated() -> None:
    # 3 problems in steps of 4: 0 1 2 0, 1 2 0 1, 2 0 1 2, a batch an epoch.
    shares = [PromptLoader(make_problems(3), 2, rank=rank, world_size=2, drop_last=True) for rank in range(2)]
    assert [len(share) for share in shares] == [1, 1]
    dealt = [[indices([next(iter(share))])[0] for share in shares] for _ in range(3)]
    assert dealt == [[[0, 2], [1, 0]], [[1, 0], [2, 1]], [[2, 1], [0, 2]]]


def test_one_problem_fills_a_step() -> None:
    loader = training_loader(1, 4)
    assert indices([next(iter(loader)), next(iter(loader))]) == [[0] * 4, [0] * 4]
    assert loader.state_dict()["epoch"] == 2


def test_no_problems_are_refused() -> None:
    with pytest.raises(UserError, match="no problems"):
        PromptLoader([], 4)
