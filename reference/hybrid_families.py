"""Further families for models.py: recurrences of other kinds, layers of other halves, and attention to blocks."""

import re
from dataclasses import replace
from pathlib import Path

import families
import torch
from transformers import (
    Glm5NextConfig,
    Glm5NextForConditionalGeneration,
    MiniMaxM3VLForCausalLM,
    MiniMaxM3VLTextConfig,
    MistralLarge4Config,
    MistralLarge4ForConditionalGeneration,
)

from families import BF16, F32, GENERATION, Family, Tensors, bf16_but_biases, per_expert, per_expert_one, write_one


def granite_one(folder: Path, tensors: Tensors) -> None:
    """Released Granite 4: stacked experts, gate and up joined, under names of their own."""
    renamed = {}
    for name, t in tensors.items():
        for ours, released in [
            (".experts.gate_up_proj", ".input_linear.weight"),
            (".experts.down_proj", ".output_linear.weight"),
            (".router.weight", ".router.layer.weight"),
        ]:
            name = name.replace(".block_sparse_moe" + ours, ".block_sparse_moe" + released)
        renamed[name] = t
    write_one(folder, renamed)


def lfm2_one(folder: Path, tensors: Tensors) -> None:
    """Released LFM2: a tensor per expert and matrix, numbered."""
    write_one(folder, per_expert(tensors, "w1", "w3", "w2"))


def ling3_one(folder: Path, tensors: Tensors) -> None:
    """Released Ling 3: a convolution for each of queries, keys and values, and names of its own."""
    flat = {}
    for name, t in per_expert(tensors).items():
        for ours, released in [
            ("embed_tokens", "word_embeddings"),
            (".self_attn.", ".attention."),
            (".forget_gate.", "."),
            (".attention.o_proj.", ".attention.dense."),
            ("gate.e_score_correction_bias", "gate.expert_bias"),
        ]:
            name = name.replace(ours, released)
        if name.endswith("attention.conv1d.weight"):
            flat |= {name.replace("conv1d", f"{part}_conv1d"): p for part, p in zip("qkv", t.chunk(3))}
        else:
            flat[name] = t
    write_one(folder, flat)


def longcat_one(folder: Path, tensors: Tensors) -> None:
    """Released LongCat: a tensor per expert and matrix. transformers keeps room for gate and up of experts that do nothing."""
    experts = {name: t.shape[0] for name, t in tensors.items() if name.endswith("experts.down_proj")}
    real = {
        name: t[: experts[name.replace("gate_up_proj", "down_proj")]] if name.endswith("experts.gate_up_proj") else t
        for name, t in tensors.items()
    }
    per_expert_one(folder, real)


def longcat_joined(tensors: Tensors) -> Tensors:
    """Back from longcat_one."""
    joined = {name: t for name, t in tensors.items() if ".experts." not in name}
    routers = {name.split(".router.")[0]: len(t) for name, t in tensors.items() if name.endswith("classifier.weight")}
    for prefix, count in routers.items():
        of = lambda part: [
            tensors[name] for e in range(count) if (name := f"{prefix}.experts.{e}.{part}_proj.weight") in tensors
        ]
        gate_up = torch.stack([torch.cat(pair) for pair in zip(of("gate"), of("up"))])
        nothing = torch.zeros(count - len(gate_up), *gate_up.shape[1:], dtype=gate_up.dtype)
        joined[f"{prefix}.experts.gate_up_proj"] = torch.cat([gate_up, nothing])
        joined[f"{prefix}.experts.down_proj"] = torch.stack(of("down"))
    return joined


def hy_v4_one(folder: Path, tensors: Tensors) -> None:
    """Released Hunyuan 4: names of its own, stacked experts."""
    flat = {}
    for name, t in tensors.items():
        for ours, released in [
            ("attn_hc.", "hc_attn_layer.hc_pre.hc_"),
            ("ffn_hc.", "hc_mlp_layer.hc_pre.hc_"),
            ("hc_head.hc_", "hc_head.hc_head_"),
            ("self_attn.gate_proj", "self_attn.linear_gate"),
            ("self_attn.sinks", "self_attn.learnable_sink_param"),
        ]:
            name = name.replace(ours, released)
        flat[name] = t
    write_one(folder, flat)


