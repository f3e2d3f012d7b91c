"""Every way of training on a model that others made: ``pytest -n 0 -m pretrained --pretrained DIR tests/pretrained``.

Each run takes two steps on sums in words, on the CPU and in float32: minutes each for a model of 135M parameters.
"""

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from laser_lightning import LaSeRScorer
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer
from laser_lightning.rollout import Sampling, TransformersEngine

pytestmark = pytest.mark.pretrained

RUN = """
seed_everything: 0
torch_threads: 1
data:
  init_args:
    train: &sums
      class_path: laser_lightning.data.FileSource
      init_args: {path: problems.jsonl, solution_column: solution}
    val: {sums: *sums}
    template: {template: "{problem} Answer with a number.", chat: true}
    prompts_per_step: 4
    eval_prompts_per_batch: 4
trainer:
  {max_steps: 2, val_check_interval: 2, check_val_every_n_epoch: null, limit_val_batches: 1, log_every_n_steps: 1,
   accelerator: cpu, devices: 1, enable_progress_bar: false}
checkpoint: null
solution_log: null
figures: null
report: null
summary: null
export: null
"""
LASER = """
model:
  class_path: laser_lightning.LaSeRModule
  init_args:
    policy: {path: MODEL}
    self_reward:
      class_path: laser_lightning.LastTokenSelfReward
      init_args: {token: "TOKEN", beta: 0.1, loss_weight: 0.5, reference: calibrate}
    verifier: {class_path: laser_lightning.verifiers.ExactVerifier, init_args: {pattern: '(\\d+)'}}
    group_size: 4
    sampling: {max_response_tokens: 64}
    update: {micro_batch_tokens: 512}
    optimizer: {learning_rate: 1.0e-6, warmup_steps: 0}
calibration: {prompts: 4, group_size: 2, max_emission_rate: 1.0}
"""
SUPERVISED = """
model:
  class_path: laser_lightning.SupervisedModule
  init_args: {policy: {path: MODEL}, micro_batch_sequences: 4, optimizer: {learning_rate: 1.0e-5, warmup_steps: 0}}
"""
RISE = """
model:
  init_args:
    self_reward: {init_args: {reference: -20.0}}
    verification_prompts:
      template: "{problem} Is {response} right? Answer with yes or no."
      verdict_pattern: '(?i)(yes|no)'
      correct_verdict: "yes"
      incorrect_verdict: "no"
      max_response_tokens: 4
calibration: null
"""
VLLM = """
model:
  init_args:
    engine:
      class_path: laser_lightning.rollout.VLLMEngine
      init_args: {enforce_eager: true, max_model_len: 512, engine_options: {kv_cache_memory_bytes: 134217728}}
"""

FILES = {
    "run.yaml": RUN,
    "laser.yaml": LASER,
    "supervised.yaml": SUPERVISED,
    "rise.yaml": RISE,
    "vllm.yaml": VLLM,
    "half.yaml": "model: {init_args: {policy: {dtype: bfloat16}}}",
    "export.yaml": "export: {class_path: laser_lightning.callbacks.HuggingFaceExport, init_args: {dirname: export}}",
    "two.yaml": "trainer: {devices: 2}",
}

Train = Callable[..., list[dict[str, str]]]


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest) -> Path:
    """The directory that was given."""
    given = request.config.getoption("--pretrained")
    if given is None:
        pytest.skip("no model was given: pytest -n 0 -m pretrained --pretrained DIR tests/pretrained")
    return Path(given).resolve()


@pytest.fixture(scope="session")
def token(model: Path) -> str:
    """A token of its own that no text and no chat of the model holds."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    used = {tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token, tokenizer.unk_token}
    template = tokenizer.chat_template or ""
    return next(text for text in reversed(tokenizer.get_added_vocab()) if text not in used and text not in template)


def run_program(words: list[str], directory: Path, processes: int = 1) -> None:
    """Run a command of the program to its end."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(start if processes > 1 else []), "-m", "laser_lightning", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


