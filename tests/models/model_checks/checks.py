"""One model type, from its tiny build to its exports: what is right, what is refused, and what is neither."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig, PretrainedConfig

from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.errors import UserError
from laser_lightning.modules.export import write_export
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.character_tokenizer import character_tokenizer
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import PolicySettings
from laser_lightning.records.batching import MicroBatch, Rollouts, micro_batches
from laser_lightning.records.sharing import PromptSharing
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings

from .builds import EOS, PAD, image_text_types, overrides, tiny_config
from .reference import REWARD, Solution, plain_model, read, solutions, with_adapter

TOLERANCE = 1e-4  # nats, of float32 sums in another order; a wrong place or mask costs 1e-2 and more
GROUP, LIMIT = 3, 8
ENDS = [EOS, *range(100, 190)]  # about a third of all tokens, so that responses have all lengths
# Unequal lengths, out of order, and with the ids of pad, <eos> and the reward token inside.
PROMPTS = [[21, 22, 0, 1], [40], [33, 3, 3, 57, 58, 0, 61], [1, 21], [22, 9, 8, 7, 6, 5, 4, 5, 6, 7, 8], [99, 98]]


_OF_A_TYPE = {
    r"\b(?!Auto)\w+(ForCausalLM|ForConditionalGeneration|LMHeadModel|ModelWithLMHead|Decoder|Model)\b": "MODEL",
    r"(?<![\d.])\d+\.\d+(e[-+]\d+)?(?!\.?\d)|\b\d+(e[-+]\d+)?(?= (nats|of the(ir| whole)))": "x",
}
"""What sentences say of one type alone: its classes, and how far numbers are apart."""


@dataclass(frozen=True)
class Outcome:
    """How a check ended.

    Attributes:
        kind: ``right``, ``refused`` (in a sentence, before the first step), ``wrong`` (silently), ``traceback``, or
            ``unbuilt``, where there is no tiny model of the type here.
        why: the sentence, or what is wrong.
    """

    kind: str
    why: str = ""


@dataclass
class Checks:
    """All checks of one type, each of which needs those in front of it.

    Attributes:
        model_type: as ``config.json`` names it.
        directory: where its files go.
        outcomes: by the check's name.
    """

    model_type: str
    directory: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def run(self) -> dict[str, Outcome]:
        """Run all that can be run."""
        try:
            self.base = save_tiny_model(self.model_type, self.directory / "base")
            self.plain = plain_model(self.base)
            check_context_matters(self.plain)
        except Exception as error:
            return {"build": Outcome("unbuilt", self.told(error))}
        with self.outcome("load"):
            self.module = trained(self.base)
            compare(self.module.last_rollout.rollouts, self.plain)  # drawn in a running batch that is refilled
        if not self.has("load"):
            return self.outcomes
        for name, most in (("engine", 1024), ("refill", GROUP + 1)):
            with self.outcome(name):
                compare(self.drawn(most), self.plain)
        with self.outcome("update"):
            compare_update(self.module, self.given(), self.plain)
        with self.outcome("gradient"):
            compare_gradients(self.module, self.given(), self.plain)
        with self.outcome("export"):
            compare_models(plain_model(self.exported(self.module, "export")), self.plain)
        with self.outcome("pack"):
            compare_update(trained(self.base, packing="always"), self.given(), self.plain)
        with self.outcome("shared prompts"):
            if self.module.policy.sharing is not None:  # not known, and not found, to be inexact
                compare_update(self.module, self.given(), self.plain, PromptSharing())
                compare_gradients(self.module, self.given(), self.plain, PromptSharing())
        with self.outcome("lora"):
            self.adapted = trained(self.base, lora=LoRASettings(rank=4, alpha=8.0))
            draw_adapters(self.adapted.policy.lm)
            self.adapted.check_exports(adapter=True)
            self.with_adapter = with_adapter(self.base, self.exported(self.adapted, "adapter", adapter=True))
            compare_update(self.adapted, self.given(), self.with_adapter)
        if hasattr(self, "with_adapter"):
            with self.outcome("lora gradient"):
                compare_gradients(self.adapted, self.given(), self.with_adapter)
        if hasattr(self, "adapted"):  # though its adapter cannot be exported
            with self.outcome("lora merged"):
                merged = plain_model(self.exported(self.adapted, "merged"))
                compare_update(self.adapted, self.given(), merged)
                assert distance(merged, self.plain) > 100 * TOLERANCE, "the adapters change nothing"
        return self.outcomes

    @contextmanager
    def outcome(self, name: str) -> Iterator[None]:
        """Around a check: how it ends becomes its outcome."""
        try:
            yield
        except UserError as error:
            self.outcomes[name] = Outcome("refused", self.told(error))
        except AssertionError as error:
            self.outcomes[name] = Outcome("wrong", self.told(error))
        except Exception as error:
            self.outcomes[name] = Outcome("traceback", f"{type(error).__name__}: {self.told(error)}")
        else:
            self.outcomes[name] = Outcome("right")

    def told(self, error: BaseException) -> str:
        """An error in one line, without what is this type's or this run's, so that those of many types are the same."""
        line = (
            " ".join(str(error).split())
            .replace(str(self.directory / "base"), "DIR")
            .replace(str(self.directory), "DIR")
        )
        line = line.replace(f"'{self.model_type}'", "'TYPE'").replace(transformers.__version__, "VERSION")
        for pattern, word in _OF_A_TYPE.items():
            line = re.sub(pattern, word, line)
        return line[:400]

    def has(self, name: str) -> bool:
        """Whether a check has left what others go on with."""
        return self.outcomes[name].kind in ("right", "wrong")

    def drawn(self, max_batch_size: int) -> Rollouts:
        """Solutions of prompts of unequal lengths, by the engine of the run."""
        engine, sampling = self.module.engine, Sampling(max_response_tokens=LIMIT)
        assert isinstance(engine, TransformersEngine)
        engine.max_batch_size = max_batch_size
        generator = torch.Generator().manual_seed(1)
        return engine.generate(self.module.policy, PROMPTS, GROUP, sampling, (REWARD,), generator)

    def given(self) -> Rollouts:
        """Ragged random solutions, which need no engine."""
        return random_rollouts()

    def exported(self, module: LaSeRModule, name: str, adapter: bool = False) -> Path:
        """An export of a policy, of either kind."""
        out = self.directory / name
        write_export(module, module.policy.lm.state_dict(), out, 1, adapter=adapter)
        return out


# ------------------------------------------------------------------- models


def save_tiny_model(model_type: str, path: Path) -> Path:
    """Write a random model with the character tokenizer, many of whose tokens end a response."""
    config = tiny_config(model_type, overrides().get(model_type))
    made_by = AutoModelForImageTextToText if model_type in image_text_types() else AutoModelForCausalLM
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in made_by.from_config(config).parameters())
    assert size < 9_000_000, f"a tiny model has {size:,} weights"
    torch.manual_seed(0)
    lm = made_by.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in lm.parameters():  # none is 0, nor the same for two experts, whose choice would be anybody's
            parameter += (0.1 if parameter.ndim == 1 else 0.02) * torch.randn_like(parameter)
    lm.generation_config = GenerationConfig(eos_token_id=ENDS, pad_token_id=PAD)
    lm.save_pretrained(path)
    character_tokenizer().save_pretrained(path)
    return path


@torch.no_grad()
def check_context_matters(lm: nn.Module) -> None:
    """A model that says the same whatever it has read would pass any check."""
    one, other = (read(lm, Solution([first, 31, 32], [41, 42, 43])) for first in (30, 90))
    assert float((one.log_probs - other.log_probs).abs().max()) > 10 * TOLERANCE, "a prompt changes nothing"


def trained(path: Path, **policy: Any) -> LaSeRModule:
    """A module behind a training step whose learning rate leaves the weights as they were."""
    module = LaSeRModule(
        PolicySettings(path=str(path), **policy),
        LastTokenSelfReward("<|reward|>", reference=-20.0),
        ExactVerifier("(.+)"),
        group_size=GROUP,
        sampling=Sampling(max_response_tokens=LIMIT),
        engine=TransformersEngine(max_batch_size=2 * GROUP, drop_fraction=0.0),
        optimizer=OptimizerSettings(learning_rate=1e-30, weight_decay=0.0, algorithm="sgd"),
        verification=VerificationSettings(workers=0),
        seed=0,
    )
    data = PromptDataModule(train=ArithmeticSource("train", 8, seed=0), prompts_per_step=4, seed=0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(path),
    )
    trainer.fit(module, data)
    return module


def draw_adapters(lm: nn.Module) -> None:
    """Give every adapter weights that matter."""
    generator = torch.Generator().manual_seed(5)
    for parameter in lm.parameters():
        if parameter.requires_grad:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)


# --------------------------------------------------------------- comparisons


def random_rollouts() -> Rollouts:
    """Ragged solutions of four prompts, about a half of them truncated."""
    generator = torch.Generator().manual_seed(2)
    prompts, total = 4, 4 * GROUP
    finished = torch.rand(total, generator=generator) < 0.5
    lengths = torch.randint(1, LIMIT + 1, (total,), generator=generator).where(finished, torch.tensor(LIMIT))
    response_ids = torch.randint(2, 100, (total, LIMIT), generator=generator)
    response_ids[torch.arange(total)[finished], lengths[finished] - 1] = EOS
    return Rollouts(
        prompt_ids=torch.randint(0, 100, (prompts, 7), generator=generator),
        prompt_lengths=torch.tensor([3, 7, 1, 5]),
        response_ids=response_ids,
        response_lengths=lengths,
        finished=finished,
        sampling_log_probs=torch.zeros(total, LIMIT),
        reward_token_log_probs=torch.full((total, 1), torch.nan),
    )


@torch.no_grad()
def compare(rollouts: Rollouts, plain: nn.Module) -> None:
    """What the engine wrote down is what the plain model says."""
    lengths, beyond_text = rollouts.response_lengths, image_tokens(plain.config)
    assert len(set(lengths.tolist())) > 1, "responses of unequal lengths are wanted"
    for row, solution in enumerate(solutions(rollouts)):
        if beyond_text & {*solution.response}:
            continue  # what follows an image's token without an image is nobody's business
        truth = read(plain, solution)
        near(rollouts.sampling_log_probs[row, : lengths[row]], truth.log_probs, "log-probs of the engine")
        ended = solution.response[-1] in ENDS
        assert bool(rollouts.finished[row]) == ended, "what has ended"
        if ended:
            near(rollouts.reward_token_log_probs[row, 0], truth.reward, "scores of the engine")


def image_tokens(config: PretrainedConfig) -> set[int]:
    """Ids that stand for parts of images and sounds."""
    names = ("_token_id", "_token_index")
    own = {v for k, v in vars(config).items() if k.endswith(names) and isinstance(v, int) and v > 2}
    parts = (part for part in vars(config).values() if isinstance(part, PretrainedConfig))
    return own.union(*map(image_tokens, parts))


def batches(module: LaSeRModule, rollouts: Rollouts, sharing: PromptSharing | None) -> list[MicroBatch]:
    """Micro-batches of more than one row, of which there are several."""
    rows = torch.arange(len(rollouts))
    return micro_batches(rollouts, rows, 60, module.policy.pad_token_id, module.policy.packs, sharing=sharing)


@torch.no_grad()
def compare_update(
    module: LaSeRModule, rollouts: Rollouts, plain: nn.Module, sharing: PromptSharing | None = None
) -> None:
    """What the update's pass says, in training mode, is what the plain model says of each sequence alone."""
    module.policy.lm.train()
    truths = [read(plain, solution) for solution in solutions(rollouts)]
    for batch in batches(module, rollouts, sharing):
        outputs = module.policy(batch, (REWARD,), 1.0)
        for place, row in enumerate(batch.rows.tolist()):
            length = int(batch.response_lengths[place])
            near(outputs.log_probs[place, :length], truths[row].log_probs, "log-probs of the update")
            near(outputs.reward_token_log_probs[place, 0], truths[row].reward, "scores of the update")


