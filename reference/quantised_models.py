#!/usr/bin/env python3
"""Make tiny checkpoints of quantised safetensors, and what transformers computes from the values that they stand for.

    python reference/quantised_models.py make [name ...]      write tests/fixtures/<name>/ (all of RECIPES when none is named)
    python reference/quantised_models.py check [name ...]     read the files, compute again and compare

A parameter is drawn as in models.py, and stored under the names of the release as a recipe's rules say. What the library
that defines a format makes of the stored tensors (see SCHEMES) goes back into the model of transformers, whose float32
outputs are the reference; the other files of a fixture are those of models.py.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
import transformers
from compressed_tensors.compressors.mx_utils import decompress_mx_scale
from compressed_tensors.compressors.mxfp8.base import MXFP8QuantizationCompressor
from compressed_tensors.compressors.naive_quantized.base import NaiveQuantizationCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from mlx_lm.utils import _unpack_awq_weights
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from families import F32, Family, Tensors, changed, deepseek_v4_names, nemotron_names, per_expert, write_json
from models import (
    EAGER, FIXTURES, TOLERANCE, compare, draw, draw_prompt, eos_of, first_good, reference, summary, write_array,
)  # fmt: skip

FP8 = torch.float8_e4m3fn
E8M0 = torch.float8_e8m0fnu


# ----------------------------------------------------------------------------------------------------------- schemes
@dataclass(frozen=True)
class Scheme:
    """A way to store a matrix."""

    pack: Callable[[torch.Tensor], Tensors]  # [out, in] as tensors by what their names end in
    values: Callable[[Tensors], torch.Tensor]  # what they stand for, by the library that defines them


def blocks_of_128(w: torch.Tensor) -> torch.Tensor:
    """The largest of each block, [ceil(out / 128), ceil(in / 128)]."""
    rows, cols = (-(-size // 128) for size in w.shape)
    padded = torch.zeros(rows * 128, cols * 128)
    padded[: w.shape[0], : w.shape[1]] = w
    return padded.view(rows, 128, cols, 128).abs().amax((1, 3))


def fp8_blocks(scale_type: torch.dtype) -> Scheme:
    """DeepSeek-V3's: E4M3 in blocks of 128x128."""

    def pack(w: torch.Tensor) -> Tensors:
        scale = blocks_of_128(w) / 448
        scale = scale.log2().ceil().exp2() if scale_type == E8M0 else scale
        scale = scale.to(scale_type)
        each = scale.float().repeat_interleave(128, 0).repeat_interleave(128, 1)[: w.shape[0], : w.shape[1]]
        return {"weight": (w / each).clamp(-448, 448).to(FP8), "weight_scale_inv": scale}

    def values(t: Tensors) -> torch.Tensor:
        return _dequantize_fp8_weight(t["weight"], t["weight_scale_inv"], [128, 128], F32)

    return Scheme(pack, values)


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def to_e2m1(x: torch.Tensor) -> torch.Tensor:
    """The nearest numbers of E2M1, four bits each."""
    size = (x.abs()[..., None] - E2M1).abs().argmin(-1)
    return (size + 8 * torch.signbit(x)).to(torch.uint8)


def mxfp4_blocks() -> Scheme:
    """gpt-oss's: per 32 weights 16 bytes, and a power of two."""

    def pack(w: torch.Tensor) -> Tensors:
        groups = w.unflatten(-1, (-1, 32))
        exponent = groups.abs().amax(-1).log2().floor() - 2
        q = to_e2m1((groups / exponent.exp2()[..., None]).clamp(-6, 6))
        return {"blocks": q[..., ::2] | q[..., 1::2] << 4, "scales": (exponent + 127).to(torch.uint8)}

    def values(t: Tensors) -> torch.Tensor:  # transformers has experts as [.., in, out]
        return convert_moe_packed_tensors(t["blocks"], t["scales"], dtype=F32).transpose(-1, -2)

    return Scheme(pack, values)


