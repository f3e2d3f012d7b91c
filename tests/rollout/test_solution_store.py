"""Files of kept solutions: what is read back, what is cut off, and what is never mixed."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.rollout.solution_store import (
    KeptBatch,
    KeptSolution,
    SolutionFile,
    as_rollouts,
    first_difference,
    kept_files,
    read_header,
    read_solutions,
)

HEADER: dict[str, Any] = {"set": "sums", "samples": 2, "policy": "here", "sampling": {"temperature": 1.0, "top_k": 0}}
FINISHED = KeptSolution(7, "ab", 0, "2#2", [9, 4, 1], True, -16.3999996185302734, None, 1.0, "2", None, 0.25)
TRUNCATED = KeptSolution(7, "ab", 1, "ä\ud83d\n", [9], False, math.nan, -3.5, 0.0, None, "timed out", 0.0)
BATCHES = [KeptBatch([FINISHED, TRUNCATED], 1.5), KeptBatch([], 0.0), KeptBatch([replace(FINISHED, index=8)], 0.25)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with three batches, the second of which is empty."""
    path = tmp_path / "sums" / "rank0.jsonl"
    file = SolutionFile(path, HEADER)
    for batch in BATCHES:
        file.append(batch)
    return path


def test_batches_are_read_back_as_they_were(path: Path) -> None:
    file = SolutionFile(path, HEADER)
    assert (file.batches, file.replaced) == (3, None)
    # NaN is not equal to itself, and repr shows every bit of the others.
    assert [repr(file.read(number)) for number in (2, 0, 1)] == [repr(BATCHES[number]) for number in (2, 0, 1)]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"kept_solutions": 1, **HEADER}
    assert json.loads(lines[3]) == {"batch": 0, "solutions": 2, "seconds": 1.5}
    assert [repr(s) for s in read_solutions(path)] == [repr(s) for batch in BATCHES for s in batch.solutions]
    assert read_header(path)["set"] == "sums"


def test_several_rewards_are_kept_and_files_without_them_still_load(path: Path, tmp_path: Path) -> None:
    assert "rewards" not in path.read_text(encoding="utf-8")  # as earlier releases wrote them
    assert next(iter(read_solutions(path))).rewards == {}
    several = replace(FINISHED, rewards={"right": 1.0, "broken": None}, policy_reward=2.5)
    SolutionFile(tmp_path / "new.jsonl", HEADER).append(KeptBatch([several], 0.0))
    assert SolutionFile(tmp_path / "new.jsonl", HEADER).read(0).solutions == [several]


def test_several_scores_are_kept(path: Path, tmp_path: Path) -> None:
    assert "scores" not in path.read_text(encoding="utf-8")  # as earlier releases wrote them
    several = replace(FINISHED, scores=[0.1, math.nan, -math.inf])
    SolutionFile(tmp_path / "new.jsonl", HEADER).append(KeptBatch([several], 0.0))
    assert repr(SolutionFile(tmp_path / "new.jsonl", HEADER).read(0).solutions) == repr([several])


def test_what_a_judgement_cost_is_kept(path: Path, tmp_path: Path) -> None:
    assert "judging_tokens" not in path.read_text(encoding="utf-8")  # as earlier releases wrote them
    assert next(iter(read_solutions(path))).judging_tokens is None
    judged = replace(FINISHED, judging_tokens=17)
    SolutionFile(tmp_path / "new.jsonl", HEADER).append(KeptBatch([judged], 0.0))
    assert SolutionFile(tmp_path / "new.jsonl", HEADER).read(0).solutions == [judged]


def test_several_reward_tokens_are_kept_and_files_without_them_still_load(path: Path, tmp_path: Path) -> None:
    assert "further" not in path.read_text(encoding="utf-8")  # as earlier releases wrote them
    assert next(iter(read_solutions(path))).further_log_probs == []
    several = replace(FINISHED, further_log_probs=[-2.5, -0.25], further_reference_log_probs=[-1.0])
    cut = replace(TRUNCATED, further_log_probs=[math.nan, math.nan])
    SolutionFile(tmp_path / "new.jsonl", HEADER).append(KeptBatch([several, cut], 0.0))
    read = SolutionFile(tmp_path / "new.jsonl", HEADER).read(0).solutions
    assert repr(read) == repr([several, cut])
    log_probs = as_rollouts([[5, 6]], read, 0, torch.device("cpu")).reward_token_log_probs
    assert log_probs[0].tolist() == [FINISHED.reward_token_log_prob, -2.5, -0.25]
    assert log_probs[1].isnan().tolist() == [True] * 3


