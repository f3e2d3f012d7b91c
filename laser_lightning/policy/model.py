"""The policy: a causal language model with its tokenizer, loaded from a path, and its optional frozen reference."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laser_lightning.errors import UserError
from laser_lightning.policy.head import float32_logits
from laser_lightning.policy.image_text import freeze_other_parts
from laser_lightning.policy.loading import (
    EMBEDDED,
    PolicySettings,
    apply_liger,
    eos_token_ids,
    load_tokenizer,
    load_weights,
    model_path,
    recompute_activations,
    written_eos,
)
from laser_lightning.policy.logprobs import reward_token_log_probs, token_statistics
from laser_lightning.policy.lora import adapters_off, add_adapters, check_adapters
from laser_lightning.policy.routers import experts_per_token, router_balance
from laser_lightning.policy.structure import decoder_of, position_limit, refuse_long_rows
from laser_lightning.records.batching import MicroBatch, Rollouts, length_mask, micro_batches

__all__ = [
    "EMBEDDED",
    "AdaptersOff",
    "FrozenPolicy",
    "Policy",
    "PolicyOutputs",
    "PolicySettings",
    "eos_token_ids",
    "load_tokenizer",
    "model_path",
    "written_eos",
]

LOGITS_AT_ONCE = 2**26
"""Logits that the update holds at a time: 256 MiB in float32."""


_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Names under which configs hold the soft cap of their logits."""


class PolicyOutputs(NamedTuple):
    """What one forward pass over a micro-batch yields.

    Attributes:
        log_probs: [B, R] float32, of the response tokens at the sampling temperature; 0 outside the responses.
        entropy: [B, R] float32, of the tempered distributions (nats); 0 where not asked for.
        reward_token_log_probs: [B, K] float32, of the K tokens asked for behind each response, at temperature 1.
        hidden: [B, D] last hidden state at each response's last token.
        router_balance: [B] float32, how evenly the experts are used by each response's trained tokens
            (``router_balance``); 0 where not asked for.
    """

    log_probs: Tensor
    entropy: Tensor
    reward_token_log_probs: Tensor
    hidden: Tensor | None = None
    router_balance: Tensor | None = None


