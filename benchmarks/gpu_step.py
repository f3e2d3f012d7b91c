"""A training step of ``gpu_check.py``: how long its parts take, what they compute, and how much memory they hold."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import torch
from common import REWARD_TOKEN_LOG_PROB, Case, ParityVerifier, TimedModule, peak_memory, write_model
from lightning.pytorch.strategies import Strategy
from machine_limit import Work
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from laser_lightning.data import PromptDataModule
from laser_lightning.distributed.parts import StepParts
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.character_tokenizer import REWARD_TOKEN
from laser_lightning.policy.model import PolicySettings
from laser_lightning.records.batching import MicroBatch, Rollouts
from laser_lightning.rollout import RolloutEngine, Sampling, TransformersEngine
from laser_lightning.verifiers.settings import VerificationSettings

Values = dict[str, Any]
"""What a part found, by name: numbers, and words."""

WHOLE = Case("360M", 131_072, 64, response_tokens=96, end_probability=0.01, micro_batch_tokens=8192)
TINY = Case("1M", 80, 4, group_size=4, response_tokens=16, end_probability=0.1, micro_batch_tokens=256)


@dataclass(frozen=True)
class Check:
    """What every part of the check is given.

    Attributes:
        device: ``cuda`` or ``cpu``.
        tiny: take a model and rounds so small that a CPU does with them.
        work: a directory to write in; the parts share its model.
    """

    device: str
    tiny: bool
    work: Path

    @property
    def case(self) -> Case:
        """Sizes of the model and of a step."""
        case = TINY if self.tiny else WHOLE
        return Case(**{**vars(case), "device": self.device})

    @property
    def model(self) -> Path:
        """The directory of the model, written by the part that comes first."""
        directory = self.work / "model"
        if not (directory / "model.safetensors").exists():
            write_model(self.case, directory)
        return directory


class MeasuredParts(StepParts):
    """Keeps the most memory that each part of a step has held, in GB (see ``peak_memory``).

    Args:
        device: ``cuda`` or ``cpu``.
        before: GB that the process held already.
    """

    def __init__(self, device: str, before: float) -> None:
        super().__init__()
        self.device, self.before = torch.device(device), before
        self.peaks: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Enter a part."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with super().__call__(name):
            yield
        self.peaks[name] = max(self.peaks.get(name, 0.0), peak_memory(self.device) - self.before)


class CountedModule(TimedModule):
    """Remembers which solutions the update computed: groups without a signal need none.

    Attributes:
        trained: [M] numbers of those of the latest step.
    """

    trained: Tensor

    def aligned_batches(self, rollouts: Rollouts, rows: Tensor) -> list[tuple[MicroBatch, float]]:
        """Remember the rows."""
        self.trained = rows
        return super().aligned_batches(rollouts, rows)


class Steps(lightning.Callback):
    """Collects what each step took.

    Args:
        work: FLOPs of the model.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.loaded = 0.0
        self.steps: list[dict[str, float]] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: TimedModule) -> None:  # type: ignore[override]
        """Weights, and what the strategy keeps beside them, are there."""
        device = pl_module.device
        assert isinstance(pl_module.parts, MeasuredParts)
        self.loaded = held_memory(device) - pl_module.parts.before

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: CountedModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count tokens and FLOPs, with the least that the work needs (see ``machine_limit``)."""
        assert pl_module.last_rollout is not None
        rollouts, seconds = pl_module.last_rollout.rollouts, pl_module.parts.seconds
        prompts = rollouts.prompt_lengths.repeat_interleave(rollouts.group_size).double()
        responses = rollouts.response_lengths.double()

        def forward_flops(rows: Tensor) -> float:
            lengths = (prompts + responses)[rows]
            attended = float((lengths * (lengths + 1)).sum() / 2)
            return self.work.flops(float(lengths.sum()), attended, float((responses[rows] + 1).sum()))

        self.steps.append(
            {
                "rollout_seconds": pl_module.rollout_seconds,
                "update_seconds": pl_module.update_seconds,
                "tokens": float(responses.sum()),
                "flops": forward_flops(torch.arange(len(responses), device=responses.device)),
                "trained_tokens": float(responses[pl_module.trained].sum()),
                "trained_flops": 3 * forward_flops(pl_module.trained),
                "verification_seconds": seconds["verification"],
                **{name: float(value) for name, value in trainer.callback_metrics.items()},
            }
        )


def held_memory(device: torch.device) -> float:
    """GB that the process holds of the device; of a CPU's memory, where the peak alone is looked at, 0."""
    return torch.cuda.memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0


