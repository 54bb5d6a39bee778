"""Still further families for models.py: attention within chunks or windows of other heads, other routers, and Qwen4-Exp."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import Llama4ForCausalLM, Llama4TextConfig, Qwen4ExpForCausalLM, Qwen4ExpTextConfig

import attention_families
from families import GENERATION, Family, Tensors, bf16_but_biases, per_expert, per_expert_one, write_one
from hybrid_families import EAGER, f32_of, minimax_m3


def phimoe_one(folder: Path, tensors: Tensors) -> None:
    """Released Phi-3.5-MoE: Mixtral's names."""
    flat = per_expert(tensors, "w1", "w3", "w2")
    renamed = {name.replace(".mlp.router.", ".mlp.gate."): t for name, t in flat.items()}
    write_one(folder, {name.replace(".mlp.", ".block_sparse_moe."): t for name, t in renamed.items()})


def mimo_one(folder: Path, tensors: Tensors) -> None:
    """Released MiMo-V2-Flash: another name for sinks."""
    per_expert_one(folder, {name.replace(".sinks", ".attention_sink_bias"): t for name, t in tensors.items()})


def exaone_one(folder: Path, tensors: Tensors) -> None:
    """Released K-EXAONE: another place for the router's learnt bias."""
    per_expert_one(folder, {name.replace(".gate.e_score", ".e_score"): t for name, t in tensors.items()})


def llama4(config: dict) -> torch.nn.Module:
    """The language model alone."""
    return Llama4ForCausalLM(Llama4TextConfig(**config["text_config"], **EAGER)).float()


def llama4_apart(folder: Path, tensors: Tensors) -> None:
    """Llama 4 in BF16 as MLX's exports have it: under a wrapper, experts [out, in], gate and up apart. (The release has them
    transposed and joined.)"""
    flat = {}
    for name, t in tensors.items():
        prefix, _, leaf = ("language_model." + name).partition(".experts.")
        if not leaf:
            flat[prefix] = t
            continue
        parts = zip(("gate_proj", "up_proj"), t.chunk(2, -1)) if leaf == "gate_up_proj" else [("down_proj", t)]
        flat |= {f"{prefix}.experts.{part}.weight": p.transpose(1, 2) for part, p in parts}
    write_one(folder, flat)


def llama4_joined(tensors: Tensors) -> Tensors:
    """Back from llama4_apart."""
    joined = {}
    for name, t in tensors.items():
        prefix, _, leaf = name.removeprefix("language_model.").partition(".experts.")
        if not leaf:
            joined[prefix] = t
        elif leaf == "gate_proj.weight":
            up = tensors[name.replace("gate_proj", "up_proj")]
            joined[f"{prefix}.experts.gate_up_proj"] = torch.cat([t, up], 1).transpose(1, 2)
        elif leaf == "down_proj.weight":
            joined[f"{prefix}.experts.down_proj"] = t.transpose(1, 2)
    return joined


NGRAMS = "ngram_embedding.weight"


def qwen4_exp(config: dict) -> torch.nn.Module:
    return Qwen4ExpForCausalLM(Qwen4ExpTextConfig(**config["text_config"], **EAGER)).float()


def qwen4_exp_one(folder: Path, tensors: Tensors) -> None:
    """Released Qwen4-Exp: under a wrapper for images, and tables of n-grams in parts."""
    flat = {}
    for name, t in tensors.items():
        name = name.replace("model.", "model.language_model.", 1)
        parts = t.chunk(4) if name.endswith(NGRAMS) else []
        shards = {name.replace(NGRAMS, f"ngram_embedding.shard_{i}.weight"): part for i, part in enumerate(parts)}
        flat |= shards or {name: t}
    write_one(folder, flat)


def qwen4_exp_joined(tensors: Tensors) -> Tensors:
    """Back from qwen4_exp_one."""
    joined = {}
    for name, t in tensors.items():
        before, shard, number = name.partition("ngram_embedding.shard_")
        if number == "0.weight":
            name, t = before + NGRAMS, torch.cat([tensors[f"{before}{shard}{i}.weight"] for i in range(4)])
        if not shard or number == "0.weight":
            joined[name.replace("model.language_model.", "model.", 1)] = t
    return joined