def by_compressed_tensors(compressor: type, prepare: Callable[[torch.Tensor, QuantizationArgs], Tensors], **args) -> Scheme:
    """What compressed-tensors packs and unpacks: `prepare` gives the scales, and perhaps zeros, in their own types."""
    weights = QuantizationArgs(**args)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)

    def pack(w: torch.Tensor) -> Tensors:
        parts = prepare(w, weights)
        wide = {name: part.float() if part.is_floating_point() else part for name, part in parts.items()}
        packed = compressor.compress({"weight": w.clone()} | wide, scheme)
        kept = {name: part for name, part in parts.items() if name in packed and name != "weight_zero_point"}
        return {name: torch.as_tensor(part) for name, part in (packed | kept).items()}

    def values(t: Tensors) -> torch.Tensor:
        wide = {name: part.float() if name.endswith("scale") else part for name, part in t.items()}
        return compressor.decompress(wide, scheme)["weight"].float()

    return Scheme(pack, values)


def symmetric(scale_type: torch.dtype) -> Callable[[torch.Tensor, QuantizationArgs], Tensors]:
    """A scale of this type for each group, row or matrix."""

    def prepare(w: torch.Tensor, args: QuantizationArgs) -> Tensors:
        shape = dict(group=(w.shape[0], -1, args.group_size), channel=(w.shape[0], 1, -1), tensor=(1, 1, -1))[args.strategy]
        largest = w.reshape(shape).abs().amax(-1)
        most = 448 if args.type == "float" else 2 ** (args.num_bits - 1) - 0.5
        return {"weight_scale": (largest / most).to(scale_type)}

    return prepare


