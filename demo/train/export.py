"""A trained checkpoint to a folder for transformers (bf16), and from there to MLX's 4-bit format.

    python export.py WEIGHTS OUT_BF16 [OUT_MLX [BITS]]      OUT_MLX defaults to ../model, BITS to 4

The MLX file has the names and the packing of mlx-lm's converter (test_export.py compares every byte with it), and the
MTP layer beside it under its released names, which mlx-lm passes over. As that converter does, 1 is added in bf16 to the
norm weights that are stored as a distance from 1; those of the MTP layer included.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import model as m

MODEL = Path(__file__).parent.parent / "model"
TEXT = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]


def hf_config(c: m.Config) -> dict:
    return {
        "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "dtype": "bfloat16",
        "vocab_size": c.vocab, "hidden_size": c.hidden, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "hidden_act": "silu", "max_position_embeddings": 2048,
        "rms_norm_eps": c.eps, "tie_word_embeddings": False, "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta, "partial_rotary_factor": c.rope_share},
        "layer_types": ["full_attention" if c.is_full(i) else "linear_attention" for i in range(c.layers)],
        "full_attention_interval": 4,
        "linear_conv_kernel_dim": c.kernel, "linear_key_head_dim": c.k_dim, "linear_value_head_dim": c.v_dim,
        "linear_num_key_heads": c.k_heads, "linear_num_value_heads": c.v_heads,
        "num_experts": c.experts, "num_experts_per_tok": c.top_k, "moe_intermediate_size": c.width,
        "shared_expert_intermediate_size": c.shared_width, "norm_topk_prob": True, "mtp_num_hidden_layers": 1,
    }


def ids() -> dict:
    generation = json.loads((MODEL / "generation_config.json").read_text())
    return {"eos_token_id": generation["eos_token_id"], "pad_token_id": generation["pad_token_id"], "bos_token_id": None}


def write_config(folder: Path, config: dict) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def nested(config: dict) -> dict:
    """The same config as released checkpoints of the family have it, and as mlx-lm knows it."""
    outer = {k: config[k] for k in ("eos_token_id", "pad_token_id", "tie_word_embeddings")}
    text = {k: v for k, v in config.items() if k != "architectures"}
    return {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe"} | outer | {"text_config": text}


def copy_text(folder: Path) -> None:
    for name in TEXT:
        if folder.resolve() != MODEL.resolve():
            shutil.copy(MODEL / name, folder / name)


def to_bf16(weights: dict[str, torch.Tensor], c: m.Config, out: Path) -> None:
    """The checkpoint that transformers loads; A_log stays float32, as in the released ones."""
    out.mkdir(parents=True, exist_ok=True)
    rounded = {n: (w.float() if n.endswith("A_log") else w.bfloat16()).contiguous() for n, w in weights.items()}
    save_file(rounded, out / "model.safetensors", metadata={"format": "pt"})
    write_config(out, hf_config(c) | ids())
    copy_text(out)


def pack_words(q: np.ndarray, bits: int) -> np.ndarray:
    """Values [.., columns] to u32 words: a stream of bits, lowest first; values of 3 bits cross the borders of words."""
    planes = (q.astype(np.uint8)[..., None] >> np.arange(bits, dtype=np.uint8)) & 1  # [.., columns, bits]
    return np.packbits(planes.reshape(*q.shape[:-1], -1), axis=-1, bitorder="little").view(np.uint32)


def mlx_names(name: str, w: torch.Tensor) -> dict[str, torch.Tensor]:
    """A weight under the names that MLX's file has: experts in three stacks, the convolution with its channels last."""
    if name.startswith("model."):
        name = "language_model." + name
    elif name == "lm_head.weight":
        name = "language_model." + name
    if name.endswith("experts.gate_up_proj"):
        stem = name.removesuffix("experts.gate_up_proj") + "switch_mlp."
        gate, up = w.chunk(2, 1)
        return {stem + "gate_proj.weight": gate, stem + "up_proj.weight": up}
    if name.endswith("experts.down_proj"):
        return {name.removesuffix("experts.down_proj") + "switch_mlp.down_proj.weight": w}
    if name.endswith("conv1d.weight"):
        return {name: w.movedim(1, 2)}
    if "norm" in name and "linear_attn.norm" not in name:
        return {name: w + torch.ones((), dtype=w.dtype)}
    return {name: w}


