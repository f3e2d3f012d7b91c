"""A response over the route that every ``vllm serve`` has open, where ``VLLMClient.generate`` needs one more option."""

from collections.abc import Mapping
from typing import Any

from laser_lightning.rollout.server.client import Completion, TokenRequest, VLLMClient, finite_or_nan


def complete(client: VLLMClient, request: TokenRequest, logit_bias: Mapping[int, float] | None = None) -> Completion:
    """Draw a response by ``/v1/completions``, token ids in and out. Penalties of the server's defaults are left out.

    Args:
        client: of the server.
        request: what is to be drawn, without ``read_token_ids``, for which there is ``VLLMClient.read_next``.
        logit_bias: added to the logits of these tokens.
    """
    body: dict[str, Any] = {
        "prompt": list(request.prompt),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": request.seed,
        "stop_token_ids": list(request.stop_token_ids),
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    body |= {} if client.model is None else {"model": client.model}
    body |= {} if request.cache_salt is None else {"cache_salt": request.cache_salt}
    body |= {"vllm_xargs": dict(request.extra_args)} if request.extra_args else {}
    body |= {"logit_bias": {str(token): bias for token, bias in logit_bias.items()}} if logit_bias else {}
    choice = client.post("/v1/completions", body)["choices"][0]
    is_stopped = client.is_stopped(choice)
    return Completion(
        ids=choice["token_ids"],
        log_probs=[finite_or_nan(value) for value in choice["logprobs"]["token_logprobs"]],
        read=[[] for _ in choice["token_ids"]],
        is_stopped=is_stopped,
        weight_versions=[],
    )
