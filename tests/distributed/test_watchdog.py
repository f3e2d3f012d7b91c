"""The sentence about the ranks' positions, and how watchdogs learn them from each other."""

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from laser_lightning.distributed.strategies import LaSeRDDPStrategy, LaSeRDeepSpeedStrategy
from laser_lightning.distributed.watchdog import HOST_GONE, Position, Watchdog, ranks_behind, sentence
from laser_lightning.errors import UserError

LIMIT = " The time limit of a collective operation is 300 s (trainer.strategy.init_args.collective_timeout_seconds)."

# Parts entered and left: rollout 1 and 2, verification 3 and 4, update 5.
VERIFYING = Position(3, "verification of step 12", 305.4)
WAITING = Position(5, "update of step 12", 300.2)


def test_a_slow_rank() -> None:
    expected = (
        "Rank 1 has been in verification of step 12 for 305 s, while rank 0 waited in update of step 12 for 300 s."
    )
    assert sentence([WAITING, VERIFYING], 0, 300.0) == expected + LIMIT
    # The slow rank itself does not wait for anybody.
    assert ranks_behind([WAITING, VERIFYING], 1) == []
    assert sentence([WAITING, VERIFYING], 1, 300.0) == "Rank 1 was in verification of step 12 for 305 s." + LIMIT


def test_ranks_in_the_same_place_are_named_together() -> None:
    rollout = Position(1, "rollout of step 12", 310.0)
    table = [VERIFYING, WAITING, WAITING, VERIFYING, rollout]
    expected = (
        "Ranks 0 and 3 have been in verification of step 12 for 305 s; rank 4 has been in rollout of step 12 for "
        "310 s, while rank 2 waited in update of step 12 for 300 s."
    )
    assert sentence(table, 2, 300.0) == expected + LIMIT
    # Of many the first eight are named.
    told = sentence([VERIFYING] * 10 + [WAITING], 10, 300.0)
    assert told.startswith("Ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more have been in verification of step 12 for 305 s")


def test_a_rank_that_ended_and_a_silent_one() -> None:
    ended = Position(6, "step 13", 2.0, error="KeyError: 'row'")
    assert sentence([ended, WAITING], 1, 300.0) == (
        "Rank 0 has ended in step 13 (KeyError: 'row'), while rank 1 was in update of step 12 for 300 s." + LIMIT
    )
    silent = Position(5, "update of step 12", 250.0, silent_seconds=249.0)
    assert sentence([WAITING, silent], 0, 300.0) == (
        "Rank 1 has given no sign of life for 249 s, and was last in update of step 12, while rank 0 waited in update "
        "of step 12 for 300 s." + LIMIT
    )


def test_all_in_the_same_place() -> None:
    expected = "All 2 ranks were in the same part: rank 1 was in update of step 12 for 300 s."
    assert sentence([WAITING, WAITING], 1, 300.0) == expected + LIMIT


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=10), wait_for_workers=False)


@pytest.fixture
def watchdogs(store: TCPStore) -> Iterator[list[Watchdog]]:
    """Those of two ranks, with a limit of 4 s: they warn when a wait is 3.2 s old."""
    pair = [Watchdog(store, rank, 2, limit_seconds=4.0) for rank in range(2)]
    yield pair
    for watchdog in pair:
        watchdog.close()


def test_parts_and_parts_of_parts(watchdogs: list[Watchdog]) -> None:
    watchdog, step = watchdogs[0], [7]

    def place() -> tuple[int, str]:
        position = watchdog.table()[0]
        return position.number, position.place

    assert place() == (0, "set-up")
    with watchdog.part("evaluation", lambda: step[0]):
        assert place() == (1, "evaluation of step 7")
        with watchdog.part("rollout", lambda: step[0]):
            assert place() == (1, "rollout of the evaluation of step 7")
        assert place() == (1, "evaluation of step 7")
    assert place() == (2, "step 7")
    with watchdog.part("update", lambda: step[0]):
        step[0] = 8
    assert place() == (4, "step 8")
    # What an error says is where it happened.
    with pytest.raises(ValueError, match="defect"), watchdog.part("old_log_probs_pass", lambda: step[0]):
        raise ValueError("defect")
    assert place() == (5, "old log probs pass of step 8")
    with watchdog.part("rollout", lambda: step[0]):
        assert place() == (7, "rollout of step 8")


def test_the_rank_that_waits_warns_once_before_the_limit(watchdogs: list[Watchdog]) -> None:
    waiting, slow = watchdogs
    with pytest.warns(UserWarning, match="^Rank 1 has been in rollout of step") as caught:
        for step in (3, 4):  # late again: told again
            began, told = time.monotonic(), len(caught.list)
            with slow.part("rollout", lambda: step):  # noqa: B023
                with waiting.part("rollout", lambda: step):  # noqa: B023
                    pass
                while time.monotonic() < began + 4.8:
                    if time.monotonic() < began + 3.0:
                        assert len(caught.list) == told
                    time.sleep(0.1)
            assert len(caught.list) == told + 1
            with waiting.part("update", lambda: step):  # noqa: B023
                time.sleep(1.2)  # two rounds of messages
    assert "of step 3 for" in str(caught.list[0].message)
    assert "of step 4 for" in str(caught.list[1].message)


def test_a_rank_whose_run_is_over_is_not_missed(watchdogs: list[Watchdog]) -> None:
    one, other = watchdogs
    other.close()
    with one.part("rollout", lambda: 3):
        told = one.explanation(RuntimeError("a defect"))
        assert one.table()[1].place == "the end of the run"
    assert told.startswith("Rank 0 was in rollout of step 3")


def test_an_error_on_one_rank_is_known_on_the_other(watchdogs: list[Watchdog]) -> None:
    one, other = watchdogs
    with pytest.raises(KeyError) as caught, other.part("verification", lambda: 5):
        raise KeyError("row")
    other.explanation(caught.value)
    with one.part("verification", lambda: 5):
        told = one.explanation(RuntimeError("connection closed"))
    assert told.startswith("Rank 1 has ended in verification of step 5 (KeyError: 'row'), while rank 0 ")
    assert HOST_GONE not in told


def test_the_host_of_the_store_is_gone() -> None:
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=10), wait_for_workers=False)
    client = TCPStore("127.0.0.1", store.port, None, False, timedelta(seconds=10), wait_for_workers=False)
    watchdog = Watchdog(client, 0, 2, limit_seconds=4.0)
    del store
    assert watchdog.explanation(RuntimeError("connection closed")).endswith(HOST_GONE)
    watchdog.close()


def test_the_limit_of_a_strategy() -> None:
    for strategy in (LaSeRDDPStrategy, LaSeRDeepSpeedStrategy):
        assert strategy(collective_timeout_seconds=90.5)._timeout == timedelta(seconds=90.5)
        with pytest.raises(UserError, match="collective_timeout_seconds is 0, and must be a positive number"):
            strategy(collective_timeout_seconds=0)
