"""The model card of an export: its ``README.md``, with what it is, how it was trained, and how to score with it."""

import csv
import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from laser_lightning.arguments import FORM
from laser_lightning.modules.exported_head import exported_head
from laser_lightning.modules.training import TrainingModule
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.policy.image_text import auto_class
from laser_lightning.policy.model import EMBEDDED, written_eos

CARD_FILE = "README.md"


def write_card(
    module: TrainingModule,
    directory: Path,
    step: int,
    adapter: bool = False,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write the card of an export into its directory; one that is there is replaced as a whole.

    Args:
        module: as in ``model_card``, as the others.
        directory: the export.
        step: see there.
        adapter: see there.
        metrics: see there.
    """
    partial = directory / f".{CARD_FILE}.partial"
    partial.write_text(model_card(module, step, adapter, metrics), encoding="utf-8")
    partial.replace(directory / CARD_FILE)


def metrics_of_run(checkpoint: Path, step: int) -> dict[str, float]:
    """The evaluation of a checkpoint's weights in the ``metrics.csv`` of the run that it lies in; empty without one.

    Args:
        checkpoint: file or directory in ``<run>/checkpoints``, or in the run's directory.
        step: optimizer steps behind its weights.
    """
    directory = checkpoint.absolute().parent
    for path in (directory.parent / "metrics.csv", directory / "metrics.csv"):
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if row.get("step") and float(row["step"]) == step]
            return evaluation_values({name: float(text) for row in rows for name, text in row.items() if text})
    return {}


def evaluation_values(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of all metrics those of the validation sets that are defined, by name."""
    return {name: metrics[name] for name in sorted(metrics) if name.startswith("val/") and math.isfinite(metrics[name])}


def model_card(
    module: TrainingModule, step: int, adapter: bool = False, metrics: Mapping[str, float] | None = None
) -> str:
    """The card's text, in the form of Hugging Face's model cards.

    Args:
        module: the trained module.
        step: optimizer steps behind the weights.
        adapter: whether the weights are a LoRA adapter alone.
        metrics: values of the evaluation of these weights by name; None where there was none.
    """
    name = type(module).__name__
    base = module.policy_settings.path
    started = "random weights of the architecture of" if module.policy_settings.random_init else "the base model"
    sections = [
        _front_matter(base, adapter),
        f"# A model trained with laser-lightning\n\n`{name}` trained it for {step:,} optimizer steps from {started} "
        f"`{base}`.",
    ]
    if (head := exported_head(module)) is not None:
        settings = SelfRewardSettings.of(head, step)
        own, end = module.tokenizer.eos_token_id, written_eos(module.policy.eos_token_ids, module.tokenizer)
        base_path = _loadable(str(module.policy.lm.name_or_path))
        eos = "tokenizer.eos_token_id" if end == own else str(end)
        sections += [
            _self_reward(settings),
            _use(settings, base_path, adapter, eos, auto_class(module.policy.lm.config).__name__),
        ]
    if metrics:
        sections.append(_evaluation(metrics))
    sections.append(_settings(module))
    return "\n\n".join(sections) + "\n"


def _front_matter(base: str, adapter: bool) -> str:
    values: dict[str, Any] = {"library_name": "peft" if adapter else "transformers", "tags": ["laser", "grpo"]}
    if base != EMBEDDED and not Path(base).expanduser().is_dir():  # a directory is no name on the hub
        values["base_model"] = base
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _loadable(path: str) -> str:
    """A name on the hub as it is, and a directory from wherever the card is read."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def _self_reward(settings: SelfRewardSettings) -> str:
    rows = [f"token: `{settings.token}`, id {settings.token_id}"]
    if settings.no_token is not None:
        what = "the probability of a token behind the response's `<eos>`"
        rows.append(f"token that says incorrect: `{settings.no_token}`")
    elif settings.low_token is not None:
        what = "sigmoid(log pi(z_high) - log pi(z_low)), of two tokens read behind the response's `<eos>`"
        rows = [f"z_high: `{settings.token}`, id {settings.token_id}", f"z_low: `{settings.low_token}`"]
    else:
        what = "beta * (log pi(z_c) - c_ref), where z_c is the token below, read behind the response's `<eos>`"
        constant = settings.reference_constant
        reference = "log pi(z_c) under the base model, of each solution" if constant is None else str(constant)
        rows += [f"beta: {settings.beta}", f"c_ref: {reference}"]
    return (
        f"## Self-reward\n\nThe model grades its own solutions: the score is {what}.\n"
        f'Above {settings.threshold} it says "correct". The same numbers are in `self_reward.json`.\n\n'
        + "\n".join(f"- {row}" for row in rows)
    )


def _use(settings: SelfRewardSettings, base: str, adapter: bool, eos: str, loader: str) -> str:
    def loaded(place: str) -> str:
        return f'{loader}.from_pretrained("{place}", dtype=torch.float32)'

    def log_probs(model: str) -> str:
        return f"{model}(ids).logits[0, -1].float().log_softmax(-1)"

    def log_prob(model: str) -> str:
        return f"{log_probs(model)}[{settings.token_id}]"

    imports = f"from transformers import {loader}, AutoTokenizer"
    models = f"model = {loaded('.')}"
    if adapter:  # not by peft's AutoPeftModelForCausalLM, which cuts the vocabulary to the tokenizer's
        imports = f"from peft import PeftModel\n{imports}"
        models = f'model = PeftModel.from_pretrained({loaded(base)}, ".")'
    option, score = "", f"{settings.beta} * (log_prob - ({settings.reference_constant}))"
    if settings.no_token is not None:
        score = "log_prob.exp()"
    elif settings.low_token is not None:
        low = f"log_probs[tokenizer.convert_tokens_to_ids({settings.low_token!r})]"
        score = f"(log_prob - {low}).sigmoid()"
    elif settings.needs_reference:
        models += f"\nreference = {loaded(base)}"
        option, score = f', reference="{base}"', f"{settings.beta} * (log_prob - {log_prob('reference')})"
    return f"""## How to score a solution

With laser-lightning, which also solves problems and votes (`generate`, `vote`):

```python
from laser_lightning import LaSeRScorer

scorer = LaSeRScorer.from_pretrained("."{option})  # this directory
(solution,) = scorer.score([prompt], [response])
print(solution.self_reward, solution.verdict)
```

With plain transformers:

```python
import torch
{imports}

tokenizer = AutoTokenizer.from_pretrained(".")
{models}

# The prompt is the whole text, in the form of training. One of a chat template has its special tokens already:
# add_special_tokens=False.
prompt_ids = tokenizer(prompt).input_ids
response_ids = tokenizer(response, add_special_tokens=False).input_ids  # better: the ids that the model wrote
ids = torch.tensor([prompt_ids + response_ids + [{eos}]])
with torch.no_grad():
    log_probs = {log_probs("model")}
    log_prob = log_probs[{settings.token_id}]
    self_reward = {score}
```

A response that was cut at its length limit has no `<eos>`, and scores 0."""


def _evaluation(metrics: Mapping[str, float]) -> str:
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in metrics.items())
    return f"## Evaluation\n\nThe run's own evaluation of these weights.\n\n| metric | value |\n|---|---|\n{rows}"


def _settings(module: TrainingModule) -> str:
    text = yaml.safe_dump(_as_config(module.plain_arguments), sort_keys=False, allow_unicode=True)
    own = "".join(f"# {name}: {what}\n" for name, what in module.other_arguments.items())
    return f"## Settings\n\nThe arguments of `{type(module).__name__}` in the run.\n\n```yaml\n{text}{own}```"


def _as_config(value: Any) -> Any:
    """A plain form as configs have it, where settings (dataclasses) need no class path."""
    if isinstance(value, (list, tuple)):
        return [_as_config(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == FORM:
        module, _, name = value["class_path"].rpartition(".")
        if is_dataclass(getattr(import_module(module), name)):
            return _as_config(value["init_args"])
    return {key: _as_config(item) for key, item in value.items()}
