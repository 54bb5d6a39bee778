"""What the fixtures of models.py are made of: configurations, sizes, dtypes, and the layouts of released checkpoints."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
SAFETENSORS_NAMES = {BF16: "BF16", F16: "F16", F32: "F32"}

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """What one fixture is made of. Names of tensors are those of transformers' model unless said otherwise."""

    config: dict  # config.json
    generation: dict  # generation_config.json
    prompt: int  # P
    decode: int  # D
    dtype: Callable[[str], torch.dtype]  # on disk, by tensor name
    layout: Callable[[Path, Tensors], None]  # writes the *.safetensors under the names of the released checkpoint
    embed_std: float = 1.0  # small where the head is tied, or every token predicts itself
    norms_from_zero: bool = False  # RMSNorm multiplies by 1 + weight, but for the one inside linear attention
    # Tensors of the released checkpoint that no text model reads, with made-up shapes: a loader has to pass over them.
    unread: dict[str, tuple[int, ...]] = field(default_factory=dict)


def text_config(config: dict) -> dict:
    return config.get("text_config", config)


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


# ---------------------------------------------------------------------------------------------------------- layouts
def write_shards(folder: Path, tensors: Tensors, shard_bytes_max: int, file_name: str) -> None:
    """Shards of bounded size in the given order, and the index that says what is where."""
    shards, size = [{}], 0
    for name, t in tensors.items():
        if size + t.nbytes > shard_bytes_max:
            shards.append({})
            size = 0
        shards[-1][name] = t.contiguous()
        size += t.nbytes
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = file_name.format(i, len(shards))
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = dict(total_size=sum(t.nbytes for t in tensors.values()))
    index = dict(metadata=total, weight_map=dict(sorted(weight_map.items())))
    write_json(folder / "model.safetensors.index.json", index)


def per_expert_shards(folder: Path, tensors: Tensors) -> None:
    """The layout of most released MoE checkpoints: a tensor per expert and matrix."""
    flat = {}
    for name, t in tensors.items():
        prefix, _, leaf = name.partition(".experts.")
        if leaf not in ("gate_up_proj", "down_proj"):
            flat[name] = t
            continue
        for e, matrix in enumerate(t):
            parts = zip(("gate_proj", "up_proj"), matrix.chunk(2)) if leaf == "gate_up_proj" else [(leaf, matrix)]
            flat |= {f"{prefix}.experts.{e}.{part}.weight": p for part, p in parts}
    write_shards(folder, flat, 150_000, "model-{:05}-of-{:05}.safetensors")


def fused_language_model(folder: Path, tensors: Tensors) -> None:
    """Released Qwen3.5: the text model under `model.language_model.` beside a vision tower, experts as 3-D tensors."""
    renamed = {re.sub(r"^model\.(?!visual\.)", "model.language_model.", name): t for name, t in tensors.items()}
    write_shards(folder, renamed, 150_000, "model.safetensors-{:05}-of-{:05}.safetensors")