def with_zeros(w: torch.Tensor, args: QuantizationArgs) -> Tensors:
    """A scale and a zero for each group of four bits."""
    groups = w.unflatten(-1, (-1, args.group_size))
    low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
    scale = ((high - low) / 15).to(torch.bfloat16)
    zero = (-8 - low / scale.float()).round().clamp(-8, 7)
    return {"weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}


def fp8_of_deepseek_v4() -> Scheme:
    """E4M3 in blocks of 128x128, whose scales are powers of two under a name of their own."""
    blocks = fp8_blocks(E8M0)

    def pack(w: torch.Tensor) -> Tensors:
        parts = blocks.pack(w)
        return {"weight": parts["weight"], "scale": parts["weight_scale_inv"]}

    return Scheme(pack, lambda t: blocks.values({"weight": t["weight"], "weight_scale_inv": t["scale"]}))


def fp4_of_deepseek_v4() -> Scheme:
    """Two codes a byte, which is called I8, and a power of two for 32 of them."""

    def pack(w: torch.Tensor) -> Tensors:
        blocks = mxfp4_blocks().pack(w)
        return {"weight": blocks["blocks"].flatten(-2).view(torch.int8), "scale": blocks["scales"].view(E8M0)}

    def values(t: Tensors) -> torch.Tensor:
        return unpacked_fp4(t["weight"].view(torch.uint8)) * t["scale"].float().repeat_interleave(32, -1)

    return Scheme(pack, values)


def int_pack(prepare=symmetric(torch.bfloat16), **args) -> Scheme:
    return by_compressed_tensors(PackedQuantizationCompressor, prepare, type="int", **args)


def nvfp4(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bytes of E2M1, E4M3 scales of 16, and the number that multiplies them."""
    groups, over = w.unflatten(-1, (-1, 16)), w.abs().max() / (448 * 6)
    scale = (groups.abs().amax(-1) / 6 / over).to(FP8)
    q = to_e2m1((groups / (scale.float() * over)[..., None].clamp_min(1e-20)).clamp(-6, 6)).flatten(-2)
    return q[..., ::2] | q[..., 1::2] << 4, scale, over


def unpacked_fp4(packed: torch.Tensor) -> torch.Tensor:
    return unpack_fp4_from_uint8(packed, packed.shape[0], 2 * packed.shape[1], F32)


def nvfp4_of_modelopt() -> Scheme:
    def pack(w: torch.Tensor) -> Tensors:
        q, scale, over = nvfp4(w)
        return {"weight": q, "weight_scale": scale, "weight_scale_2": over.clone(), "input_scale": torch.tensor(1.0)}

    def values(t: Tensors) -> torch.Tensor:
        scale = t["weight_scale"].float() * t["weight_scale_2"]
        return unpacked_fp4(t["weight"]) * scale.repeat_interleave(16, -1)

    return Scheme(pack, values)


def nvfp4_of_compressed_tensors() -> Scheme:
    def pack(w: torch.Tensor) -> Tensors:
        q, scale, over = nvfp4(w)
        return {"weight_packed": q, "weight_scale": scale, "weight_global_scale": 1 / over[None]}

    def values(t: Tensors) -> torch.Tensor:
        scale = t["weight_scale"].float() / t["weight_global_scale"]
        return unpacked_fp4(t["weight_packed"]) * scale.repeat_interleave(16, -1)

    return Scheme(pack, values)


def mxfp4_of_compressed_tensors() -> Scheme:
    def pack(w: torch.Tensor) -> Tensors:
        blocks = mxfp4_blocks().pack(w)
        return {"weight_packed": blocks["blocks"].flatten(-2), "weight_scale": blocks["scales"]}

    def values(t: Tensors) -> torch.Tensor:
        return unpacked_fp4(t["weight_packed"]) * decompress_mx_scale(t["weight_scale"]).float().repeat_interleave(32, -1)

    return Scheme(pack, values)


def mxfp8_of_compressed_tensors() -> Scheme:
    """E4M3, and a power of two for 32 of them, packed and unpacked by its own compressor."""
    args = dict(num_bits=8, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))

    def pack(w: torch.Tensor) -> Tensors:
        scale = (w.unflatten(-1, (-1, 32)).abs().amax(-1).log2().floor() - 8).exp2()
        return MXFP8QuantizationCompressor.compress({"weight": w.clone(), "weight_scale": scale}, scheme)

    def values(t: Tensors) -> torch.Tensor:
        unpacked = MXFP8QuantizationCompressor.decompress(dict(t), scheme)["weight"]
        # E4M3 times a power of two, which the type that it comes in holds.
        return unpacked.to(F32)

    return Scheme(pack, values)


def affine4(w: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [out, in], F16 scales and zeros [out, in / group]; no zero is 0, which GPTQ's first version cannot write."""
    groups = w.unflatten(-1, (-1, group))
    low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
    scale = ((high - low) / 14.5).half()
    zero = (-low / scale.float()).round().clamp(1, 15)
    q = ((groups / scale.float()[..., None]).round() + zero[..., None]).clamp(0, 15)
    return q.flatten(-2).int(), scale, zero.int()


def words(q: torch.Tensor, order=range(8)) -> torch.Tensor:
    """Eight columns to a word of 32 bits, column order[i] in its i-th nibble."""
    eight = q.long().unflatten(-1, (-1, 8))
    return sum(eight[..., column] << 4 * i for i, column in enumerate(order)).to(torch.uint32).view(torch.int32)


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    return (packed[..., None] >> torch.arange(0, 32, 4) & 15).flatten(-2)


def gptq(group: int, less: int) -> Scheme:
    """By AutoGPTQ's definition: (q - zero) * scale, with zero - 1 stored unless the version is 2."""

    def pack(w: torch.Tensor) -> Tensors:
        q, scale, zero = affine4(w, group)
        index = (torch.arange(w.shape[1]) // group).int()
        return {"qweight": words(q).T, "qzeros": words(zero.T - less), "scales": scale.T, "g_idx": index}

    def values(t: Tensors) -> torch.Tensor:
        q, zeros = nibbles(t["qweight"].T.contiguous()).T, nibbles(t["qzeros"]) + less
        of = t["g_idx"].long()
        return ((q - zeros[of]) * t["scales"].float()[of]).T

    return Scheme(pack, values)


def awq(group: int) -> Scheme:
    """AutoAWQ's `gemm`, unpacked by mlx-lm."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def pack(w: torch.Tensor) -> Tensors:
        q, scale, zero = affine4(w, group)
        return {"qweight": words(q.T, order), "qzeros": words(zero.T, order), "scales": scale.T}

    def values(t: Tensors) -> torch.Tensor:
        unpack = lambda words: torch.from_numpy(np.array(_unpack_awq_weights(mx.array(words.contiguous().numpy()))))
        zeros, scales = (each.repeat_interleave(group, 0) for each in (unpack(t["qzeros"]), t["scales"].float()))
        return ((unpack(t["qweight"]) - zeros) * scales).T

    return Scheme(pack, values)


# ----------------------------------------------------------------------------------------------------------- recipes
@dataclass(frozen=True)
class Recipe:
    """What one fixture is made of."""

    family: Family
    flat: Callable[[Tensors], Tensors]  # to names of the release, as views of the same memory
    rules: list[tuple[str, Scheme | None]]  # by a pattern of a matrix's name; the first match counts
    quantization_config: dict

    def scheme(self, name: str, t: torch.Tensor) -> Scheme | None:
        if t.dim() < 2:
            return None
        return next((scheme for pattern, scheme in self.rules if re.search(pattern, name)), None)


def gpt_oss_released(tensors: Tensors) -> Tensors:
    """Experts as [experts, out, in], rows of gate and up by turns; a module's name ends where `blocks` begins."""
    stacked = lambda name: name.endswith(("experts.gate_up_proj", "experts.down_proj"))
    pairs = ((f"{name}_weight", t.transpose(1, 2)) if stacked(name) else (name, t) for name, t in tensors.items())
    return dict(pairs)


FP8_CONFIG = dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[128, 128])
PLAIN = r"embed_tokens|lm_head|mlp\.gate\.|norm"

CT_INT4 = dict(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32, dynamic=False, actorder=None)


def compressed_tensors_config(format: str, ignore: list[str], *more: dict, **weights) -> dict:
    """A group of weights; of several, the targets of the last ones are in them."""
    group = lambda weights, targets=("Linear",): dict(
        targets=list(targets), input_activations=None, output_activations=None, weights=weights
    )
    groups = [group(weights), *(group(args["weights"], args["targets"]) for args in more)]
    return dict(
        quant_method="compressed-tensors", format=format, quantization_status="compressed", ignore=ignore,
        config_groups={f"group_{i}": group for i, group in enumerate(groups)},
    )  # fmt: skip


QWEN = dict(
    hidden_size=64, num_hidden_layers=2, mlp_only_layers=[], num_experts=4, moe_intermediate_size=32, head_dim=32,
    num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
)

RECIPES = {
    # Rows and columns that are no whole blocks; scales in F32 and, in one layer, in BF16.
    "qwen3_moe_fp8": Recipe(
        family=changed("qwen3_moe", dict(
            hidden_size=136, num_hidden_layers=2, mlp_only_layers=[], num_experts=4, moe_intermediate_size=12,
            head_dim=22, num_attention_heads=6, num_key_value_heads=1, vocab_size=48,
        )),
        flat=per_expert,
        rules=[(PLAIN, None), (r"layers\.1\.", fp8_blocks(torch.bfloat16)), ("", fp8_blocks(F32))],
        quantization_config=FP8_CONFIG,
    ),
    # Latent attention, a shared expert and a dense layer in FP8, scales that are powers of two.
    "deepseek_v3_fp8": Recipe(
        family=changed("deepseek_v3", dict(hidden_size=136, n_routed_experts=8, vocab_size=64, num_hidden_layers=2)),
        flat=per_expert,
        rules=[(PLAIN, None), ("", fp8_blocks(E8M0))],
        quantization_config=FP8_CONFIG | dict(scale_fmt="ue8m0"),
    ),
    # As released: stacked experts whose rows of gate and up alternate.
    "gpt_oss_mxfp4": Recipe(
        family=changed("gpt_oss", dict(
            hidden_size=64, intermediate_size=32, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"],
        )),
        flat=gpt_oss_released,
        rules=[(r"experts.*_weight$", mxfp4_blocks())],
        quantization_config=dict(
            quant_method="mxfp4",
            modules_to_not_convert=["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
        ),
    ),
    # Kimi-K2-Thinking: routed experts in four bits, the rest as it is.
    "deepseek_v3_int4": Recipe(
        family=changed("deepseek_v3", dict(
            hidden_size=64, moe_intermediate_size=32, n_routed_experts=8, vocab_size=64, num_hidden_layers=2,
        )),
        flat=per_expert,
        rules=[(r"\.experts\.", int_pack(num_bits=4, strategy="group", group_size=32))],
        quantization_config=compressed_tensors_config(
            "pack-quantized", ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
            **CT_INT4,
        ),
    ),
    # The other forms of compressed-tensors, one for each part of the model.
    "glm4_moe_compressed": Recipe(
        family=changed("glm4_moe", dict(
            hidden_size=128, moe_intermediate_size=32, intermediate_size=32, num_hidden_layers=2, n_routed_experts=6, vocab_size=64,
        )),
        flat=per_expert,
        rules=[
            (PLAIN, None),
            (r"\.experts\.\d+\.(gate|up)_proj", int_pack(num_bits=4, strategy="group", group_size=128)),
            (r"\.experts\.\d+\.down_proj", int_pack(with_zeros, num_bits=4, strategy="group", group_size=32, symmetric=False)),
            (r"self_attn\.(q|k)_proj", by_compressed_tensors(
                NaiveQuantizationCompressor, symmetric(torch.bfloat16), num_bits=8, type="float", strategy="channel")),
            (r"self_attn\.v_proj", by_compressed_tensors(
                NaiveQuantizationCompressor, symmetric(F32), num_bits=8, type="float", strategy="tensor")),
            (r"self_attn\.o_proj", by_compressed_tensors(
                NaiveQuantizationCompressor, symmetric(F32), num_bits=8, type="int", strategy="channel")),
            (r"shared_experts", int_pack(num_bits=8, strategy="channel")),
            ("", int_pack(num_bits=8, strategy="group", group_size=32)),
        ],
        quantization_config=compressed_tensors_config("mixed-precision", ["lm_head"]),
    ),
    "qwen3_moe_gptq": Recipe(
        family=changed("qwen3_moe", QWEN),
        flat=per_expert,
        rules=[(PLAIN, None), ("", gptq(32, 1))],
        quantization_config=dict(
            quant_method="gptq", bits=4, group_size=32, desc_act=False, sym=False, checkpoint_format="gptq",
        ),
    ),
    "qwen3_moe_awq": Recipe(
        family=changed("qwen3_moe", QWEN),
        flat=per_expert,
        rules=[(PLAIN, None), ("", awq(32))],
        quantization_config=dict(
            quant_method="awq", bits=4, group_size=32, zero_point=True, version="gemm", modules_to_not_convert=["mlp.gate"],
        ),
    ),
    # Nemotron-3 as released by modelopt: experts in NVFP4, one scale of all multiplied.
    "nemotron_h_nvfp4": Recipe(
        family=changed("nemotron_h", dict(
            hidden_size=64, moe_intermediate_size=32, head_dim=16, n_routed_experts=6, vocab_size=64, hybrid_override_pattern="ME*-",
            num_hidden_layers=4,
        )),
        flat=nemotron_names,
        rules=[(r"experts\.\d+\.", nvfp4_of_modelopt())],
        quantization_config=dict(quant_method="modelopt", quant_algo="NVFP4", group_size=16, exclude_modules=["lm_head"]),
    ),
    # As released: experts in four bits, attention and shared experts in FP8.
    "deepseek_v4_fp8_mxfp4": Recipe(
        family=changed("deepseek_v4", dict(hidden_size=64, moe_intermediate_size=32, n_routed_experts=4, num_hash_layers=0)),
        flat=deepseek_v4_names,
        rules=[
            (r"\.experts\.\d+\.", fp4_of_deepseek_v4()),
            (r"attn\.(wq_a|wq_b|wkv|wo_a|wo_b)\.|indexer\.wq_b|shared_experts", fp8_of_deepseek_v4()),
        ],
        quantization_config=FP8_CONFIG | dict(scale_fmt="ue8m0", expert_dtype="fp4"),
    ),
    # compressed-tensors' MXFP8: scales that are bytes.
    "qwen3_moe_mxfp8": Recipe(
        family=changed("qwen3_moe", QWEN),
        flat=per_expert,
        rules=[(PLAIN, None), ("", mxfp8_of_compressed_tensors())],
        quantization_config=compressed_tensors_config(
            "mxfp8-quantized", ["lm_head", "re:.*mlp.gate$"], num_bits=8, type="float", symmetric=True, strategy="group",
            group_size=32, dynamic=False, scale_dtype="torch.uint8",
        ),
    ),
    # compressed-tensors' int4 beside activations in eight bits: a value is a byte.
    "qwen3_moe_w4a8": Recipe(
        family=changed("qwen3_moe", QWEN),
        flat=per_expert,
        rules=[(PLAIN, None), ("", by_compressed_tensors(
            NaiveQuantizationCompressor, symmetric(torch.bfloat16), num_bits=4, type="int", strategy="group", group_size=32))],
        quantization_config=compressed_tensors_config(
            "int-quantized", ["lm_head", "re:.*mlp.gate$"], num_bits=4, type="int", symmetric=True, strategy="group", group_size=32,
        ),
    ),
    # compressed-tensors' forms of FP4: NVFP4, with one scale that divides, and MXFP4 in attention.
    "qwen3_moe_nvfp4": Recipe(
        family=changed("qwen3_moe", QWEN),
        flat=per_expert,
        rules=[(PLAIN, None), (r"self_attn", mxfp4_of_compressed_tensors()), ("", nvfp4_of_compressed_tensors())],
        quantization_config=compressed_tensors_config(
            "mixed-precision", ["lm_head", "re:.*mlp.gate$"],
            dict(targets=["re:.*self_attn.*"], weights=dict(num_bits=4, type="float", strategy="group", group_size=32)),
            num_bits=4, type="float", strategy="tensor_group", group_size=16,
        ),
    ),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- commands
def config_of(recipe: Recipe) -> dict:
    return recipe.family.config | dict(quantization_config=recipe.quantization_config)


def model_of(recipe: Recipe) -> torch.nn.Module:
    """transformers' model, made from the recipe's config."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", recipe.family.config)
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), **EAGER).eval()


def parameters_of(model: torch.nn.Module) -> Tensors:
    learnt = {n: b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")}
    return {n: p.data for n, p in [*model.named_parameters(), *learnt.items()]}


def store(recipe: Recipe, tensors: Tensors) -> Tensors:
    """The tensors of the file; what they stand for replaces `tensors`."""
    files = {}
    for name, t in recipe.flat(tensors).items():
        if scheme := recipe.scheme(name, t):
            module = name.removesuffix("weight")
            parts = scheme.pack(t.clone())
            files |= {module + suffix: part.contiguous() for suffix, part in parts.items()}
            t.copy_(scheme.values(parts))
        else:
            files[name] = t.to(recipe.family.dtype(name)).contiguous()
            t.copy_(files[name])
    return files


def restore(recipe: Recipe, files: Tensors, tensors: Tensors) -> None:
    """What the tensors of the file stand for, into `tensors`."""
    unread, flat = set(files), recipe.flat(tensors)
    for name, t in flat.items():
        if scheme := recipe.scheme(name, t):
            module = name.removesuffix("weight")
            of_module = {key: part for key, part in files.items() if key.startswith(module)}
            parts = {key.removeprefix(module): part for key, part in of_module.items() if key == name or key not in flat}
            t.copy_(scheme.values(parts))
            unread -= {module + suffix for suffix in parts}
        else:
            t.copy_(files[name])
            unread.discard(name)
    assert not unread, f"nothing reads {sorted(unread)}"


def make(name: str) -> str:
    recipe, folder = RECIPES[name], FIXTURES / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.safetensors"), *folder.glob("*.npy")]:
        old.unlink()
    write_json(folder / "config.json", config_of(recipe))
    write_json(folder / "generation_config.json", recipe.family.generation)

    def attempt(seed: int):
        model = model_of(recipe)
        with torch.no_grad():
            tensors = parameters_of(model)
            for tensor_name, t in tensors.items():
                t.copy_(draw(tensor_name, tuple(t.shape), seed, recipe.family))
            files = store(recipe, tensors)
        return *reference(model, draw_prompt(recipe.family, seed), recipe.family.decode), files

    seed, arrays, meta, files = first_good(name, eos_of(recipe.family), attempt)
    save_file(files, folder / "model.safetensors", {"format": "pt"})
    for stem, array in arrays.items():
        write_array(folder / f"{stem}.npy", array)
    versions = dict(transformers=transformers.__version__, torch=torch.__version__, numpy=np.__version__)
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in files.values()})
    write_json(folder / "meta.json", dict(name=name, seed=seed, made_with=versions, stored_dtypes=dtypes) | meta)
    return summary(name, seed, meta)


def check(name: str) -> str:
    recipe, folder = RECIPES[name], FIXTURES / name
    assert json.loads((folder / "config.json").read_text()) == config_of(recipe)
    model = model_of(recipe)
    with torch.no_grad():
        restore(recipe, load_file(folder / "model.safetensors"), parameters_of(model))
    found = {f.stem: np.load(f) for f in folder.glob("*.npy")}
    arrays, meta = reference(model, found["prompt_ids"], len(found["greedy_ids"]))
    return f"{name}: ok, max |d| " + compare(name, found, arrays, TOLERANCE * meta["logits_std"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "check"])
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of: {' '.join(RECIPES)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(RECIPES):
        sys.exit(f"no such fixture: {' '.join(sorted(unknown))}; there are: {' '.join(RECIPES)}")
    for name in args.names or RECIPES:
        print({"make": make, "check": check}[args.command](name), flush=True)


if __name__ == "__main__":
    main()
