"""What vLLM's weights are stored in."""

import torch

from laser_lightning.policy.model import Policy


def decoding_dtype(asked: str | None, policy: Policy) -> str:
    """Choose the type of vLLM's weights, and say so where it is neither asked for nor the policy's.

    Under ``trainer.precision: bf16-mixed`` on one device or with DDP, weights are float32 and passes are computed in
    bfloat16. There vLLM computes in bfloat16 too: float32 would cost twice the memory, and be further from the trainer.

    Args:
        asked: ``engine.dtype``; None for that of the trainer's passes, which are under way.
        policy: whose weights are handed over.
    """
    own, device = policy.lm.dtype, policy.device.type
    passes = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else own
    if asked is None and passes != own:
        from lightning.pytorch.utilities import rank_zero_info  # the scorer decodes without the trainer

        rank_zero_info(
            f"vLLM's weights are {_name(passes)}, in which the trainer's passes are computed (trainer.precision), and "
            f"the policy's are {_name(own)}: set engine.dtype to {_name(own)} for those."
        )
    return asked or _name(passes)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
