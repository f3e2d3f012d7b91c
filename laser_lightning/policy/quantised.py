"""Checkpoints of few bits a weight: which transformers may turn into floats, and which are refused unread."""

from transformers import AutoConfig, PretrainedConfig

from laser_lightning.errors import UserError

FLOATS_ON_LOADING = ("mxfp4", "fp8")
"""Ways to quantise whose weights transformers turns into floats where nothing on the machine computes with them, or
where the checkpoint's ``quantization_config`` has ``dequantize: true``."""


def refuse_quantised_checkpoint(name: str, path: str, trust_remote_code: bool) -> None:
    """Refuse weights that would stay quantised, before they, or a package that reads them, are asked for.

    Args:
        name: the model's path as the user gave it, for the error.
        path: directory or hub name.
        trust_remote_code: run a config's own code.

    Raises:
        UserError: if the checkpoint's config says that its weights are quantised in a way that is never undone.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception:  # whatever it is, loading says it
        return
    method = quantisation(config)
    if method is not None and method not in FLOATS_ON_LOADING:
        raise UserError(
            f"policy.path '{name}' is a quantised model ({method}), whose weights cannot be trained, and beside which "
            "adapters cannot be merged: take the model it was quantised from."
        )


def quantisation(config: PretrainedConfig) -> str | None:
    """How a model's weights are quantised; None where they are floats."""
    quantised = getattr(config, "quantization_config", None)
    if quantised is None:
        return None
    fields = quantised if isinstance(quantised, dict) else quantised.to_dict()
    method = fields.get("quant_method", "unknown method")
    return str(getattr(method, "value", method))


def remedy(method: str) -> str:
    """What to do about weights that stayed quantised.

    Args:
        method: how they are quantised.
    """
    plain = "take the model it was quantised from"
    if method not in FLOATS_ON_LOADING:
        return plain
    return f"{plain}, or set dequantize to true in the quantization_config of its config.json"
