"""`laser-lightning export` writes what the run's own export would have written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from laser_lightning.callbacks import SelfRewardSettings
from laser_lightning.cli.command_line import main
from laser_lightning.policy.model import EMBEDDED, Policy, PolicySettings
from laser_lightning.records.batching import MicroBatch

MODEL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
CONFIG = f"""
model:
  init_args:
    policy: {{path: embedded, random_init: true, config_overrides: {MODEL}}}
    self_reward:
      class_path: laser_lightning.LastTokenSelfReward
      init_args: {{token: <|reward|>, beta: 0.5, reference: -20.0}}
    verifier: {{class_path: laser_lightning.verifiers.ExactVerifier, init_args: {{pattern: '(.+)'}}}}
    group_size: 2
    sampling: {{max_response_tokens: 8}}
    optimizer: {{learning_rate: 1.0e-2}}
    verification: {{workers: 0}}
    evaluation: {{at_start: false, at_end: false}}
data:
  init_args:
    train: {{class_path: laser_lightning.data.ArithmeticSource, init_args: {{split: train, size: 8}}}}
    prompts_per_step: 4
trainer: {{max_steps: 2, accelerator: cpu, devices: 1, enable_progress_bar: false, logger: null}}
checkpoint:
  class_path: lightning.pytorch.callbacks.ModelCheckpoint
  init_args: {{save_last: true, every_n_train_steps: 1}}
export: {{class_path: laser_lightning.callbacks.HuggingFaceExport}}
"""


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(["export", *args]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "laser-lightning: error: " in line]
    return line


def test_a_checkpoint_file_is_exported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plain_pass: Callable[..., Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    assert main(["fit", "--config", "run.yaml", "--run_dir", "run"]) == 0
    checkpoint = "run/checkpoints/last.ckpt"
    assert main(["export", checkpoint, "out"]) == 0
    theirs = Path("run/export/last")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == {
        path.name: path.read_bytes() for path in theirs.iterdir()
    }
    assert not list(tmp_path.glob(".*"))

    # Plain transformers scores a response of the export as the policy does with the checkpoint's weights.
    settings = PolicySettings(EMBEDDED, random_init=True, config_overrides=MODEL)
    policy = Policy(settings, AutoTokenizer.from_pretrained("out"))
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    policy.load_state_dict({name.removeprefix("policy."): w for name, w in weights.items() if "policy." in name})
    token, prompt, response = SelfRewardSettings.load("out").token_id, [30, 31, 32], [40, 41, 42, 1]
    ids = torch.tensor([prompt + response])
    scored = policy(
        MicroBatch(torch.arange(1), ids, torch.tensor([3]), torch.tensor([4]), torch.ones(1, 4).bool()), (token,)
    )
    exported = plain_pass(AutoModelForCausalLM.from_pretrained("out"), prompt, response)
    assert float(scored.reward_token_log_probs[0, 0]) == pytest.approx(float(exported.after_last[token]), abs=1e-5)

    assert "out exists already: name another directory" in error_of(capsys, checkpoint, "out")
    assert "There is no checkpoint at 'none.ckpt'" in error_of(capsys, "none.ckpt", "other")
    Path("half.ckpt").write_bytes(Path(checkpoint).read_bytes()[:50_000])
    assert "half.ckpt is not a whole checkpoint" in error_of(capsys, "half.ckpt", "other")
    (tmp_path / "run/checkpoints/half.ckpt").mkdir()
    assert "half.ckpt was never finished" in error_of(capsys, "run/checkpoints/half.ckpt", "other")
    Path("elsewhere/a").mkdir(parents=True)
    moved = str(Path(checkpoint).rename("elsewhere/a/last.ckpt"))
    assert "The run's config.yaml is not in" in error_of(capsys, moved, "other")
    Path("larger.yaml").write_text("model: {policy: {config_overrides: {hidden_size: 64}}}")
    larger = ["--config", "run.yaml", "--config", "larger.yaml"]
    assert "its hidden size is 32, and the configured one is 64" in error_of(capsys, moved, "other", *larger)
    assert main(["export", moved, "other", "--config", "run.yaml"]) == 0
    assert Path("other/model.safetensors").read_bytes() == Path("out/model.safetensors").read_bytes()