def test_a_batch_that_a_kill_left_unfinished_is_cut_off(path: Path) -> None:
    whole = path.read_bytes()
    ends = [len(line) for line in whole.splitlines(keepends=True)]
    starts = [sum(ends[:number]) for number in range(len(ends) + 1)]
    complete = {4: 1, 5: 2, 7: 3}  # whole lines: whole batches
    for size in range(1, len(whole) + 1):
        path.write_bytes(whole[:size])
        file = SolutionFile(path, HEADER)
        lines = sum(start <= size for start in starts) - 1
        batches = max((number for count, number in complete.items() if count <= lines), default=0)
        assert (file.batches, file.replaced) == (batches, None), size
        for batch in BATCHES[batches:]:
            file.append(batch)
        assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def test_batches_can_be_given_up(path: Path) -> None:
    file = SolutionFile(path, HEADER)
    file.keep_only(5)
    assert file.batches == 3
    file.keep_only(1)
    file.append(BATCHES[2])
    again = SolutionFile(path, HEADER)
    assert [repr(again.read(number)) for number in range(2)] == [repr(BATCHES[0]), repr(BATCHES[2])]
    again.keep_only(0)
    assert SolutionFile(path, HEADER).batches == 0


def test_solutions_under_another_header_are_kept_under_another_name(path: Path) -> None:
    old = path.read_bytes()
    other = HEADER | {"sampling": {"temperature": 0.5, "top_k": 0}}
    file = SolutionFile(path, other)
    assert file.batches == 0
    assert file.replaced == (
        f"The solutions in {path} are of another evaluation (sampling.temperature was 1.0 and is 0.5): kept as "
        "rank0.1.jsonl."
    )
    assert path.with_name("rank0.1.jsonl").read_bytes() == old
    assert SolutionFile(path, HEADER).replaced is not None  # and back again
    assert kept_files(path.parents[1]) == [path]
    assert kept_files(path.with_name("rank0.2.jsonl")) == [path.with_name("rank0.2.jsonl")]


def test_what_headers_differ_in() -> None:
    assert first_difference(HEADER, HEADER | {"policy": "there"}) is None  # only told
    assert first_difference(HEADER, HEADER | {"samples": 4}) == "samples was 2 and is 4"
    assert first_difference(HEADER, HEADER | {"seed": 0}) == "seed was null and is 0"
    assert first_difference(HEADER | {"seed": 0}, HEADER) == "seed was 0 and is null"
    nested = HEADER | {"sampling": {"temperature": 1.0, "top_k": 0, "policy": "x"}}
    assert first_difference(HEADER, nested) == 'sampling.policy was null and is "x"'


def test_a_damaged_line_is_refused(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for damage in (b"\0\0\0\n", b"[1]\n", b'{"index": 7\n'):
        path.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
        for read in (lambda: SolutionFile(path, HEADER), lambda: list(read_solutions(path))):
            with pytest.raises(UserError, match=r"Line 3 of .*rank0\.jsonl is damaged.*Cut the file off in front"):
                read()
    path.write_bytes(b"".join([*lines[:2], b'{"index": 7}\n', *lines[3:]]))
    with pytest.raises(UserError, match="not a kept solution"):
        list(read_solutions(path))
    with pytest.raises(UserError, match="not a kept solution"):
        SolutionFile(path, HEADER).read(0)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    with pytest.raises(UserError, match="batch 0 has 1 lines, and closes with the number 2"):
        SolutionFile(path, HEADER).read(0)


def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "test.jsonl"
    log.write_text('{"stage": "test", "reward": 1.0}\n')
    for read in (lambda: SolutionFile(log, HEADER), lambda: read_header(log)):
        with pytest.raises(UserError, match=r"test\.jsonl is no file of kept solutions"):
            read()
    path.write_text('{"kept_solutions": 2}\n')
    with pytest.raises(UserError, match=r"is of version 2 .* this release reads version 1"):
        SolutionFile(path, HEADER)
    with pytest.raises(UserError, match=r"There are no kept solutions at .*nowhere: name the folder `kept`"):
        kept_files(tmp_path / "nowhere")


def test_kept_solutions_as_an_engine_returns_them() -> None:
    rollouts = as_rollouts([[5, 6]], [FINISHED, TRUNCATED], 0, torch.device("cpu"))
    assert (rollouts.prompt_ids.tolist(), rollouts.prompt_lengths.tolist()) == ([[5, 6]], [2])
    assert rollouts.responses() == [[9, 4, 1], [9]]
    assert rollouts.response_ids[1].tolist() == [9, 0, 0]
    assert rollouts.finished.tolist() == [True, False]
    assert rollouts.reward_token_log_probs[0, 0] == FINISHED.reward_token_log_prob
    assert rollouts.reward_token_log_probs[1].isnan()
    assert rollouts.sampling_log_probs.isnan().all()
    assert rollouts.sampling_log_probs.shape == (2, 3)
    assert as_rollouts([], [], 0, torch.device("cpu")).reward_token_log_probs.shape == (0, 1)
