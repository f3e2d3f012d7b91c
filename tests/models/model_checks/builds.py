"""Tiny configs of every model type that transformers has: the type's own defaults, with sizes cut by their names."""

from pathlib import Path
from typing import Any

import yaml
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

VOCABULARY = 260  # of the character tokenizer: four special tokens and the bytes
EOS, PAD = 1, 0
MOST_LAYERS = 4

SIZES: dict[int | float, str] = {
    1: """moe_layer_freq first_k_dense_replace num_nextn_predict_layers n_group topk_group num_expert_group n_groups
        mamba_n_groups num_codebooks depth_multiplier num_global_layers o_groups L_cycles H_cycles num_kv_shared_layers
        adapter_rank hc_mult hc_sinkhorn_iters attn_layer_offset expert_layer_offset""",
    2: """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers depth num_decoder_layers layers
        num_encoder_layers num_key_value_heads num_kv_heads multi_query_group_num num_experts_per_tok
        num_experts_per_token moe_k moe_topk top_k_experts num_selected_experts linear_num_key_heads
        swa_num_key_value_heads index_n_heads num_blocks attn_layer_period expert_layer_period num_layers_per_stack
        num_query_tokens patch_size shared_experts n_shared_experts num_mem_blocks full_attention_interval
        num_global_key_value_heads linear_num_heads num_query_groups hc_lowrank heads_per_ngram resampler_depth
        num_registers""",
    4: """num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads
        num_encoder_attention_heads num_decoder_attention_heads num_experts num_local_experts n_routed_experts
        moe_num_experts linear_num_value_heads sliding_window swa_num_attention_heads attention_window_size
        local_attention window_size sliding_window_size num_sliding_attention_heads zero_expert_num
        attention_chunk_size index_block_size index_kpool attention_window local_attn_chunk_length
        lsh_attn_chunk_length num_virtual_tokens resampler_n_heads resampler_heads num_visual_indicator_tokens""",
    8: """rotary_dim embedding_size position_bias_num_buckets relative_attention_num_buckets num_buckets
        hidden_size_per_layer_input laurel_rank loop_gate_rank gated_norm_rank mamba_chunk_size chunk_size
        time_step_rank mamba_dt_rank image_seq_length mm_tokens_per_image num_patches mamba_d_state ssm_state_size
        state_size d_rel num_image_tokens vision_soft_tokens_per_image audio_soft_tokens_per_image codebook_dim
        num_groups mamba_n_heads mamba_num_heads n_mamba_heads resampler_n_latents resampler_num_latents pos_emb_height
        pos_emb_width posemb_grid_size""",
    16: """head_dim attention_head_dim swa_head_dim global_head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim
        kv_lora_rank q_lora_rank o_lora_rank linear_key_head_dim linear_value_head_dim linear_head_dim mamba_head_dim
        mamba_d_head index_head_dim kv_channels attention_head_size dim_head d_head query_pre_attn_scalar image_size
        crop_size resampler_dim_head resampler_head_dim router_hidden_size d_kv num_position_embeddings""",
    32: "qk_head_dim",
    64: """hidden_size d_model n_embd embed_dim embedding_dim emb_dim dim_model_base word_embed_proj_dim lru_width
        attention_hidden_size out_hidden_size projection_dim projector_hidden_size text_hidden_size encoder_hidden_size
        backbone_hidden_size hidden_size_global input_embedding_size output_embedding_size ple_embed_dim output_dim
        projection_hidden_size image_token_embed_dim vision_hidden_size index_topk keep_window_size""",
    96: """intermediate_size moe_intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size
        dense_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size
        moe_shared_expert_intermediate_size feed_forward_size dff dim_ff d_ff intermediate_size_mlp share_expert_dim
        shared_experts_intermediate_size moe_hidden_size d_inner mlp_dim projection_intermediate_size
        alignment_intermediate_size projection_hidden_dim merged_hidden_size dim_feedforward""",
    128: "mamba_d_ssm",
    512: """max_position_embeddings n_positions n_ctx max_seq_len context_length seq_length max_target_positions
        model_max_length rel_extent position_bias_max_distance max_source_positions""",
    0.2: "initializer_range init_std initializer_factor init_scale",
    VOCABULARY: "vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size ngram_vocab_size_base",
}
"""What stands for a size, by the field's name; a default that is smaller stays."""

