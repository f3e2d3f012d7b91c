"""Kept solutions handed out again: the same ones, with scores that belong to the model, or a sentence."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import RecordedSolutions, Sampling, TransformersEngine
from laser_lightning.rollout.fingerprints import prompt_fingerprint, weights_fingerprint
from laser_lightning.rollout.solution_store import KeptBatch, KeptSolution, SolutionFile

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
REWARD_TOKEN_ID = 3
GROUP = 4
SAMPLING = Sampling(max_response_tokens=10)


def header_of(policy: Policy, **changes: Any) -> dict[str, Any]:
    return {
        "set": "sums",
        "samples": GROUP,
        "policy": "the/model",
        "weights": weights_fingerprint(policy),
        "sampling": asdict(SAMPLING),
        "reward_token": "<|reward|>",
        "reward_token_id": REWARD_TOKEN_ID,
    } | changes


def solutions_of(rollouts: Rollouts, prompts: list[list[int]], first_index: int = 0) -> list[KeptSolution]:
    columns = zip(
        rollouts.responses(), rollouts.finished.tolist(), rollouts.reward_token_log_probs[:, 0].tolist(), strict=True
    )
    return [
        KeptSolution(
            first_index + row // GROUP,
            prompt_fingerprint(prompts[row // GROUP]),
            row % GROUP,
            "",
            ids,
            finished,
            score,
            None,
            0.0,
            None,
            None,
            0.0,
        )
        for row, (ids, finished, score) in enumerate(columns)
    ]


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    return make_policy(eos_bias=3.0)


@pytest.fixture
def rollouts(policy: Policy) -> Rollouts:
    """What the policy sampled: some solutions end, and some are truncated."""
    drawn = generate(TransformersEngine(), policy)
    assert 0 < drawn.finished.sum() < len(drawn)
    return drawn


@pytest.fixture
def kept(policy: Policy, rollouts: Rollouts, tmp_path: Path) -> Path:
    """The folder of two ranks' files: the first two problems, and the third."""
    solutions = solutions_of(rollouts, PROMPTS)
    for rank, part in enumerate((solutions[: 2 * GROUP], solutions[2 * GROUP :])):
        SolutionFile(tmp_path / "kept/test/sums" / f"rank{rank}.jsonl", header_of(policy)).append(KeptBatch(part, 1.0))
    return tmp_path / "kept"


def generate(
    engine: Any, policy: Policy, prompts: list[list[int]] = PROMPTS, group: int = GROUP, **changes: Any
) -> Rollouts:
    generator = torch.Generator().manual_seed(0)
    arguments = {"sampling": SAMPLING, "reward_token_ids": (REWARD_TOKEN_ID,)} | changes
    return engine.generate(policy, prompts, group, generator=generator, **arguments)


def assert_same(ours: Rollouts, theirs: Rollouts, rows: list[int], tolerance: float = 0.0) -> None:
    assert ours.responses() == [theirs.responses()[row] for row in rows]
    assert torch.equal(ours.finished, theirs.finished[rows])
    scores = theirs.reward_token_log_probs[rows]
    torch.testing.assert_close(ours.reward_token_log_probs, scores, rtol=0, atol=tolerance, equal_nan=True)


def test_the_kept_solutions_come_back(policy: Policy, rollouts: Rollouts, kept: Path) -> None:
    engine = RecordedSolutions(str(kept))
    assert_same(generate(engine, policy), rollouts, list(range(12)))
    # Other prompts first, and the first 2 solutions of each.
    found = generate(engine, policy, [PROMPTS[2], PROMPTS[0]], group=2)
    assert_same(found, rollouts, [8, 9, 0, 1])
    assert found.prompt_ids.tolist() == [PROMPTS[2], [*PROMPTS[0], 0]]
    assert found.group_size == 2
    one_file = RecordedSolutions(str(kept / "test/sums/rank1.jsonl"))
    assert_same(generate(one_file, policy, [PROMPTS[2]]), rollouts, [8, 9, 10, 11])


def test_a_forward_pass_gives_the_scores_of_sampling(policy: Policy, rollouts: Rollouts, kept: Path) -> None:
    policy.lm.train()
    found = generate(RecordedSolutions(str(kept), rescore=True, micro_batch_tokens=1), policy)
    assert_same(found, rollouts, list(range(12)), tolerance=2e-5)
    assert policy.lm.training


