"""An exported model on a server, in the places that ``LaSeRScorer`` has for a policy and an engine."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import nan
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from laser_lightning.errors import UserError
from laser_lightning.inference.exported import Exported, read_export
from laser_lightning.inference.reference import check_reference
from laser_lightning.inference.vllm_request import ASKED
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, pad_rows
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.server.client import Completion, TokenRequest, VLLMClient
from laser_lightning.rollout.server.completions import complete
from laser_lightning.rollout.server.http import Limits

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_CERTAIN = 100.0
"""Added to a logit, it leaves no other choice."""


class Served(NamedTuple):
    """What a scorer needs of a server.

    Attributes:
        exported: the model that it serves.
        policy: that model.
        reference: the one that training started from, on a server of its own; None where scores do not take it.
    """

    exported: Exported
    policy: "ServedPolicy"
    reference: "ServedPolicy | None"


def connect(
    url: str,
    export: str | Path | None,
    model: str | None,
    reference: str | None,
    requests_at_once: int,
    limits: Limits,
    api_key: str | None,
    trust_remote_code: bool,
) -> Served:
    """Ask a server for its model, and read the export's files (see ``LaSeRScorer.from_server``)."""
    client = VLLMClient(url, model, limits, api_key)
    root = client.find_model().root
    if export is None and not Path(root).is_dir():
        raise UserError(
            f"{url} serves {root}, which is no directory here: name a copy of the export (`export`), of which "
            "self_reward.json, the tokenizer and the configs are needed, not the weights."
        )
    exported = read_export(root if export is None else export, trust_remote_code)
    check_reference(exported.directory, exported.settings, reference, "server's address")
    policy, frozen = ServedPolicy(client, exported, requests_at_once), None
    if reference is not None:
        frozen = ServedPolicy(VLLMClient(reference, None, limits, api_key), exported, requests_at_once)
    return Served(exported, policy, frozen)


