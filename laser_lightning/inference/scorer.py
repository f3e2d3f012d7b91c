"""Use of an exported model without the trainer: solutions with their self-rewards, and votes among them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from laser_lightning.data.prompts import check_vocabulary, encode_prompt, render_chat
from laser_lightning.errors import UserError
from laser_lightning.inference.early_stop import EarlyStop
from laser_lightning.inference.exported import Dtype, saved_dtype
from laser_lightning.inference.reference import check_reference, load_reference
from laser_lightning.inference.served import ServedEngine, connect
from laser_lightning.inference.solve import Solution, Solved, solve
from laser_lightning.inference.vote import Vote, vote
from laser_lightning.metrics.votes import VoteRule
from laser_lightning.metrics.votes.saved import load_rules
from laser_lightning.objective.self_reward.head import Readings
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.objective.self_reward.solutions import zero_if_truncated
from laser_lightning.policy.lora import ADAPTER_CONFIG, base_model, merge_adapter
from laser_lightning.policy.model import Policy, PolicySettings, eos_token_ids, load_tokenizer, written_eos
from laser_lightning.records.batching import Rollouts, pad_rows
from laser_lightning.rollout import RolloutEngine, Sampling, TransformersEngine
from laser_lightning.rollout.server.http import Limits
from laser_lightning.verifiers import MathVerifier, Verifier, VerifierPool

Prompt = str | list[dict[str, str]]
"""A prompt's whole text, or the messages of a chat."""