def test_another_models_scores_are_its_own(
    make_policy: Callable[..., Policy],
    reference_dir: Path,
    rollouts: Rollouts,
    kept: Path,
    plain_pass: Callable[..., Any],
) -> None:
    other = make_policy(path=reference_dir)
    with pytest.raises(UserError, match=r"those of another model \(of policy\.path 'the/model'.*rescore to true"):
        generate(RecordedSolutions(str(kept)), other)
    found = generate(RecordedSolutions(str(kept), rescore=True), other, reward_token_ids=(4,))
    other.lm.eval()
    for row in range(12):
        if rollouts.finished[row]:
            plain = plain_pass(other.lm, PROMPTS[row // GROUP], rollouts.responses()[row])
            torch.testing.assert_close(found.reward_token_log_probs[row, 0], plain.after_last[4], rtol=0, atol=2e-5)
        else:
            assert found.reward_token_log_probs[row].isnan()


def test_changed_weights_are_seen(policy: Policy, kept: Path) -> None:
    engine = RecordedSolutions(str(kept))
    generate(engine, policy)
    with torch.no_grad():
        next(policy.parameters())[3, 3] += 1
    engine.weights_changed()
    with pytest.raises(UserError, match="those of another model"):
        generate(engine, policy)


def test_what_is_not_there_is_refused(policy: Policy, kept: Path) -> None:
    engine = RecordedSolutions(str(kept))
    with pytest.raises(UserError, match=r"Prompt 1 of the batch, of 2 tokens, is not among .*\(of 'sums'\)"):
        generate(engine, policy, [PROMPTS[0], [6, 5]])
    with pytest.raises(UserError, match=r"Problem 1 of 'sums' has 4 kept solutions in .*, and k = 5 are asked for"):
        generate(engine, policy, [PROMPTS[1]], group=5)
    with pytest.raises(UserError, match=r"another way than the config says \(temperature was 1\.0 and is 0\.5\)"):
        generate(engine, policy, sampling=Sampling(10, temperature=0.5))
    with pytest.raises(
        UserError, match=r"of the reward token '<\|reward\|>' \(id 3\), and the present one has the id 4"
    ):
        generate(engine, policy, reward_token_ids=(4,))
    with pytest.raises(UserError, match="There are no kept solutions at"):
        RecordedSolutions(str(kept / "validate"))
    with pytest.raises(UserError, match="micro_batch_tokens is 0"):
        RecordedSolutions(str(kept), micro_batch_tokens=0)


def test_files_of_different_evaluations_are_not_mixed(policy: Policy, kept: Path) -> None:
    folder = kept / "test" / "sums"
    (folder / "rank1.jsonl").unlink()
    SolutionFile(folder / "rank1.jsonl", header_of(policy, seed=1))
    with pytest.raises(UserError, match=r"of different evaluations \(seed was null and is 1\)"):
        RecordedSolutions(str(kept))
    # What was set aside is not read.
    (folder / "rank1.jsonl").rename(folder / "rank1.1.jsonl")
    generate(RecordedSolutions(str(kept)), policy, PROMPTS[:2])


def test_a_damaged_line_is_refused_and_a_half_written_one_passed_over(
    policy: Policy, rollouts: Rollouts, kept: Path
) -> None:
    file = kept / "test" / "sums" / "rank0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:8]) + lines[8][:20])  # a header, 7 solutions and a part of the last one
    engine = RecordedSolutions(str(kept))
    assert_same(generate(engine, policy, [PROMPTS[0], PROMPTS[1]], group=3), rollouts, [0, 1, 2, 4, 5, 6])
    with pytest.raises(UserError, match="Problem 1 of 'sums' has 3 kept solutions"):
        generate(engine, policy)
    file.write_bytes(b"".join([*lines[:3], b"{\n", *lines[4:]]))
    with pytest.raises(UserError, match=r"Line 4 of .*rank0\.jsonl is damaged"):
        generate(RecordedSolutions(str(kept)), policy)


def test_a_prompt_that_was_there_twice_gets_both_groups_in_turn(policy: Policy, kept: Path) -> None:
    file = SolutionFile(kept / "test" / "sums" / "rank0.jsonl", header_of(policy))
    prompt = prompt_fingerprint(PROMPTS[0])
    twin = [KeptSolution(7, prompt, row, "", [row + 20, 1], True, -1.0, None, 0.0, None, None, 0.0) for row in range(4)]
    file.append(KeptBatch(twin, 1.0))
    few = [replace(solution, index=9, response_ids=[99, 1]) for solution in twin[:2]]
    file.append(KeptBatch(few, 1.0))

    engine = RecordedSolutions(str(kept))
    first, second = generate(engine, policy, [PROMPTS[0], PROMPTS[0]]).responses()[::4]
    assert second == [20, 1]
    assert first != second
    assert generate(engine, policy, [PROMPTS[0]]).responses()[0] == first  # no third group has 4
    engine.weights_changed()  # another stage begins
    assert generate(engine, policy, [PROMPTS[0]]).responses()[0] == first
