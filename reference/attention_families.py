"""Further families for models.py whose layers are attention and experts."""

from pathlib import Path

import hybrid_families
from families import GENERATION, Family, Tensors, per_expert, per_expert_one, write_one
from hybrid_families import f32_of


def ernie_one(folder: Path, tensors: Tensors) -> None:
    """Released ERNIE 4.5: the router's bias beside the router."""
    write_one(folder, {name.replace(".gate.moe_statics.", ".moe_statics."): t for name, t in per_expert(tensors).items()})


def hy_v3_one(folder: Path, tensors: Tensors) -> None:
    """Released Hunyuan 3: names of its own, and a head for multi-token prediction."""
    renamed = {}
    for name, t in per_expert(tensors).items():
        for ours, released in [
            (".mlp.gate.weight", ".mlp.router.gate.weight"),
            (".mlp.e_score_correction_bias", ".mlp.expert_bias"),
            (".mlp.shared_experts.", ".mlp.shared_mlp."),
        ]:
            name = name.replace(ours, released)
        renamed[name] = t
    write_one(folder, renamed)


COMMON = dict(
    attention_dropout=0.0, bos_token_id=1, eos_token_id=2, hidden_act="silu", initializer_range=0.02,
    max_position_embeddings=4096, pad_token_id=1, tie_word_embeddings=False, torch_dtype="bfloat16", use_cache=True,
)
BIASES = f32_of("e_score_correction_bias", "expert_bias")