_SIZE_OF = {name: size for size, names in SIZES.items() for name in names.split()}
_RAISED = {"initializer_range", "init_std", "initializer_factor", "init_scale"}  # random weights that matter
_PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types", "block_types")


def overrides() -> dict[str, dict[str, Any]]:
    """What some types need besides."""
    return yaml.safe_load(Path(__file__).with_name("builds.yaml").read_text())


def causal_types() -> list[str]:
    """Types that transformers has an ``AutoModelForCausalLM`` of."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def image_text_types() -> list[str]:
    """Types that it has an ``AutoModelForImageTextToText`` of; some are causal types too.

    Where both can be had, the tiny model is the whole one, as published checkpoints are; not so Llama 4, which runs on
    text alone in no version up to 5.24.
    """
    return sorted(set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - {"llama4"})


def all_types() -> list[str]:
    """All of both."""
    return sorted({*causal_types(), *image_text_types()})


def tiny_config(model_type: str, fields: dict[str, Any] | None = None) -> PretrainedConfig:
    """The config of a tiny model of a type.

    Args:
        model_type: as ``config.json`` names it.
        fields: override what is cut by name; those of a part are in a dict under the part's name.
    """
    config_class = CONFIG_MAPPING[model_type]
    return _tiny(config_class(), fields or {})


def _tiny(default: PretrainedConfig, given: dict[str, Any]) -> PretrainedConfig:
    fields = _cut(default)
    for name, value in list(vars(default).items()):
        if isinstance(value, PretrainedConfig) and not name.startswith("_"):
            own = given.get(name)
            fields[name] = _tiny(value, own if isinstance(own, dict) else {}).to_dict()
    # A part's overrides are used up above.
    parts = [name for name in given if isinstance(fields.get(name), dict) and isinstance(given[name], dict)]
    return type(default)(**(fields | {name: value for name, value in given.items() if name not in parts}))


def _cut(default: PretrainedConfig) -> dict[str, Any]:
    known = {k: v for k, v in vars(default).items() if not k.startswith("_")}
    fields: dict[str, Any] = {}
    for name, value in known.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if name.endswith(("_token_id", "_token_index", "_id")) and isinstance(value, int):
            fields[name] = _token_id(name, value)
        elif name in _SIZE_OF:
            size = _SIZE_OF[name]
            fields[name] = size if name in _RAISED else type(value)(min(size, value))
    if "qk_head_dim" in fields and known.get("head_dim") == known["qk_head_dim"]:
        fields["head_dim"] = fields["qk_head_dim"]
    if "num_attention_heads" in fields and known.get("num_key_value_heads") == known["num_attention_heads"]:
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    rope = known.get("rope_parameters")
    if isinstance(rope, dict) and "mrope_section" in rope:
        fields["rope_parameters"] = rope | {"mrope_section": _cut_sections(known, fields)}
    for name in ("eos_token_id", "pad_token_id"):
        if hasattr(default, name):
            fields[name] = EOS if name.startswith("eos") else PAD
    return fields | _layers(known)


def _cut_sections(known: dict[str, Any], fields: dict[str, Any]) -> list[int]:
    """Frequencies of the three axes of an image's places, as many as a tiny head rotates."""
    heads = fields.get("num_attention_heads", known["num_attention_heads"])
    width = fields.get("head_dim", fields.get("hidden_size", known["hidden_size"]) // heads)
    pairs = int(width * (known["rope_parameters"].get("partial_rotary_factor") or 1.0)) // 2
    third = pairs // 3
    return [pairs - 2 * third, third, third]


def _token_id(name: str, value: int) -> int:
    """Special tokens have ids of their own, among the bytes that no text of the tests has."""
    if name == "bos_token_id":
        return 2
    return value if value < 3 else VOCABULARY - 1 - sum(map(ord, name)) % 60


def _layers(known: dict[str, Any]) -> dict[str, Any]:
    """One layer of each kind, at least two and at most four in all."""
    kinds = {name: list(known[name]) for name in _PER_LAYER if isinstance(known.get(name), list | tuple)}
    if not kinds:
        return {}
    count = min(map(len, kinds.values()))
    seen: dict[tuple[Any, ...], int] = {}
    for place in range(count):
        seen.setdefault(tuple(values[place] for values in kinds.values()), place)
    places = sorted(seen.values())[:MOST_LAYERS]
    if len(places) == 1:
        places *= 2
    fields: dict[str, Any] = {name: [values[place] for place in places] for name, values in kinds.items()}
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        if name in known:
            fields[name] = len(places)
    return fields