def joined_experts(tensors: Tensors, gate="gate_proj", up="up_proj", down="down_proj") -> Tensors:
    """Back from per_expert."""
    joined = {name: t for name, t in tensors.items() if ".experts." not in name}
    for prefix in {name.partition(".experts.")[0] for name in tensors if ".experts." in name}:
        count = len([name for name in tensors if name.startswith(f"{prefix}.experts.") and f".{down}." in name])
        of = lambda part: [tensors[f"{prefix}.experts.{e}.{part}.weight"] for e in range(count)]
        joined[f"{prefix}.experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(of(gate), of(up))])
        joined[f"{prefix}.experts.down_proj"] = torch.stack(of(down))
    return joined


def without_images(model: torch.nn.Module) -> torch.nn.Module:
    """A wrapper for images with its language model only."""
    del model.model.vision_tower, model.model.multi_modal_projector
    return model.float()


EAGER = dict(attn_implementation="eager", experts_implementation="eager")


def minimax_m3(config: dict) -> torch.nn.Module:
    return MiniMaxM3VLForCausalLM(MiniMaxM3VLTextConfig(**config["text_config"], **EAGER)).float()


def minimax_m3_one(folder: Path, tensors: Tensors) -> None:
    """Released MiniMax-M3: MiniMax's names for experts, gate and up of MLPs apart, under a wrapper."""
    flat = {}
    for name, t in per_expert(tensors, "w1", "w3", "w2").items():
        name = re.sub(r"\.mlp\.gate\.(e_score)", r".block_sparse_moe.\1", name)
        name = re.sub(r"\.mlp\.(experts|gate|shared_experts)\.", r".block_sparse_moe.\1.", name)
        name = "language_model." + name.replace(".indexer.", ".index_")
        parts = zip(("gate_proj", "up_proj"), t.chunk(2)) if name.endswith("gate_up_proj.weight") else [("", t)]
        flat |= {name.replace("gate_up_proj", part) if part else name: p for part, p in parts}
    write_one(folder, flat)


def minimax_m3_joined(tensors: Tensors) -> Tensors:
    """Back from minimax_m3_one."""
    renamed = {}
    for name, t in tensors.items():
        name = name.removeprefix("language_model.").replace(".index_", ".indexer.")
        name = name.replace(".block_sparse_moe.e_score", ".mlp.gate.e_score").replace(".block_sparse_moe.", ".mlp.")
        if name.endswith(("mlp.gate_proj.weight", "shared_experts.gate_proj.weight")):
            up = tensors["language_model." + name.replace(".mlp.shared", ".block_sparse_moe.shared").replace("gate_proj", "up_proj")]
            name, t = name.replace("gate_proj", "gate_up_proj"), torch.cat([t, up])
        if not name.endswith(".up_proj.weight"):
            renamed[name] = t
    return joined_experts(renamed, "w1", "w3", "w2")


def glm5_next(config: dict) -> torch.nn.Module:
    model = Glm5NextForConditionalGeneration(Glm5NextConfig(**config, **EAGER))
    del model.model.visual
    return model.float()


GLM5_NEXT_NAMES = [("self_attn.forget_gate.", "self_attn."), ("attn_hc.", "hc_attn_"), ("ffn_hc.", "hc_ffn_")]


def glm5_next_one(folder: Path, tensors: Tensors) -> None:
    """Released GLM-5.3: a convolution for each of queries, keys and values, and a tensor per expert and matrix."""
    flat = {}
    for name, t in per_expert(tensors).items():
        for ours, released in GLM5_NEXT_NAMES:
            name = name.replace(ours, released)
        parts = zip("qkv", t.chunk(3)) if name.endswith("self_attn.conv1d.weight") else [("", t)]
        flat |= {name.replace("conv1d", f"{part}_conv1d") if part else name: p for part, p in parts}
    write_one(folder, flat)


def glm5_next_joined(tensors: Tensors) -> Tensors:
    """Back from glm5_next_one."""
    renamed = {}
    for name, t in joined_experts(tensors).items():
        if name.endswith("q_conv1d.weight"):
            t = torch.cat([tensors[name.replace("q_conv1d", f"{part}_conv1d")] for part in "qkv"])
            name = name.replace("q_conv1d", "conv1d")
        if name.endswith(("k_conv1d.weight", "v_conv1d.weight")):
            continue
        for ours, released in GLM5_NEXT_NAMES[1:]:
            name = name.replace(released, ours)
        name = re.sub(r"self_attn\.(A_log|dt_bias|f_[ab]_proj)", r"self_attn.forget_gate.\1", name)
        renamed[name] = t
    return renamed


def mistral_large4(config: dict) -> torch.nn.Module:
    return without_images(MistralLarge4ForConditionalGeneration(MistralLarge4Config(**config, **EAGER)))


MISTRAL_LARGE4_NAMES = [
    ("model.language_model.embed_tokens.", "tok_embeddings."),
    ("model.language_model.rotary_emb.", "lerope."),
    ("model.language_model.", ""),
    ("lm_head.", "output."),
    (".self_attn.indexer.softmax_scaling.scale", ".attention.indexer.ssmax_scaling.s"),
    (".self_attn.indexer.softmax_scaling.bias", ".attention.indexer.ssmax_scaling.b"),
    (".self_attn.softmax_scaling.scale", ".attention.ssmax_scaling.s"),
    (".self_attn.softmax_scaling.bias", ".attention.ssmax_scaling.b"),
    (".self_attn.q_proj.", ".attention.wq."),
    (".self_attn.o_proj.", ".attention.wo."),
    (".self_attn.kv_a_proj_with_mqa.", ".attention.wkv_a_with_mqa."),
    (".self_attn.kv_b_proj.", ".attention.wkv_b."),
    (".self_attn.kv_a_layernorm.", ".attention.kv_a_norm."),
    (".self_attn.", ".attention."),
    (".input_layernorm.", ".attention_norm."),
    (".post_attention_layernorm.", ".ffn_norm."),
    (".mlp.gate.", ".gate."),
    (".mlp.experts.", ".experts."),
    (".mlp.shared_experts.gate_proj.", ".shared_experts.w1."),
    (".mlp.shared_experts.up_proj.", ".shared_experts.w3."),
    (".mlp.shared_experts.down_proj.", ".shared_experts.w2."),
    (".mlp.gate_proj.", ".feed_forward.w1."),
    (".mlp.up_proj.", ".feed_forward.w3."),
    (".mlp.down_proj.", ".feed_forward.w2."),
]


def mistral_large4_one(folder: Path, tensors: Tensors) -> None:
    """Released Mistral Large 4: Mistral's own names, a tensor per expert and matrix."""
    flat = {}
    for name, t in per_expert(tensors, "w1", "w3", "w2").items():
        for ours, released in MISTRAL_LARGE4_NAMES:
            name = name.replace(ours, released)
        flat[name] = t
    write_one(folder, flat)


def mistral_large4_joined(tensors: Tensors) -> Tensors:
    """Back from mistral_large4_one."""
    renamed = {}
    for name, t in tensors.items():
        for ours, released in MISTRAL_LARGE4_NAMES[3:]:
            name = name.replace(released, ours)
        if name.startswith(("layers.", "norm.")):
            name = f"model.language_model.{name}"
        for ours, released in MISTRAL_LARGE4_NAMES[:2]:
            name = name.replace(released, ours)
        renamed[name] = t
    return joined_experts(renamed, "w1", "w3", "w2")


def f32_of(*ends: str):
    """BF16, but for tensors that end so."""
    return lambda name: F32 if name.endswith(ends) else BF16


FAMILIES = families.FAMILIES | {
    # Granite 4: Mamba-2 and attention without positions, what a half says times a factor, experts beside a shared one.
    "granitemoehybrid": Family(
        config=dict(
            architectures=["GraniteMoeHybridForCausalLM"], attention_bias=False, attention_dropout=0.0,
            attention_multiplier=0.3, bos_token_id=1, embedding_multiplier=12, eos_token_id=2, hidden_act="silu",
            hidden_size=36, initializer_range=0.1, intermediate_size=8, layer_types=["mamba", "attention", "mamba"],
            logits_scaling=1.5, mamba_chunk_size=16, mamba_conv_bias=True, mamba_d_conv=4, mamba_d_head=24,
            mamba_d_state=16, mamba_expand=2, mamba_n_groups=1, mamba_n_heads=3, mamba_proj_bias=False,
            max_position_embeddings=4096, model_type="granitemoehybrid", normalization_function="rmsnorm",
            num_attention_heads=2, num_experts_per_tok=3, num_hidden_layers=3, num_key_value_heads=1,
            num_local_experts=12, output_router_logits=False, pad_token_id=1, position_embedding_type="nope",
            residual_multiplier=0.6, rms_norm_eps=1e-05, rope_scaling=None, rope_theta=10000,
            router_aux_loss_coef=0.0001, shared_intermediate_size=20, tie_word_embeddings=True, torch_dtype="bfloat16",
            transformers_version="4.56.0", use_cache=True, vocab_size=64,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of("A_log", "dt_bias", ".D"), layout=granite_one,
        embed_std=0.03,
    ),
    # LFM2: short convolutions that are gated on both sides, some attention; a dense layer first.
    "lfm2_moe": Family(
        config=dict(
            architectures=["Lfm2MoeForCausalLM"], bos_token_id=1, conv_L_cache=3, conv_bias=False, dtype="bfloat16",
            eos_token_id=2, hidden_size=36, initializer_range=0.02, intermediate_size=40,
            layer_types=["conv", "conv", "full_attention", "conv"], max_position_embeddings=4096,
            model_type="lfm2_moe", moe_intermediate_size=8, norm_eps=1e-05, norm_topk_prob=True, num_attention_heads=2,
            num_dense_layers=1, num_experts=12, num_experts_per_tok=3, num_hidden_layers=4, num_key_value_heads=1,
            pad_token_id=0, rope_theta=1000000.0, routed_scaling_factor=1.5, tie_embedding=True,
            transformers_version="4.57.0", use_cache=True, use_expert_bias=True, vocab_size=64,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of("expert_bias"), layout=lfm2_one, embed_std=0.2,
    ),
    # Ling 3: Kimi Delta Attention whose decays have a lower bound, latent attention gated by head; a dense layer first.
    "ling3": Family(
        config=dict(
            architectures=["BailingHybridForCausalLM"], attention_bias=False, attention_dropout=0.0, dtype="bfloat16",
            eos_token_id=2, first_k_dense_replace=1, head_dim=16, hidden_act="silu", hidden_size=36,
            initializer_range=0.02, intermediate_size=40, kda_lower_bound=-5.0, kda_safe_gate=True, kv_lora_rank=24,
            layer_group_size=3, max_position_embeddings=4096, model_type="bailing_hybrid", moe_intermediate_size=8,
            n_group=4, norm_topk_prob=True, num_attention_heads=2, num_experts=12, num_experts_per_tok=3,
            num_hidden_layers=4, num_key_value_heads=2, num_nextn_predict_layers=0, num_shared_experts=1,
            pad_token_id=1, qk_nope_head_dim=12, qk_rope_head_dim=8, rms_norm_eps=1e-06, rope_theta=6000000,
            routed_scaling_factor=2.5, score_function="sigmoid", short_conv_kernel_size=4, tie_word_embeddings=False,
            topk_group=2, transformers_version="5.20.0", use_cache=True, v_head_dim=16, vocab_size=56,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of("A_log", "dt_bias", "e_score_correction_bias"),
        layout=ling3_one,
    ),
    # Jamba: Mamba, one layer of attention without positions; experts in every other layer.
    "jamba": Family(
        config=dict(
            architectures=["JambaForCausalLM"], attention_dropout=0.0, attn_layer_offset=2, attn_layer_period=4,
            bos_token_id=1, eos_token_id=2, expert_layer_offset=1, expert_layer_period=2, hidden_act="silu",
            hidden_size=36, initializer_range=0.02, intermediate_size=12, mamba_conv_bias=True, mamba_d_conv=4,
            mamba_d_state=6, mamba_dt_rank=5, mamba_expand=2, mamba_proj_bias=False, max_position_embeddings=4096,
            model_type="jamba", num_attention_heads=2, num_experts=12, num_experts_per_tok=3, num_hidden_layers=4,
            num_key_value_heads=1, num_logits_to_keep=1, output_router_logits=False, pad_token_id=0, rms_norm_eps=1e-06,
            router_aux_loss_coef=0.001, sliding_window=None, tie_word_embeddings=False, torch_dtype="bfloat16",
            transformers_version="4.40.1", use_cache=True, use_mamba_kernels=True, vocab_size=56,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of("A_log", ".D"), layout=per_expert_one,
    ),
    # LongCat-Flash: layers of two attentions and two MLPs, and experts beside the second of each, some of which do nothing.
    "longcat_flash": Family(
        config=dict(
            architectures=["LongcatFlashForCausalLM"], attention_bias=False, attention_dropout=0.0,
            attention_method="MLA", bos_token_id=1, eos_token_id=2, expert_ffn_hidden_size=8, ffn_hidden_size=36,
            head_dim=8, hidden_size=40, initializer_range=0.02, kv_lora_rank=24, max_position_embeddings=4096,
            mla_scale_kv_lora=True, mla_scale_q_lora=True, model_type="longcat_flash", moe_topk=3, n_routed_experts=9,
            num_attention_heads=2, num_layers=2, q_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8,
            rms_norm_eps=1e-05, rope_theta=10000000.0, routed_scaling_factor=6.0, router_bias=False,
            tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.57.0", use_cache=True,
            v_head_dim=16, vocab_size=64, zero_expert_num=3, zero_expert_type="identity",
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=f32_of("e_score_correction_bias", "classifier.weight"),
        layout=longcat_one, restore=longcat_joined,
    ),
    # Hunyuan 4: an indexer that turns the last part of its keys, choices taken from the layer before, sinks, gates of values, and
    # streams that are not mixed.
    "hy_v4": Family(
        config=dict(
            architectures=["HYV4ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            dtype="bfloat16", eos_token_id=2, hc_eps=1e-06, hc_magnitude=1.5, hc_mult=3, hidden_act="silu",
            hidden_size=36, index_head_dim=12, index_n_heads=12, index_topk=21,
            indexer_types=["full", "full", "shared"], initializer_range=0.006, intermediate_size=40,
            kv_lora_rank=24, learnable_sink_init=0.0, max_position_embeddings=4096,
            mlp_layer_types=["dense", "sparse", "sparse"], model_type="hy_v4", moe_intermediate_size=8,
            n_group=1, n_routed_experts=12, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=2,
            num_experts_per_tok=3, num_hidden_layers=3, num_key_value_heads=2, pad_token_id=1, q_lora_rank=20,
            qk_nope_head_dim=12, qk_rope_head_dim=8, rms_norm_eps=1e-05,
            rope_parameters=dict(rope_theta=10000.0, rope_type="default"), routed_scaling_factor=2.827,
            swiglu_limit=1.0, tie_word_embeddings=False, topk_group=1, transformers_version="5.20.0", use_cache=True,
            v_head_dim=16, vocab_size=44,
        ),
        generation=GENERATION, prompt=80, decode=16, layout=hy_v4_one,
        dtype=lambda name: F32 if "hc" in name or name.endswith(("sinks", "correction_bias", "weights_proj.weight")) else BF16,
    ),
    # GLM-5.3-Flash: Kimi Delta Attention, an indexer whose keys stand for several positions, mixed streams.
    "glm5_next": Family(
        config=dict(
            architectures=["Glm5NextForConditionalGeneration"], model_type="glm5_next",
            text_config=dict(
                attention_bias=False, attention_dropout=0.0, bos_token_id=1, dtype="bfloat16", eos_token_id=2, hc_eps=1e-06,
                hc_mult=3, hc_sinkhorn_iters=20, hidden_act="silu", hidden_size=26, index_head_dim=12, index_kpool=4,
                index_kpool_always_select_tail=True, index_n_heads=12, index_topk=20,
                indexer_types=["full", "full", "full", "full"], initializer_range=0.02, intermediate_size=26,
                kv_lora_rank=24,
                layer_types=["linear_attention", "indexed_attention", "linear_attention", "indexed_attention"],
                linear_conv_kernel_dim=4, linear_head_dim=12, linear_lower_bound=-5.0, linear_num_heads=2,
                max_position_embeddings=4096, mlp_layer_types=["dense", "sparse", "sparse", "sparse"],
                model_type="glm5_next_text", moe_intermediate_size=8, n_group=1, n_routed_experts=12, n_shared_experts=1,
                norm_topk_prob=True, num_attention_heads=2, num_experts_per_tok=3, num_hidden_layers=4,
                num_key_value_heads=2, pad_token_id=1, q_lora_rank=20, qk_nope_head_dim=16, qk_rope_head_dim=0,
                rms_norm_eps=1e-05, routed_scaling_factor=2.5, swiglu_limit=1.0, tie_word_embeddings=False, topk_group=1,
                use_cache=True, v_head_dim=16, vocab_size=36,
            ),
            transformers_version="5.20.0",
            vision_config=dict(depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=26),
        ),
        generation=GENERATION, prompt=80, decode=16, layout=glm5_next_one, restore=glm5_next_joined, model=glm5_next,
        dtype=lambda name: F32 if "_hc." in name or name.endswith(("A_log", "dt_bias", "correction_bias")) else BF16,
    ),
    # MiniMax-M3: small queries that choose blocks of positions for each key-value head, norms from zero, a clamped activation.
    "minimax_m3": Family(
        config=dict(
            architectures=["MiniMaxM3SparseForConditionalGeneration"], model_type="minimax_m3_vl",
            text_config=dict(
                attention_dropout=0.0, bos_token_id=1, dense_intermediate_size=40, dtype="bfloat16", eos_token_id=2,
                head_dim=24, hidden_act="silu", hidden_size=36, index_block_size=8, index_head_dim=24,
                index_local_blocks=1, index_n_heads=2, index_topk_blocks=4, initializer_range=0.02, intermediate_size=8,
                layer_types=["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
                max_position_embeddings=4096, mlp_layer_types=["dense", "sparse", "sparse"],
                model_type="minimax_m3_vl_text", num_attention_heads=4, num_experts_per_tok=3, num_hidden_layers=3,
                num_key_value_heads=2, num_local_experts=12, output_router_logits=False, rms_norm_eps=1e-06,
                rope_parameters=dict(partial_rotary_factor=0.5, rope_theta=5000000.0, rope_type="default"),
                rotary_dim=12, routed_scaling_factor=2.0, shared_intermediate_size=20, swiglu_alpha=1.702,
                swiglu_limit=1.5, tie_word_embeddings=False, use_cache=True, vocab_size=48,
            ),
            transformers_version="5.12.0",
        ),
        generation=GENERATION, prompt=80, decode=16, layout=minimax_m3_one, restore=minimax_m3_joined,
        model=minimax_m3, dtype=bf16_but_biases, norms_from_zero=True,
    ),
    # Mistral Large 4: queries that grow with their position, learnt frequencies, layers without positions, and layers that read
    # what an earlier one keeps.
    "mistral_large4": Family(
        config=dict(
            architectures=["MistralLarge4ForConditionalGeneration"], model_type="mistral_large4",
            text_config=dict(
                attention_bias=False, attention_dropout=0.0, bos_token_id=1, dtype="bfloat16", eos_token_id=2,
                final_logit_softcapping=30.0, first_k_dense_replace=1, hidden_act="silu", hidden_size=36,
                index_head_dim=12, index_n_heads=12, index_topk=21,
                indexer_types=["full", "full", "full", "shared", "full"], initializer_range=0.02, intermediate_size=20,
                kv_lora_rank=24, kv_source_layers=[0, 1, 0, 1, 4], max_position_embeddings=4096,
                model_type="mistral_large4_text", moe_intermediate_size=8, n_group=1, n_routed_experts=6,
                n_shared_experts=1, no_rope_layers=[1, 0, 1, 0, 1], num_attention_heads=2, num_experts_per_tok=2,
                num_hidden_layers=5, num_key_value_heads=2, qk_nope_head_dim=12, qk_rope_head_dim=8, rms_norm_eps=1e-05,
                rope_parameters=dict(
                    attention_factor=1.0, beta_fast=32.0, beta_slow=1.0, factor=8.0, original_max_position_embeddings=32,
                    rope_theta=10000.0, rope_type="yarn",
                ),
                routed_scaling_factor=1.0, tie_word_embeddings=False, topk_group=1, use_cache=True, v_head_dim=16,
                vocab_size=32,
            ),
            transformers_version="5.20.0",
            vision_config=dict(
                head_dim=16, hidden_size=32, image_size=32, intermediate_size=32, model_type="pixtral",
                num_attention_heads=2, num_hidden_layers=1, patch_size=16,
            ),
        ),
        generation=GENERATION, prompt=80, decode=16, layout=mistral_large4_one, restore=mistral_large4_joined,
        model=mistral_large4, dtype=f32_of("mlp.gate.weight", "rotary_emb.alpha"),
    ),
}

# Granite 4's dense ones: no routed experts, said by a zero.
FAMILIES["granitemoehybrid_dense"] = replace(
    FAMILIES["granitemoehybrid"],
    config=FAMILIES["granitemoehybrid"].config | dict(num_local_experts=0, num_experts_per_tok=0),
)