class Policy(nn.Module):
    """A causal LM split into its two halves: the decoder (token ids to hidden states) and the head (to logits).

    The split lets the update put only the positions that need logits through the head.

    Args:
        settings: which model, and how to load it.

    Attributes:
        lm: the transformers model.
        adapters: which of its weights have adapters; None without LoRA.
        eos_token_ids: sorted ids that end a response: those of the generation config, else the tokenizer's.
        pad_token_id: id that fills unused places; never used to tell what a place holds.
        packs: whether micro-batches are run as one row without padding.
        has_float32_head: whether logits are computed in float32, whatever the weights are.
    """

    def __init__(self, settings: PolicySettings, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        if settings.config_overrides and not settings.random_init:
            raise UserError("policy.config_overrides needs policy.random_init: pretrained weights have their shapes.")
        if settings.lora is not None and settings.random_init:
            raise UserError(
                "policy.lora adapts pretrained weights, and policy.random_init has none: drop one of the two."
            )
        self.lm: PreTrainedModel = load_weights(settings)
        self.adapters = None if settings.lora is None else add_adapters(self.lm, settings.lora)
        freeze_other_parts(self.lm)
        self.lm.train()  # from_pretrained leaves evaluation mode on
        if settings.gradient_checkpointing:
            recompute_activations(self.lm)
        if settings.liger:
            apply_liger(self.lm)
        self.has_float32_head = settings.head_dtype == "float32"
        self._decode = torch.compile(self._run_decoder, dynamic=True) if settings.compile else self._run_decoder
        flash = "flash" in str(self.lm.config.get_text_config()._attn_implementation)
        self.packs = settings.packing == "always" or (settings.packing == "auto" and flash)
        self.eos_token_ids = eos_token_ids(self.lm, tokenizer)
        # Tokenizers get a pad token that the model has no row for.
        has_pad = tokenizer.pad_token_id < self.vocabulary_size
        self.pad_token_id: int = tokenizer.pad_token_id if has_pad else self.eos_token_ids[0]
        self.lm.generation_config.eos_token_id = list(self.eos_token_ids)
        self.lm.generation_config.pad_token_id = self.pad_token_id

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm.device

    def forward(
        self,
        batch: MicroBatch,
        reward_token_ids: Sequence[int],
        temperature: float = 1.0,
        entropy: bool = False,
        routers: bool = False,
    ) -> PolicyOutputs:
        """Log-probs of the response tokens and of the reward tokens, from one pass.

        Args:
            batch: B solutions.
            reward_token_ids: ids of the K tokens to read behind each response.
            temperature: the one that the responses were sampled at.
            entropy: compute entropies too.
            routers: compute how evenly a mixture of experts spreads the tokens too.
        """
        lengths = batch.prompt_lengths + batch.response_lengths
        hidden, starts, logits = self._flat_pass(batch.input_ids, lengths, routers)
        mask = batch.response_mask
        rows, places = mask.nonzero(as_tuple=True)
        places = batch.prompt_lengths[rows] + places
        ends = starts + lengths - 1
        tokens, read = len(rows), len(reward_token_ids)
        asked = torch.tensor(reward_token_ids, device=ends.device).repeat(len(ends))
        # The hidden state at a place predicts the token at the next one; behind the last one those are reward tokens.
        states = hidden[torch.cat((starts[rows] + places - 1, ends.repeat_interleave(read)))]
        statistics = token_statistics(
            states,
            torch.cat((batch.input_ids[rows, places], asked)),
            self.head,
            torch.cat((hidden.new_full((tokens,), temperature, dtype=torch.float64), hidden.new_ones(len(asked)))),
            entropy,
            self.chunk_size,
        )
        empty = torch.zeros(mask.shape, device=hidden.device)
        return PolicyOutputs(
            empty.masked_scatter(mask, statistics.log_probs[:tokens]),
            empty.masked_scatter(mask, statistics.entropy[:tokens]),
            statistics.log_probs[tokens:].view(-1, read),
            states[tokens::read],
            self._router_balance(batch, starts, logits) if routers else empty.new_zeros(len(ends)),
        )

    def _router_balance(self, batch: MicroBatch, starts: Tensor, logits: tuple[Tensor, ...]) -> Tensor:
        solutions, places = batch.loss_mask.nonzero(as_tuple=True)
        flat = starts[solutions] + batch.prompt_lengths[solutions] + places
        return router_balance(logits, flat, solutions, len(starts), experts_per_token(self.lm))

    def hidden_at_end(self, batch: MicroBatch) -> Tensor:
        """[B, D] last hidden states at each response's last token."""
        lengths = batch.prompt_lengths + batch.response_lengths
        hidden, starts = self.flat_hidden_states(batch.input_ids, lengths)
        return hidden[starts + lengths - 1]

    def scores_of(self, rollouts: Rollouts, reward_token_ids: Sequence[int], micro_batch_tokens: int) -> Tensor:
        """[N, K] log pi(z) behind each response's last token, truncated ones too, without the responses' own log-probs.

        Args:
            rollouts: N solutions.
            reward_token_ids: ids of the K tokens.
            micro_batch_tokens: most tokens (padding included) of a forward pass; a sequence that is longer raises it.
        """
        lengths = rollouts.prompt_lengths.repeat_interleave(rollouts.group_size) + rollouts.response_lengths
        budget = max(micro_batch_tokens, int(lengths.max()))
        rows = torch.arange(len(rollouts), device=lengths.device)
        found = rollouts.reward_token_log_probs.new_zeros(len(rows), len(reward_token_ids))
        for batch in micro_batches(rollouts, rows, budget, self.pad_token_id, self.packs):
            found[batch.rows] = reward_token_log_probs(self.head(self.hidden_at_end(batch)), reward_token_ids)
        return found

    @property
    def positions(self) -> int | None:
        """Tokens that prompt and response may have together; None for models without a limit."""
        return position_limit(self.lm.config.get_text_config())

    @property
    def decoder(self) -> PreTrainedModel:
        """The model without its head."""
        return decoder_of(self.lm)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states, D."""
        width = getattr(self.lm.config.get_text_config(), "hidden_size", None)  # some name none, or one of each part
        return int(self.lm.get_output_embeddings().in_features if width is None else width)

    @property
    def vocabulary_size(self) -> int:
        """Token ids that the model has rows for."""
        return int(self.lm.config.get_text_config().vocab_size)

    @property
    def chunk_size(self) -> int:
        """Positions that go through the head together in the update."""
        return max(1, LOGITS_AT_ONCE // self.lm.config.get_text_config().vocab_size)

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Last hidden states of right-padded sequences.

        No attention mask is needed: with causal attention a real token never looks at the padding to its right.

        Args:
            input_ids: [B, L] token ids.

        Returns:
            [B, L, D]; rows' places behind their last token hold no meaning.
        """
        return self._decode(input_ids, None)[0]

    def _run_decoder(
        self, input_ids: Tensor, positions: Tensor | None, routers: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Hidden states, and the logits of each layer's router where asked for."""
        asked = {"output_router_logits": True} if routers else {}
        output = self.decoder(input_ids=input_ids, position_ids=positions, use_cache=False, **asked)
        return output.last_hidden_state, tuple(output.router_logits) if routers else ()

    def flat_hidden_states(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states of right-padded sequences, packed without their padding where ``packs`` says so.

        Args:
            input_ids: [B, L] token ids.
            lengths: [B] int64.

        Returns:
            [T, D] hidden states, and [B] places in them where the sequences begin.
        """
        hidden, starts, _ = self._flat_pass(input_ids, lengths)
        return hidden, starts

    def _flat_pass(
        self, input_ids: Tensor, lengths: Tensor, routers: bool = False
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        refuse_long_rows(self.lm.config.get_text_config(), input_ids.shape[1])
        if not self.packs:
            hidden, logits = self._decode(input_ids, None, routers)
            starts = torch.arange(len(hidden), device=hidden.device) * hidden.shape[1]
            return hidden.flatten(0, 1), starts, logits
        mask = length_mask(lengths, input_ids.shape[1])
        positions = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        # Where positions begin anew, transformers keeps attention from looking across.
        hidden, logits = self._decode(input_ids[mask][None], positions[mask][None], routers)
        return hidden[0], lengths.cumsum(0) - lengths, logits

    def head(self, hidden: Tensor) -> Tensor:
        """Float32 logits [..., V] of hidden states [..., D], as the model's own forward computes them.

        The product with the output embedding is one in float32, unless ``policy.head_dtype`` says otherwise.
        """
        # Not called as a module: ZeRO-3 would gather its weights for each chunk, and ranks differ in their numbers of
        # chunks. The strategy has them gathered for the whole pass.
        embedding = self.lm.get_output_embeddings()
        logits = float32_logits(embedding, hidden) if self.has_float32_head else embedding.forward(hidden)
        config = self.lm.config.get_text_config()
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if scaling := getattr(config, "logits_scaling", None):
            logits = logits / scaling
        if width := getattr(config, "logits_mup_width_multiplier", None):  # of the hidden states, before the head
            logits = logits / width
        for name in _CAPS:
            if cap := getattr(config, name, None):
                logits = torch.tanh(logits / cap) * cap
        return logits.float()

    def check_adapters(self) -> None:
        """Refuse a model that does not run with its adapters, or goes past some (see ``lora.check_adapters``)."""
        if self.adapters is not None:
            check_adapters(self.lm, torch.arange(4, device=self.device)[None] % self.vocabulary_size)


class FrozenPolicy(Policy):
    """A copy of the initial policy that is never trained: the reference of KL terms and of exact scores."""

    def __init__(self, settings: PolicySettings, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(settings, tokenizer)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenPolicy":
        """Stay in evaluation mode: Lightning switches every submodule to training, dropout included."""
        super().train(False)
        return self


class AdaptersOff:
    """The initial policy of a policy with LoRA, which is called as a ``FrozenPolicy`` and holds no weights of its own.

    Args:
        policy: the policy in training.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, *args: Any, **options: Any) -> PolicyOutputs:
        """The policy's outputs without its adapters (see ``Policy.forward``)."""
        with adapters_off(self.policy.lm):
            return self.policy(*args, **options)
