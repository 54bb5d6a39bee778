#!/usr/bin/env python3
"""A plain checkpoint to a quantised one, by rounding to nearest: what a format alone costs, without any calibration.

    python reference/requantise.py MODEL OUT FORMAT          FORMAT: one of FORMATS below

MODEL is a folder as transformers has it (stacked or single experts, one safetensors file). Embedding, head, norms, routers, convolutions
and what decides decays and gates stay as they are, and layers that predict further tokens stay or are left out. FORMAT is

- a scheme of quantised_models.py: OUT gets a tensor for each expert and matrix;
- one of mlx-lm's, `mlx2` to `mlx8` for its affine one in groups of 64, `mlx4-32`, `mlx4-128`: OUT is what mlx-lm's conversion writes;
- a type of GGUF, of Qwen3.5-MoE only: OUT gets a GGUF file by requantise_gguf.py. What gguf-py cannot make comes from llama.cpp's
  `llama-quantize`, whose path is a fourth argument.

The bits that a quantised weight takes, scales and all, are printed.
"""

import json
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import mlx_lm
import torch
from compressed_tensors.compressors.naive_quantized.base import NaiveQuantizationCompressor
from safetensors.torch import load_file, save_file

import requantise_gguf
from families import F32, FAMILIES, Tensors, text_config, write_json
from quantised_models import (
    CT_INT4, E8M0, FP8_CONFIG, Recipe, awq, by_compressed_tensors, compressed_tensors_config, fp8_blocks, gptq, int_pack,
    mxfp4_of_compressed_tensors, mxfp8_of_compressed_tensors, nvfp4_of_compressed_tensors, nvfp4_of_modelopt, per_expert, store,
    symmetric, with_zeros,
)  # fmt: skip

PLAIN = r"embed_tokens|lm_head|norm|conv1d|in_proj_[ab]\.|mlp\.gate\.|shared_expert_gate|^mtp"
ROW = dict(num_bits=8, strategy="channel")
FP4 = dict(num_bits=4, type="float", symmetric=True)
FORMATS = {
    "fp8": (fp8_blocks(F32), FP8_CONFIG),
    "fp8-ue8m0": (fp8_blocks(E8M0), FP8_CONFIG | dict(scale_fmt="ue8m0")),
    "fp8-row": (
        by_compressed_tensors(NaiveQuantizationCompressor, symmetric(F32), type="float", **ROW),
        compressed_tensors_config("float-quantized", [], type="float", symmetric=True, **ROW),
    ),
    "int8": (int_pack(**ROW), compressed_tensors_config("pack-quantized", [], type="int", symmetric=True, **ROW)),
    "int4": (int_pack(num_bits=4, strategy="group", group_size=32), compressed_tensors_config("pack-quantized", [], **CT_INT4)),
    "int4-zeros": (
        int_pack(with_zeros, num_bits=4, strategy="group", group_size=32, symmetric=False),
        compressed_tensors_config("pack-quantized", [], **CT_INT4 | dict(symmetric=False)),
    ),
    "mxfp8-ct": (
        mxfp8_of_compressed_tensors(),
        compressed_tensors_config("mxfp8-quantized", [], num_bits=8, type="float", symmetric=True, strategy="group", group_size=32),
    ),
    "gptq_v2": (gptq(64, 0), dict(quant_method="gptq", bits=4, group_size=64, desc_act=False, checkpoint_format="gptq_v2")),
    "gptq": (gptq(64, 1), dict(quant_method="gptq", bits=4, group_size=64, desc_act=False, checkpoint_format="gptq")),
    "awq": (awq(64), dict(quant_method="awq", bits=4, group_size=64, zero_point=True, version="gemm")),
    "mxfp4": (mxfp4_of_compressed_tensors(), compressed_tensors_config("mxfp4-pack-quantized", [], group_size=32, **FP4)),
    "nvfp4": (nvfp4_of_modelopt(), dict(quant_method="modelopt", quant_algo="NVFP4", group_size=16)),
    "nvfp4-ct": (nvfp4_of_compressed_tensors(), compressed_tensors_config("nvfp4-pack-quantized", [], group_size=16, **FP4)),
}  # fmt: skip
MLX = {f"mlx{bits}": dict(q_mode="affine", q_bits=bits, q_group_size=64) for bits in (2, 3, 4, 5, 6, 8)}
MLX |= {"mlx4-32": dict(q_mode="affine", q_bits=4, q_group_size=32), "mlx4-128": dict(q_mode="affine", q_bits=4, q_group_size=128)}
MLX |= {f"mlx-{mode}": dict(q_mode=mode) for mode in ("mxfp4", "nvfp4", "mxfp8")}


