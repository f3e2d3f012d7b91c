"""The rows of ``laser-lightning check``: one for each thing that may be wanted of a model."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, PreTrainedModel

from laser_lightning.data.problem import Problem
from laser_lightning.distributed.toolchain import import_deepspeed
from laser_lightning.errors import UserError
from laser_lightning.modules.export import write_export
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.policy.loading import PolicySettings, recompute_activations
from laser_lightning.policy.lora import LoRASettings, merge_adapter
from laser_lightning.policy.model import Policy
from laser_lightning.policy.sharing import sharing_obstacle
from laser_lightning.records.batching import micro_batches
from laser_lightning.rollout import RolloutEngine, TransformersEngine, VLLMEngine
from laser_lightning.rollout.self_test import Finding, SelfTest, decode_rightly
from laser_lightning.rollout.self_test.probe import random_ids, random_rollouts, tokens_read, tolerance_nats

Outcome = Literal["works", "refused", "wrong"]


class Asked(NamedTuple):
    """What a run asks of its model.

    Attributes:
        policy: which model.
        engine: draws solutions.
        trainer: arguments of Lightning's trainer that say how a step is computed.
    """

    policy: PolicySettings
    engine: RolloutEngine
    trainer: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """What was tried, and what came of it.

    Attributes:
        name: what was tried.
        outcome: ``refused`` where it ends in an error, ``wrong`` where it gives other numbers than a plain pass.
        sentence: why, or how well.
        asked: whether the config asks for it.
    """

    name: str
    outcome: Outcome
    sentence: str
    asked: bool = False

    @property
    def works(self) -> bool:
        """Whether nothing is wrong."""
        return self.outcome == "works"


LOAD = "load"

Try = Callable[[], "Row | Finding"]


def check_model(asked: Asked) -> Iterator[Row]:
    """Try one thing after the other on small random batches, each on the model as it was loaded.

    Yields:
        Rows as they come. Of several processes the first one tries the model; all of them take the step.
    """
    # Processes that Lightning starts for the step begin here too.
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        loads = True
        for row in _of_the_model(asked):
            loads = loads and (row.works or row.name != LOAD)
            yield row
        if loads:
            yield from _of_adapters(asked)
    yield _row("optimizer step", True, lambda: _step(asked))


def _of_the_model(asked: Asked) -> Iterator[Row]:
    """What of a model works as it is."""
    settings, engine = asked.policy, asked.engine
    loaded: list[SupervisedModule] = []

    def load() -> Row:
        loaded.append(_load(_plain(settings)))
        lm = loaded[0].policy.lm
        size = sum(parameter.numel() for parameter in lm.parameters())
        return Row("", "works", f"{type(lm).__name__}, {size:,} parameters, {lm.dtype}".replace("torch.", ""))

    yield _row(LOAD, True, load)
    for module in loaded:
        policy = module.policy
        ours = isinstance(engine, TransformersEngine)
        compiles = isinstance(engine, TransformersEngine) and engine.compile
        eager = engine if ours and not compiles else TransformersEngine()
        test, compiled = SelfTest(policy, eager), SelfTest(policy, TransformersEngine(compile=True))
        rows: list[tuple[str, bool, Try]] = [
            ("same pass twice", True, partial(test.repetition, training=False)),
            ("causality", True, test.causality),
            ("head", True, test.head),
            ("training mode", True, partial(test.repetition, training=True)),
            ("decode", ours, partial(decode_rightly, test.decoding, eager)),
            ("refill", ours, partial(decode_rightly, test.refilling, eager)),
            ("pad", not policy.packs, partial(_update, test, packs=False)),
            ("pack", policy.packs, partial(_update, test, packs=True)),
            ("shared prompts", policy.shares_always, partial(_shared, test)),
            ("compile (engine)", compiles, compiled.decoding),
            ("gradient checkpointing", settings.gradient_checkpointing, partial(_recomputed, policy)),
            ("export", settings.lora is None, partial(_exported, module)),
            ("vLLM", isinstance(engine, VLLMEngine), partial(_known_to_vllm, policy.lm)),
        ]
        for row in rows:
            yield _row(*row)


def _of_adapters(asked: Asked) -> Iterator[Row]:
    """What of it works with LoRA."""
    settings, wants = asked.policy, asked.policy.lora is not None
    adapted: list[SupervisedModule] = []

    def adapt() -> Finding:
        module = _load(replace(_plain(settings), lora=settings.lora or LoRASettings()))
        _fill_adapters(module.policy.lm)
        adapted.append(module)
        return SelfTest(module.policy).update()

    yield _row("LoRA", wants, adapt)
    for module in adapted:
        yield _row("merged export", wants, partial(_exported, module))
        yield _row("adapter export", wants, partial(_exported, module, adapter=True))


def _plain(settings: PolicySettings) -> PolicySettings:
    """Without what has a row of its own, or is part of the step."""
    return replace(settings, lora=None, compile=False, gradient_checkpointing=False)


def _row(name: str, asked: bool, attempt: Try) -> Row:
    """Try something, and put what comes of it in a row; whatever it ends in is an answer."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            found = attempt()
        except UserError as error:
            return Row(name, "refused", " ".join(str(error).split()), asked)
        except Exception as error:
            return Row(name, "refused", " ".join(f"{type(error).__name__}: {error}".split()), asked)
    if isinstance(found, Row):
        return replace(found, name=name, asked=asked)
    if found.passed:
        notes = [str(one.message) for one in told if "without a cache" in str(one.message)]
        return Row(name, "works", " ".join([f"within {found.error_nats:.1g} nats", *notes]), asked)
    outcome: Outcome = "wrong" if found.error_nats < float("inf") else "refused"
    return Row(name, outcome, " ".join(found.sentence.split()), asked)


