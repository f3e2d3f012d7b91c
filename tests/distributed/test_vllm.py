"""The trainer with the vLLM engine on two processes, under every strategy."""

import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; .ci/vllm runs these tests"),
]


@pytest.mark.parametrize(("strategy", "tensor_parallel_size"), [("ddp", 1), ("zero1", 1), ("zero2", 2), ("zero3", 1)])
def test_the_engine_has_the_weights_of_each_step_on_every_rank(
    experiment: Path, command: Callable[..., str], strategy: str, tensor_parallel_size: int
) -> None:
    (experiment / "vllm.yaml").write_text(
        f"""
model:
  init_args:
    # heads of a size that vLLM has on CPUs
    policy: {{config_overrides: {{hidden_size: 64, num_attention_heads: 2, num_key_value_heads: 1}}}}
    optimizer: {{learning_rate: 1.0e-3, warmup_steps: 0}}
    update: {{mini_batches: 1}}
    engine:
      class_path: laser_lightning.rollout.VLLMEngine
      init_args:
        tensor_parallel_size: {tensor_parallel_size}
        enforce_eager: true
        engine_options: {{kv_cache_memory_bytes: 67108864}}
data:
  init_args:
    val:
      sums: {{class_path: laser_lightning.data.ArithmeticSource, init_args: {{split: val, size: 1}}}}
"""
    )
    (experiment / "no_strategy.yaml").write_text("trainer: {strategy: auto}")
    below = [f"strategy/{strategy}", "run.yaml"]
    if strategy == "ddp":  # it does not take the options that run.yaml has for the others
        below = ["run.yaml", "no_strategy.yaml", "strategy/ddp"]
    overlays = [part for name in [*below, "vllm.yaml"] for part in ("--config", name)]
    command(experiment, "fit", *overlays, "--trainer.max_steps", "3", "--run_dir", "run")
    rows = list(csv.DictReader((experiment / "run/metrics.csv").open()))
    gaps = [float(row[name]) for row in rows if row[name := "train/mismatch/reward_token_log_prob"]]
    assert len(gaps) >= 3
    assert max(gaps) < 1e-4
    assert not list(Path("/dev/shm").glob("*-cpushm_*"))  # the next run could not make it
