"""An engine on servers of vLLM: rollouts on devices of their own, beside the trainer or elsewhere."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import partial
from threading import current_thread, main_thread
from typing import Any, TypeVar
from uuid import uuid4

import torch

from laser_lightning.distributed.balancing import dealt
from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightStream, stream_weights
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.server.client import (
    Limits,
    RequestRefused,
    TokenRequest,
    VLLMClient,
    WrongModel,
)
from laser_lightning.rollout.server.dispatch import Dispatch, Perseverance
from laser_lightning.rollout.server.file_transfer import FileTransfer
from laser_lightning.rollout.server.transfer import WeightTransfer
from laser_lightning.rollout.server.ways import Draw, Wanted, draw_in_two_requests, way_of
from laser_lightning.rollout.vllm.comparison import FirstResponse
from laser_lightning.rollout.vllm.responses import Response, as_rollouts, begin_responses

ResultT = TypeVar("ResultT")


class VLLMServerEngine(RolloutEngine):
    """Decode on one or several ``vllm serve``, which stand beside the trainer or on other machines.

    They are started apart, as docs/multi_node.md shows, with tensor and data parallelism as vLLM has them, and outlive
    the run. vLLM is not needed in the trainer's own environment.

    A round is spread over the servers by tokens, the solutions of a prompt on one of them, which share its blocks in
    the prefix cache. Each response has a seed of its own, drawn from the generator: which server draws it, and with
    which others, changes float rounding alone. ``VLLMEngine`` draws the same tokens.

    Rank 0 brings the weights to the servers, a layer at a time: through files, or another ``weight_transfer``. Every
    version has a label of its own. Before a round begins each server is asked for its label, and with each response
    comes the label of the weights that drew it. A server that was started again gets the weights anew before it
    generates. A server that dies, or answers too late, leaves its responses to the others; where none is left, the
    round waits for one. Every call has a time limit. Rounds may be drawn ahead (``rollout.ahead``).

    Args:
        urls: addresses of the servers, such as ``[http://node1:8000, http://node2:8000]``.
        weights_directory: the directory of ``FileTransfer``, in short.
        model: name of the model on the servers; null for the one that they have.
        requests_at_once: most requests of a rank that are under way on a server; vLLM decodes up to its own
            ``--max-num-seqs`` together and lets the others wait.
        limits: how long a call is waited for.
        perseverance: how much goes wrong before the run is given up.
        api_key_variable: environment variable with the key of ``vllm serve --api-key``; null for none.
        weight_transfer: how weights get to the servers.

    Raises:
        UserError: if an argument is out of range, or a variable is not set.
    """

    needs_whole_weights = False
    elsewhere = True

    def __init__(
        self,
        urls: list[str],
        weights_directory: str | None = None,
        model: str | None = None,
        requests_at_once: int = 256,
        limits: Limits = Limits(),
        perseverance: Perseverance = Perseverance(),
        api_key_variable: str | None = None,
        weight_transfer: WeightTransfer = FileTransfer(),
    ) -> None:
        if not urls or len(set(urls)) < len(urls) or requests_at_once < 1:
            raise UserError(
                "engine.urls must name one server or several, each of them once, and engine.requests_at_once must be "
                "at least 1."
            )
        if api_key_variable is not None and api_key_variable not in os.environ:
            raise UserError(f"The environment variable {api_key_variable} (engine.api_key_variable) is not set.")
        key = None if api_key_variable is None else os.environ[api_key_variable]
        self.servers = [_TrainedServer(VLLMClient(url, model, limits, key)) for url in urls]
        if weights_directory is not None:
            if type(weight_transfer) is not FileTransfer or weight_transfer.directory is not None:
                raise UserError(
                    f"engine.weights_directory ({weights_directory}) is the directory of a FileTransfer, in short: "
                    "leave it out beside an engine.weight_transfer that has one, or needs none."
                )
            weight_transfer = FileTransfer(weights_directory)
        self.weight_transfer = copy(weight_transfer)
        self.requests_at_once, self.perseverance = requests_at_once, perseverance
        self._stale, self._met, self._first_response = True, False, FirstResponse()
        self._version = self._receipt = ""  # of the weights that were handed over last

    # ---------------------------------------------------------------- rollouts

    @torch.no_grad()
    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        """Draw ``group_size`` responses for each prompt (see ``RolloutEngine``)."""
        responses = begin_responses(prompts, group_size, generator)
        # Rounds that are drawn ahead come in a thread, beside an update that is changing the policy.
        beside_update = current_thread() is not main_thread()
        if not (beside_update and self._version):
            self.take_weights(policy, nullcontext(stream_weights(policy.lm)))  # for callers without a trainer
        if responses:
            wanted = Wanted(sampling, reward_token_ids, tuple(policy.eos_token_ids), self._version)
            longest = max(map(len, prompts)) + sampling.max_response_tokens + 1
            servers, shares = self._spread(responses, group_size, sampling.max_response_tokens)
            Dispatch[_TrainedServer, Response](
                partial(self._make_ready, sampling=sampling, longest=longest),
                lambda server, response: server.draw(server.client, response, wanted),
                self.requests_at_once,
                self.perseverance,
            ).run(servers, shares, self.progress)
        rollouts = as_rollouts(policy, prompts, responses, len(reward_token_ids))
        if not beside_update:
            self._first_response.compare(policy, responses, sampling)
        return rollouts

    def _spread(
        self, responses: Sequence[Response], group_size: int, limit: int
    ) -> tuple[list["_TrainedServer"], list[list[Response]]]:
        """The servers, and the responses of each; each rank begins with another server."""
        first = _rank() % len(self.servers)
        groups = [responses[start : start + group_size] for start in range(0, len(responses), group_size)]
        tokens = [len(group) * (len(group[0].prompt) + limit) for group in groups]
        shares = dealt(tokens, len(self.servers))
        return (
            self.servers[first:] + self.servers[:first],
            [[response for number in share for response in groups[number]] for share in shares],
        )

    def _make_ready(self, server: "_TrainedServer", sampling: Sampling, longest: int) -> None:
        client = server.client
        if client.weight_version() != self._version:
            server.forget()
            self.weight_transfer.send_again(client, self._version, self._receipt)
        if longest > server.max_model_len:
            raise UserError(
                f"The longest prompt, sampling.max_response_tokens and the reward token are {longest} tokens, and do "
                f"not fit into the {server.max_model_len} places of a sequence in {client.url}: lower "
                "data.max_prompt_tokens or the second, or start it with a larger --max-model-len."
            )
        server.draw = way_of(client.url, server.settings, sampling)

    # ---------------------------------------------------------------- weights

    def weights_changed(self) -> None:
        """Hand the policy's weights over before the next rollout."""
        self._stale = True

    @torch.no_grad()
    def take_weights(self, policy: Policy, weights: AbstractContextManager[WeightStream]) -> None:
        """Hand the policy's weights over where they are new (see ``RolloutEngine``)."""
        if not self._stale:
            return
        # Behind this all ranks have arrived: none of them draws with the weights of before.
        version = _of_rank_0(lambda: self._begin(policy))
        receipt = ""
        failure: Exception | None = None
        with weights as stream:
            if _rank() == 0:
                clients = [server.client for server in self.servers]
                try:
                    receipt = self.weight_transfer.send(stream, policy, version, clients)
                except Exception as error:  # raised where other ranks do not wait for the rest of the stream
                    failure = error
        self._receipt = _of_rank_0(lambda: _unless(failure, receipt))
        self._version, self._stale = version, False
        self._first_response.weights_came()

    def _begin(self, policy: Policy) -> str:
        """Meet the servers, the first time; the label of a new version."""
        if not self._met:
            for server in self.servers:
                _check_model(server.client, policy)
            self.weight_transfer.check([server.client for server in self.servers], policy)
            self._met = True
        return uuid4().hex

    def close(self) -> None:
        """Let the servers go on by themselves, with the weights that they have."""
        self.weight_transfer.close()
        for server in self.servers:
            server.forget()
        self._stale, self._met = True, False
        self._first_response.weights_came()


class _TrainedServer:
    """A server, and what is known of it until it is started again."""

    def __init__(self, client: VLLMClient) -> None:
        self.client = client
        self.draw: Draw = draw_in_two_requests
        self.forget()

    def forget(self) -> None:
        """Ask it anew."""
        self._settings: Mapping[str, Any] | None = None
        self._max_model_len: int | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        if self._settings is None:
            self._settings = self.client.settings()
        return self._settings

    @property
    def max_model_len(self) -> int:
        if self._max_model_len is None:
            self._max_model_len = self.client.find_model().max_model_len
        return self._max_model_len


def _check_model(client: VLLMClient, policy: Policy) -> None:
    """Refuse a server whose model has another vocabulary than the policy's, as its own answers tell.

    Raises:
        WrongModel: with what differs.
    """
    client.find_model()
    client.resume()  # an earlier trainer may have been killed while the server was paused
    size = int(policy.lm.config.get_text_config().vocab_size)

    def knows(token_id: int) -> bool:
        try:
            client.generate(TokenRequest([0], 1, seed=0, read_token_ids=[token_id]))
        except RequestRefused as error:
            if error.status != 400:
                raise
            return False
        return True

    if not knows(size - 1) or knows(size):
        raise WrongModel(
            f"{client.url} has a model with another vocabulary than the policy's {size} tokens: start it with the "
            "model of model.policy.path."
        )


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _of_rank_0(do: Callable[[], ResultT]) -> ResultT:
    """What rank 0 does, and returns or raises, on all ranks; none goes on before all of them are here."""
    if not torch.distributed.is_initialized():
        return do()
    outcome: Any = None
    if _rank() == 0:
        try:
            outcome = (do(), None)
        except UserError as error:
            outcome = (None, str(error))
    outcomes = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(outcomes, outcome)
    assert outcomes[0] is not None
    result, failure = outcomes[0]
    if failure is not None:
        raise UserError(failure)
    return result


def _unless(failure: Exception | None, result: ResultT) -> ResultT:
    if failure is not None:
        raise failure
    return result
