"""The parts of ``gpu_check.py``: each is a function of the check, and runs in a child process.

Nothing here touches the GPU before a part is called: processes are started ahead, and import while another one
measures.
"""

import csv
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import torch
from common import REWARD_TOKEN_LOG_PROB, Case, clock, prompt_texts
from gpu_step import Check, Values, train, watch_sleep
from lightning.pytorch.callbacks import ModelCheckpoint
from machine_limit import Measure
from torch import Tensor
from transformers import AutoTokenizer

from laser_lightning.cli.command_line import main as command_line
from laser_lightning.data import ArithmeticSource, PromptDataModule, PromptTemplate
from laser_lightning.distributed.strategies import LaSeRDDPStrategy, LaSeRDeepSpeedStrategy
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import EMBEDDED, Policy, PolicySettings, load_tokenizer
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.rollout.transformers import compiled
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings

Z = 3
"""The reward token's id, in the embedded model and in the random one."""


class NotInstalledError(Exception):
    """A package that a part measures is not there."""


def needs(package: str) -> None:
    """Refuse a part whose package is missing."""
    if find_spec(package) is None:
        raise NotInstalledError(f"{package} is not installed")


# ------------------------------------------------------------------- the card


def card(check: Check) -> Values:
    """Write the model, and measure the limits of the device: a large matrix product in bfloat16, and an addition."""
    device = torch.device(check.device)
    _, started = check.model, clock(device)
    measure = Measure(replace(check.case, dtype="float32" if check.device == "cpu" else "bfloat16"))
    if check.tiny:
        measure.size, measure.elements = 256, 2**20
    flops, moved = max(measure.limit(device) for _ in range(3))
    values: Values = {"tflops": flops / 1e12, "gb_per_second": moved / 1e9, "limit_seconds": clock(device) - started}
    if check.device == "cuda":
        values |= {"card": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return values


# ------------------------------------------------- what the score costs, decoding


def policy_and_prompts(check: Check) -> tuple[Policy, list[list[int]], Case]:
    """The random model in bfloat16 on the device (float32 on CPU), and the prompts of a step."""
    case = check.case
    settings = PolicySettings(str(check.model), dtype="float32" if check.device == "cpu" else "bfloat16")
    policy = Policy(settings, load_tokenizer(settings)).to(check.device)
    tokenizer = AutoTokenizer.from_pretrained(check.model)
    return policy, [tokenizer(text)["input_ids"] for text in prompt_texts(case, check.model)], case


def timed(policy: Policy, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until the device is done, and the result."""
    started = clock(policy.device)
    result = work()
    return clock(policy.device) - started, result


def price(check: Check) -> Values:
    """The score out of decoding itself, against the published second pass over prompt and response."""
    policy, prompts, case = policy_and_prompts(check)

    def decode(scores: bool) -> Rollouts:
        engine, generator = TransformersEngine(scores=scores), torch.Generator(check.device).manual_seed(1)
        return engine.generate(policy, prompts, case.group_size, Sampling(case.response_tokens), (Z,), generator)

    def second_pass() -> Tensor:
        with torch.no_grad():
            return policy.scores_of(rollouts, (Z,), case.micro_batch_tokens)

    rollouts = decode(True)  # both warm up
    second_pass()
    with_it, without = [], []
    for _ in range(2):
        with_it.append(timed(policy, lambda: decode(True))[0])
        without.append(timed(policy, lambda: decode(False))[0])
    seconds, scores = min(timed(policy, second_pass) for _ in range(3))
    gap = (scores - rollouts.reward_token_log_probs)[rollouts.finished].abs()
    return {
        "decoding_with_score_seconds": min(with_it),
        "decoding_without_score_seconds": min(without),
        "second_pass_seconds": seconds,
        "score_costs": min(with_it) / min(without) - 1,
        "second_pass_costs": seconds / min(without),
        "largest_gap_of_log_z": float(gap.max()),
        "mean_gap_of_log_z": float(gap.mean()),
        "finished": int(rollouts.finished.sum()),
        "tokens": int(rollouts.response_lengths.sum()),
    }


def head(check: Check) -> Values:
    """Ways to compute the head's logits: milliseconds of 4,096 rows, and how far log pi(z) is from its float64 value.

    Autocast rounds the logits themselves to bfloat16, in steps of 1/16 or 1/8 at the size of log pi(z).
    """
    rows, vocabulary, width = (64, 512, 64) if check.tiny else (4096, check.case.vocabulary, 896)
    generator = torch.Generator(check.device).manual_seed(0)
    hidden = torch.randn(rows, width, device=check.device, generator=generator)
    weights = torch.randn(vocabulary, width, device=check.device, generator=generator) * 3 / width**0.5
    weights[Z] = -hidden.mean(0)
    half, half_weights = hidden.bfloat16(), weights.bfloat16()

    def float32(precision: str) -> Tensor:
        torch.set_float32_matmul_precision(precision)
        logits = hidden @ weights.T
        torch.set_float32_matmul_precision("highest")
        return logits

    def float32_sums() -> Tensor:
        if check.device == "cpu":  # whose products have the type of their factors
            return half.float() @ half_weights.float().T
        return torch.ops.aten.mm.dtype(half, half_weights.T, torch.float32)

    ways: dict[str, Callable[[], Tensor]] = {
        "bfloat16": lambda: (half @ half_weights.T).float(),
        "bfloat16_with_float32_sums": float32_sums,
        "float32": lambda: float32("highest"),
        "tf32": lambda: float32("high"),
    }
    exact = (hidden[:64].double() @ weights.double().T).log_softmax(-1)[:, Z]
    values: Values = {}
    for name, way in ways.items():
        logits = way()
        values[f"{name}_mean_gap_of_log_z"] = float((logits[:64].log_softmax(-1)[:, Z] - exact).abs().mean())
        del logits
        started = clock(hidden.device)
        for _ in range(3):
            way()
        values[f"{name}_ms"] = (clock(hidden.device) - started) / 3 * 1e3
    return values


def compiled_engine(check: Check) -> Values:
    """Decoding in compiled steps (CUDA graphs), against plain steps; no row is dropped, so one shape is compiled."""
    policy, prompts, case = policy_and_prompts(check)
    values: Values = {}
    if not compiled.CAN_COMPILE:
        compiled.CAN_COMPILE = True
        values["tried_all_the_same"] = f"engine.compile refuses torch {torch.__version__}"

    def decode(engine: TransformersEngine) -> tuple[float, Rollouts]:
        generator = torch.Generator(check.device).manual_seed(1)
        sampling = Sampling(case.response_tokens)
        return timed(policy, lambda: engine.generate(policy, prompts, case.group_size, sampling, (Z,), generator))

    plain, fast = TransformersEngine(drop_fraction=1.0), TransformersEngine(drop_fraction=1.0, compile=True)
    decode(plain)
    seconds, theirs = decode(plain)
    values["compiling_seconds"], _ = decode(fast)
    compiled_seconds, ours = decode(fast)
    width = min(ours.response_ids.shape[1], theirs.response_ids.shape[1])
    tokens = int(ours.response_lengths.sum())
    same = (ours.response_ids[:, :width] == theirs.response_ids[:, :width]).all(dim=1)
    return values | {
        "plain_tokens_per_second": int(theirs.response_lengths.sum()) / seconds,
        "compiled_tokens_per_second": tokens / compiled_seconds,
        "speed_up": tokens / int(theirs.response_lengths.sum()) * seconds / compiled_seconds,
        "same_responses": float(same.float().mean()),
    }


# ---------------------------------------------------- the embedded model, exactness


def log_probs(policy: Policy, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """[N, R] of the responses' tokens and [N] of the reward token, on CPU."""
    rows = torch.arange(len(rollouts), device=rollouts.response_ids.device)
    tokens, scores = torch.zeros_like(rollouts.sampling_log_probs), torch.zeros(len(rows), device=rows.device)
    with torch.no_grad():
        for batch in micro_batches(rollouts, rows, 4096, policy.pad_token_id, policy.packs):
            found = policy(batch, (Z,), 1.0)
            tokens[batch.rows, : found.log_probs.shape[1]] = found.log_probs
            scores[batch.rows] = found.reward_token_log_probs[:, 0]
    return tokens.cpu(), scores.cpu()


def agreement(check: Check) -> Values:
    """The same solutions of the embedded model on CPU and on the device: log-probs of tokens and scores."""
    settings = PolicySettings(EMBEDDED)
    tokenizer = load_tokenizer(settings)
    here, there = Policy(settings, tokenizer), Policy(settings, tokenizer).to(check.device)
    template = PromptTemplate(chat=True)
    rows = ArithmeticSource("val", size=8 if check.tiny else 64).load()
    prompts = [tokenizer(template.render(row["problem"], tokenizer))["input_ids"] for row in rows]
    generator = torch.Generator(check.device).manual_seed(0)
    drawn = TransformersEngine().generate(there, prompts, 8, Sampling(96), (Z,), generator)
    on_cpu = Rollouts(**{f.name: None if (v := getattr(drawn, f.name)) is None else v.cpu() for f in fields(Rollouts)})
    cpu, device = log_probs(here, on_cpu), log_probs(there, drawn)
    with torch.autocast(check.device, torch.bfloat16):
        half = log_probs(there, drawn)
    mask, finished = on_cpu.response_mask, on_cpu.finished
    engine = on_cpu.sampling_log_probs, on_cpu.reward_token_log_probs[:, 0]
    values: Values = {"solutions": len(drawn), "finished": int(finished.sum())}
    for name, other in (("device", device), ("engine", engine), ("autocast_bf16", half)):
        values[f"{name}_largest_gap_of_tokens"] = float((other[0] - cpu[0])[mask].abs().max())
        values[f"{name}_largest_gap_of_log_z"] = float((other[1] - cpu[1])[finished].abs().max())
        values[f"{name}_mean_gap_of_log_z"] = float((other[1] - cpu[1])[finished].abs().mean())
    return values


def quickstart(check: Check) -> Values:
    """Some steps of the embedded quickstart by the command line, with all its files, in the working directory."""
    runs = Path("runs")
    steps, limit = (1, 1) if check.tiny else (20, 2)
    options = {
        "accelerator": "cpu" if check.device == "cpu" else "gpu",
        "max_steps": steps,
        "val_check_interval": steps,
        "limit_val_batches": limit,
        "enable_progress_bar": False,
    }
    arguments = [f"--trainer.{name}={value}" for name, value in options.items()]
    if check.tiny:
        arguments += ["--data.prompts_per_step=4", "--data.eval_prompts_per_batch=8", "--calibration.prompts=32"]
    status = command_line(["fit", "--config", "quickstart", *arguments])
    if status:
        raise RuntimeError(f"laser-lightning fit ended with {status}")
    with next(runs.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["train/loss"]]
    rewards = [float(row["val/arithmetic/pass@1"]) for row in rows if row.get("val/arithmetic/pass@1")]
    return {
        "steps": len(trained),
        "last_step_seconds": float(trained[-1]["train/step_seconds"]),
        "last_tokens_per_second": float(trained[-1]["train/tokens_per_second"]),
        "first_pass@1": rewards[0],
        "last_pass@1": rewards[-1],
        "largest_mismatch_of_log_z": max(float(row["train/mismatch/reward_token_log_prob"]) for row in trained),
        "exported": len(list(runs.rglob("export/*/model.safetensors"))),
    }


def fit_embedded(check: Check, name: str, deterministic: bool, resume_from: Path | None = None) -> Path:
    """Train the embedded model for 4 steps with a checkpoint every 2; return the directory of the checkpoints."""
    directory = check.work / "resume" / name
    module = LaSeRModule(
        policy=PolicySettings(EMBEDDED),
        self_reward=LastTokenSelfReward("<|reward|>", beta=0.25, reference=REWARD_TOKEN_LOG_PROB, loss_weight=0.5),
        verifier=ExactVerifier(r"#(\d+)$"),
        sampling=Sampling(96),
        optimizer=OptimizerSettings(learning_rate=1e-4),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(at_start=False, at_end=False),
        seed=0,
    )
    data = PromptDataModule(
        train=ArithmeticSource("train", size=32),
        template=PromptTemplate(chat=True),
        prompts_per_step=4 if check.tiny else 16,
        seed=0,
    )
    trainer = lightning.Trainer(
        max_steps=4,
        accelerator="cpu" if check.device == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed",
        deterministic="warn" if deterministic else None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[ModelCheckpoint(directory, filename="{step}", every_n_train_steps=2, save_top_k=-1)],
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume_from)
    return directory


def weights(directory: Path) -> list[Tensor]:
    """Those of the last step."""
    return list(torch.load(directory / "step=4.ckpt", map_location="cpu", weights_only=True)["state_dict"].values())


def largest_gap(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """The largest difference of two lists of tensors."""
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True))


def tells_of_an_operation(warning: str) -> bool:
    """Whether torch warns of an operation that is not deterministic."""
    return "deterministic implementation" in warning or "not deterministic" in warning


def resume(check: Check) -> Values:
    """Whether two runs are equal, and a resumed one equal to one that was not broken off: as it is, deterministic."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    values: Values = {}
    for mode, deterministic in (("default", False), ("deterministic", True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            whole = fit_embedded(check, f"{mode}_whole", deterministic)
            again = fit_embedded(check, f"{mode}_again", deterministic)
            resumed = fit_embedded(check, f"{mode}_resumed", deterministic, whole / "step=2.ckpt")
        values[f"{mode}_two_runs_differ_by"] = largest_gap(weights(whole), weights(again))
        values[f"{mode}_resumed_differs_by"] = largest_gap(weights(whole), weights(resumed))
        said = [str(w.message) for w in caught]
        told = {one.split(" does not have a deterministic")[0] for one in said if tells_of_an_operation(one)}
        values[f"{mode}_warnings"] = "; ".join(sorted(told)) or "none"
    return values


# ------------------------------------------------------------------- all parts


def flash(check: Check) -> Values:
    """A step with flash attention, which packs."""
    needs("flash_attn")
    return train(check, attention="flash_attention_2", dtype="bfloat16", precision="bf16-true")


def packing(check: Check) -> Values:
    """A step whose sequences are packed under sdpa, in rows a quarter as long, since masks cover their square."""
    case = check.case
    return train(check, case=replace(case, micro_batch_tokens=case.micro_batch_tokens // 4), packing="always")


def liger(check: Check) -> Values:
    """A step with Liger kernels."""
    needs("liger_kernel")
    return train(check, liger=True)


def lora(check: Check) -> Values:
    """A step that trains adapters alone."""
    needs("peft")
    return train(check, lora=LoRASettings())


def zero(check: Check, stage: int, **options: Any) -> Values:
    """A step under DeepSpeed, in a world of one process."""
    needs("deepspeed")
    return train(check, strategy=LaSeRDeepSpeedStrategy(stage=stage, **options))


def vllm(check: Check) -> Values:
    """A step with rollouts by vLLM in this process, which sleeps during the update, and what that gives back."""
    needs("vllm")
    from laser_lightning.rollout import VLLMEngine

    engine = VLLMEngine(gpu_memory_utilization=0.4)
    freed = watch_sleep(engine, check.device)
    return train(check, engine=engine, dtype="bfloat16", precision="bf16-true") | {"sleep_gives_back_gb": max(freed)}


MEASURES: dict[str, Callable[[Check], Values]] = {
    "card": card,
    "step": partial(train, steps=3),
    "zero2": partial(zero, stage=2),
    "ddp": lambda check: train(check, strategy=LaSeRDDPStrategy()),
    "price": price,
    "head": head,
    "compiled_engine": compiled_engine,
    "zero3": partial(zero, stage=3),
    "bf16_weights": partial(train, precision="bf16-true", dtype="bfloat16"),
    "liger": liger,
    "packing": packing,
    "checkpointing": partial(train, gradient_checkpointing=True),
    "compiled_update": partial(train, compile=True),
    "offload": partial(zero, stage=2, offload_optimizer=True),
    "lora": lora,
    "agreement": agreement,
    "quickstart": quickstart,
    "resume": resume,
    "flash": flash,
    "vllm": vllm,
}
