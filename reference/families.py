"""What the fixtures of models.py are made of: configurations, sizes, dtypes, and the layouts of released checkpoints."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from ling import Ling25
from safetensors.torch import save_file
from transformers import Mistral4Config, Mistral4ForCausalLM

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
SAFETENSORS_NAMES = {BF16: "BF16", F16: "F16", F32: "F32", torch.int64: "I64"}

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
    transposed: Callable[[str], bool] = lambda name: False  # which matrices are [..., in, out]
    # Back to the names of transformers' model, where it cannot read the layout itself.
    restore: Callable[[Tensors], Tensors] | None = None
    # The model, where AutoModelForCausalLM has no class for it, made from config.json.
    model: Callable[[dict], torch.nn.Module] | None = None
    # Tensors of the released checkpoint that no text model reads, with made-up shapes: a loader has to pass over them.
    unread: dict[str, tuple[int, ...]] = field(default_factory=dict)


def text_config(config: dict) -> dict:
    return config.get("text_config", config)


def changed(family: str, sizes: dict, **fields) -> Family:
    """One of FAMILIES with other sizes, and without tensors to pass over."""
    config = json.loads(json.dumps(FAMILIES[family].config))
    text_config(config).update(sizes)
    return Family(**{**vars(FAMILIES[family]), "config": config, "unread": {}} | fields)


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


def write_one(folder: Path, tensors: Tensors) -> None:
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def per_expert(tensors: Tensors, gate="gate_proj", up="up_proj", down="down_proj") -> Tensors:
    """A tensor per expert and matrix."""
    flat = {}
    for name, t in tensors.items():
        prefix, _, leaf = name.partition(".experts.")
        if leaf not in ("gate_up_proj", "down_proj"):
            flat[name] = t
            continue
        for e, matrix in enumerate(t):
            parts = zip((gate, up), matrix.chunk(2)) if leaf == "gate_up_proj" else [(down, matrix)]
            flat |= {f"{prefix}.experts.{e}.{part}.weight": p for part, p in parts}
    return flat


def per_expert_shards(folder: Path, tensors: Tensors) -> None:
    """The layout of most released MoE checkpoints: a tensor per expert and matrix."""
    write_shards(folder, per_expert(tensors), 150_000, "model-{:05}-of-{:05}.safetensors")


def per_expert_one(folder: Path, tensors: Tensors) -> None:
    """The same in one file."""
    write_one(folder, per_expert(tensors))


def numbered_one(folder: Path, tensors: Tensors) -> None:
    """Mixtral's names, which MiniMax took over: `block_sparse_moe`, experts' matrices w1, w3, w2."""
    flat = per_expert(tensors, "w1", "w3", "w2")
    write_one(folder, {name.replace(".mlp.", ".block_sparse_moe."): t for name, t in flat.items()})


def kimi_linear_one(folder: Path, tensors: Tensors) -> None:
    """Released Kimi-Linear: a convolution for each of queries, keys and values, and `block_sparse_moe` in sparse layers."""
    flat = {}
    for name, t in per_expert(tensors, "w1", "w3", "w2").items():
        name = name.replace(".forget_gate.", ".")
        if name.endswith("self_attn.conv1d.weight"):
            parts = zip("qkv", t.chunk(3))
            flat |= {name.replace("conv1d", f"{part}_conv1d"): p for part, p in parts}
        else:
            flat[re.sub(r"\.mlp\.(gate|experts|shared_experts)\.", r".block_sparse_moe.\1.", name)] = t
    write_one(folder, flat)


def nemotron_names(tensors: Tensors) -> Tensors:
    """Released Nemotron-3: everything under `backbone`, a tensor per expert and matrix."""
    flat = {}
    for name, t in tensors.items():
        name = name.replace("model.", "backbone.", 1) if name.startswith("model.") else name
        prefix, _, leaf = name.partition(".experts.")
        if leaf:
            flat |= {f"{prefix}.experts.{e}.{leaf}.weight": matrix for e, matrix in enumerate(t)}
        else:
            flat[name] = t
    return flat


def nemotron_one(folder: Path, tensors: Tensors) -> None:
    """The same in one file."""
    write_one(folder, nemotron_names(tensors))


def gpt_oss_apart(folder: Path, tensors: Tensors) -> None:
    """gpt-oss in BF16 as MLX's exports have it: [out, in], gate and up apart. (transformers has them transposed, with columns
    that alternate; the release is MXFP4.)"""
    flat = {}
    for name, t in tensors.items():
        prefix, _, leaf = name.partition(".experts.")
        stem, kind = leaf.removesuffix("_bias"), "bias" if leaf.endswith("_bias") else "weight"
        t = t.transpose(1, 2) if leaf and kind == "weight" else t
        if stem == "gate_up_proj":
            parts = (t[:, first::2] for first in (0, 1))
            flat |= {f"{prefix}.experts.{part}.{kind}": p for part, p in zip(("gate_proj", "up_proj"), parts)}
        else:
            flat[f"{prefix}.experts.{stem}.{kind}" if leaf else name] = t
    write_one(folder, flat)


def gpt_oss_joined(tensors: Tensors) -> Tensors:
    """Back from gpt_oss_apart."""
    joined = {}
    for name, t in tensors.items():
        prefix, _, leaf = name.partition(".experts.")
        if not leaf:
            joined[name] = t
            continue
        stem, kind = leaf.split(".")
        suffix = "_bias" if kind == "bias" else ""
        if stem == "gate_proj":
            t = torch.stack([t, tensors[f"{prefix}.experts.up_proj.{kind}"]], 2).flatten(1, 2)
        if stem != "up_proj":
            stem = "gate_up_proj" if stem == "gate_proj" else stem
            joined[f"{prefix}.experts.{stem}{suffix}"] = t if suffix else t.transpose(1, 2)
    return joined


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


GENERATION = dict(
    bos_token_id=1, do_sample=True, eos_token_id=[2, 1], pad_token_id=1, temperature=0.6, top_p=0.95,
    transformers_version="4.57.0",
)


def deepseek_v4_names(tensors: Tensors) -> Tensors:
    """Released DeepSeek-V4: names of its own, a tensor per expert and matrix."""
    flat = {}
    for name, t in per_expert(tensors, "w1", "w3", "w2").items():
        for ours, released in DEEPSEEK_V4_NAMES:
            name = re.sub(ours, released, name)
        flat[name] = t
    return flat


def deepseek_v4_one(folder: Path, tensors: Tensors) -> None:
    """The same in one file."""
    write_one(folder, deepseek_v4_names(tensors))


DEEPSEEK_V4_NAMES = [
    (r"^model\.", ""),
    (r"^embed_tokens", "embed"),
    (r"^lm_head", "head"),
    (r"^hc_head\.hc_", "hc_head_"),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.(attn|ffn)_hc\.", r".hc_\1_"),
    (r"\.self_attn\.", ".attn."),
    (r"\.mlp\.", ".ffn."),
    (r"\.compressor\.indexer\.scorer\.", ".indexer."),
    (r"\.compressor\.indexer\.q_b_proj", ".indexer.wq_b"),
    (r"\.compressor\.indexer\.", ".indexer.compressor."),
    (r"\.compressor\.kv_norm\.", ".compressor.norm."),
    (r"\.compressor\.gate_proj", ".compressor.wgate"),
    (r"\.position_bias$", ".ape"),
    (r"\.sinks$", ".attn_sink"),
    (r"\.q_a_norm\.", ".q_norm."),
    (r"\.(q_a|q_b|o_a|o_b)_proj\.", lambda m: f".w{m[1]}."),
    (r"\.kv_proj\.", ".wkv."),
    (r"\.gate\.e_score_correction_bias$", ".gate.bias"),
    (r"\.shared_experts\.gate_proj\.", ".shared_experts.w1."),
    (r"\.shared_experts\.up_proj\.", ".shared_experts.w3."),
    (r"\.shared_experts\.down_proj\.", ".shared_experts.w2."),
]


def mistral4(config: dict) -> torch.nn.Module:
    """transformers' class, which AutoModelForCausalLM knows within a wrapper for images only."""
    return Mistral4ForCausalLM(Mistral4Config(**config, attn_implementation="eager", experts_implementation="eager"))