FAMILIES = attention_families.FAMILIES | {
    # Phi-3.5-MoE: layer norms with biases, biases everywhere, two experts by softmaxes that leave out what is far below the
    # best, RoPE with a factor for each frequency.
    "phimoe": Family(
        config=dict(
            architectures=["PhiMoEForCausalLM"], attention_bias=True, attention_dropout=0.0, bos_token_id=1,
            eos_token_id=2, hidden_act="silu", hidden_size=48, initializer_range=0.02, input_jitter_noise=0.0,
            intermediate_size=12, lm_head_bias=True, max_position_embeddings=4096, model_type="phimoe",
            num_attention_heads=2, num_experts_per_tok=2, num_hidden_layers=2, num_key_value_heads=1,
            num_local_experts=12, original_max_position_embeddings=256, rms_norm_eps=1e-05,
            rope_scaling=dict(
                long_factor=[1.5 + i for i in range(12)], long_mscale=1.25, original_max_position_embeddings=256,
                short_factor=[1 + i / 16 for i in range(12)], short_mscale=1.125, type="longrope",
            ),
            rope_theta=10000.0, router_jitter_noise=0.1, sliding_window=4096, tie_word_embeddings=False,
            torch_dtype="bfloat16", transformers_version="4.43.3", use_cache=True, vocab_size=64,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=bf16_but_biases, layout=phimoe_one,
    ),
    # MiMo-V2-Flash: layers within a window, which have sinks, more heads of keys and another base frequency; values narrower
    # than keys, and scaled. Both spellings of its config.
    "mimo_v2_flash": Family(
        config=dict(
            add_full_attention_sink_bias=False, add_swa_attention_sink_bias=True,
            architectures=["MiMoV2FlashForCausalLM"], attention_bias=False, attention_dropout=0.0,
            attention_value_scale=0.707, bos_token_id=1, eos_token_id=2, head_dim=24, hidden_act="silu", hidden_size=36,
            hybrid_layer_pattern=[0, 1, 1, 0], initializer_range=0.02, intermediate_size=40,
            layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            layernorm_epsilon=1e-05, max_position_embeddings=4096, model_type="mimo_v2_flash", moe_intermediate_size=8,
            moe_layer_freq=[0, 1, 1, 1], n_group=1, n_routed_experts=12, n_shared_experts=None, norm_topk_prob=True,
            num_attention_heads=4, num_experts_per_tok=3, num_hidden_layers=4, num_key_value_heads=1,
            partial_rotary_factor=0.334, rms_norm_eps=1e-05, rope_theta=5000000, routed_scaling_factor=None,
            scoring_func="sigmoid", sliding_window=20, sliding_window_size=20, swa_head_dim=24,
            swa_num_attention_heads=4, swa_num_key_value_heads=2, swa_rope_theta=10000, swa_v_head_dim=12,
            tie_word_embeddings=False, topk_group=1, topk_method="noaux_tc", torch_dtype="bfloat16",
            transformers_version="4.40.1", use_cache=True, v_head_dim=12, vocab_size=64,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=bf16_but_biases, layout=mimo_one,
    ),
    # Llama 4: chunks with positions and a layer of full attention without, whose queries grow with the position; experts, in
    # every other layer, whose input the router scales.
    "llama4": Family(
        config=dict(
            architectures=["Llama4ForConditionalGeneration"], model_type="llama4", tie_word_embeddings=False,
            torch_dtype="bfloat16", transformers_version="4.51.0",
            text_config=dict(
                attention_bias=False, attention_chunk_size=64, attention_dropout=0.0, attn_scale=0.1,
                attn_temperature_tuning=True, bos_token_id=1, eos_token_id=2, floor_scale=16, head_dim=24,
                hidden_act="silu", hidden_size=36, initializer_range=0.02, interleave_moe_layer_step=2,
                intermediate_size=8, intermediate_size_mlp=40, max_position_embeddings=4096, model_type="llama4_text",
                no_rope_layers=[1, 1, 1, 0], num_attention_heads=3, num_experts_per_tok=1, num_hidden_layers=4,
                num_key_value_heads=1, num_local_experts=12, rms_norm_eps=1e-05,
                rope_scaling=dict(
                    factor=4.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=64,
                    rope_type="llama3",
                ),
                rope_theta=500000.0, tie_word_embeddings=False, use_cache=True, use_qk_norm=True, vocab_size=64,
            ),
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=bf16_but_biases, layout=llama4_apart, restore=llama4_joined,
        model=llama4, transposed=lambda name: ".experts." in name,
    ),
    # K-EXAONE: layers within a window, and full ones without positions; DeepSeek's experts.
    "exaone_moe": Family(
        config=dict(
            architectures=["ExaoneMoEForCausalLM"], attention_dropout=0.0, bos_token_id=1, eos_token_id=2,
            first_k_dense_replace=1, head_dim=24, hidden_act="silu", hidden_size=36, initializer_range=0.02,
            intermediate_size=40,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            max_position_embeddings=4096, model_type="exaone_moe", moe_intermediate_size=8, n_group=4,
            norm_topk_prob=True, num_attention_heads=3, num_experts=12, num_experts_per_tok=3, num_hidden_layers=4,
            num_key_value_heads=1, num_nextn_predict_layers=1, num_shared_experts=1, pad_token_id=0, rms_norm_eps=1e-05,
            rope_parameters=dict(rope_theta=1000000, rope_type="default"), routed_scaling_factor=2.5,
            scoring_func="sigmoid", sliding_window=20, sliding_window_pattern="LLG", tie_word_embeddings=False,
            topk_group=2, topk_method="noaux_tc", torch_dtype="bfloat16", transformers_version="5.0.0.dev0",
            use_cache=True, vocab_size=56,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=bf16_but_biases, layout=exaone_one,
    ),
    # Qwen4-Exp: Gated DeltaNet and gated attention to blocks of positions that small pooled keys choose; several residual
    # streams with gates of low rank; rows of tables by the hash of the last tokens.
    "qwen4_exp": Family(
        config=dict(
            architectures=["Qwen4ExpForConditionalGeneration"], model_type="qwen4_exp", tie_word_embeddings=False,
            torch_dtype="bfloat16", transformers_version="5.20.0",
            text_config=dict(
                attention_bias=False, attention_dropout=0.0, bos_token_id=1, eos_token_id=5, hc_count=3, hc_lowrank=8,
                head_dim=24, heads_per_ngram=2, hidden_act="silu", hidden_size=36, indexer_budget=16,
                indexer_compress_ratio=4, indexer_head_dim=12, indexer_kv_heads=1, indexer_n_heads=3,
                initializer_range=0.02,
                layer_types=["linear_attention", "linear_attention", "full_attention"],
                linear_conv_kernel_dim=4, linear_key_head_dim=12, linear_num_key_heads=1, linear_num_value_heads=2,
                linear_value_head_dim=12, make_ngram_vocab_size_divisible_by=16, max_position_embeddings=4096,
                model_type="qwen4_exp_text", moe_intermediate_size=6, ngram_size=3, ngram_vocab_size_base=60,
                norm_topk_prob=True, num_attention_heads=2, num_experts=12, num_experts_per_tok=3, num_hidden_layers=3,
                num_key_value_heads=1, output_gate_type="sigmoid", ple_conv_kernel_size=4, ple_embed_dim=24,
                ple_layer_ids=[1, 2], rms_norm_eps=1e-06,
                rope_parameters=dict(
                    mrope_interleaved=True, mrope_section=[1, 1, 1], partial_rotary_factor=0.25, rope_theta=10000000,
                    rope_type="default",
                ),
                seed=1234, shared_expert_intermediate_size=8, split_ngram_parts=4, tie_word_embeddings=False,
                use_cache=True, vocab_size=56,
            ),
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of("A_log", "dt_bias"), layout=qwen4_exp_one,
        restore=qwen4_exp_joined, model=qwen4_exp, norms_from_zero=True,
    ),
}

# Llama 4 in BF16 as released: under a wrapper, experts [in, out], gate before up. Chunks that are no multiple of a block.
LLAMA4_TEXT = dict(FAMILIES["llama4"].config["text_config"], attention_chunk_size=24, num_local_experts=9)
FAMILIES["llama4_transposed"] = replace(
    FAMILIES["llama4"],
    config=dict(FAMILIES["llama4"].config, text_config=LLAMA4_TEXT),
    layout=lambda folder, tensors: write_one(folder, {f"language_model.{name}": t for name, t in tensors.items()}),
    restore=lambda tensors: {name.removeprefix("language_model."): t for name, t in tensors.items()},
)

# MiniMax-M3's text model by itself, as transformers writes it: its own names, gate and up of MLPs and experts joined.
MINIMAX_M3_TEXT = dict(FAMILIES["minimax_m3"].config["text_config"], architectures=["MiniMaxM3VLForCausalLM"])
FAMILIES["minimax_m3_text"] = replace(
    FAMILIES["minimax_m3"],
    config=MINIMAX_M3_TEXT,
    layout=write_one,
    restore=None,
    model=lambda config: minimax_m3(dict(text_config=config)),
    unread={},
)