class ServedPolicy(Policy):
    """A policy that a ``vllm serve`` computes: it reads scores, and has no weights and no other passes here.

    Args:
        client: of the server.
        exported: the model that it serves.
        requests_at_once: requests that the server has at a time.

    Raises:
        UserError: if the server cannot be asked, or its model has another id for the reward token.
    """

    def __init__(self, client: VLLMClient, exported: Exported, requests_at_once: int = 64) -> None:
        nn.Module.__init__(self)
        if requests_at_once < 1:
            raise UserError(f"requests_at_once is {requests_at_once}, and must be at least 1.")
        self.client, self.requests_at_once = client, requests_at_once
        self.eos_token_ids = exported.eos_token_ids
        self.pad_token_id = exported.eos_token_ids[0]
        self._vocabulary_size = exported.vocabulary_size
        served = client.find_model()
        own, places = exported.positions, served.max_model_len - 1  # a request asks for one token at least
        self._positions = places if own is None else min(own, places)
        _check_tokenizer(client, served.name, exported)

    @property
    def device(self) -> torch.device:
        """Where tensors of its numbers are."""
        return torch.device("cpu")

    @property
    def positions(self) -> int | None:
        """Tokens that prompt and response may have together."""
        return self._positions

    @property
    def vocabulary_size(self) -> int:
        """Token ids that the model has rows for."""
        return self._vocabulary_size

    def scores_of(self, rollouts: Rollouts, reward_token_ids: Sequence[int], micro_batch_tokens: int) -> Tensor:
        """[N, K] log pi(z) behind each finished response, by a request of one token each; NaN for truncated ones.

        Args:
            rollouts: N solutions.
            reward_token_ids: ids of the K tokens.
            micro_batch_tokens: has no meaning here.
        """
        found = torch.full((len(rollouts), len(reward_token_ids)), torch.nan)
        rows = rollouts.finished.nonzero().flatten().tolist()
        prompts, responses = _prompts(rollouts), rollouts.responses()
        sequences = [prompts[row // rollouts.group_size] + responses[row] for row in rows]
        if rows:
            found[rows] = torch.tensor(
                self.ask(lambda sequence: self.client.read_next(sequence, reward_token_ids), sequences)
            )
        if bool((found > 0).any()):
            raise UserError(
                f"{self.client.url} gives {float(found.nan_to_num(0.0).max()):.3g} for the log-prob of a reward token, "
                "which is above 0: start it with --logprobs-mode raw_logprobs, its default."
            )
        return found

    def ask(self, question: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Ask the server about several things at a time; the first failure ends all.

        Args:
            question: asks about one, blocking.
            items: the things.

        Returns:
            The answers, in the order of the things.
        """
        pool = ThreadPoolExecutor(self.requests_at_once)
        try:
            return list(pool.map(question, items))
        finally:
            pool.shutdown(cancel_futures=True)


class ServedEngine(RolloutEngine):
    """Draws the solutions of a served model, with the weights that the server has.

    Each response has a seed of its own. A server with this project's plugin (``inference.vllm_plugin``) gives the score
    with the response; others, and scores of several tokens, take a second request of one token, whose prompt and
    response the server still has in its prefix cache. ``sampling_log_probs`` are 0: nothing is trained here.

    Args:
        policy: on the server.
    """

    needs_whole_weights = False

    def __init__(self, policy: ServedPolicy) -> None:
        self.policy = policy
        self._forces: dict[int, bool] = {}

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
        seeds = torch.randint(2**62, (len(prompts) * group_size,), generator=generator).tolist()
        sole = reward_token_ids[0] if len(reward_token_ids) == 1 else None
        reward_token_id = sole if sole is not None and self._is_forced(prompts[0], sole) else None
        requests = [
            self._request(list(prompts[number // group_size]), seed, sampling, reward_token_id)
            for number, seed in enumerate(seeds)
        ]
        completions = self.policy.ask(lambda request: complete(self.policy.client, request), requests)
        limit = sampling.max_response_tokens
        drawn = [self._response(completion, limit, reward_token_id) for completion in completions]
        prompt_ids, prompt_lengths = pad_rows(prompts, self.policy.pad_token_id)
        response_ids, response_lengths = pad_rows([ids for ids, _ in drawn], self.policy.pad_token_id)
        rollouts = Rollouts(
            prompt_ids,
            prompt_lengths,
            response_ids,
            response_lengths,
            finished=torch.tensor([ids[-1] in self.policy.eos_token_ids for ids, _ in drawn]),
            sampling_log_probs=torch.zeros(response_ids.shape),
            reward_token_log_probs=torch.tensor([[score] * len(reward_token_ids) for _, score in drawn]),
        )
        if reward_token_id is None:
            rollouts.reward_token_log_probs = self.policy.scores_of(rollouts, reward_token_ids, 0)
        return rollouts

    def _request(self, prompt: list[int], seed: int, sampling: Sampling, reward_token_id: int | None) -> TokenRequest:
        forced = reward_token_id is not None
        return TokenRequest(
            prompt,
            max_tokens=sampling.max_response_tokens + forced,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=seed,
            stop_token_ids=self.policy.eos_token_ids if reward_token_id is None else [reward_token_id],
            extra_args={ASKED: 1} if forced else {},
        )

    def _response(self, completion: Completion, limit: int, reward_token_id: int | None) -> tuple[list[int], float]:
        """A response's tokens, and the log-prob of the forced token behind them; NaN if there is none."""
        ids, ends = completion.ids, self.policy.eos_token_ids
        if reward_token_id is None:
            return ids[:limit], nan
        written = ids[:-1] if completion.is_stopped else ids[:limit]
        places = [place for place, token in enumerate(written) if token in ends]
        if places != ([len(written) - 1] if completion.is_stopped else []):
            raise UserError(
                f"{self.policy.client.url} did not end a response behind its <eos>: it was started anew, without the "
                "plugin of laser-lightning or with another model. Make the scorer again."
            )
        return written, completion.log_probs[-1] if completion.is_stopped else nan

    def _is_forced(self, prompt: Sequence[int], token_id: int) -> bool:
        """Whether the server puts the reward token behind an ``<eos>``, and gives its raw log-prob; asked for once."""
        if token_id not in self._forces:
            self._forces[token_id] = self._try_forcing(prompt, token_id)
        return self._forces[token_id]

    def _try_forcing(self, prompt: Sequence[int], token_id: int) -> bool:
        end = self.policy.eos_token_ids[0]
        request = TokenRequest(prompt, max_tokens=2, temperature=0.0, stop_token_ids=[token_id], extra_args={ASKED: 1})
        completion = complete(self.policy.client, request, {end: _CERTAIN})
        # 0 is a log-prob behind the processor (--logprobs-mode processed_logprobs), where nothing else was left.
        return completion.ids == [end, token_id] and completion.log_probs[-1] < 0


def _prompts(rollouts: Rollouts) -> list[list[int]]:
    lengths = rollouts.prompt_lengths.tolist()
    return [row[:length] for row, length in zip(rollouts.prompt_ids.tolist(), lengths, strict=True)]


def _check_tokenizer(client: VLLMClient, model: str, exported: Exported) -> None:
    token, token_id = exported.settings.token, exported.settings.token_id
    asked = {"model": model, "prompt": token, "add_special_tokens": False}
    found = client.post("/tokenize", asked)["tokens"]
    if found != [token_id]:
        raise UserError(
            f"{client.url} has another model than the export: its tokenizer makes {found} of the reward token "
            f"'{token}', and the export's makes [{token_id}]. Serve the export, or name that of the served model."
        )
