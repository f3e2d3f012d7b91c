"""How vLLM is told what its head multiplies in."""

from collections.abc import Mapping
from typing import Any


def with_float32_head(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``vllm.LLM`` under which the head's product is in float32, unless they say otherwise themselves.

    Versions of vLLM that have this for pooling models alone warn, and go on with the dtype of the model.

    Args:
        options: other arguments; ``hf_overrides`` that are a function stay as they are.
    """
    overrides = options.get("hf_overrides") or {}
    if callable(overrides):
        return dict(options)
    return {**options, "hf_overrides": {"head_dtype": "float32", **overrides}}