def fused_unpadded(folder: Path, tensors: Tensors) -> None:
    """Experts as 3-D tensors under transformers' own names, in a file whose data starts at an odd offset.

    safetensors pads its header to 8 bytes, other writers do not, and then no tensor is aligned to its dtype.
    """
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        begin, end = end, end + t.nbytes
        header[name] = dict(dtype=SAFETENSORS_NAMES[t.dtype], shape=list(t.shape), data_offsets=[begin, end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (1 - len(text) % 2)
    data = b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors.values())
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


# ---------------------------------------------------------------------------------------------------------- families
FAMILIES = {
    # Released Qwen3-MoE: flat config keys, untied head, a dense layer among the MoE ones, a dtype per tensor.
    "qwen3_moe": Family(
        config=dict(
            architectures=["Qwen3MoeForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            decoder_sparse_step=1, eos_token_id=2, head_dim=16, hidden_act="silu", hidden_size=64,
            initializer_range=0.02, intermediate_size=96, max_position_embeddings=4096, max_window_layers=3,
            mlp_only_layers=[1], model_type="qwen3_moe", moe_intermediate_size=32, norm_topk_prob=True,
            num_attention_heads=4, num_experts=8, num_experts_per_tok=2, num_hidden_layers=3, num_key_value_heads=2,
            output_router_logits=False, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=1000000.0,
            router_aux_loss_coef=0.001, sliding_window=None, tie_word_embeddings=False, torch_dtype="bfloat16",
            transformers_version="4.51.0", use_cache=True, use_sliding_window=False, vocab_size=256,
        ),
        generation=dict(
            bos_token_id=1, do_sample=True, eos_token_id=[2, 1], pad_token_id=1, temperature=0.6, top_k=20, top_p=0.95,
            transformers_version="4.51.0",
        ),
        prompt=80, decode=16,
        dtype=lambda name: F32 if "norm" in name else F16 if "layers.1.self_attn" in name else BF16,
        layout=per_expert_shards,
    ),
    # No size but the head counts is a power of two, and heads * head_dim is not hidden_size; config.json as transformers
    # 5 spells it (rope_parameters, num_local_experts, dtype); expert weights not renormalised, tied head, odd offsets.
    "qwen3_moe_odd": Family(
        config=dict(
            architectures=["Qwen3MoeForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=None,
            decoder_sparse_step=1, dtype="bfloat16", eos_token_id=2, head_dim=24, hidden_act="silu", hidden_size=60,
            initializer_range=0.02, intermediate_size=180, max_position_embeddings=1000, mlp_only_layers=[],
            model_type="qwen3_moe", moe_intermediate_size=12, norm_topk_prob=False, num_attention_heads=4,
            num_experts_per_tok=3, num_hidden_layers=2, num_key_value_heads=2, num_local_experts=12,
            output_router_logits=False, pad_token_id=None, rms_norm_eps=1e-05,
            rope_parameters=dict(rope_theta=50000.0, rope_type="default"), router_aux_loss_coef=0.001,
            sliding_window=None, tie_word_embeddings=True, transformers_version="5.23.0", use_cache=True,
            use_sliding_window=False, vocab_size=120,
        ),
        generation=dict(do_sample=True, eos_token_id=2, temperature=0.7, top_p=0.8, transformers_version="5.23.0"),
        prompt=40, decode=8,
        dtype=lambda name: F16 if ".experts." in name else BF16,
        layout=fused_unpadded,
        embed_std=0.1,
    ),
    # Released Qwen3-Next: three Gated DeltaNet layers and one of gated attention; a tensor per expert, the projections of
    # the linear layers packed by key head; rope on a quarter of the head; a gated shared expert of a width of its own.
    "qwen3_next": Family(
        config=dict(
            architectures=["Qwen3NextForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            decoder_sparse_step=1, eos_token_id=2, full_attention_interval=4, head_dim=16, hidden_act="silu",
            hidden_size=48, initializer_range=0.02, intermediate_size=80, linear_conv_kernel_dim=4,
            linear_key_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4, linear_value_head_dim=16,
            max_position_embeddings=4096, mlp_only_layers=[], model_type="qwen3_next", moe_intermediate_size=16,
            norm_topk_prob=True, num_attention_heads=4, num_experts=8, num_experts_per_tok=2, num_hidden_layers=4,
            num_key_value_heads=2, output_router_logits=False, partial_rotary_factor=0.25, rms_norm_eps=1e-06,
            rope_scaling=None, rope_theta=10000000, router_aux_loss_coef=0.001, shared_expert_intermediate_size=24,
            tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.57.0", use_cache=True,
            use_sliding_window=False, vocab_size=128,
        ),
        generation=dict(
            bos_token_id=1, do_sample=True, eos_token_id=[2, 1], pad_token_id=1, temperature=0.7, top_k=20, top_p=0.8,
            transformers_version="4.57.0",
        ),
        prompt=80, decode=16,
        dtype=lambda name: F32 if name.endswith(("A_log", "dt_bias")) else BF16,
        layout=per_expert_shards,
        norms_from_zero=True,
        unread={
            "mtp.fc.weight": (6, 12),
            "mtp.layers.0.input_layernorm.weight": (6,),
            "mtp.layers.0.mlp.experts.0.down_proj.weight": (6, 4),
            "mtp.layers.0.mlp.experts.0.gate_proj.weight": (4, 6),
            "mtp.layers.0.mlp.experts.0.up_proj.weight": (4, 6),
            "mtp.layers.0.mlp.gate.weight": (8, 6),
            "mtp.layers.0.self_attn.q_proj.weight": (8, 6),
            "mtp.norm.weight": (6,),
            "mtp.pre_fc_norm_embedding.weight": (6,),
            "mtp.pre_fc_norm_hidden.weight": (6,),
        },
    ),
    # Released Qwen3.5: configuration and names nested for a vision model, fused experts, the linear layers' projections
    # as four matrices, rope sections, value heads of another size than key heads, F32 where the releases have it.
    "qwen3_5_moe": Family(
        config=dict(
            architectures=["Qwen3_5MoeForConditionalGeneration"], image_token_id=124, model_type="qwen3_5_moe",
            text_config=dict(
                attention_bias=False, attention_dropout=0.0, attn_output_gate=True, dtype="bfloat16", eos_token_id=2,
                full_attention_interval=4, head_dim=32, hidden_act="silu", hidden_size=48, initializer_range=0.02,
                layer_types=["linear_attention"] * 3 + ["full_attention"], linear_conv_kernel_dim=4,
                linear_key_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4, linear_value_head_dim=12,
                mamba_ssm_dtype="float32", max_position_embeddings=4096, mlp_only_layers=[],
                model_type="qwen3_5_moe_text", moe_intermediate_size=16, mtp_num_hidden_layers=1,
                mtp_use_dedicated_embeddings=False, num_attention_heads=4, num_experts=8, num_experts_per_tok=2,
                num_hidden_layers=4, num_key_value_heads=2, rms_norm_eps=1e-06,
                rope_parameters=dict(
                    mrope_interleaved=True, mrope_section=[2, 1, 1], partial_rotary_factor=0.25,
                    rope_theta=10000000, rope_type="default",
                ),
                router_aux_loss_coef=0.001, shared_expert_intermediate_size=24, use_cache=True, vocab_size=128,
            ),
            tie_word_embeddings=False, transformers_version="4.57.0", video_token_id=125,
            vision_config=dict(
                depth=1, hidden_act="gelu_pytorch_tanh", hidden_size=8, in_channels=3, initializer_range=0.02,
                intermediate_size=16, model_type="qwen3_5_moe", num_heads=2, num_position_embeddings=4,
                out_hidden_size=48, patch_size=2, spatial_merge_size=2, temporal_patch_size=2,
            ),
            vision_end_token_id=127, vision_start_token_id=126,
        ),
        generation=dict(
            bos_token_id=1, do_sample=True, eos_token_id=[2, 1], pad_token_id=1, temperature=1.0, top_k=20, top_p=0.95,
            transformers_version="4.57.0",
        ),
        prompt=80, decode=16,
        dtype=lambda name: F32 if name.endswith("A_log") or "linear_attn.norm" in name else BF16,
        layout=fused_language_model,
        norms_from_zero=True,
        unread={
            "mtp.fc.weight": (6, 12),
            "mtp.layers.0.mlp.experts.down_proj": (2, 6, 4),
            "mtp.layers.0.mlp.experts.gate_up_proj": (2, 8, 6),
            "mtp.layers.0.mlp.gate.weight": (2, 6),
            "mtp.layers.0.self_attn.q_proj.weight": (8, 6),
            "mtp.norm.weight": (6,),
            "model.visual.blocks.0.attn.qkv.bias": (24,),
            "model.visual.blocks.0.attn.qkv.weight": (24, 8),
            "model.visual.blocks.0.mlp.linear_fc1.weight": (16, 8),
            "model.visual.blocks.0.norm1.weight": (8,),
            "model.visual.patch_embed.proj.weight": (8, 3, 2, 2, 2),
            "model.visual.pos_embed.weight": (4, 8),
        },
    ),
}
