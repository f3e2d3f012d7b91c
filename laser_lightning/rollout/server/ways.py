"""The two ways in which a server draws a response with its score; the numbers are the same."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laser_lightning.errors import UserError
from laser_lightning.rollout.engine import Sampling
from laser_lightning.rollout.server.client import Completion, ServerFailed, TokenRequest, VLLMClient
from laser_lightning.rollout.vllm.responses import SETTINGS, Response

PROCESSOR = "laser_lightning.rollout.vllm.score:ScoreProcessor"
"""What ``vllm serve --logits-processors`` is given for it."""


class OtherWeights(ServerFailed):
    """The server drew with other weights than those that it was given last."""


@dataclass(frozen=True)
class Wanted:
    """What the responses of a round have in common.

    Attributes:
        sampling: how they are drawn.
        reward_token_ids: ids of the K tokens to read behind each ``<eos>``.
        eos_token_ids: a response ends behind any of these.
        version: label of the weights to draw with.
    """

    sampling: Sampling
    reward_token_ids: Sequence[int]
    eos_token_ids: Sequence[int]
    version: str


Draw = Callable[[VLLMClient, Response, Wanted], None]
"""Runs a response to its end and reads its score. What is in it before is drawn anew."""


def draw_with_processor(client: VLLMClient, response: Response, wanted: Wanted) -> None:
    """Draw on a server that runs the score processor: the score is the log-prob of one more token.

    As in ``VLLMEngine``: a z_c that the model wrote itself stops vLLM too, and such a response goes on in another
    request, in which its beginning is part of the prompt.
    """
    _begin(response)
    limit, (reward_token_id, *further) = wanted.sampling.max_response_tokens, wanted.reward_token_ids
    asked = {SETTINGS: [reward_token_id, list(wanted.eos_token_ids)]}
    while response.score is None and len(response.ids) < limit:
        # one more for z_c behind an <eos> in the last place
        done = _ask(client, wanted, _next_part(response, wanted, limit + 1, [reward_token_id], asked))
        ids, log_probs = list(done.ids), list(done.log_probs)
        if len(ids) > 1 and ids[-2] in wanted.eos_token_ids:
            ids.pop()
            response.score = log_probs.pop()
        room = limit - len(response.ids)
        response.ids += ids[:room]
        response.log_probs += log_probs[:room]
    if response.score is not None:
        for token_id in further:
            behind = TokenRequest(
                response.prompt + response.ids,
                max_tokens=1,
                seed=0,
                extra_args={SETTINGS: [token_id, None]},
                cache_salt=wanted.version,
            )
            response.further.append(_ask(client, wanted, behind).log_probs[0])


def draw_in_two_requests(client: VLLMClient, response: Response, wanted: Wanted) -> None:
    """Draw on a server as it is: the score is read by a second request, whose sequence lies in the prefix cache."""
    _begin(response)
    limit, reward_token_ids = wanted.sampling.max_response_tokens, wanted.reward_token_ids
    # It stops at a z_c that the model wrote itself too, and goes on with another seed, since the other way has to: so
    # both draw the same tokens.
    stops = [*wanted.eos_token_ids, reward_token_ids[0]]
    while response.score is None and len(response.ids) < limit:
        done = _ask(client, wanted, _next_part(response, wanted, limit, stops))
        response.ids += done.ids
        response.log_probs += done.log_probs
        if response.ids[-1] in wanted.eos_token_ids:
            behind = TokenRequest(
                response.prompt + response.ids,
                max_tokens=1,
                seed=0,
                read_token_ids=reward_token_ids,
                cache_salt=wanted.version,
            )
            response.score, *response.further = _ask(client, wanted, behind).read[0]


def way_of(url: str, settings: Mapping[str, Any], sampling: Sampling) -> Draw:
    """Choose how a server draws, by how it was started.

    Args:
        url: of the server.
        settings: its own (``VLLMClient.settings``).
        sampling: how responses are drawn.

    Raises:
        UserError: if it would return other log-probs than those of the sampled tokens at the sampling temperature,
            before top-p, top-k and min-p.
    """
    model, mode = settings["model_config"], settings["model_config"]["logprobs_mode"]
    if any("ScoreProcessor" in str(name) for name in model.get("logits_processors") or ()):
        if mode != "processed_logits" or settings["scheduler_config"].get("async_scheduling"):
            raise UserError(
                f"{url} runs the score processor, which also needs --logprobs-mode processed_logits and "
                "--no-async-scheduling: start vllm serve with them."
            )
        return draw_with_processor
    whole = sampling.top_p == 1 and not sampling.top_k and not sampling.min_p
    if (mode == "processed_logprobs" and whole) or (mode == "raw_logprobs" and sampling.temperature in (0, 1)):
        return draw_in_two_requests
    raise UserError(
        f"{url} returns log-probs of {mode}, which under temperature {sampling.temperature:g}, top_p "
        f"{sampling.top_p:g}, top_k {sampling.top_k} and min_p {sampling.min_p:g} are not those that training needs. "
        "Start vllm serve with --logprobs-mode processed_logprobs (right for any temperature), or for top-p, top-k and "
        f"min-p too with --logits-processors {PROCESSOR} --logprobs-mode processed_logits --no-async-scheduling."
    )


def _begin(response: Response) -> None:
    response.ids, response.log_probs, response.score, response.further = [], [], None, []


def _next_part(
    response: Response, wanted: Wanted, limit: int, stops: Sequence[int], extra_args: Mapping[str, Any] | None = None
) -> TokenRequest:
    sampling = wanted.sampling
    return TokenRequest(
        prompt=response.prompt + response.ids,
        max_tokens=limit - len(response.ids),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=response.seed + len(response.ids),
        stop_token_ids=stops,
        extra_args=extra_args or {},
        cache_salt=wanted.version,
    )


def _ask(client: VLLMClient, wanted: Wanted, request: TokenRequest) -> Completion:
    done = client.generate(request)
    if set(done.weight_versions) != {wanted.version}:
        found = ", ".join(dict.fromkeys(done.weight_versions)) or "no version"
        raise OtherWeights(
            f"{client.url} drew with weights {found} in place of {wanted.version}: it was started again."
        )
    return done