class LaSeRScorer:
    """A trained model that solves problems and grades solutions (LaSeR, arXiv 2510.14943).

    ``from_pretrained`` makes one of an export.

    Args:
        policy: the model, on its device.
        tokenizer: its tokenizer.
        settings: its self-reward.
        engine: draws solutions; default: a ``TransformersEngine``. One that keeps a copy of the weights serves one
            scorer only.
        reference: the model that training started from, if it was trained with ``reference: exact``.
        seed: seed of all sampling. Each ``generate`` goes on where the last one stopped.
        micro_batch_tokens: most tokens (padding included) of a forward pass of ``score``; a sequence that is longer
            raises it. Bounds memory, and changes no result.

    Attributes:
        rules: the vote rules of the run's ``evaluation.votes``, as they were behind its training, by their names; for
            ``vote`` and ``solve``. None by default.
    """

    def __init__(
        self,
        policy: Policy,
        tokenizer: PreTrainedTokenizerBase,
        settings: SelfRewardSettings,
        engine: RolloutEngine | None = None,
        reference: Policy | None = None,
        seed: int = 0,
        micro_batch_tokens: int = 16384,
    ) -> None:
        if micro_batch_tokens < 1:
            raise UserError(f"micro_batch_tokens is {micro_batch_tokens}, and must be at least 1.")
        self.policy, self.tokenizer, self.settings, self.reference = policy, tokenizer, settings, reference
        self.policy.requires_grad_(False).eval()
        self.self_reward = settings.self_reward().to(policy.device)
        self.self_reward.bind(tokenizer, policy.eos_token_ids)
        self.engine = TransformersEngine() if engine is None else engine
        self.engine.weights_changed()
        self.generator = torch.Generator(policy.device).manual_seed(seed)
        self.micro_batch_tokens = micro_batch_tokens
        self.rules: dict[str, VoteRule] = {}

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        engine: RolloutEngine | None = None,
        dtype: Dtype | None = None,
        device: str | torch.device | None = None,
        attention: str | None = None,
        reference: str | Path | None = None,
        seed: int = 0,
        micro_batch_tokens: int = 16384,
        trust_remote_code: bool = False,
    ) -> "LaSeRScorer":
        """Load an export of a trained model: a whole one, or a LoRA adapter (which is merged into its base model).

        Args:
            directory: the export, as ``laser-lightning export`` or ``HuggingFaceExport`` wrote it.
            engine: see the class.
            dtype: type of the weights; default: float32 on the CPU, elsewhere that of the export.
            device: such as ``cuda:1``; default: ``cuda`` where there is one, else ``cpu``.
            attention: attention implementation of transformers; by default transformers chooses.
            reference: directory or hub name of the model that training started from; for a model trained with
                ``reference: exact``, whose scores need it, and only for such a one.
            seed: see the class.
            micro_batch_tokens: see the class.
            trust_remote_code: run model code that comes with the weights.

        Raises:
            UserError: if the export or its reference cannot be loaded, is not of a model with self-rewards, lacks the
                reward token, has a vote rule that cannot be imported, or ``reference`` is missing or superfluous.
        """
        path = Path(directory).expanduser()
        if not path.is_dir():
            raise UserError(f"There is no directory {directory}: name an export of a trained model.")
        self_reward = SelfRewardSettings.read(path)
        check_reference(path, self_reward, reference, "directory or hub name")
        settings = PolicySettings(
            str(path), attention=attention, packing="never", shared_prompts="never", trust_remote_code=trust_remote_code
        )
        tokenizer = load_tokenizer(settings)
        self_reward.check_tokenizer(tokenizer)
        if is_adapter := (path / ADAPTER_CONFIG).is_file():
            settings = replace(settings, path=base_model(path))
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        settings.dtype = dtype or ("float32" if place.type == "cpu" else saved_dtype(settings))
        policy = Policy(settings, tokenizer)
        if is_adapter:
            policy.lm = merge_adapter(policy.lm, path)
            policy.lm.generation_config = GenerationConfig.from_pretrained(path)
            policy.eos_token_ids = eos_token_ids(policy.lm, tokenizer)
        frozen = None
        if reference is not None:
            frozen = load_reference(replace(settings, path=str(reference)), self_reward, place)
        scorer = cls(policy.to(place), tokenizer, self_reward, engine, frozen, seed, micro_batch_tokens)
        scorer.rules = load_rules(path)
        return scorer

    @classmethod
    def from_server(
        cls,
        url: str,
        export: str | Path | None = None,
        model: str | None = None,
        reference: str | None = None,
        seed: int = 0,
        requests_at_once: int = 64,
        limits: Limits = Limits(),
        api_key: str | None = None,
        trust_remote_code: bool = False,
    ) -> "LaSeRScorer":
        """Use an export that a ``vllm serve`` has: the same scores and votes, and no weights in this process.

        Args:
            url: the server's address, such as ``http://node1:8000``.
            export: its directory, with or without weights; None for that of the server, if it is here too.
            model: the server's name for the model; None for its only one.
            reference: address of a server of the model that training started from, for ``reference: exact``.
            seed: see the class.
            requests_at_once: requests that the server has at a time.
            limits: how long a server is waited for.
            api_key: of ``vllm serve --api-key``.
            trust_remote_code: run code that comes with the export's config or tokenizer.

        Raises:
            UserError: if the server or the export cannot be used, or ``reference`` is missing or superfluous.
        """
        exported, policy, frozen = connect(
            url, export, model, reference, requests_at_once, limits, api_key, trust_remote_code
        )
        scorer = cls(policy, exported.tokenizer, exported.settings, ServedEngine(policy), frozen, seed)
        scorer.rules = exported.rules
        return scorer

    # ----------------------------------------------------------------- solutions

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], n: int = 1, sampling: Sampling | None = None) -> list[list[Solution]]:
        """Draw solutions; their scores come from the same pass.

        Args:
            prompts: P prompts, of the form of those in training. A string is the whole prompt, as it is; a list of
                messages (``{"role": "user", "content": "..."}``) goes through the tokenizer's chat template.
            n: solutions of each prompt.
            sampling: how they are drawn; default: ``Sampling()``, temperature 1 and at most 512 tokens.

        Returns:
            P lists of ``n`` solutions.

        Raises:
            UserError: if a prompt is empty, too long for the model, or of a wrong form.
        """
        sampling = Sampling() if sampling is None else sampling
        return self._draw(self._prompts_to_solve(prompts, n, sampling), n, sampling)

    @torch.no_grad()
    def solve(
        self,
        prompts: Sequence[Prompt],
        n: int = 32,
        verifier: Verifier | VerifierPool | None = None,
        stop: EarlyStop | None = EarlyStop(),
        sampling: Sampling | None = None,
        rule: VoteRule | None = None,
    ) -> list[Solved]:
        """Draw solutions until their vote is decided, and let them vote.

        Each round draws ``stop.batch`` solutions of all problems that are still open together, and so goes on with the
        seed as that many calls of ``generate`` would. What stops a problem looks at its own solutions alone.

        Args:
            prompts: P prompts, as in ``generate``.
            n: most solutions of a problem.
            verifier: as in ``vote``.
            stop: when not to draw all ``n``. By default when the others cannot change the vote of ``rule``, so that its
                answer is the one that all ``n`` would give. (It may be spelt differently, if ``verifier`` knows
                several spellings; equivalence is taken to be transitive.) None draws all ``n`` at once: the same as
                ``generate`` and ``vote``.
            sampling: as in ``generate``.
            rule: as in ``vote``; ``stop`` looks at its vote, and at the weighted vote without one. An
                ``AdditiveRule``, or one that settles on such a rule; another needs ``stop=None``.

        Returns:
            P results.

        Raises:
            UserError: as in ``generate``.
        """
        sampling = Sampling() if sampling is None else sampling
        encoded = self._prompts_to_solve(prompts, n, sampling)

        def draw(rows: list[int], count: int) -> list[list[Solution]]:
            return self._draw([encoded[row] for row in rows], count, sampling)

        return solve(draw, len(encoded), n, stop, _pool(verifier), rule)

    def _prompts_to_solve(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[int]]:
        """Token ids of prompts, each of which leaves room for a response."""
        if n < 1:
            raise UserError(f"n is {n}, and must be at least 1.")
        encoded = self._encode_prompts(prompts)
        for row, prompt in enumerate(encoded):
            what = f"sampling.max_response_tokens = {sampling.max_response_tokens}"
            self._check_length(row, len(prompt), sampling.max_response_tokens, what)
        return encoded

    def _draw(self, prompts: list[list[int]], n: int, sampling: Sampling) -> list[list[Solution]]:
        """``n`` solutions to each prompt."""
        if not prompts:
            return []
        rollouts = self.engine.generate(
            self.policy, prompts, n, sampling, self.self_reward.score_token_ids, self.generator
        )
        texts = self.tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
        solutions = self._solutions(rollouts, texts)
        return [solutions[start : start + n] for start in range(0, len(solutions), n)]

    @torch.no_grad()
    def score(self, prompts: Sequence[Prompt], responses: Sequence[str | Sequence[int]]) -> list[Solution]:
        """Grade responses that are there already, in one forward pass each.

        A response of this model has its exact score only as token ids: a text may be cut into other tokens than those
        that the model wrote, and has lost what ended it.

        Args:
            prompts: N prompts, as in ``generate``.
            responses: one to each. A text stands for a finished response, and the tokenizer's ``<eos>`` is put behind
                it unless it ends in one. Token ids are taken as they are: without an ``<eos>`` at their end they are a
                truncated response.

        Returns:
            N solutions, with ``text`` as given for texts.

        Raises:
            UserError: if the numbers of prompts and responses differ, or one of them is empty, too long for the
                model, or of a wrong form.
        """
        if isinstance(responses, str):
            raise UserError("responses is one string: put it in a list.")
        encoded = self._encode_prompts(prompts)
        if len(encoded) != len(responses):
            raise UserError(
                f"There are {len(encoded)} prompts and {len(responses)} responses: give each response its prompt."
            )
        if not encoded:
            return []
        ids = [self._encode_response(row, response) for row, response in enumerate(responses)]
        for row, (prompt, response) in enumerate(zip(encoded, ids, strict=True)):
            self._check_length(row, len(prompt), len(response), f"a response of {len(response)}")
        rollouts = self._rollouts(encoded, ids)
        log_probs = self.policy.scores_of(rollouts, self.self_reward.score_token_ids, self.micro_batch_tokens)
        rollouts.reward_token_log_probs = log_probs.where(rollouts.finished[:, None], torch.nan)
        decoded = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        texts = [given if isinstance(given, str) else text for given, text in zip(responses, decoded, strict=True)]
        return self._solutions(rollouts, texts)

    def vote(
        self,
        solutions: Sequence[Solution],
        verifier: Verifier | VerifierPool | None = None,
        verifier_name: str | None = None,
        rule: VoteRule | None = None,
    ) -> Vote:
        r"""Choose one answer among the solutions of one problem.

        Args:
            solutions: of one problem, from ``generate`` or ``score``.
            verifier: finds the answers in the solutions, and says which are equivalent; default: a ``MathVerifier``,
                which takes the last ``\boxed{}``. A verifier runs in this process without a time limit; a
                ``VerifierPool`` has one, and a solution on which it fails has no answer.
            verifier_name: which of a ``MixedVerifier``'s verifiers judges the problem; None for its default.
            rule: a vote rule of ``rules``, of your own, or of ``laser_lightning.metrics.votes``, which gives
                ``Vote.chosen`` beside the three answers that are always given.

        Raises:
            UserError: if there is no solution, or no verifier of this name.
        """
        return vote(
            [s.text for s in solutions],
            [s.self_reward for s in solutions],
            _pool(verifier),
            verifier_name,
            rule,
            [s.finished for s in solutions],
        )

    # ------------------------------------------------------------------- scores

    def _solutions(self, rollouts: Rollouts, texts: list[str]) -> list[Solution]:
        references = None
        if self.reference is not None:
            references = self.reference.scores_of(rollouts, self.self_reward.score_token_ids, self.micro_batch_tokens)
        scores = self.self_reward.score(Readings(rollouts.reward_token_log_probs, references=references))
        self_rewards = zero_if_truncated(scores, rollouts.finished)
        verdicts = (self_rewards > self.settings.threshold) & rollouts.finished
        columns = (rollouts.finished, rollouts.reward_token_log_probs[:, 0], self_rewards, verdicts)
        rows = zip(texts, rollouts.responses(), *(column.tolist() for column in columns), strict=True)
        return [Solution(*row) for row in rows]

    def _rollouts(self, prompts: list[list[int]], responses: list[list[int]]) -> Rollouts:
        """Given responses in the form of sampled ones, one to each prompt."""
        device = self.policy.device
        prompt_ids, prompt_lengths = (column.to(device) for column in pad_rows(prompts, self.policy.pad_token_id))
        ids, lengths = (column.to(device) for column in pad_rows(responses, self.policy.pad_token_id))
        ends = [response[-1] in self.policy.eos_token_ids for response in responses]
        return Rollouts(
            prompt_ids,
            prompt_lengths,
            ids,
            lengths,
            finished=torch.tensor(ends, device=device),
            sampling_log_probs=torch.zeros(ids.shape, device=device),
            reward_token_log_probs=torch.full((len(responses), 1), torch.nan, device=device),
        )

    # --------------------------------------------------------------- token ids

    def _encode_prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        if isinstance(prompts, str):
            raise UserError("prompts is one string: put it in a list.")
        encoded = [self._encode_prompt(row, prompt) for row, prompt in enumerate(prompts)]
        for row, token_ids in enumerate(encoded):
            check_vocabulary(token_ids, self.tokenizer, self.policy.vocabulary_size, f"Prompt {row}")
        return encoded

    def _encode_prompt(self, row: int, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return encode_prompt(prompt, self.tokenizer, add_special_tokens=True)
        messages = [message for message in prompt if isinstance(message, dict)] if isinstance(prompt, list) else []
        if not messages or len(messages) != len(prompt):
            raise UserError(
                f"Prompt {row} is neither a string nor a list of chat messages such as "
                '[{"role": "user", "content": "..."}].'
            )
        if self.tokenizer.chat_template is None:
            raise UserError(
                f"Prompt {row} is a chat, and the tokenizer has no chat template: give the whole prompt as a string."
            )
        return encode_prompt(render_chat(messages, self.tokenizer), self.tokenizer, add_special_tokens=False)

    def _encode_response(self, row: int, response: str | Sequence[int]) -> list[int]:
        if not isinstance(response, str):
            size = self.policy.vocabulary_size
            if not response or not all(0 <= token_id < size for token_id in response):
                raise UserError(f"Response {row} is empty, or has token ids outside of the model's 0 to {size - 1}.")
            return list(response)
        ids = self.tokenizer.encode(response, add_special_tokens=False)
        check_vocabulary(ids, self.tokenizer, self.policy.vocabulary_size, f"Response {row}")
        ends = self.policy.eos_token_ids
        if ids and ids[-1] in ends:
            return ids
        return [*ids, written_eos(ends, self.tokenizer)]

    def _check_length(self, row: int, prompt_tokens: int, response_tokens: int, what: str) -> None:
        limit = self.policy.positions
        if limit is not None and prompt_tokens + response_tokens > limit:
            raise UserError(
                f"Prompt {row} of {prompt_tokens} tokens and {what} do not fit into the {limit} positions of the model."
            )


def _pool(verifier: Verifier | VerifierPool | None) -> VerifierPool:
    return verifier if isinstance(verifier, VerifierPool) else VerifierPool(verifier or MathVerifier(), workers=0)
