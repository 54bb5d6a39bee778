#!/usr/bin/env python3
"""A plain checkpoint to a quantised one, by rounding to nearest: what a format alone costs, without any calibration.

    python reference/requantise.py MODEL OUT FORMAT          FORMAT: one of FORMATS below

A block type of GGUF gives a folder of F32 weights with the values that its blocks stand for: the type's own cost, without int8
activations. Q8_0, Q5_1, Q5_0, Q4_1, Q4_0 and MXFP4 are quantised by gguf-py, and those of 256 weights by llama.cpp's `llama-quantize`,
whose path is a fourth argument; where rows are no multiple of 256, blocks reach over rows.

MODEL is a folder as transformers has it (stacked or single experts, one safetensors file); OUT gets the tensors of
quantised_models.py's schemes, a tensor for each expert and matrix. Embedding, head, norms, routers, convolutions and what
decides decays and gates stay as they are, and so do layers that predict further tokens.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants
from safetensors.torch import load_file, save_file

from families import F32, FAMILIES, write_json
from quantised_models import (
    CT_INT4, E8M0, FP8_CONFIG, Recipe, awq, compressed_tensors_config, fp8_blocks, gptq, int_pack,
    mxfp4_of_compressed_tensors, nvfp4_of_compressed_tensors, nvfp4_of_modelopt, per_expert, store,
)  # fmt: skip

PLAIN = r"embed_tokens|lm_head|norm|conv1d|in_proj_[ab]\.|mlp\.gate\.|shared_expert_gate|^mtp"
INT8 = dict(num_bits=8, type="int", symmetric=True, strategy="channel")
FP4 = dict(num_bits=4, type="float", symmetric=True)
FORMATS = {
    "fp8": (fp8_blocks(F32), FP8_CONFIG),
    "fp8-ue8m0": (fp8_blocks(E8M0), FP8_CONFIG | dict(scale_fmt="ue8m0")),
    "int8": (int_pack(num_bits=8, strategy="channel"), compressed_tensors_config("pack-quantized", [], **INT8)),
    "int4": (int_pack(num_bits=4, strategy="group", group_size=32), compressed_tensors_config("pack-quantized", [], **CT_INT4)),
    "gptq": (gptq(64, 1), dict(quant_method="gptq", bits=4, group_size=64, desc_act=False, checkpoint_format="gptq")),
    "awq": (awq(64), dict(quant_method="awq", bits=4, group_size=64, zero_point=True, version="gemm")),
    "mxfp4": (mxfp4_of_compressed_tensors(), compressed_tensors_config("mxfp4-pack-quantized", [], group_size=32, **FP4)),
    "nvfp4": (nvfp4_of_modelopt(), dict(quant_method="modelopt", quant_algo="NVFP4", group_size=16)),
    "nvfp4-ct": (nvfp4_of_compressed_tensors(), compressed_tensors_config("nvfp4-pack-quantized", [], group_size=16, **FP4)),
}  # fmt: skip


BLOCKS = ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4"]


# As llama-quantize calls files that have one of these types where it is told to be pure.
K_BLOCKS = {
    "Q2_K": "Q2_K", "Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", "Q6_K": "Q6_K", "IQ3_XXS": "IQ3_XXS", "IQ3_S": "IQ3_S",
    "IQ4_XS": "IQ4_XS", "IQ1_S": "IQ1_S", "IQ1_M": "IQ1_M", "IQ2_XXS": "IQ2_XXS", "IQ2_XS": "IQ2_XS",
}  # fmt: skip
# Those that llama-quantize makes with an importance matrix only; it gets one in which all columns are alike.
WITH_IMPORTANCE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ3_XXS")


def of_gguf_py(name: str, matrices: list[np.ndarray]) -> list[np.ndarray]:
    kind = GGMLQuantizationType[name]
    return [quants.dequantize(quants.quantize(x, kind), kind) for x in matrices]


def all_alike(path: Path, names: list[str], columns: int) -> None:
    """An importance matrix of ones, in llama.cpp's older format: names, calls, and numbers."""
    number = lambda n: n.to_bytes(4, "little")
    of = lambda name: number(len(name)) + name.encode() + number(1) + number(columns) + np.ones(columns, "<f4").tobytes()
    path.write_bytes(number(len(names)) + b"".join(map(of, names)))


