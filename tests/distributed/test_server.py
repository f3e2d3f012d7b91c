"""The trainer on two processes with servers of vLLM, or what stands in for them, under every strategy."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_server import FakeServer
from fake_vllm import FakeVLLM
from laser_lightning.policy.model import Policy

pytestmark = pytest.mark.distributed

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_the_servers_have_the_weights_of_each_step(
    strategy: str, experiment: Path, command: Callable[..., str], make_policy: Callable[..., Policy]
) -> None:
    servers = []
    for _ in range(2):
        vllm = FakeVLLM(make_policy("embedded", random_init=True, config_overrides=SIZES).lm.eval())
        servers.append(FakeServer(vllm.answers))
        servers[-1].start()
    (experiment / "server.yaml").write_text(
        f"""
model:
  init_args:
    self_reward: {{init_args: {{reference: -10.0}}}}
    sampling: {{max_response_tokens: 6}}
    optimizer: {{learning_rate: 1.0e-3, warmup_steps: 0}}
    update: {{mini_batches: 1}}
    engine: {{init_args: {{urls: {[server.url for server in servers]}}}}}
data: {{init_args: {{prompts_per_step: 4}}}}
trainer: {{limit_val_batches: 0}}
"""
    )
    overlays = [f"strategy/{strategy}", "run.yaml", "engine/server", "server.yaml"]
    options = [part for name in overlays for part in ("--config", name)]
    command(experiment, "fit", *options, "--trainer.max_steps", "3", "--run_dir", "run")
    rows = list(csv.DictReader((experiment / "run/metrics.csv").open()))
    for name in ("train/mismatch/token_log_prob", "train/mismatch/reward_token_log_prob"):
        gaps = [float(row[name]) for row in rows if row[name]]
        assert len(gaps) == 3
        assert max(gaps) < 1e-4
    # Rank 0 alone sends, once a step, to both; each rank draws for its own prompts, on both.
    assert [server.count("/collective_rpc") for server in servers] == [3, 3]
    assert all(server.count("/inference/v1/generate") > 20 for server in servers)
    for server in servers:
        server.stop()
