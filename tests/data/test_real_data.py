"""Two steps and a validation on real problems, with the embedded model."""

import csv
from pathlib import Path

import pytest

from laser_lightning.cli.command_line import main

DATA = Path(__file__).parents[3] / "shared" / "data"

CONFIG = """
torch_threads: 1
model:
  policy: {{path: embedded}}
  self_reward:
    class_path: laser_lightning.LastTokenSelfReward
    init_args: {{token: <|reward|>, beta: 0.5, loss_weight: 0.5, reference: calibrate}}
  verifier: {{class_path: laser_lightning.verifiers.MathVerifier}}
  group_size: 2
  sampling: {{max_response_tokens: 96}}
  evaluation: {{samples: 2}}
data:
  train:
    class_path: laser_lightning.data.FileSource
    init_args:
      path: {data}/gsm8k_train.jsonl
      problem_column: question
      answer_pattern: '####\\s*(.+)'
      max_rows: 60
  val:
    gsm8k:
      class_path: laser_lightning.data.FileSource
      init_args:
        path: {data}/gsm8k_test.jsonl
        problem_column: question
        answer_pattern: '####\\s*(.+)'
        max_rows: 8
  template: {{chat: true}}
  prompts_per_step: 16
  max_prompt_tokens: 300
trainer: {{max_steps: 2, accelerator: cpu, devices: 1, enable_progress_bar: false}}
calibration:
  class_path: laser_lightning.callbacks.ReferenceConstantCalibration
  init_args: {{prompts: 8, max_emission_rate: 1.0}}
"""


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real problem sets are not at {DATA}")
@pytest.mark.filterwarnings("ignore")
def test_gsm8k_trains_and_validates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm8k.yaml").write_text(CONFIG.format(data=DATA))
    assert main(["fit", "--config", "gsm8k.yaml", "--run_dir", "run"]) == 0
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    assert {row["step"] for row in rows if row["train/step_seconds"]} == {"1", "2"}
    evaluated = [row for row in rows if row["val/gsm8k/pass@1"]]
    assert len(evaluated) == 2, "before the first step and behind the last one"