def _load(settings: PolicySettings) -> SupervisedModule:
    module = SupervisedModule(settings)
    module.configure_model()
    return module


def _update(test: SelfTest, packs: bool) -> Finding:
    before, test.policy.packs = test.policy.packs, packs
    try:
        return test.update()
    finally:
        test.policy.packs = before


def _shared(test: SelfTest) -> Finding:
    if (why := sharing_obstacle(test.policy.lm)) is not None:
        raise UserError(f"Each solution computes its prompt itself: {why}.")
    return test.sharing()


def _recomputed(policy: Policy) -> Row:
    """Gradients with and without activations that are kept."""
    kept = _gradient_norms(policy)
    recompute_activations(policy.lm)
    try:
        recomputed = _gradient_norms(policy)
    finally:
        # transformers 5.24 has another name for it.
        (getattr(policy.lm, "activation_checkpointing_disable", None) or policy.lm.gradient_checkpointing_disable)()
    apart = float((recomputed - kept).norm() / kept.norm())
    if apart <= tolerance_nats(policy):
        return Row("", "works", f"gradients within {apart:.1g} of their norm")
    return Row("", "wrong", f"Recomputed gradients differ by {apart:.3g} of their norm.")


def _gradient_norms(policy: Policy) -> torch.Tensor:
    """[parameters] norms of the gradients of the log-probs' sum, by parameter, which take no second copy of them."""
    policy.lm.train()
    rollouts = random_rollouts(policy)
    rows = torch.arange(len(rollouts), device=policy.device)
    (batch,) = micro_batches(rollouts, rows, 10_000, policy.pad_token_id)
    policy(batch, tokens_read(policy)).log_probs.sum().backward()
    norms = [p.grad.float().norm() for p in policy.lm.parameters() if p.grad is not None]
    policy.zero_grad()
    return torch.stack(norms)


@torch.no_grad()
def _fill_adapters(lm: PreTrainedModel) -> None:
    """Give adapters weights that change the model, so that losing one is seen."""
    generator = torch.Generator().manual_seed(0)
    for parameter in lm.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_((0.02 * noise).to(parameter))


@torch.no_grad()
def _exported(module: SupervisedModule, adapter: bool = False) -> Row:
    """Write an export, load it as anybody would, and compare its log-probs."""
    policy = module.policy
    policy.lm.eval()
    ids = torch.tensor(random_ids(policy, (8,)), device=policy.device)
    ours = policy.lm(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    policy.lm.train()
    dtype, trusts = policy.lm.dtype, module.policy_settings.trust_remote_code
    with TemporaryDirectory() as folder:
        directory = Path(folder) / "export"
        write_export(module, policy.lm.state_dict(), directory, 0, adapter)
        if adapter:
            lm = merge_adapter(_load(replace(module.policy_settings, lora=None)).policy.lm, directory)
        else:
            lm = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, trust_remote_code=trusts)
        theirs = lm.eval()(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    apart = float((ours - theirs).abs().where(ours != theirs, 0.0).mean(-1).max())
    if apart <= tolerance_nats(policy):
        return Row("", "works", f"loads again within {apart:.1g} nats")
    return Row(
        "", "wrong", f"The model that was written has other log-probs than the one in memory, by {apart:.3g} nats."
    )


def _known_to_vllm(lm: PreTrainedModel) -> Row:
    name = type(lm).__name__
    if find_spec("vllm") is None:
        return Row("", "refused", "vLLM is not installed here: pip install 'laser-lightning[vllm]'.")
    from vllm import ModelRegistry

    if name not in ModelRegistry.get_supported_archs():
        return Row("", "refused", f"vLLM has no {name}.")
    return Row("", "works", f"vLLM has {name}; a run compares its log-probs with the trainer's in every step")


class _OneStep(SupervisedModule):
    """An optimizer step behind the self-test of a run, with the run's engine."""

    def __init__(self, policy: PolicySettings, engine: RolloutEngine) -> None:
        super().__init__(policy)
        self.engine = engine

    @property
    def rollout_engine(self) -> RolloutEngine:
        """The run's."""
        return self.engine

    def setup(self, stage: str) -> None:
        """Set up what is no data."""
        super(SupervisedModule, self).setup(stage)

    def encode(self, problems: list[Problem]) -> tuple[list[list[int]], list[list[int]]]:
        """Random token ids in the place of texts."""
        ids = random_ids(self.policy, tuple(8 for _ in problems))
        return [row[:3] for row in ids], [row[3:] for row in ids]

    def log(self, *args: Any, **kwargs: Any) -> None:
        """There is nobody to read it."""

    log_dict = log


def _step(asked: Asked) -> Row:
    """A run's self-test and one optimizer step under its strategy and precision."""
    if asked.trainer["strategy"] != "auto":
        import_deepspeed()
    with _quiet():
        trainer = lightning.Trainer(
            **asked.trainer,
            max_steps=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        problems = [Problem("train", row, "", "", [1], "") for row in range(2)]
        one_batch: Any = DataLoader(problems, batch_size=2, collate_fn=list)  # type: ignore[arg-type]
        trainer.fit(_OneStep(asked.policy, asked.engine), one_batch)
    strategy = type(trainer.strategy).__name__
    processes = f"{trainer.world_size} process{'es' if trainer.world_size > 1 else ''}"
    return Row("", "works", f"{strategy}, precision {trainer.precision}, {processes}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's lines about devices."""
    import logging

    loggers = [logging.getLogger(f"lightning.pytorch.{name}") for name in ("utilities.rank_zero", "accelerators.cuda")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
