"""Models in GGUF files, whose weights become floats when they are loaded."""

from importlib.util import find_spec
from typing import Any

import transformers
from transformers import PreTrainedModel

from laser_lightning.errors import UserError

PACKAGES = ("gguf", "accelerate")
"""What transformers reads such files with."""


def file_options(gguf_file: str | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that name a GGUF file; none without one.

    Args:
        gguf_file: its name within the model's directory.

    Raises:
        UserError: if there is nothing to read it with.
    """
    if gguf_file is None:
        return {}
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"policy.gguf_file is '{gguf_file}', and to read it the package {missing[0]} is needed: "
            'pip install "laser-lightning[gguf]".'
        )
    return {"gguf_file": gguf_file}


def weight_options(gguf_file: str | None) -> dict[str, Any]:
    """The same for weights, of which none may stay in few bits.

    Args:
        gguf_file: as above.
    """
    options = file_options(gguf_file)
    # Before it had this class, transformers turned all weights into floats.
    if options and (config := getattr(transformers, "GgufConfig", None)) is not None:
        options["quantization_config"] = config(dequantize=True)
    return options


def unmark(lm: PreTrainedModel) -> None:
    """Let a model whose weights are floats by now be saved: transformers saves none that is marked as quantised.

    Args:
        lm: of a GGUF file; changed in place.
    """
    vars(lm).pop("hf_quantizer", None)
    for config in (lm.config, lm.config.get_text_config()):
        vars(config).pop("quantization_config", None)
        vars(config).pop("_pre_quantization_dtype", None)
