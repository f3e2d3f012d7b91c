"""Whether vLLM computes with the policy's weights, and as the policy does."""

from collections.abc import Sequence

import torch

from laser_lightning.errors import UserError
from laser_lightning.policy.logprobs import token_statistics
from laser_lightning.policy.model import Policy
from laser_lightning.rollout.engine import Sampling
from laser_lightning.rollout.vllm.responses import Response

LARGEST_GAP = 0.5
"""Mean difference (nats) of log-probs of a response beyond what rounding to 16 bits explains."""


class FirstResponse:
    """The first response behind each hand-over of weights, which is compared with a pass of the policy."""

    def __init__(self) -> None:
        self._is_due = True

    def weights_came(self) -> None:
        """Compare the next one."""
        self._is_due = True

    def compare(self, policy: Policy, responses: Sequence[Response], sampling: Sampling) -> None:
        """Compare, if that is due, there is a response, and the policy's weights are whole.

        Args:
            policy: the model.
            responses: of a round.
            sampling: how they were drawn.

        Raises:
            UserError: as ``compare`` does.
        """
        if self._is_due and responses and all(parameter.numel() for parameter in policy.lm.parameters()):
            first = responses[0]
            compare(policy, first.prompt, first.ids, first.log_probs, sampling.temperature or 1.0)
            self._is_due = False


@torch.no_grad()
def compare(
    policy: Policy, prompt: Sequence[int], response: Sequence[int], log_probs: Sequence[float], temperature: float
) -> None:
    """Run the policy over a response that vLLM drew.

    Args:
        policy: the model, with whole weights.
        prompt: token ids.
        response: token ids.
        log_probs: what vLLM says of each of these.
        temperature: the one that they were sampled at.

    Raises:
        UserError: if vLLM computes this model in another way, or its weights did not reach it.
    """
    ids = torch.tensor([[*prompt, *response]], device=policy.device)
    predicts = slice(len(prompt) - 1, -1)
    hidden = policy.hidden_states(ids)[0, predicts]
    ours = token_statistics(hidden, ids[0, 1:][predicts.start :], policy.head, temperature).log_probs
    theirs = torch.tensor(log_probs)
    gap = float((ours.cpu() - theirs).abs()[theirs.isfinite()].mean())
    if not gap < LARGEST_GAP:
        raise UserError(
            f"vLLM's log-probs differ from the policy's by {gap:.3g} in the mean over the first response, too much for "
            f"rounding: vLLM computes {type(policy.lm).__name__} in another way, or did not take all of its weights. "
            "Use the transformers engine for this model."
        )