FAMILIES = hybrid_families.FAMILIES | {
    # Qwen2-MoE: biases of queries, keys and values, a gated shared expert, weights that do not sum to 1.
    "qwen2_moe": Family(
        config=COMMON | dict(
            architectures=["Qwen2MoeForCausalLM"], decoder_sparse_step=1, hidden_size=36, intermediate_size=40,
            max_window_layers=2, model_type="qwen2_moe", moe_intermediate_size=8, norm_topk_prob=False,
            num_attention_heads=3, num_experts=12, num_experts_per_tok=3, num_hidden_layers=2, num_key_value_heads=3,
            output_router_logits=False, rms_norm_eps=1e-06, rope_theta=1000000.0, router_aux_loss_coef=0.001,
            shared_expert_intermediate_size=20, sliding_window=32, transformers_version="4.39.0",
            use_sliding_window=False, vocab_size=72,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of(), layout=per_expert_one,
    ),
    # OLMoE: norms over all heads together, queries, keys and values clipped.
    "olmoe": Family(
        config=COMMON | dict(
            architectures=["OlmoeForCausalLM"], attention_bias=False, clip_qkv=1.5, hidden_size=72, intermediate_size=4,
            model_type="olmoe", norm_topk_prob=False, num_attention_heads=3, num_experts=12, num_experts_per_tok=3,
            num_hidden_layers=2, num_key_value_heads=1, output_router_logits=False, rms_norm_eps=1e-05,
            rope_scaling=None, rope_theta=10000.0, router_aux_loss_coef=0.01, transformers_version="4.43.0",
            vocab_size=72,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of(), layout=per_expert_one,
    ),
    # dots.llm1: norms of each head, a dense layer first, two shared experts.
    "dots1": Family(
        config=COMMON | dict(
            architectures=["Dots1ForCausalLM"], attention_bias=False, first_k_dense_replace=1, head_dim=24,
            hidden_size=36, intermediate_size=40, max_window_layers=3, model_type="dots1", moe_intermediate_size=8,
            moe_layer_freq=1, n_group=1, n_routed_experts=12, n_shared_experts=2, norm_topk_prob=True,
            num_attention_heads=2, num_experts_per_tok=3, num_hidden_layers=3, num_key_value_heads=2,
            rms_norm_eps=1e-05, rope_scaling=None, rope_theta=10000000, routed_scaling_factor=2.5,
            scoring_func="noaux_tc", sliding_window=None, topk_group=1, topk_method="noaux_tc",
            transformers_version="4.46.3", use_sliding_window=False, vocab_size=72,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=BIASES, layout=per_expert_one,
    ),
    # Solar Open: no norms of queries and keys, no dense layer.
    "solar_open": Family(
        config=COMMON | dict(
            architectures=["SolarOpenForCausalLM"], attention_bias=False, first_k_dense_replace=0, head_dim=24,
            hidden_size=36, intermediate_size=40, model_type="solar_open", moe_intermediate_size=8, n_group=1,
            n_routed_experts=12, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=2,
            num_experts_per_tok=3, num_hidden_layers=2, num_key_value_heads=1, partial_rotary_factor=1.0,
            rms_norm_eps=1e-05, rope_scaling=dict(factor=2.0, original_max_position_embeddings=64, rope_type="yarn", type="yarn"),
            rope_theta=1000000, routed_scaling_factor=1.5, topk_group=1, transformers_version="4.57.0", use_qk_norm=False,
            vocab_size=72,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=BIASES, layout=per_expert_one,
    ),
    # Hunyuan 3: norms of each head, a dense layer first, names of its own.
    "hy_v3": Family(
        config=COMMON | dict(
            architectures=["HYV3ForCausalLM"], attention_bias=False, enable_moe_fp32_combine=True,
            first_k_dense_replace=1, head_dim=24, hidden_size=36, intermediate_size=40, mlp_bias=False,
            model_type="hy_v3", moe_intermediate_size=8, num_attention_heads=2, num_experts=12, num_experts_per_tok=3,
            num_hidden_layers=3, num_key_value_heads=1, num_nextn_predict_layers=1, num_shared_experts=1,
            output_router_logits=False, rms_norm_eps=1e-05,
            rope_parameters=dict(rope_theta=11158840.0, rope_type="default"), router_scaling_factor=2.826,
            transformers_version="5.6.0", vocab_size=72,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=BIASES, layout=hy_v3_one,
    ),
    # ERNIE 4.5: RoPE that turns neighbours, a softmax router with a learnt bias, a tied head.
    "ernie4_5_moe": Family(
        config=COMMON | dict(
            architectures=["Ernie4_5_MoeForCausalLM"], hidden_size=48, intermediate_size=40,
            model_type="ernie4_5_moe", moe_capacity=[64, 64, 64], moe_gate="topk", moe_intermediate_size=8, moe_k=3,
            moe_layer_end_index=2, moe_layer_interval=1, moe_layer_start_index=1, moe_num_experts=12,
            moe_num_shared_experts=2, moe_use_aux_free=True, num_attention_heads=2, num_hidden_layers=3,
            num_key_value_heads=1, rms_norm_eps=1e-05, rope_scaling=None, rope_theta=500000, tie_word_embeddings=True,
            transformers_version="4.54.0", use_bias=False, vocab_size=72,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of("e_score_correction_bias", "mlp.gate.weight"),
        layout=ernie_one, embed_std=0.1,
    ),
    # Hunyuan-A13B: norms behind RoPE, whose base is stretched, sizes repeated for each layer, a tied head.
    "hunyuan_v1_moe": Family(
        config=COMMON | dict(
            architectures=["HunYuanMoEV1ForCausalLM"], attention_bias=False, head_dim=24, hidden_size=36,
            intermediate_size=12, mlp_bias=False, model_type="hunyuan_v1_moe", moe_intermediate_size=[12, 12],
            moe_layer_num_skipped=0, moe_topk=[3, 3], num_attention_heads=2, num_experts=12, num_hidden_layers=2,
            num_key_value_heads=1, num_shared_expert=[1, 1], rms_norm_eps=1e-05,
            rope_scaling=dict(alpha=1000.0, beta_fast=32, beta_slow=1, factor=1.0, mscale=1.0, mscale_all_dim=1.0, type="dynamic"),
            rope_theta=10000.0, tie_word_embeddings=True, transformers_version="4.41.2", use_cla=False,
            use_mixed_mlp_moe=True, use_qk_norm=True, use_rotary_pos_emb=True, vocab_size=72,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of("wg.weight"), layout=per_expert_one, embed_std=0.1,
    ),
    # GLM-4.7-Flash: latent attention as DeepSeek's, with GLM's sizes.
    "glm4_moe_lite": Family(
        config=COMMON | dict(
            architectures=["Glm4MoeLiteForCausalLM"], attention_bias=False, first_k_dense_replace=1, hidden_size=36,
            intermediate_size=40, kv_lora_rank=24, model_type="glm4_moe_lite", moe_intermediate_size=8, n_group=1,
            n_routed_experts=12, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=2, num_experts_per_tok=3,
            num_hidden_layers=3, num_key_value_heads=2, num_nextn_predict_layers=0, partial_rotary_factor=1.0,
            q_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8, rms_norm_eps=1e-05, rope_interleave=True,
            rope_scaling=None, rope_theta=1000000, routed_scaling_factor=1.8, topk_group=1, topk_method="noaux_tc",
            transformers_version="5.0.0", v_head_dim=16, vocab_size=72,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=BIASES, layout=per_expert_one,
    ),
}
