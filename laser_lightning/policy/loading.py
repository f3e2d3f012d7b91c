"""A policy's weights and tokenizer, loaded from a path as its settings say."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from laser_lightning.errors import UserError
from laser_lightning.policy.gguf import file_options, unmark, weight_options
from laser_lightning.policy.image_text import auto_class, say_text_alone
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.quantised import quantisation, remedy

EMBEDDED = "embedded"

_NAMES_SHOWN = 6


@dataclass
class PolicySettings:
    """Which model is trained, and how it is loaded.

    Args:
        path: directory or hub name of a transformers causal LM, or of an image-text model, whose text part is trained
            while the rest is frozen; ``embedded`` is the small arithmetic model that ships with this package.
        random_init: start from random weights of the same architecture (the supervised stage from nothing).
        config_overrides: fields of the model's config to replace, e.g. ``{num_hidden_layers: 2}``; only with
            ``random_init``, since pretrained weights have their shapes.
        dtype: type of the weights.
        head_dtype: what the head multiplies in, in the update, in engines and in passes: ``float32`` also where the
            weights, or the passes under ``trainer.precision``, are in half precision, since log pi(z) lies where
            bfloat16 is too coarse; ``model`` as the model itself does, which takes less time on CUDA under
            ``bf16-mixed``.
        attention: attention implementation of transformers (``sdpa``, ``eager``, ``flash_attention_2``, ...);
            by default transformers chooses.
        packing: join the sequences of a forward pass of the update to one row, without padding: ``auto`` does so with
            flash attention, which then computes no more than each sequence needs; ``always`` with any
            implementation, whose masks then cover the square of the row's length; ``never`` pads.
        gradient_checkpointing: recompute activations in the backward pass, for less memory and more time.
        compile: run the forward and backward passes of the update through ``torch.compile``; the first ones then take a
            minute or more. Rollouts are not compiled. Tried on CPU only, and refused under ZeRO-3.
        liger: replace norms, rotary embeddings and MLPs by Liger kernels (needs CUDA, and ``pip install
            laser-lightning[liger]``).
        trust_remote_code: run model code that comes with the weights.
        lora: train adapters beside the frozen weights (needs the extra ``lora``); null trains all weights.
        shared_prompts: compute a prompt once for several of its solutions, in the update and in passes without
            gradient: ``auto`` does so where it is exact and saves work, ``always`` wherever solutions have the same
            prompt, and refuses models for which it is not exact; ``never`` computes it for each solution.
        gguf_file: name of a GGUF file in ``path``, of which config, tokenizer and weights are read; its weights become
            floats of type ``dtype``, and exports have the usual form (needs the extra ``gguf``). null for a directory
            in that form.
    """

    path: str
    random_init: bool = False
    config_overrides: dict[str, Any] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    head_dtype: Literal["float32", "model"] = "float32"
    attention: str | None = None
    packing: Literal["auto", "always", "never"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    liger: bool = False
    trust_remote_code: bool = False
    lora: LoRASettings | None = None
    shared_prompts: Literal["auto", "always", "never"] = "auto"
    gguf_file: str | None = None


def model_path(path: str) -> str:
    """The directory or hub name behind ``path`` (resolves ``embedded``)."""
    if path == EMBEDDED:
        return str(files("laser_lightning") / "assets" / "arithmetic")
    return str(Path(path).expanduser()) if path.startswith("~") else path


def load_tokenizer(settings: PolicySettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer; one without a pad token pads with ``<eos>``, since masks never look at token values."""
    path = model_path(settings.path)
    _refuse_missing_directory(settings.path, path)
    options = {"trust_remote_code": settings.trust_remote_code, **file_options(settings.gguf_file)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except Exception as error:  # of whatever is wrong in its files
        raise UserError(f"The tokenizer of policy.path '{settings.path}' cannot be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer of '{settings.path}' has no <eos> token, so no response could ever finish.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _refuse_missing_directory(name: str, path: str) -> None:
    looks_local = path.startswith((".", "/")) or path.count("/") > 1
    if looks_local and not Path(path).is_dir():
        raise UserError(f"policy.path is '{name}', and there is no such directory.")


def load_weights(settings: PolicySettings) -> PreTrainedModel:
    """The causal LM, with pretrained or random weights, and without dropout: the policy that is trained is to be the
    one that was sampled from."""
    # cuDNN's attention, which torch prefers on Hopper, makes a plan for each new shape, and here nearly all are new:
    # every token of a rollout adds a column, and every micro-batch has a length of its own.
    torch.backends.cuda.enable_cudnn_sdp(False)
    path, dtype = model_path(settings.path), getattr(torch, settings.dtype)
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.attention is not None:
        options["attn_implementation"] = settings.attention
    with _told(settings.path):
        config = AutoConfig.from_pretrained(
            path, trust_remote_code=settings.trust_remote_code, **file_options(settings.gguf_file)
        )
    model_class = _class_of(settings.path, config)
    _switch_off_dropout(config)
    if not settings.random_init:
        options |= weight_options(settings.gguf_file)
        with _told(settings.path):
            loaded: Any = model_class.from_pretrained(
                path, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        lm, found = loaded
        if settings.gguf_file is not None:
            unmark(lm)
        _refuse_random_weights(settings.path, found)
        say_text_alone(lm, config)
        return lm
    for key, value in settings.config_overrides.items():
        if not hasattr(config, key):
            raise UserError(f"policy.config_overrides has '{key}', which {type(config).__name__} does not know.")
        setattr(config, key, value)
    if "num_hidden_layers" in settings.config_overrides and hasattr(config, "layer_types"):
        config.layer_types = (list(config.layer_types) * config.num_hidden_layers)[: config.num_hidden_layers]
    with _told(settings.path):
        return model_class.from_config(config, dtype=dtype, **options)


def _switch_off_dropout(config: PretrainedConfig) -> None:
    """Set every rate of dropout to 0, those of the configs within (``text_config``, ...) too."""
    for key, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            _switch_off_dropout(value)
        elif isinstance(value, float) and "drop" in key:
            setattr(config, key, 0.0)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Around what transformers makes of a model's files, which may have any mistake, and end in any exception.

    Args:
        name: the model's path, for the error.
    """
    try:
        yield
    except Exception as error:
        is_sentence = isinstance(error, OSError | ValueError | ImportError | RuntimeError)
        what = str(error) if is_sentence else f"{type(error).__name__}: {error}"
        raise UserError(f"The model of policy.path '{name}' cannot be loaded: {what}") from error


def _class_of(name: str, config: PretrainedConfig) -> Any:
    """The class that loads a model; refuses one that transformers has no causal decoder of.

    Args:
        name: the model's path, for the error.
        config: the model's.
    """
    found = auto_class(config)
    if found is None:
        kind = "an image-text model" if hasattr(config, "text_config") else "no causal language model"
        raise UserError(
            f"The model of policy.path '{name}' has the type '{config.model_type}', which is {kind}: transformers "
            f"{transformers.__version__} has no causal decoder of it that could be trained. Give a causal language "
            "model."
        )
    return found


def _refuse_random_weights(name: str, found: dict[str, Any]) -> None:
    """Refuse a checkpoint for which transformers left weights as they are initialised.

    Args:
        name: the model's path, for the error.
        found: transformers' account of the loading, in which tied weights and those that a model leaves out on purpose
            are no missing ones.
    """
    # Old code that comes with weights may count these among them; they are computed.
    missing = [key for key in found["missing_keys"] if not key.endswith(("inv_freq", "position_ids", "masked_bias"))]
    if missing:
        raise UserError(
            f"The checkpoint of policy.path '{name}' lacks {_counted(missing)} of its model, which would start from "
            "random values: give a whole one."
        )
    if other := [f"{key} ({list(has)} for {list(wants)})" for key, has, wants in found["mismatched_keys"]]:
        raise UserError(
            f"The checkpoint of policy.path '{name}' has {_counted(other)} of another shape than its config.json says: "
            "one of the two is not this model's."
        )


def _counted(names: list[str]) -> str:
    """How many tensors, and the first names."""
    shown = ", ".join(sorted(names)[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({shown}{more})"


def refuse_quantised(lm: PreTrainedModel, name: str) -> None:
    """Refuse to train weights that are kept in few bits: only what is left in floats would learn.

    Args:
        lm: the model; one whose weights became floats on loading is welcome.
        name: its path, for the error.
    """
    method = quantisation(lm.config)
    if method is not None:
        raise UserError(
            f"policy.path '{name}' is a quantised model ({method}), whose weights cannot be trained: {remedy(method)}."
        )


def mend_generation_config(lm: PreTrainedModel, name: str) -> None:
    """Let exports be written: transformers saves no generation config with settings that contradict each other.

    Such settings, as a temperature beside ``do_sample: false``, are without effect, and are taken out with a warning.

    Args:
        lm: the model; its generation config is changed in place.
        name: its path, for the error.

    Raises:
        UserError: if the generation config cannot be saved without them either.
    """
    config = lm.generation_config
    try:
        config.validate(strict=True)
    except ValueError as error:
        without_effect = re.findall(r"^- `(\w+)`", str(error), re.MULTILINE)
        for key in without_effect:
            setattr(config, key, None)
        try:
            config.validate(strict=True)
        except ValueError as still:
            raise UserError(
                f"The generation_config.json of policy.path '{name}' cannot be saved, so no export could be written: "
                f"{still}"
            ) from error
        warnings.warn(
            f"The generation_config.json of policy.path '{name}' sets {', '.join(without_effect)}, which "
            f"{'has' if len(without_effect) == 1 else 'have'} no effect beside its other settings, and could not be "
            "saved again: exports are written without.",
            stacklevel=2,
        )


def recompute_activations(lm: PreTrainedModel) -> None:
    """Let the backward pass recompute activations.

    Raises:
        UserError: if transformers does not do so for this model.
    """
    if not lm.supports_gradient_checkpointing:
        raise UserError(
            f"policy.gradient_checkpointing is set, and transformers has none for {type(lm).__name__}: set it to "
            "false, and lower update.micro_batch_tokens if memory is short."
        )
    # transformers 5.24 has another name for it, which it had not before.
    enable = getattr(lm, "activation_checkpointing_enable", None) or lm.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def apply_liger(lm: PreTrainedModel) -> None:
    if not torch.cuda.is_available():
        raise UserError("policy.liger needs a CUDA device, and there is none: set policy.liger to false.")
    try:
        from liger_kernel.transformers.monkey_patch import (
            MODEL_TYPE_TO_APPLY_LIGER_FN,
            _apply_liger_kernel_to_instance,
        )
    except ImportError as error:
        raise UserError(f"policy.liger needs Liger kernels ({error}): pip install 'laser-lightning[liger]'.") from error
    if lm.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UserError(f"There are no Liger kernels for {type(lm).__name__}: set policy.liger to false.")
    # The head and its loss are ours.
    _apply_liger_kernel_to_instance(model=lm, cross_entropy=False, fused_linear_cross_entropy=False)


def eos_token_ids(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that end a response, sorted: the generation config's set, else the tokenizer's one.

    Args:
        lm: the model, with its generation config.
        tokenizer: the policy's.

    Raises:
        UserError: if there is none, or the model has no row for one.
    """
    return ending_token_ids(lm.generation_config, lm.config.get_text_config().vocab_size, tokenizer)


def ending_token_ids(
    generation_config: GenerationConfig | None, vocabulary_size: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """The same of a model that is not loaded.

    Args:
        generation_config: the model's.
        vocabulary_size: token ids that the model has rows for.
        tokenizer: the model's.

    Raises:
        UserError: if there is none, or the model has no row for one.
    """
    ids, source = getattr(generation_config, "eos_token_id", None), "generation config"
    if ids is None:
        ids, source = tokenizer.eos_token_id, "tokenizer"
    if not isinstance(ids, int) and not ids:
        raise UserError("The model's generation config has an empty eos_token_id, so no response could ever finish.")
    ends = tuple(sorted({ids} if isinstance(ids, int) else set(ids)))
    if beyond := [end for end in ends if not 0 <= end < vocabulary_size]:
        raise UserError(
            f"The model's {source} has the eos_token_id {beyond[0]}, and the model's vocabulary ends at "
            f"{vocabulary_size - 1}: no response could end there. Give its {source} the id of the model's <eos>."
        )
    return ends


def written_eos(eos_token_ids: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that is put behind a given text: the tokenizer's where it ends responses, else the first that does.

    Args:
        eos_token_ids: those that end responses, sorted.
        tokenizer: the policy's.
    """
    return tokenizer.eos_token_id if tokenizer.eos_token_id in eos_token_ids else eos_token_ids[0]