def bf16_but_biases(name: str) -> torch.dtype:
    """What releases keep in F32: the router's learnt bias."""
    return F32 if name.endswith("e_score_correction_bias") else BF16


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
    # Mixtral: numbered experts; sizes that are no powers of two.
    "mixtral": Family(
        config=dict(
            architectures=["MixtralForCausalLM"], attention_dropout=0.0, bos_token_id=1, eos_token_id=2, head_dim=24,
            hidden_act="silu", hidden_size=48, initializer_range=0.02, intermediate_size=12,
            max_position_embeddings=4096, model_type="mixtral", num_attention_heads=2, num_experts_per_tok=3,
            num_hidden_layers=2, num_key_value_heads=1, num_local_experts=12, output_router_logits=False,
            rms_norm_eps=1e-05, rope_theta=1000000.0, router_aux_loss_coef=0.02, sliding_window=None,
            tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.36.0", use_cache=True,
            vocab_size=104,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=lambda name: BF16, layout=numbered_one,
    ),
    # GLM-4.5: a dense layer first, biases of queries, keys and values, RoPE on half of a head, an ungated shared expert; a
    # further layer predicts further tokens, and is not read.
    "glm4_moe": Family(
        config=dict(
            architectures=["Glm4MoeForCausalLM"], attention_bias=True, attention_dropout=0.0, eos_token_id=[2, 1],
            first_k_dense_replace=1, head_dim=24, hidden_act="silu", hidden_size=48, initializer_range=0.02,
            intermediate_size=40, max_position_embeddings=4096, model_type="glm4_moe", moe_intermediate_size=12,
            n_group=1, n_routed_experts=8, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=2,
            num_experts_per_tok=2, num_hidden_layers=3, num_key_value_heads=1, num_nextn_predict_layers=1,
            pad_token_id=1, partial_rotary_factor=0.5, rms_norm_eps=1e-05, rope_scaling=None, rope_theta=1000000,
            routed_scaling_factor=2.5, tie_word_embeddings=False, topk_group=1, torch_dtype="bfloat16",
            transformers_version="4.54.0", use_cache=True, use_qk_norm=True, vocab_size=96,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=bf16_but_biases, layout=per_expert_one,
        unread={
            "model.layers.3.eh_proj.weight": (6, 12),
            "model.layers.3.enorm.weight": (6,),
            "model.layers.3.input_layernorm.weight": (6,),
            "model.layers.3.mlp.experts.0.down_proj.weight": (6, 4),
            "model.layers.3.mlp.gate.e_score_correction_bias": (8,),
            "model.layers.3.self_attn.q_proj.weight": (8, 6),
            "model.layers.3.shared_head.norm.weight": (6,),
        },
    ),
    # MiniMax-M2: norms over all heads together, RoPE on half of a head, sigmoid scores with a learnt bias.
    "minimax_m2": Family(
        config=dict(
            architectures=["MiniMaxM2ForCausalLM"], attention_dropout=0.0, bos_token_id=None, eos_token_id=2,
            head_dim=24, hidden_act="silu", hidden_size=96, initializer_range=0.02, intermediate_size=6,
            max_position_embeddings=4096, model_type="minimax_m2", num_attention_heads=2, num_experts_per_tok=3,
            num_hidden_layers=2, num_key_value_heads=1, num_local_experts=12, output_router_logits=False,
            qk_norm_type="per_layer", rms_norm_eps=1e-06, rope_theta=5000000, rotary_dim=12,
            router_aux_loss_coef=0.001, scoring_func="sigmoid", sliding_window=None, tie_word_embeddings=False,
            transformers_version="4.46.1", use_cache=True, use_qk_norm=True, use_routing_bias=True, vocab_size=64,
        ),
        generation=GENERATION, prompt=48, decode=12, dtype=bf16_but_biases, layout=numbered_one,
    ),
    # Llama 3.1: dense, with its own scaling of RoPE.
    "llama": Family(
        config=dict(
            architectures=["LlamaForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            eos_token_id=[2, 1], hidden_act="silu", hidden_size=60, initializer_range=0.02, intermediate_size=96,
            max_position_embeddings=4096, mlp_bias=False, model_type="llama", num_attention_heads=6,
            num_hidden_layers=2, num_key_value_heads=2, pretraining_tp=1, rms_norm_eps=1e-05,
            rope_scaling=dict(
                factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=32,
                rope_type="llama3",
            ),
            rope_theta=10000.0, tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.43.0",
            use_cache=True, vocab_size=120,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=lambda name: BF16, layout=write_one,
    ),
    # Qwen3, dense: norms of each head, the head tied to the embedding, YaRN for long contexts.
    "qwen3": Family(
        config=dict(
            architectures=["Qwen3ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            eos_token_id=2, head_dim=20, hidden_act="silu", hidden_size=48, initializer_range=0.02,
            intermediate_size=80, max_position_embeddings=4096, max_window_layers=2, model_type="qwen3",
            num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2, rms_norm_eps=1e-06,
            rope_scaling=dict(factor=4.0, original_max_position_embeddings=32, rope_type="yarn"),
            rope_theta=10000.0, sliding_window=None, tie_word_embeddings=True, torch_dtype="bfloat16",
            transformers_version="4.51.0", use_cache=True, use_sliding_window=False, vocab_size=120,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=lambda name: BF16, layout=write_one, embed_std=0.1,
    ),
    # gpt-oss: every other layer within a window, sinks, biases everywhere, a clamped activation, YaRN without rounding.
    "gpt_oss": Family(
        config=dict(
            architectures=["GptOssForCausalLM"], attention_bias=True, attention_dropout=0.0, eos_token_id=2,
            experts_per_token=2, head_dim=24, hidden_act="silu", hidden_size=48, initial_context_length=32,
            initializer_range=0.02, intermediate_size=12,
            layer_types=["sliding_attention", "full_attention"] * 2, max_position_embeddings=4096,
            model_type="gpt_oss", num_attention_heads=2, num_experts_per_tok=2, num_hidden_layers=4,
            num_key_value_heads=1, num_local_experts=5, output_router_logits=False, pad_token_id=1,
            rms_norm_eps=1e-05,
            rope_scaling=dict(
                beta_fast=32.0, beta_slow=1.0, factor=8.0, original_max_position_embeddings=32, rope_type="yarn",
                truncate=False,
            ),
            rope_theta=150000, router_aux_loss_coef=0.9, sliding_window=20, swiglu_limit=7.0,
            tie_word_embeddings=False, transformers_version="4.55.0", use_cache=True, vocab_size=72,
        ),
        generation=GENERATION, prompt=100, decode=16, dtype=lambda name: BF16, layout=gpt_oss_apart,
        transposed=lambda name: name.endswith(("experts.gate_up_proj", "experts.down_proj")),
        restore=gpt_oss_joined,
    ),
    # DeepSeek-V3 (Kimi-K2, Moonlight): latent attention with low-rank queries, a dense layer first, groups of experts of which
    # the best are kept, YaRN in the scale of attention.
    "deepseek_v3": Family(
        config=dict(
            architectures=["DeepseekV3ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            eos_token_id=2, ep_size=1, first_k_dense_replace=1, hidden_act="silu", hidden_size=48,
            initializer_range=0.02, intermediate_size=60, kv_lora_rank=24, max_position_embeddings=4096,
            model_type="deepseek_v3", moe_intermediate_size=8, moe_layer_freq=1, n_group=4, n_routed_experts=12,
            n_shared_experts=1, norm_topk_prob=True, num_attention_heads=3, num_experts_per_tok=3,
            num_hidden_layers=3, num_key_value_heads=3, num_nextn_predict_layers=1, q_lora_rank=20,
            qk_nope_head_dim=12, qk_rope_head_dim=8, rms_norm_eps=1e-05,
            rope_scaling=dict(
                beta_fast=32, beta_slow=1, factor=8, mscale=1.0, mscale_all_dim=1.0,
                original_max_position_embeddings=32, type="yarn",
            ),
            rope_theta=10000, routed_scaling_factor=2.5, scoring_func="sigmoid", tie_word_embeddings=False,
            topk_group=2, topk_method="noaux_tc", torch_dtype="bfloat16", transformers_version="4.33.1",
            use_cache=True, v_head_dim=16, vocab_size=80,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=bf16_but_biases, layout=per_expert_one,
        unread={
            "model.layers.3.eh_proj.weight": (6, 12),
            "model.layers.3.embed_tokens.weight": (6, 6),
            "model.layers.3.input_layernorm.weight": (6,),
            "model.layers.3.mlp.experts.0.down_proj.weight": (6, 4),
            "model.layers.3.shared_head.head.weight": (6, 6),
        },
    ),
    # Mistral 4 (and in its shape Mistral Large 3): the same with softmax scores that are renormalised, stacked experts, and
    # queries that grow with the logarithm of how many original contexts lie before them.
    "mistral4": Family(
        config=dict(
            architectures=["Mistral4ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            dtype="bfloat16", eos_token_id=2, first_k_dense_replace=1, hidden_act="silu", hidden_size=36,
            initializer_range=0.02, intermediate_size=40, kv_lora_rank=24, max_position_embeddings=4096,
            model_type="mistral4", moe_intermediate_size=8, n_group=1, n_routed_experts=12, n_shared_experts=1,
            norm_topk_prob=True, num_attention_heads=3, num_experts_per_tok=3, num_hidden_layers=3, num_key_value_heads=3,
            pad_token_id=None, q_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8, rms_norm_eps=1e-06,
            rope_interleave=True,
            rope_parameters=dict(
                attention_factor=1.0, beta_fast=32.0, beta_slow=1.0, factor=8.0, llama_4_scaling_beta=0.1,
                original_max_position_embeddings=20, rope_theta=10000.0, rope_type="yarn", type="yarn",
            ),
            routed_scaling_factor=1.0, tie_word_embeddings=False, topk_group=1, transformers_version="5.4.0",
            use_cache=True, v_head_dim=16, vocab_size=80,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=lambda name: BF16, layout=write_one, model=mistral4,
    ),
    # DeepSeek-V3.2: the same, and in each layer an indexer that chooses the keys a query attends to, fewer than the prompt has.
    "deepseek_v32": Family(
        config=dict(
            architectures=["DeepseekV32ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            eos_token_id=2, ep_size=1, first_k_dense_replace=1, hidden_act="silu", hidden_size=36, index_head_dim=12,
            index_n_heads=12, index_topk=21, initializer_range=0.02, intermediate_size=40, kv_lora_rank=24,
            max_position_embeddings=4096, model_type="deepseek_v32", moe_intermediate_size=8, moe_layer_freq=1,
            n_group=4, n_routed_experts=8, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=2,
            num_experts_per_tok=3, num_hidden_layers=3, num_key_value_heads=2, num_nextn_predict_layers=1,
            q_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8, rms_norm_eps=1e-05,
            rope_scaling=dict(
                beta_fast=32, beta_slow=1, factor=8, mscale=1.0, mscale_all_dim=1.0,
                original_max_position_embeddings=32, type="yarn",
            ),
            rope_theta=10000, routed_scaling_factor=2.5, scoring_func="sigmoid", tie_word_embeddings=False,
            topk_group=2, topk_method="noaux_tc", torch_dtype="bfloat16", transformers_version="4.44.2",
            use_cache=True, v_head_dim=16, vocab_size=80,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=bf16_but_biases, layout=per_expert_one,
    ),
    # GLM-5.2: indexers of interleaved pairs, and layers that take the choice of the one before.
    "glm_moe_dsa": Family(
        config=dict(
            architectures=["GlmMoeDsaForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            dtype="bfloat16", eos_token_id=[2], first_k_dense_replace=1, hidden_act="silu", hidden_size=36,
            index_head_dim=12, index_n_heads=12, index_skip_topk_offset=2, index_topk=21, index_topk_freq=2,
            indexer_rope_interleave=True, initializer_range=0.02, intermediate_size=40, kv_lora_rank=24,
            max_position_embeddings=4096, model_type="glm_moe_dsa", moe_intermediate_size=8, moe_layer_freq=1,
            n_group=1, n_routed_experts=6, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=2,
            num_experts_per_tok=2, num_hidden_layers=4, num_key_value_heads=2, num_nextn_predict_layers=1,
            q_lora_rank=20, qk_head_dim=20, qk_nope_head_dim=12, qk_rope_head_dim=8, rms_norm_eps=1e-05,
            rope_interleave=True, rope_parameters=dict(rope_theta=1000000, rope_type="default"),
            routed_scaling_factor=2.5, scoring_func="sigmoid", tie_word_embeddings=False, topk_group=1,
            topk_method="noaux_tc", transformers_version="5.0.2.dev0", use_cache=True, v_head_dim=16, vocab_size=80,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=bf16_but_biases, layout=per_expert_one,
    ),
    # DeepSeek-V2: queries without a low rank (as in Lite), softmax scores, a group as good as its best expert.
    "deepseek_v2": Family(
        config=dict(
            architectures=["DeepseekV2ForCausalLM"], attention_bias=False, attention_dropout=0.0, aux_loss_alpha=0.001,
            bos_token_id=1, eos_token_id=2, ep_size=1, first_k_dense_replace=1, hidden_act="silu", hidden_size=48,
            initializer_range=0.02, intermediate_size=60, kv_lora_rank=24, max_position_embeddings=4096,
            model_type="deepseek_v2", moe_intermediate_size=8, moe_layer_freq=1, n_group=4, n_routed_experts=8,
            n_shared_experts=2, norm_topk_prob=False, num_attention_heads=3, num_experts_per_tok=3,
            num_hidden_layers=3, num_key_value_heads=3, q_lora_rank=None, qk_nope_head_dim=12, qk_rope_head_dim=8,
            rms_norm_eps=1e-06,
            rope_scaling=dict(
                beta_fast=32, beta_slow=1, factor=8, mscale=0.707, mscale_all_dim=0.707,
                original_max_position_embeddings=32, type="yarn",
            ),
            rope_theta=10000, routed_scaling_factor=1.5, scoring_func="softmax", seq_aux=True,
            tie_word_embeddings=False, topk_group=2, topk_method="group_limited_greedy", torch_dtype="bfloat16",
            transformers_version="4.33.1", use_cache=True, v_head_dim=16, vocab_size=96,
        ),
        generation=GENERATION, prompt=80, decode=16, dtype=lambda name: BF16, layout=per_expert_one,
    ),
    # Kimi-Linear: Kimi Delta Attention, and one layer of latent attention without positions; a dense layer first.
    "kimi_linear": Family(
        config=dict(
            architectures=["KimiLinearForCausalLM"], bos_token_id=1, eos_token_id=2, first_k_dense_replace=1,
            head_dim=24, hidden_act="silu", hidden_size=48, initializer_range=0.02, intermediate_size=60,
            kv_lora_rank=24,
            linear_attn_config=dict(
                full_attn_layers=[3], head_dim=16, kda_layers=[1, 2, 4], num_heads=2, short_conv_kernel_size=4,
            ),
            mla_use_nope=True, model_max_length=4096, model_type="kimi_linear", moe_intermediate_size=8,
            moe_layer_freq=1, moe_renormalize=True, moe_router_activation_func="sigmoid", num_attention_heads=2,
            num_expert_group=1, num_experts=6, num_experts_per_token=2, num_hidden_layers=4, num_key_value_heads=2,
            num_nextn_predict_layers=0, num_shared_experts=1, pad_token_id=1, q_lora_rank=None, qk_nope_head_dim=12,
            qk_rope_head_dim=8, rms_norm_eps=1e-05, rope_scaling=None, rope_theta=10000.0,
            routed_scaling_factor=2.446, tie_word_embeddings=False, topk_group=1, transformers_version="4.56.1",
            use_cache=True, use_grouped_topk=True, v_head_dim=16, vocab_size=64,
        ),
        generation=GENERATION, prompt=80, decode=16,
        dtype=lambda name: F32 if name.endswith(("A_log", "dt_bias", "e_score_correction_bias")) else BF16,
        layout=kimi_linear_one,
    ),
    # Gemma 3: dense, a window in five of six layers, norms stored as their distance from 1, linear scaling in full layers.
    "gemma3": Family(
        config=dict(
            architectures=["Gemma3ForCausalLM"], attention_bias=False, attention_dropout=0.0,
            attn_logit_softcapping=None, bos_token_id=1, eos_token_id=2, final_logit_softcapping=None, head_dim=24,
            hidden_activation="gelu_pytorch_tanh", hidden_size=48, initializer_range=0.02, intermediate_size=36,
            max_position_embeddings=4096, model_type="gemma3_text", num_attention_heads=2, num_hidden_layers=6,
            num_key_value_heads=1, pad_token_id=1, query_pre_attn_scalar=20, rms_norm_eps=1e-06,
            rope_local_base_freq=10000, rope_scaling=dict(factor=8.0, rope_type="linear"), rope_theta=1000000,
            sliding_window=20, sliding_window_pattern=6, torch_dtype="bfloat16", transformers_version="4.50.0",
            use_cache=True, vocab_size=72,
        ),
        generation=GENERATION, prompt=100, decode=16, dtype=lambda name: BF16, layout=write_one, embed_std=0.1,
        norms_from_zero=True,
    ),
    # Gemma 4: an MLP and experts side by side, wider heads in full layers, whose values are their keys, capped logits.
    "gemma4": Family(
        config=dict(
            architectures=["Gemma4ForCausalLM"], attention_bias=False, attention_dropout=0.0, attention_k_eq_v=True,
            bos_token_id=1, dtype="bfloat16", enable_moe_block=True, eos_token_id=2, final_logit_softcapping=30.0,
            global_head_dim=32, head_dim=24, hidden_activation="gelu_pytorch_tanh", hidden_size=48,
            hidden_size_per_layer_input=0, initializer_range=0.02, intermediate_size=24,
            layer_types=["sliding_attention", "full_attention"] * 2, max_position_embeddings=4096,
            model_type="gemma4_text", moe_intermediate_size=8, num_attention_heads=2, num_experts=6,
            num_global_key_value_heads=1, num_hidden_layers=4, num_key_value_heads=1, num_kv_shared_layers=0,
            pad_token_id=1, rms_norm_eps=1e-06,
            rope_parameters=dict(
                full_attention=dict(partial_rotary_factor=0.25, rope_theta=1000000.0, rope_type="proportional"),
                sliding_attention=dict(rope_theta=10000.0, rope_type="default"),
            ),
            sliding_window=20, tie_word_embeddings=True, top_k_experts=2, transformers_version="5.5.0",
            use_bidirectional_attention=None, use_cache=True, use_double_wide_mlp=False, vocab_size=72,
            vocab_size_per_layer_input=72,
        ),
        generation=GENERATION, prompt=76, decode=16, dtype=lambda name: BF16, layout=write_one, embed_std=0.1,
    ),
    # MiniMax-Text-01: Lightning Attention, each half added to its normed input; decays lie in the files too, and are not read.
    "minimax": Family(
        config=dict(
            architectures=["MiniMaxForCausalLM"], attention_dropout=0.0, block_size=8, bos_token_id=1, eos_token_id=2,
            full_attn_alpha_factor=3.5565588200778455, full_attn_beta_factor=1.0, head_dim=16, hidden_act="silu",
            hidden_size=48, initializer_range=0.02, intermediate_size=8,
            layer_types=["linear_attention"] * 3 + ["full_attention"], linear_attn_alpha_factor=3.5565588200778455,
            linear_attn_beta_factor=1.0, max_position_embeddings=4096, mlp_alpha_factor=3.5565588200778455,
            mlp_beta_factor=1.0, model_type="minimax", num_attention_heads=2, num_experts_per_tok=2,
            num_hidden_layers=4, num_key_value_heads=1, num_local_experts=6, output_router_logits=False,
            rms_norm_eps=1e-05, rope_theta=1000000, router_aux_loss_coef=0.001, router_jitter_noise=0.0,
            sliding_window=None, tie_word_embeddings=False, transformers_version="4.53.0", use_cache=True,
            vocab_size=72,
        ),
        generation=GENERATION, prompt=80, decode=16,
        dtype=lambda name: F32 if name.endswith(("slope_rate", "_decay")) else BF16, layout=numbered_one,
    ),
    # Nemotron-3: Mamba-2, attention without positions, an MLP, experts without gates; a time step's lower limit, which
    # transformers applies to prompts alone, is out of the way.
    "nemotron_h": Family(
        config=dict(
            architectures=["NemotronHForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            chunk_size=16, conv_kernel=4, eos_token_id=2, expand=2, head_dim=24, hidden_size=48,
            hybrid_override_pattern="MEM*E-", initializer_range=0.02, intermediate_size=40, layer_norm_epsilon=1e-05,
            mamba_head_dim=12, mamba_hidden_act="silu", mamba_num_heads=4, mamba_proj_bias=False,
            max_position_embeddings=4096, mlp_bias=False, mlp_hidden_act="relu2", model_type="nemotron_h",
            moe_intermediate_size=12, moe_shared_expert_intermediate_size=20, n_group=1, n_groups=2,
            n_routed_experts=8, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=4,
            num_experts_per_tok=2, num_hidden_layers=6, num_key_value_heads=2, pad_token_id=1, residual_in_fp32=False,
            routed_scaling_factor=2.5, ssm_state_size=16, tie_word_embeddings=False, time_step_min=1e-9, topk_group=1,
            torch_dtype="bfloat16", transformers_version="4.57.3", use_bias=False, use_cache=True, use_conv_bias=True,
            vocab_size=96,
        ),
        generation=GENERATION, prompt=80, decode=16,
        dtype=lambda name: F32 if name.endswith(("A_log", "dt_bias", ".D", "e_score_correction_bias")) else BF16,
        layout=nemotron_one,
    ),
    # Nemotron-3 Super: experts of a latent width, to which the stream is brought before and from which it comes behind them.
    "nemotron_h_latent": Family(
        config=dict(
            architectures=["NemotronHForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            chunk_size=16, conv_kernel=4, eos_token_id=2, expand=2, head_dim=24, hidden_size=48,
            hybrid_override_pattern="ME*E", initializer_range=0.02, intermediate_size=40, layer_norm_epsilon=1e-05,
            mamba_head_dim=12, mamba_hidden_act="silu", mamba_num_heads=4, mamba_proj_bias=False,
            max_position_embeddings=4096, mlp_bias=False, mlp_hidden_act="relu2", model_type="nemotron_h",
            moe_intermediate_size=12, moe_latent_size=20, moe_shared_expert_intermediate_size=28, n_group=1, n_groups=2,
            n_routed_experts=12, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=4,
            num_experts_per_tok=3, num_hidden_layers=4, num_key_value_heads=2, pad_token_id=1, residual_in_fp32=False,
            routed_scaling_factor=5.0, ssm_state_size=16, tie_word_embeddings=False, time_step_min=1e-9, topk_group=1,
            torch_dtype="bfloat16", transformers_version="4.57.3", use_bias=False, use_cache=True, use_conv_bias=True,
            vocab_size=96,
        ),
        generation=GENERATION, prompt=80, decode=16,
        dtype=lambda name: F32 if name.endswith(("A_log", "dt_bias", ".D", "e_score_correction_bias")) else BF16,
        layout=nemotron_one,
    ),
    # Ling 2.5: Lightning Attention with norms and RoPE, and latent attention; a dense layer first, groups of experts. Its
    # model_type is that of Ling 3.0 too; the architecture tells them apart. Three heads: decays for no power of two.
    "ling25": Family(
        config=dict(
            architectures=["BailingMoeV2_5ForCausalLM"], attention_dropout=0.0, bos_token_id=1, eos_token_id=2,
            first_k_dense_replace=1, group_norm_size=3, head_dim=16, hidden_act="silu", hidden_size=40,
            intermediate_size=40, kv_lora_rank=24, layer_group_size=2, max_position_embeddings=4096,
            model_type="bailing_hybrid", moe_intermediate_size=8, n_group=3, norm_topk_prob=True, num_attention_heads=3,
            num_experts=6, num_experts_per_tok=2, num_hidden_layers=4, num_key_value_heads=3, num_nextn_predict_layers=0,
            num_shared_experts=1, pad_token_id=1, partial_rotary_factor=0.5, q_lora_rank=20, qk_nope_head_dim=12,
            qk_rope_head_dim=8, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=600000, routed_scaling_factor=2.5,
            score_function="sigmoid", tie_word_embeddings=False, topk_group=2, torch_dtype="bfloat16", use_bias=False,
            use_cache=True, use_qk_norm=True, use_qkv_bias=False, v_head_dim=16, vocab_size=64,
        ),
        generation=GENERATION, prompt=80, decode=16,
        dtype=lambda name: F32 if name.endswith("expert_bias") else BF16, layout=write_one, model=Ling25,
    ),
    # DeepSeek-V4: a layer of each kind of attention and two of the third, several residual streams, a first layer whose
    # experts the token's id chooses. Windows, entries and choices are shorter than the prompt.
    "deepseek_v4": Family(
        config=dict(
            architectures=["DeepseekV4ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            compress_rates=dict(compressed_sparse_attention=4, heavily_compressed_attention=16),
            compress_ratios=[0, 128, 4, 4], compress_rope_theta=160000, eos_token_id=2, hc_eps=1e-06, hc_mult=3,
            hc_sinkhorn_iters=20, head_dim=24, hidden_act="silu", hidden_size=30, index_head_dim=12, index_n_heads=12,
            index_topk=7, initializer_range=0.02, max_position_embeddings=4096, model_type="deepseek_v4",
            moe_intermediate_size=8, n_routed_experts=5, n_shared_experts=1, norm_topk_prob=True, num_attention_heads=4,
            num_experts_per_tok=2, num_hash_layers=1, num_hidden_layers=4, num_key_value_heads=1,
            num_nextn_predict_layers=1, o_groups=2, o_lora_rank=12, q_lora_rank=16, qk_rope_head_dim=6,
            rms_norm_eps=1e-06,
            rope_scaling=dict(beta_fast=32, beta_slow=1, factor=4, original_max_position_embeddings=64, type="yarn"),
            rope_theta=10000, routed_scaling_factor=1.5, scoring_func="sqrtsoftplus", sliding_window=20,
            swiglu_limit=10.0, tie_word_embeddings=False, topk_method="noaux_tc", torch_dtype="bfloat16",
            transformers_version="4.57.1", use_cache=True, vocab_size=44,
        ),
        generation=GENERATION, prompt=72, decode=16, layout=deepseek_v4_one,
        dtype=lambda name: F32 if "hc" in name or name.endswith(("sinks", "correction_bias", "position_bias")) else BF16,
    ),
}

# gpt-oss in BF16 as transformers writes it: experts [in, out], columns of gate and up by turns.
FAMILIES["gpt_oss_transposed"] = changed("gpt_oss", dict(vocab_size=64), prompt=80, layout=write_one, restore=None)
