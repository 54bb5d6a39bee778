#!/usr/bin/env python3
"""A plain checkpoint to a quantised one, by rounding to nearest: what a format alone costs, without any calibration.

    python reference/requantise.py MODEL OUT FORMAT          FORMAT: one of FORMATS below

A block type of GGUF (Q8_0, Q5_1, Q5_0, Q4_1, Q4_0, MXFP4: what gguf-py quantises) gives a folder of F32 weights with the values that its
blocks stand for: the type's own cost, without int8 activations.

MODEL is a folder as transformers has it (stacked or single experts, one safetensors file); OUT gets the tensors of
quantised_models.py's schemes, a tensor for each expert and matrix. Embedding, head, norms, routers, convolutions and what
decides decays and gates stay as they are, and so do layers that predict further tokens.
"""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
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


def through_blocks(files: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Every matrix as gguf-py's blocks hold it."""
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[name]
    def through(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(quants.dequantize(quants.quantize(x.float().numpy(), kind), kind).copy())

    stays = lambda name, x: x.ndim < 2 or re.search(PLAIN, name)
    return {name: x if stays(name, x) else through(x) for name, x in files.items()}


def main() -> None:
    if len(sys.argv) != 4 or sys.argv[3] not in [*FORMATS, *BLOCKS]:
        sys.exit(__doc__ + f"\n    FORMATS: {', '.join([*FORMATS, *BLOCKS])}")
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    files = load_file(source / "model.safetensors")
    if sys.argv[3] in BLOCKS:
        out.mkdir(parents=True)
        save_file(through_blocks(files, sys.argv[3]), out / "model.safetensors", {"format": "pt"})
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