@pytest.fixture
def train(model: Path, token: str, tmp_path: Path) -> Train:
    """``train(*configs, processes=1)`` takes two steps; returns the rows of its metrics."""

    def run(*configs: str, processes: int = 1) -> list[dict[str, str]]:
        for name, text in FILES.items():
            (tmp_path / name).write_text(text.replace("MODEL", str(model)).replace("TOKEN", token))
        sums = [(a, b) for a in (2, 3, 4, 5) for b in (1, 6)]
        rows = [{"problem": f"What is {a} plus {b}?", "answer": f"{a + b}", "solution": f"{a + b}"} for a, b in sums]
        (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
        overlays = [argument for name in configs for argument in ("--config", name)]
        run_program(["fit", *overlays, "--run_dir", "run"], tmp_path, processes)
        return list(csv.DictReader((tmp_path / "run/metrics.csv").open()))

    return run


def values(rows: list[dict[str, str]], name: str) -> list[float]:
    """A metric's values, where it was logged."""
    return [float(row[name]) for row in rows if row.get(name)]


def check_steps(rows: list[dict[str, str]], gap: float) -> None:
    """Two steps, whose engine and update agree."""
    assert len(values(rows, "train/reward")) == 2
    for name in ("train/mismatch/token_log_prob", "train/mismatch/reward_token_log_prob"):
        assert values(rows, name), f"no {name}: all rewards were equal"
        assert max(values(rows, name)) < gap
    assert all(math.isfinite(norm) and norm > 0 for norm in values(rows, "train/gradient_norm"))
    assert values(rows, "train/mismatch/non_finite") == [0.0, 0.0]


def test_decoding_and_scores_are_those_of_plain_passes(model: Path, token: str) -> None:
    settings = PolicySettings(str(model))
    tokenizer = load_tokenizer(settings)
    policy, read = Policy(settings, tokenizer), tokenizer.get_vocab()[token]
    prompts = [tokenizer.encode(text) for text in ("1, 2, 3,", "The capital of France is", "Yes")]
    made = TransformersEngine(max_batch_size=4, max_prefill_tokens=6)
    sampling = Sampling(max_response_tokens=8)
    found = made.generate(policy, prompts, 2, sampling, (read,), torch.Generator().manual_seed(0))
    for row, response in enumerate(found.responses()):
        prompt = prompts[row // 2]
        with torch.no_grad():
            logits = policy.lm(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0].log_softmax(-1)
        plain = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(found.sampling_log_probs[row, : len(response)], plain, rtol=0, atol=1e-3)
        if found.finished[row]:
            assert float(found.reward_token_log_probs[row, 0]) == pytest.approx(float(logits[-1, read]), abs=1e-3)


def test_calibration_update_evaluation_and_export(train: Train, tmp_path: Path, token: str) -> None:
    rows = train("run.yaml", "laser.yaml", "export.yaml")
    check_steps(rows, 1e-3)
    assert values(rows, "val/sums/pass@1")
    (export,) = [file.parent for file in (tmp_path / "run").rglob("model.safetensors")]
    assert AutoModelForCausalLM.from_pretrained(export).dtype == torch.float32
    scorer = LaSeRScorer.from_pretrained(export)
    chat = [{"role": "user", "content": "What is 2 plus 1? Answer with a number."}]
    drawn = scorer.generate([chat], n=2, sampling=Sampling(max_response_tokens=12))[0]
    again = scorer.score([chat] * 2, [solution.token_ids for solution in drawn])
    for one, other in zip(drawn, again, strict=True):
        assert one.self_reward == pytest.approx(other.self_reward, abs=1e-3)


def test_bfloat16(train: Train) -> None:
    check_steps(train("run.yaml", "laser.yaml", "half.yaml"), 0.5)


def test_the_supervised_stage(train: Train) -> None:
    rows = train("run.yaml", "supervised.yaml")
    assert len(values(rows, "train/loss")) == 2
    assert values(rows, "val/sums/loss")


def test_rise(train: Train) -> None:
    rows = train("run.yaml", "laser.yaml", "baselines/rise", "rise.yaml")
    assert len(values(rows, "train/reward")) == 2
    assert len(values(rows, "train/verification/accuracy")) == 2


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_on_two_processes(train: Train, stage: int) -> None:
    check_steps(train(f"strategy/zero{stage}", "run.yaml", "laser.yaml", "two.yaml", processes=2), 1e-3)


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm(train: Train) -> None:
    check_steps(train("run.yaml", "laser.yaml", "vllm.yaml"), 1e-2)


def test_the_recipes(model: Path, token: str, word_problems: Path, tmp_path: Path) -> None:
    """Two steps of the supervised stage, and from there two of LaSeR with adapters, by name and model alone."""
    for path in word_problems.iterdir():
        (tmp_path / path.name).symlink_to(path)
    two = ["--trainer.max_steps=2", "--checkpoint=null", "--torch_threads=1", "--model.optimizer.warmup_steps=0"]
    warm_start = ["--config=recipes/word_problems_warm_start", f"--model.policy.path={model}", "--run_dir=warm_start"]
    run_program(["fit", *warm_start, *two, "--data.prompts_per_step=4"], tmp_path)
    laser = ["--config=recipes/word_problems", "--config=recipes/word_problems_lora", "--run_dir=laser"]
    start = [f"--model.self_reward.token={token}", "--model.policy.path=warm_start/export/last"]
    small = ["--data.prompts_per_step=2", "--calibration.prompts=4", "--model.evaluation.samples=2"]
    run_program(["fit", *laser, *start, *two, *small], tmp_path)
    rows = list(csv.DictReader((tmp_path / "laser/metrics.csv").open()))
    assert len(values(rows, "train/reward")) == 2
    assert values(rows, "val/word_problems/pass@1/less")
    assert (tmp_path / "laser/export/last/model.safetensors").is_file()