def of_llama_quantize(name: str, matrices: list[np.ndarray], program: str) -> list[np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        plain, made = Path(folder) / "plain.gguf", Path(folder) / "made.gguf"
        writer = GGUFWriter(plain, "llama")
        writer.add_block_count(1)
        writer.add_context_length(256)
        writer.add_embedding_length(256)
        writer.add_feed_forward_length(256)
        writer.add_head_count(1)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_vocab_size(256)
        for i, x in enumerate(matrices):
            writer.add_tensor(f"blk.{i}.ffn_up.weight", x.reshape(-1, 256))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        importance = []
        if name in WITH_IMPORTANCE:
            all_alike(Path(folder) / "ones.dat", [f"blk.{i}.ffn_up.weight" for i in range(len(matrices))], 256)
            importance = ["--imatrix", Path(folder) / "ones.dat"]
        subprocess.run([program, "--pure", *importance, plain, made, K_BLOCKS[name], "1"], check=True, capture_output=True)
        tensors = {t.name: t for t in GGUFReader(made).tensors}
        assert {t.tensor_type.name for t in tensors.values()} == {name}, name
        rows = [tensors[f"blk.{i}.ffn_up.weight"] for i in range(len(matrices))]
        return [quants.dequantize(t.data, t.tensor_type).reshape(x.shape) for t, x in zip(rows, matrices)]


def through_blocks(files: dict[str, torch.Tensor], name: str, program: list[str]) -> dict[str, torch.Tensor]:
    """Every matrix as blocks hold it."""
    changed = [key for key, x in files.items() if x.ndim >= 2 and not re.search(PLAIN, key)]
    matrices = [files[key].float().numpy() for key in changed]
    values = of_llama_quantize(name, matrices, *program) if name in K_BLOCKS else of_gguf_py(name, matrices)
    return files | {key: torch.from_numpy(x.copy()) for key, x in zip(changed, values)}


def main() -> None:
    known = [*FORMATS, *BLOCKS, *K_BLOCKS]
    if len(sys.argv) < 4 or sys.argv[3] not in known or len(sys.argv) != 4 + (sys.argv[3] in K_BLOCKS):
        sys.exit(__doc__ + f"\n    FORMATS: {', '.join(known)}")
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    files = load_file(source / "model.safetensors")
    if sys.argv[3] in [*BLOCKS, *K_BLOCKS]:
        out.mkdir(parents=True)
        save_file(through_blocks(files, sys.argv[3], sys.argv[4:]), out / "model.safetensors", {"format": "pt"})
        for text in [*source.glob("*.json"), *source.glob("chat_template*")]:
            shutil.copy(text, out)
        return
    scheme, config = FORMATS[sys.argv[3]]
    # What stays as it is keeps its type.
    flat = per_expert(files)
    family = replace(FAMILIES["qwen3_moe"], dtype=lambda name: flat[name].dtype)
    recipe = Recipe(family, per_expert, [(PLAIN, None), ("", scheme)], config)
    with torch.no_grad():
        stored = store(recipe, {name: t.float() for name, t in files.items()})
    out.mkdir(parents=True)
    save_file(stored, out / "model.safetensors", {"format": "pt"})
    write_json(out / "config.json", json.loads((source / "config.json").read_text()) | dict(quantization_config=config))
    for text in [*source.glob("tokenizer*"), *source.glob("chat_template*"), *source.glob("generation_config.json")]:
        shutil.copy(text, out)


if __name__ == "__main__":
    main()