def to_mlx(source: Path, out: Path, bits_of_most: int = 4) -> int:
    """The quantised file, routers and gates in 8 bits; returns its size in bytes."""
    out.mkdir(parents=True, exist_ok=True)
    tensors, bits_by_path = {}, {}
    for full_name, w in load_file(source / "model.safetensors").items():
        for name, part in mlx_names(full_name, w).items():
            bits = m.bits_of(name)
            if bits is None:
                tensors[name] = part.contiguous()
                continue
            bits = bits_of_most if bits == 4 else bits
            path = name.removesuffix(".weight")
            q, scale, bias = m.affine(part, bits)
            tensors[name] = torch.from_numpy(pack_words(q.flatten(-2).numpy(), bits))
            tensors[path + ".scales"], tensors[path + ".biases"] = scale[..., 0].bfloat16(), bias[..., 0].bfloat16()
            if bits == 8:
                bits_by_path[path] = {"group_size": m.GROUP, "bits": 8}
    save_file({n: t.contiguous() for n, t in sorted(tensors.items())}, out / "model.safetensors", metadata={"format": "mlx"})
    quantization = {"group_size": m.GROUP, "bits": bits_of_most, "mode": "affine"} | bits_by_path
    write_config(out, nested(json.loads((source / "config.json").read_text())) | {
        "quantization": quantization, "quantization_config": quantization,
    })
    copy_text(out)
    return (out / "model.safetensors").stat().st_size


def dequantised(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an MLX folder in float32 under transformers' names, by NumPy alone."""
    out: dict[str, torch.Tensor] = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
        for name in sorted(names):
            if name.endswith((".scales", ".biases")):
                continue
            t, path = file.get_tensor(name), name.removesuffix(".weight")
            if path + ".scales" in names:
                bits = m.bits_of(name)
                words = t.numpy().view(np.uint32)
                q = (words[..., None] >> (np.arange(32 // bits, dtype=np.uint32) * bits)) & (2**bits - 1)
                scale, bias = (file.get_tensor(f"{path}.{part}").float()[..., None] for part in ("scales", "biases"))
                grouped = torch.from_numpy(q.astype(np.float32)).flatten(-2).unflatten(-1, (-1, m.GROUP))
                t = (grouped * scale + bias).flatten(-2)
            elif name.endswith("conv1d.weight"):
                t = t.movedim(1, 2)
            elif "norm" in name and "linear_attn.norm" not in name:
                t = t.float() - 1
            out[name.removeprefix("language_model.")] = t.float()
    for path in {n.split("switch_mlp.")[0] for n in out if "switch_mlp." in n}:
        gate, up, down = (out.pop(f"{path}switch_mlp.{part}_proj.weight") for part in ("gate", "up", "down"))
        out[path + "experts.gate_up_proj"], out[path + "experts.down_proj"] = torch.cat([gate, up], 1), down
    return out


def main() -> None:
    weights, bf16 = Path(sys.argv[1]), Path(sys.argv[2])
    mlx = Path(sys.argv[3]) if len(sys.argv) > 3 else MODEL
    parts = sorted(weights.glob("weights-*.safetensors")) if weights.is_dir() else [weights]
    loaded = {name: w for part in parts for name, w in load_file(part).items()}
    c = m.Config()
    assert {n: tuple(w.shape) for n, w in loaded.items()} == m.shapes(c), "the weights are not those of this Config"
    to_bf16(loaded, c, bf16)
    size = to_mlx(bf16, mlx, int(sys.argv[4]) if len(sys.argv) > 4 else 4)
    print(f"{mlx / 'model.safetensors'}: {size:,} bytes")


if __name__ == "__main__":
    main()