def compare_gradients(
    module: LaSeRModule, rollouts: Rollouts, plain: nn.Module, sharing: PromptSharing | None = None
) -> None:
    """The gradient of what is trained is that of autograd through the plain model, sequence by sequence."""
    weights = torch.randn(len(rollouts), LIMIT + 1, generator=torch.Generator().manual_seed(3))

    def loss(log_probs: Tensor, reward: Tensor, row: int) -> Tensor:
        return (weights[row, : len(log_probs)] * log_probs).sum() + weights[row, -1] * reward

    def of_batch(batch: MicroBatch) -> Tensor:
        outputs = module.policy(batch, (REWARD,), 1.0)
        lengths, rows = batch.response_lengths.tolist(), batch.rows.tolist()
        parts = zip(outputs.log_probs, lengths, outputs.reward_token_log_probs[:, 0], rows, strict=True)
        return torch.stack([loss(log_probs[:length], reward, row) for log_probs, length, reward, row in parts]).sum()

    ours = gradients(module.policy.lm, lambda: sum(map(of_batch, batches(module, rollouts, sharing))))
    alone = list(enumerate(solutions(rollouts)))
    theirs = gradients(plain, lambda: sum(loss(*read(plain, solution), row) for row, solution in alone))
    assert ours, "nothing has a gradient"
    names = matched(ours, theirs)
    total = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    for name, gradient in ours.items():
        error = float((gradient - theirs[names[name]]).norm() / total)
        assert error < 1e-4, f"the gradient of {name} is off by {error:.2g} of the whole gradient's norm"
    left_out = [name for name in theirs.keys() - set(names.values()) if theirs[name].norm() > 1e-6 * total]
    assert not left_out, f"no gradient reaches {sorted(left_out)[:3]}"


