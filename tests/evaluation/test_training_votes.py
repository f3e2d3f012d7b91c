"""The solutions of a training round for vote rules: equal on all ranks, whatever their number."""

import csv
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning.cli.command_line import main
from laser_lightning.data.problem import Problem
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.evaluation.evaluator import Evaluator
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.evaluation.training_votes import gather_groups
from laser_lightning.metrics.votes import CalibratedVote, LogOddsVote
from laser_lightning.metrics.votes.saved import load_rules
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import ExactVerifier, Verification, VerifierPool


class TwoRanks(Ranks):
    """Two threads that meet in every stack."""

    given: tuple[dict[int, Tensor], Barrier] = ({}, Barrier(2, timeout=10))

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def stack(self, values: Tensor) -> Tensor:
        rows, barrier = self.given
        rows[self.number] = values
        barrier.wait()
        stacked = torch.stack((rows[0], rows[1]))
        barrier.wait()
        return stacked


def round_of(numbers: list[int]) -> Rollout:
    """Two solutions to each of these problems; answers, rewards and scores depend on both."""
    size = 2 * len(numbers)
    rows = [(number, sample) for number in numbers for sample in range(2)]
    tokens = torch.ones(size, 1, dtype=torch.long)
    rollouts = Rollouts(
        tokens[: len(numbers)],
        torch.ones(len(numbers)).long(),
        tokens,
        torch.ones(size).long(),
        torch.tensor([(number + sample) % 3 > 0 for number, sample in rows]),
        tokens.float(),
        torch.zeros(size, 1),
    )
    problems = [Problem("train", number, "", "", [1], "") for number in numbers]
    rewards = [float((number * 5 + sample) % 3 == 0) for number, sample in rows]
    answers = [
        Verification(reward, f"{number}{sample}") for reward, (number, sample) in zip(rewards, rows, strict=True)
    ]
    scores = torch.tensor([number / 16 + sample / 64 for number, sample in rows])
    return Rollout(problems, rollouts, [""] * size, answers, torch.tensor(rewards), None, scores)


def test_the_number_of_ranks_changes_nothing() -> None:
    whole = gather_groups(round_of([9, 4, 2, 7]), None, Ranks())
    with ThreadPoolExecutor(2) as pool:
        parts = [
            pool.submit(gather_groups, round_of(own), None, TwoRanks(rank)) for rank, own in enumerate(([9, 2], [4, 7]))
        ]
        for part in parts:
            assert str(part.result()) == str(whole)
    assert whole.problem_ids.tolist() == [2, 4, 7, 9]


def test_solutions_without_a_judgement_are_left_out() -> None:
    rollout = round_of([1, 2, 3])
    rollout.self_rewards[rollout.rows_of(torch.tensor([1]))] = torch.nan
    assert gather_groups(rollout, None, Ranks()).problem_ids.tolist() == [1, 3]


def test_rules_that_learn_nothing_cost_nothing() -> None:
    class Silent(Ranks):
        def stack(self, values: Tensor) -> Tensor:
            raise AssertionError("nothing is to be gathered")

    with VerifierPool(ExactVerifier(), workers=0) as pool:
        for votes in ([], [LogOddsVote()]):
            evaluator = Evaluator(EvaluationSettings(votes=votes), Sampling(), seed=0)
            evaluator.teach_votes(round_of([1, 2]), pool, Silent())
        given = CalibratedVote()
        evaluator = Evaluator(EvaluationSettings(votes=[given]), Sampling(), seed=0)
        evaluator.teach_votes(round_of([1, 2]), pool, Ranks())
        assert evaluator.votes[0].lacks is None
        assert given.lacks is not None  # what is learned is the run's own


VOTES = """
model:
  init_args:
    evaluation:
      votes:
      - {class_path: laser_lightning.metrics.CalibratedVote, init_args: {rounds: 3}}
      - {class_path: laser_lightning.metrics.BestRule, init_args: {rounds: 3}}
checkpoint: {every_n_train_steps: 2}
"""


def evaluated(run: Path) -> dict[str, str]:
    """The metrics of a run's last evaluation."""
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))[-1]


def test_what_was_learned_is_resumed_reported_and_exported(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "votes.yaml").write_text(VOTES)
    run = ["--config=run.yaml", "--config=votes.yaml", "--model.verification.workers=0"]
    assert main(["fit", *run, "--run_dir=whole"]) == 0
    checkpoints = Path("whole/checkpoints")
    assert main(["fit", *run, "--run_dir=part", f"--ckpt_path={checkpoints / 'step=4.ckpt'}"]) == 0

    def votes(path: Path) -> dict[str, Any]:
        return dict(torch.load(path, weights_only=True)["laser_votes"])

    ends = [votes(Path(name) / "checkpoints/step=8.ckpt") for name in ("whole", "part")]
    assert str(ends[0]) == str(ends[1])
    assert str(ends[0]) != str(votes(checkpoints / "step=6.ckpt"))
    rule = CalibratedVote()
    rule.load_state_dict(ends[0]["calibrated"])
    assert len(ends[0]["calibrated"]["rounds"]) == 3
    assert all(len(seen["scores"]) for seen in ends[0]["calibrated"]["rounds"])

    # An export has the curve; an evaluation of the checkpoint votes as the run's last one did.
    exported = load_rules(Path("whole/export/last"))
    assert exported["calibrated"].curve == rule.curve  # type: ignore[attr-defined]
    assert main(["validate", *run, "--run_dir=alone", f"--ckpt_path={checkpoints / 'step=8.ckpt'}"]) == 0
    alone, last = (evaluated(Path(run_directory)) for run_directory in ("alone", "whole"))
    for name in ("calibrated", "best_rule"):
        assert alone[f"val/sums/{name}@2"] == last[f"val/sums/{name}@2"] != ""
    assert not [one for one in recwarn if "The vote rule" in str(one.message)]
    assert (
        main(["export", str(checkpoints / "step=8.ckpt"), "exported", "--config=run.yaml", "--config=votes.yaml"]) == 0
    )
    assert Path("exported/votes.json").read_text() == Path("whole/export/last/votes.json").read_text()

    # A model that learned nothing says so.
    assert main(["validate", *run, "--run_dir=before", "--model.self_reward.init_args.reference=-5"]) == 0
    told = [str(one.message) for one in recwarn if "The vote rule" in str(one.message)]
    assert [sentence.split(":")[0] for sentence in told] == [
        "The vote rule 'calibrated' has no training round to calibrate scores with",
        "The vote rule 'best_rule' has no training round to choose a rule by",
    ]
