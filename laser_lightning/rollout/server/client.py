"""A client of ``vllm serve``: token ids in, token ids with log-probs out, and the routes that vLLM has for trainers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any, Literal

from laser_lightning.rollout.server.http import (
    Limits,
    RequestRefused,
    Server,
    ServerError,
    ServerFailed,
    ServerTimeout,
    ServerUnreachable,
)

__all__ = [
    "Completion",
    "Limits",
    "RequestRefused",
    "ServedModel",
    "ServerError",
    "ServerFailed",
    "ServerTimeout",
    "ServerUnreachable",
    "TokenRequest",
    "VLLMClient",
    "WrongModel",
]

_NO_NUMBER = -9999.0
"""What vLLM sends in place of a log-prob that JSON has no number for."""
_SHORT_SECONDS = 30.0
"""Longest wait for what takes a living server no time, such as its version."""


class WrongModel(ServerError):  # noqa: N818
    """The server has another model than the one that is wanted."""


@dataclass(frozen=True)
class ServedModel:
    """A model that a server has.

    Attributes:
        name: to ask for it by.
        root: the directory, or the name on the hub, that it was loaded from.
        max_model_len: longest sequence, prompt and response.
    """

    name: str
    root: str
    max_model_len: int


@dataclass(frozen=True)
class TokenRequest:
    """What is to be drawn: one response.

    Args:
        prompt: token ids, at least one.
        max_tokens: length limit of the response.
        temperature: divides the logits; 0 takes the most likely token.
        top_p: keep the smallest set of tokens whose probability is at least this much.
        top_k: keep this many most likely tokens; 0 keeps all.
        min_p: drop tokens less likely than this share of the most likely one.
        seed: of its sampling; None for one of the server's own.
        stop_token_ids: the response ends behind any of these, and contains it. The ``<eos>`` of the model's config ends
            none.
        read_token_ids: ids of tokens whose log-probs are wanted at each place, besides the sampled token's.
        extra_args: for logits processors of the server.
        cache_salt: requests of different salts share nothing in the prefix cache.
    """

    prompt: Sequence[int]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: Sequence[int] = ()
    read_token_ids: Sequence[int] = ()
    extra_args: Mapping[str, Any] = field(default_factory=dict)
    cache_salt: str | None = None


@dataclass(frozen=True)
class Completion:
    """A response as the server drew it.

    Attributes:
        ids: the R tokens, the one that it stopped at included.
        log_probs: theirs, of the distribution that the server was started to return (``--logprobs-mode``): by default
            of the logits before temperature and truncation. NaN where it is not a finite number.
        read: R lists of K log-probs: those of ``read_token_ids`` at each place.
        is_stopped: whether it ended at a stop token, and not at the limit.
        weight_versions: labels of the weights that its tokens were drawn with, in their order.
    """

    ids: list[int]
    log_probs: list[float]
    read: list[list[float]]
    is_stopped: bool
    weight_versions: list[str]


class VLLMClient:
    """One ``vllm serve`` (0.32). Every call blocks, for no longer than ``limits`` say; any number of threads may call.

    Args:
        url: such as ``http://node1:8000``, with or without ``/v1``.
        model: the name to ask for; None for the one model that the server has.
        limits: how long it is waited for.
        api_key: of ``vllm serve --api-key``.

    Raises:
        UserError: if the address is none. Every method raises ``ServerError`` if the call fails.
    """

    def __init__(
        self, url: str, model: str | None = None, limits: Limits = Limits(), api_key: str | None = None
    ) -> None:
        self.server, self.model = Server(url, limits, api_key), model

    @property
    def url(self) -> str:
        """Address of the server."""
        return self.server.url

    def get(self, route: str, seconds: float | None = _SHORT_SECONDS) -> Any:
        """Ask any route, such as ``/version``: what its JSON says; None where the answer has no body."""
        return self.server.call("GET", route, seconds=seconds)

    def post(self, route: str, body: Mapping[str, Any], seconds: float | None = None) -> Any:
        """Send JSON to any route, such as ``/v1/chat/completions``: what the JSON that comes back says."""
        return self.server.call("POST", route, body, seconds)

    # ---------------------------------------------------------------- for all users

    def check_health(self) -> None:
        """Return if the server and its engine are alive."""
        self.get("/health")

    def models(self) -> list[ServedModel]:
        """The models that the server has."""
        return [
            ServedModel(model["id"], model.get("root") or model["id"], int(model["max_model_len"] or 0))
            for model in self.get("/v1/models")["data"]
        ]

    def find_model(self) -> ServedModel:
        """The model that is asked for.

        Raises:
            WrongModel: if the server does not have it.
        """
        models = self.models()
        names = ", ".join(model.name for model in models)
        found = [model for model in models if self.model in (None, model.name)]
        if not found:
            raise WrongModel(f"{self.url} has no model {self.model!r}, but {names}: name that, or start it with yours.")
        return found[0]

    def generate(self, request: TokenRequest) -> Completion:
        """Draw a response, without any text (``vllm serve --enable-scale-out`` opens the route for it)."""
        read = list(request.read_token_ids)
        params: dict[str, Any] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "min_p": request.min_p,
            "seed": request.seed,
            "max_tokens": request.max_tokens,
            "stop_token_ids": list(request.stop_token_ids),
            "ignore_eos": True,
            "detokenize": False,
            "logprobs": 0,
        }
        if read:
            # vLLM lists as many as were asked for, the sampled token among them: without the second copy of the last
            # one that would not be in the list.
            params |= {"logprob_token_ids": [*read, read[-1]], "logprobs": len(read) + 1}
        if request.extra_args:
            params["extra_args"] = dict(request.extra_args)
        body: dict[str, Any] = {"token_ids": list(request.prompt), "sampling_params": params}
        if self.model is not None:
            body["model"] = self.model
        if request.cache_salt is not None:
            body["cache_salt"] = request.cache_salt
        choice = self.post("/inference/v1/generate", body)["choices"][0]
        is_stopped = self.is_stopped(choice)
        places = choice["logprobs"]["content"]
        return Completion(
            ids=choice["token_ids"],
            log_probs=[finite_or_nan(place["logprob"]) for place in places],
            read=[_read(place["top_logprobs"], read) for place in places],
            is_stopped=is_stopped,
            weight_versions=[span["version"] for span in choice.get("weight_versions") or ()],
        )

    def is_stopped(self, choice: Mapping[str, Any]) -> bool:
        """Whether a response of the server ended at a stop token, and not at the limit.

        Args:
            choice: as the server answered.

        Raises:
            ServerFailed: if it ended at neither.
        """
        if (reason := choice["finish_reason"]) not in ("stop", "length"):
            raise ServerFailed(
                f"{self.url} broke a response off ({reason}): somebody paused the server, or its engine failed; its "
                "log says more."
            )
        return bool(reason == "stop")

    def read_next(
        self, token_ids: Sequence[int], read_token_ids: Sequence[int], cache_salt: str | None = None
    ) -> list[float]:
        """Read log-probs of what may come next, at temperature 1, such as the reward token's behind an ``<eos>``.

        The server must return log-probs (``--logprobs-mode raw_logprobs``, its default, or ``processed_logprobs``).

        Args:
            token_ids: the sequence so far.
            read_token_ids: ids of K tokens.
            cache_salt: as in ``TokenRequest``.

        Returns:
            K log-probs; NaN where one is not a finite number.
        """
        asked: dict[str, Any] = {
            "prompt": list(token_ids),
            "max_tokens": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "ignore_eos": True,
            "logprobs": len(read_token_ids),
            "logprob_token_ids": list(read_token_ids),
            "return_tokens_as_token_ids": True,
        }
        asked |= {} if self.model is None else {"model": self.model}
        asked |= {} if cache_salt is None else {"cache_salt": cache_salt}
        found = self.post("/v1/completions", asked)["choices"][0]["logprobs"]["top_logprobs"][0]
        return [finite_or_nan(found[f"token_id:{token_id}"]) for token_id in read_token_ids]

    # ------------------------------ for trainers: servers started with VLLM_SERVER_DEV_MODE=1

    def settings(self) -> Mapping[str, Any]:
        """The server's own settings (vLLM's ``VllmConfig``), such as ``["model_config"]["logprobs_mode"]``."""
        settings: Mapping[str, Any] = self._trainers("GET", "/server_info?config_format=json")["vllm_config"]
        return settings

    def weight_version(self) -> str:
        """The label of the weights that it has now; ``default`` before one was given."""
        return str(self._trainers("GET", "/weight_info")["weight_version"])

    def set_weight_version(self, version: str) -> None:
        """Label the weights that it has now."""
        self._trainers("POST", "/update_weight_version", {"new_version": version})

    def pause(self, mode: Literal["abort", "wait", "keep"] = "abort") -> None:
        """Hold generation, so that weights can change. What comes meanwhile waits until ``resume``.

        Args:
            mode: what becomes of the responses under way: they are dropped, run to their ends first, or go on later.
        """
        self._trainers("POST", f"/pause?mode={mode}", seconds=None if mode == "wait" else _SHORT_SECONDS)

    def resume(self) -> None:
        """Generate again."""
        self._trainers("POST", "/resume")

    def reset_prefix_cache(self) -> bool:
        """Forget the keys and values of prompts; False where some are still in use."""
        return bool(self._trainers("POST", "/reset_prefix_cache")["success"])

    def reload_weights(self, directory: str, seconds: float | None = None) -> None:
        """Have all of the server's workers load weights.

        Args:
            directory: with ``*.safetensors``, at a path that the server sees too.
            seconds: limit on the time, in place of ``limits.answer_seconds``.
        """
        body = {"method": "reload_weights", "kwargs": {"weights_path": directory}}
        self._trainers("POST", "/collective_rpc", body, seconds or self.server.limits.answer_seconds)

    # vLLM's own weight transfer: servers started with --weight-transfer-config. None of it is tried twice.

    def worker_count(self) -> int:
        """Processes that compute for the server, over tensor, pipeline and data parallelism."""
        return int(self._trainers("GET", "/get_world_size")["world_size"])

    def join_weight_transfer(self, init_info: Mapping[str, Any], seconds: float) -> None:
        """Have all of the server's workers meet the trainer's side of the transfer; returns when they have.

        Args:
            init_info: where and how, by the backend (vLLM's ``NCCLWeightTransferInitInfo``).
            seconds: limit on the time.
        """
        self._trainers("POST", "/init_weight_transfer_engine", {"init_info": init_info}, seconds, attempts=1)

    def leave_weight_transfer(self) -> None:
        """Have the server's workers forget the trainer's side, whether it is still there or not."""
        self._trainers("POST", "/shutdown_weight_transfer_engine", attempts=1)

    def start_weight_update(self) -> None:
        """Have the workers expect weights."""
        self._trainers("POST", "/start_weight_update", seconds=self.server.limits.answer_seconds, attempts=1)

    def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Have the workers receive weights; returns when all of them are there.

        Args:
            update_info: what comes, by the backend (vLLM's ``NCCLWeightTransferUpdateInfo``).
        """
        limit = self.server.limits.answer_seconds
        self._trainers("POST", "/update_weights", {"update_info": update_info}, limit, attempts=1)

    def finish_weight_update(self) -> None:
        """Have the workers compute with the weights that came."""
        self._trainers("POST", "/finish_weight_update", seconds=self.server.limits.answer_seconds, attempts=1)

    def _trainers(
        self,
        method: str,
        route: str,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = _SHORT_SECONDS,
        attempts: int | None = None,
    ) -> Any:
        try:
            return self.server.call(method, route, body, seconds, attempts)
        except RequestRefused as error:
            if error.status != 404:
                raise
            raise RequestRefused(
                f"{self.url} has no route {route.partition('?')[0]}: start it with VLLM_SERVER_DEV_MODE=1, which opens "
                "vLLM's routes for trainers.",
                error.status,
            ) from error


def finite_or_nan(log_prob: float) -> float:
    """A log-prob as vLLM sends it; NaN where it was not a finite number."""
    return nan if log_prob <= _NO_NUMBER else log_prob


def _read(found: Sequence[Mapping[str, Any]], wanted: Sequence[int]) -> list[float]:
    by_id = {entry["token_id"]: finite_or_nan(entry["logprob"]) for entry in found}
    return [by_id[token_id] for token_id in wanted]
