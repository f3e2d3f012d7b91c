"""Image-text models, of which the text part is trained."""

import warnings
from collections import Counter
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)

from laser_lightning.policy.structure import decoder_of


def auto_class(config: PretrainedConfig) -> Any:
    """The class of transformers that loads a model with a causal decoder; None if transformers has none for it.

    Args:
        config: the model's.
    """
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if own_code or _is_causal(config):
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not config.is_encoder_decoder:
        return AutoModelForImageTextToText
    return None


def _is_causal(config: PretrainedConfig) -> bool:
    """Whether transformers loads a causal LM of a config, and would load it again once it is saved.

    Of Mllama it loads a text part whose own type no auto class knows.
    """
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    return type(config) in causal and causal[type(config)].config_class in causal


def freeze_other_parts(lm: PreTrainedModel) -> None:
    """Freeze whatever of an image-text model no text goes through, and say so.

    Args:
        lm: the model, with its adapters if it has any; other models are left as they are.
    """
    if lm.config.get_text_config() is lm.config:
        return
    parts = [part for part in (decoder_of(lm), lm.get_output_embeddings()) if part is not None]
    used = {id(parameter) for part in parts for parameter in part.parameters()}
    frozen: Counter[str] = Counter()
    for name, parameter in lm.named_parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)
            frozen[name.removeprefix("model.").split(".")[0]] += parameter.numel()
    if frozen:
        warnings.warn(
            f"{type(lm).__name__} is an image-text model, of which the text part is trained. The rest is frozen: "
            f"{', '.join(f'{part} ({count:,} parameters)' for part, count in frozen.items())}. Exports hold the whole "
            "model.",
            stacklevel=2,
        )


def say_text_alone(lm: PreTrainedModel, config: PretrainedConfig) -> None:
    """Say so where transformers loaded the text part of an image-text model, and nothing else.

    Args:
        lm: what was loaded.
        config: what its directory describes.
    """
    if config.get_text_config() is not config and lm.config.get_text_config() is lm.config:
        warnings.warn(
            f"The model has the type '{config.model_type}', of which transformers loads the text part as a "
            f"{type(lm).__name__}: that is what is trained and exported.",
            stacklevel=2,
        )