def gradients(lm: nn.Module, loss: Callable[[], Any]) -> dict[str, Tensor]:
    """Gradients by the parameters' names, of those that get one."""
    lm.zero_grad(set_to_none=True)
    loss().backward()
    return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


def matched(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, str]:
    """The plain model's name of each parameter: a text part has fewer words in front, peft's has more."""

    def core(name: str) -> str:
        words = name.removeprefix("base_model.model.").split(".")
        return ".".join(word for word in words if word not in ("language_model", "text_model", "default"))

    by_core = {core(name): name for name in theirs}
    missing = [name for name in ours if core(name) not in by_core]
    assert not missing, f"the plain model has no gradient for {missing[:3]}"
    return {name: by_core[core(name)] for name in ours}


@torch.no_grad()
def distance(one: nn.Module, other: nn.Module) -> float:
    """How far two models differ in what they say of the same solutions, in nats."""
    pairs = [(read(one, solution), read(other, solution)) for solution in solutions(random_rollouts())[::3]]
    return max(float((a.log_probs - b.log_probs).abs().max()) for a, b in pairs)


def compare_models(one: nn.Module, other: nn.Module) -> None:
    """Two models say the same."""
    error = distance(one, other)
    assert error <= TOLERANCE, f"the export differs by {error:.2g} nats"


def near(found: Tensor, truth: Tensor, what: str) -> None:
    """Two log-probs are the same."""
    error = float((found - truth).abs().max())
    assert error <= TOLERANCE, f"{what} differ by {error:.2g} nats"