def watch_sleep(engine: RolloutEngine, device: str) -> list[float]:
    """Measure what an engine gives back when it sleeps.

    Returns:
        GB of the card that became free, one for each sleep behind a 0.0; on CPU, where vLLM does not sleep, all are 0.
    """
    freed, sleep = [0.0], engine.sleep

    def watched() -> None:
        before = free_memory(device)
        sleep()
        freed.append(free_memory(device) - before)

    engine.sleep = watched  # type: ignore[method-assign]
    return freed


def free_memory(device: str) -> float:
    """GB of the card that nobody holds: what vLLM holds is not torch's."""
    return torch.cuda.mem_get_info()[0] / 1e9 if device == "cuda" else 0.0


def model_work(model: Path) -> Work:
    """FLOPs of a model of which nothing but shapes is loaded."""
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.bfloat16)
    return Work(SimpleNamespace(lm=lm))  # type: ignore[arg-type]


def build(case: Case, policy: PolicySettings, engine: RolloutEngine | None) -> CountedModule:
    """The whole of LaSeR, in the integrated phase from the first step on, with measured parts.

    The learning rate is so small that all steps see the same policy: behind one AdamW step at 1e-6, in which all its
    weights move at once, the random model repeats a token for ever.
    """
    module = CountedModule(
        policy=policy,
        self_reward=LastTokenSelfReward(REWARD_TOKEN, beta=0.2, reference=REWARD_TOKEN_LOG_PROB, loss_weight=0.5),
        verifier=ParityVerifier(),
        group_size=case.group_size,
        sampling=Sampling(case.response_tokens),
        engine=engine or TransformersEngine(),
        update=UpdateSettings(micro_batch_tokens=case.micro_batch_tokens),
        optimizer=OptimizerSettings(learning_rate=1e-12),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(at_start=False, at_end=False),
        seed=0,
    )
    module.parts = MeasuredParts(case.device, held_memory(torch.device(case.device)))
    return module


def train(
    check: Check,
    steps: int = 2,
    strategy: str | Strategy = "auto",
    precision: str = "bf16-mixed",
    engine: RolloutEngine | None = None,
    case: Case | None = None,
    **policy: Any,
) -> Values:
    """Take training steps, the first of which warms up.

    Args:
        check: device, sizes and directory.
        steps: how many, 2 at least.
        strategy: Lightning's or ours.
        precision: Lightning's.
        engine: draws solutions; default: transformers.
        case: other sizes than those of the check.
        policy: further fields of PolicySettings.

    Returns:
        Speeds, the memory of each part of the step, and what should be the same in all ways of taking it.
    """
    case = case or check.case
    measured = Steps(model_work(check.model))
    module = build(case, PolicySettings(str(check.model), **policy), engine)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu" if check.device == "cpu" else "gpu",
        devices=1,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[measured],
    )
    trainer.fit(module, datamodule=PromptDataModule(**case.data_settings, prompts_per_step=case.prompts))
    return step_values(measured, module)


def step_values(measured: Steps, module: TimedModule) -> Values:
    """Medians over the steps behind the first."""
    warm, *rest = measured.steps

    def median(of: Any) -> float:
        return statistics.median(of(step) for step in rest)

    assert isinstance(module.parts, MeasuredParts)
    values = {
        "rollout_tokens_per_second": median(lambda step: step["tokens"] / step["rollout_seconds"]),
        "rollout_tflops": median(lambda step: step["flops"] / step["rollout_seconds"] / 1e12),
        "update_tokens_per_second": median(lambda step: step["trained_tokens"] / step["update_seconds"]),
        "update_tflops": median(lambda step: step["trained_flops"] / step["update_seconds"] / 1e12),
        "tokens": [step["tokens"] for step in measured.steps],
        "trained_tokens": [step["trained_tokens"] for step in measured.steps],
        "rollout_seconds": median(lambda step: step["rollout_seconds"]),
        "update_seconds": median(lambda step: step["update_seconds"]),
        "warm_up_seconds": warm["rollout_seconds"] + warm["update_seconds"],
        "memory_gb": {"loaded": measured.loaded, **module.parts.peaks},
        "first_loss": warm["train/loss"],
        "first_gradient_norm": warm["train/gradient_norm"],
    }
    for name in ("token_log_prob", "reward_token_log_prob"):
        values[f"mismatch_{name}"] = warm[f"train/mismatch/{name}"]
    return values