def is_quantised(name: str, t: torch.Tensor) -> bool:
    return t.dim() >= 2 and not re.search(PLAIN, name)


def fits(format: str, files: Tensors) -> bool:
    """Whether every row is whole groups; mlx-lm leaves a matrix of others as it is, and says nothing."""
    group = MLX.get(format, {}).get("q_group_size", 1)
    return all(t.shape[-1] % group == 0 for name, t in files.items() if is_quantised(name, t))


def by_scheme(source: Path, out: Path, format: str, files: Tensors) -> None:
    scheme, config = FORMATS[format]
    # What stays as it is keeps its type.
    flat = per_expert(files)
    family = replace(FAMILIES["qwen3_moe"], dtype=lambda name: flat[name].dtype)
    recipe = Recipe(family, per_expert, [(PLAIN, None), ("", scheme)], config)
    with torch.no_grad():
        stored = store(recipe, {name: t.float() for name, t in files.items()})
    out.mkdir(parents=True)
    save_file(stored, out / "model.safetensors", {"format": "pt"})
    write_json(out / "config.json", json.loads((source / "config.json").read_text()) | dict(quantization_config=config))


def by_mlx(source: Path, out: Path, format: str) -> None:
    config = json.loads((source / "config.json").read_text())
    if config["model_type"].endswith("_text"):  # mlx-lm knows the family by its outer name alone
        config = dict(model_type=config["model_type"].removesuffix("_text"), tie_word_embeddings=False, text_config=config)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "model"
        shutil.copytree(source, plain)
        write_json(plain / "config.json", config)
        # The same matrices as in every other format, where mlx-lm's own rule takes embedding and head too.
        predicate = lambda path, module: not re.search(PLAIN, f"{path}.")
        mlx_lm.convert(str(plain), str(out), quantize=True, quant_predicate=predicate, **MLX[format])


def bits_per_weight(out: Path, files: Tensors) -> float:
    weights = sum(t.numel() for name, t in files.items() if is_quantised(name, t))
    parts = {name: t for file in out.glob("*.safetensors") for name, t in load_file(file).items()}
    taken = sum(t.nbytes for name, t in parts.items() if not re.search(rf"{PLAIN}|A_log|dt_bias", name))
    return 8 * taken / weights


def make(source: Path, out: Path, format: str, program: str | None) -> float:
    """Writes OUT; returns the bits that a quantised weight takes."""
    files = load_file(source / "model.safetensors")
    if not fits(format, files):
        sys.exit(f"{format}: {source} has matrices whose rows are no multiple of {MLX[format]['q_group_size']}; choose smaller groups")
    if format in requantise_gguf.TYPES:
        out.mkdir(parents=True)
        config, tokenizer = (json.loads((source / f"{name}.json").read_text()) for name in ("config", "tokenizer"))
        tensors = {name: t for name, t in files.items() if not name.startswith("mtp.")}
        return requantise_gguf.write(out, tensors, text_config(config), tokenizer, format, PLAIN, program)
    if format in MLX:
        by_mlx(source, out, format)
    else:
        by_scheme(source, out, format, files)
    for text in [*source.glob("tokenizer*"), *source.glob("chat_template*"), *source.glob("generation_config.json")]:
        shutil.copy(text, out)
    return bits_per_weight(out, files)


def main() -> None:
    known = [*FORMATS, *MLX, *requantise_gguf.TYPES]
    if len(sys.argv) < 4 or sys.argv[3] not in known or len(sys.argv) != 4 + (sys.argv[3] in requantise_gguf.BY_PROGRAM):
        sys.exit(__doc__ + f"\n    FORMATS: {', '.join(known)}")
    bits = make(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], *(sys.argv[4:] or [None]))
    print(f"{sys.argv[3]}: {bits:.2f} bits a weight")


if __name__ == "__main__":
    main()
