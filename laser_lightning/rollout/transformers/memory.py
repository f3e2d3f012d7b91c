"""How many tokens a cache of keys and values may hold where no setting says so."""

import os
from pathlib import Path

import torch

from laser_lightning.policy.model import Policy

CACHE_SHARE = 1 / 3
"""Of the machine's memory; weights, gradients and the optimizer's moments have the others."""

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def default_cached_tokens(policy: Policy) -> int:
    """Tokens whose keys and values fit into a third of the memory that this process may call its own.

    All of the memory is counted, and not what happens to be free: which responses are decoded together, and so what is
    drawn, must not depend on what else a machine does, nor on whether a run begins or is resumed.

    Args:
        policy: the model, on its device.
    """
    return max(1, int(CACHE_SHARE * memory_bytes(policy.device)) // token_bytes(policy))


def memory_bytes(device: torch.device) -> int:
    """Memory of a CUDA device; else the host's, or a container's if it has less, shared among all processes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _CONTAINER_LIMIT.is_file() and (limit := _CONTAINER_LIMIT.read_text().strip()).isdigit():
        total = min(total, int(limit))
    is_shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    return total // (torch.distributed.get_world_size() if is_shared else 1)


def token_bytes(policy: Policy) -> int:
    """Bytes of a token's keys and values in all layers, each with all tokens, as its config tells."""
    config = policy.lm.config.get_text_config()
    query_heads = getattr(config, "num_attention_heads", None) or 1
    heads = getattr(config, "num_key_value_heads", None) or query_heads
    size = getattr(config, "head_dim", None) or policy.hidden_size // query_heads
    return int(2 * config.num_hidden_layers * heads * size * policy.lm.dtype.itemsize)
