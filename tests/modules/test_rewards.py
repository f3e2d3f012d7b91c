"""Several reward functions through the command line: what is trained on, what is logged, and when a run stops."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.cli.command_line import main

CONFIG = """
torch_threads: 1
model:
  init_args:
    policy:
      path: embedded
      random_init: true
      config_overrides: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1}
    self_reward:
      class_path: laser_lightning.LastTokenSelfReward
      init_args: {token: <|reward|>, beta: 0.1, reference: -20.0}
    verifier:
      class_path: laser_lightning.verifiers.WeightedRewards
      init_args:
        target: right
        rewards:
          right: {weight: 2.0, verifier: {class_path: rewards_of_the_test.Even}}
          length:
            verifier:
              class_path: laser_lightning.verifiers.FunctionVerifier
              init_args: {function: rewards_of_the_test.length}
            weight: -0.5
          broken:
            verifier:
              class_path: laser_lightning.verifiers.FunctionVerifier
              init_args: {function: rewards_of_the_test.broken}
    verification: {max_failing_steps: 2}
    group_size: 4
    sampling: {max_response_tokens: 16}
    evaluation: {samples: 2}
data:
  train: &rows
    class_path: laser_lightning.data.FileSource
    init_args: {path: rows.jsonl}
  val: {sums: *rows}
  prompts_per_step: 2
trainer: {max_steps: 4, accelerator: cpu, devices: 1, enable_progress_bar: false, log_every_n_steps: 1}
solution_log: {class_path: laser_lightning.callbacks.SolutionLog}
"""

# The length is divided by a number that only the row has; `broken` fails unless the row says otherwise.
FUNCTIONS = """
from laser_lightning.verifiers import Verifier

class Even(Verifier):
    def extract(self, response):
        return str(len(response))
    def equivalent(self, answer, gold):
        return int(answer) % 2 == 0

def length(submission):
    return len(submission.response) / submission.row["meta"]["scale"]

def broken(submission):
    if submission.row["works"]:
        return 0.25
    raise RuntimeError(f"no luck with {submission.problem}")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains on two rows, and gives the exit status and the run's directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG)
    (tmp_path / "rewards_of_the_test.py").write_text(FUNCTIONS)

    def fit(works: tuple[bool, bool]) -> tuple[int, Path]:
        rows = [
            {"problem": f"{number}+1", "answer": "2", "meta": {"scale": 8 * (number + 1)}, "works": works[number]}
            for number in range(2)
        ]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return main(["fit", "--config", "run.yaml", "--run_dir", "run"]), tmp_path / "run"

    return fit


def solutions(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rewards_are_weighted_and_logged(run: Any) -> None:
    status, directory = run((True, False))
    assert status == 0
    found = solutions(directory / "solutions/train.jsonl")
    assert len(found) == 4 * 2 * 4
    for one in found:
        size, row = len(one["response"]), int(one["problem"][0])
        right = float(size % 2 == 0)
        length, broken = size / (8 * (row + 1)), 0.25 if row == 0 else None
        # The outcome is the target's own reward; the policy is trained on the weighted sum.
        assert one["rewards"] == {"right": right, "length": length, "broken": broken}
        assert one["reward"] == right
        assert one["policy_reward"] == 2 * right - 0.5 * length + (broken or 0.0)
        assert one["answer"] == str(size)
        assert one["error"] == (None if row == 0 else "broken: RuntimeError: no luck with 1+1")
    metrics = [row for row in csv.DictReader((directory / "metrics.csv").open()) if row["train/reward"]]
    for step, row in enumerate(metrics):
        of_step = [one for one in found if one["step"] == step]

        def mean(name: str, of_step: list[dict[str, Any]] = of_step) -> Any:
            return pytest.approx(sum(one["rewards"][name] or 0.0 for one in of_step) / 8, abs=1e-6)

        for name in ("right", "length", "broken"):
            assert float(row[f"train/reward/{name}"]) == mean(name)
        assert float(row["train/reward"]) == mean("right")
        total = sum(one["policy_reward"] for one in of_step) / 8
        assert float(row["train/policy_reward"]) == pytest.approx(total, abs=1e-6)
        assert float(row["train/verifier_failures"]) == 4
    evaluated = [one for one in solutions(directory / "solutions/val.jsonl") if one["step"] == 4]
    last = [row for row in csv.DictReader((directory / "metrics.csv").open()) if row["val/sums/reward"]][-1]
    for name in ("right", "length", "broken"):
        expected = sum(one["rewards"][name] or 0.0 for one in evaluated) / 4
        assert float(last[f"val/sums/reward/{name}"]) == pytest.approx(expected, abs=1e-6)


def test_a_function_that_never_works_stops_the_run(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, directory = run((False, False))
    assert status != 0
    printed = capsys.readouterr().err
    assert (
        "Stopped: the reward function broken failed on every response of 2 steps in a row "
        "(verification.max_failing_steps), the last time because: broken: RuntimeError: no luck with" in printed
    )
    assert torch.load(directory / "stopped.ckpt", weights_only=False)["global_step"] == 2
    assert {one["step"] for one in solutions(directory / "solutions/train.jsonl")} <= {0, 1}


@pytest.mark.parametrize("overlay", ["rewards/python", "rewards/judge"])
def test_packaged_overlays_can_be_used(overlay: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "quickstart", "--config", overlay, "--print_config"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert {"rewards/python": "PythonVerifier", "rewards/judge": "JudgeVerifier"}[overlay] in printed
