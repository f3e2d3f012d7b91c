"""The policy: a causal language model with its tokenizer, loaded from a path, and its optional frozen reference."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laser_lightning.errors import UserError
from laser_lightning.policy.distributions import AskedReading, read_distributions
from laser_lightning.policy.head import float32_logits
from laser_lightning.policy.image_text import freeze_other_parts
from laser_lightning.policy.layout import lay_out
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
from laser_lightning.policy.sharing import mask_for, prompt_sharing
from laser_lightning.policy.structure import decoder_of, position_limit, refuse_long_rows
from laser_lightning.records.batching import MicroBatch, Rollouts, micro_batches

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
        reading: [B, R, ...] what was read off the distributions of the response tokens; None where not asked for.
    """

    log_probs: Tensor
    entropy: Tensor
    reward_token_log_probs: Tensor
    hidden: Tensor | None = None
    router_balance: Tensor | None = None
    reading: Tensor | None = None


class Policy(nn.Module):
    """A causal LM split into its two halves: the decoder (token ids to hidden states) and the head (to logits).

    The split lets the update put only the positions that need logits through the head.

    Args:
        settings: which model, and how to load it.

    Attributes:
        settings: the same.
        lm: the transformers model.
        adapters: which of its weights have adapters; None without LoRA.
        eos_token_ids: sorted ids that end a response: those of the generation config, else the tokenizer's.
        pad_token_id: id that fills unused places; never used to tell what a place holds.
        packs: whether micro-batches are run as one row without padding.
        sharing: which solutions share the computation of their prompt; None for none.
        shares_always: whether that is asked for, and not only welcome.
        has_float32_head: whether logits are computed in float32, whatever the weights are.
        decode_rows: takes the decoder and rows of token ids [B, L], each a sequence, and computes the hidden states
            [B, L, D] in another way than the decoder alone; None for no such way.
    """

    decode_rows: Callable[[Callable[..., tuple[Tensor, Any]], Tensor], Tensor] | None = None

    def __init__(self, settings: PolicySettings, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        if settings.config_overrides and not settings.random_init:
            raise UserError("policy.config_overrides needs policy.random_init: pretrained weights have their shapes.")
        if settings.lora is not None and settings.random_init:
            raise UserError(
                "policy.lora adapts pretrained weights, and policy.random_init has none: drop one of the two."
            )
        self.settings = settings
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
        self.sharing = prompt_sharing(self.lm, settings.shared_prompts)
        self.shares_always = settings.shared_prompts == "always"
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
        asked: AskedReading | None = None,
    ) -> PolicyOutputs:
        """Log-probs of the response tokens and of the reward tokens, from one pass.

        Args:
            batch: B solutions.
            reward_token_ids: ids of the K tokens to read behind each response.
            temperature: the one that the responses were sampled at.
            entropy: compute entropies too.
            routers: compute how evenly a mixture of experts spreads the tokens too.
            asked: what is to be read off the tempered distributions too.
        """
        hidden, places, logits = self._flat_pass(batch, routers)
        mask = batch.response_mask
        rows, positions = mask.nonzero(as_tuple=True)
        positions = batch.prompt_lengths[rows] + positions
        ends = _last_places(batch, places)
        tokens, read = len(rows), len(reward_token_ids)
        reward_tokens = torch.tensor(reward_token_ids, device=ends.device).repeat(len(ends))
        # The hidden state at a place predicts the token at the next one; behind the last one those are reward tokens.
        states = hidden[torch.cat((places[rows, positions - 1], ends.repeat_interleave(read)))]
        token_ids, ones = batch.input_ids[rows, positions], hidden.new_ones(len(reward_tokens))
        statistics = token_statistics(
            states,
            torch.cat((token_ids, reward_tokens)),
            self.head,
            torch.cat((hidden.new_full((tokens,), temperature, dtype=torch.float64), ones)),
            entropy,
            self.chunk_size,
        )
        reading = None
        if asked is not None:
            given = None if asked.given is None else asked.given[mask]
            found = read_distributions(
                asked.reading, states[:tokens], token_ids, self.head, temperature, given, self.chunk_size
            )
            reading = found.new_zeros(*mask.shape, *found.shape[1:]).index_put((mask,), found)
        empty = torch.zeros(mask.shape, device=hidden.device)
        return PolicyOutputs(
            empty.masked_scatter(mask, statistics.log_probs[:tokens]),
            empty.masked_scatter(mask, statistics.entropy[:tokens]),
            statistics.log_probs[tokens:].view(-1, read),
            states[tokens::read],
            self._router_balance(batch, places, logits) if routers else empty.new_zeros(len(ends)),
            reading,
        )

    def _router_balance(self, batch: MicroBatch, places: Tensor, logits: tuple[Tensor, ...]) -> Tensor:
        solutions, positions = batch.loss_mask.nonzero(as_tuple=True)
        flat = places[solutions, batch.prompt_lengths[solutions] + positions]
        return router_balance(logits, flat, solutions, len(places), experts_per_token(self.lm))

    def hidden_at_end(self, batch: MicroBatch) -> Tensor:
        """[B, D] last hidden states at each response's last token."""
        hidden, places, _ = self._flat_pass(batch)
        return hidden[_last_places(batch, places)]

    def micro_batches(self, rollouts: Rollouts, rows: Tensor, token_budget: int, at_least: int = 1) -> list[MicroBatch]:
        """Cut solutions [M] into micro-batches as this model runs them (see ``records.batching.micro_batches``)."""
        return micro_batches(rollouts, rows, token_budget, self.pad_token_id, self.packs, at_least, self.sharing)

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
        for batch in self.micro_batches(rollouts, rows, budget):
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
        self, input_ids: Tensor, positions: Tensor | None, mask: Tensor | None = None, routers: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Hidden states, and the logits of each layer's router where asked for."""
        asked: dict[str, Any] = {"output_router_logits": True} if routers else {}
        if mask is not None:
            asked["attention_mask"] = mask_for(self.lm, mask)
        output = self.decoder(input_ids=input_ids, position_ids=positions, use_cache=False, **asked)
        return output.last_hidden_state, tuple(output.router_logits) if routers else ()

    def _flat_pass(self, batch: MicroBatch, routers: bool = False) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """[T, D] hidden states, [B, L] where in them each token of a sequence is, and the logits of routers."""
        refuse_long_rows(self.lm.config.get_text_config(), batch.input_ids.shape[1])
        layout = lay_out(batch, self.pad_token_id, self.packs)
        if self.decode_rows is None:
            hidden, logits = self._decode(layout.input_ids, layout.positions, layout.mask, routers)
        else:
            hidden, logits = self.decode_rows(self._decode, layout.input_ids), ()
        return hidden.flatten(0, 1), layout.places, logits

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


def _last_places(batch: MicroBatch, places: Tensor) -> Tensor:
    """[B] where each response's last token is, of the places [B, L] of all."""
    return places.gather(1, (batch.prompt_lengths + batch.response_lengths - 1)[:, None]).squeeze(1)


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

    def micro_batches(self, rollouts: Rollouts, rows: Tensor, token_budget: int) -> list[MicroBatch]:
        """Those of the policy."""
        return self.policy.micro_batches(rollouts, rows, token_budget)
