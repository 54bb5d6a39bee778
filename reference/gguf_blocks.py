#!/usr/bin/env python3
"""Blocks of every ggml type with what gguf-py says they are worth, and the codebooks of the IQ types.

    python reference/gguf_blocks.py make     write tests/fixtures/gguf_blocks/ and crates/kernels/src/quant/ggml/codebooks.bin
    python reference/gguf_blocks.py check    compare both with what gguf-py gives now

packed.npy   u8    BLOCKS blocks of each of TYPES, one type behind the other: random bytes, but scales that are finite
values.npy   f32   what each weight of them is worth
codebooks.bin      the grids of IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S and IQ1_S as gguf-py packs them
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

ROOT = Path(__file__).parent.parent
FIXTURE = ROOT / "tests" / "fixtures" / "gguf_blocks"
CODEBOOKS = ROOT / "crates" / "kernels" / "src" / "quant" / "ggml" / "codebooks.bin"
BLOCKS = 8

# Types in the order of the fixture, and the bytes at which each block has numbers of binary16.
TYPES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ1_S": [0], "IQ1_M": [], "IQ2_XXS": [0], "IQ2_XS": [0],
    "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64],
    "MXFP4": [],
}  # fmt: skip


def halves(rng: np.random.Generator, n: int) -> np.ndarray:
    """Numbers of binary16 of both signs, the smallest and the largest among them, as bytes [n, 2]."""
    numbers = (rng.standard_normal(n) * 10.0 ** rng.integers(-5, 2, n)).astype(np.float16)
    numbers[:3] = [6e-8, -0.0, 65504.0]
    return rng.permutation(numbers).view(np.uint8).reshape(n, 2)


def blocks(name: str) -> tuple[np.ndarray, np.ndarray]:
    kind = GGMLQuantizationType[name]
    _, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng([7, kind.value])
    packed = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for at in TYPES[name]:
        packed[:, at : at + 2] = halves(rng, BLOCKS)
    if name == "IQ1_M":  # its scale lies in the upper four bits of four words
        scale = halves(rng, BLOCKS).copy().view(np.uint16)[:, 0]
        for i in range(4):
            word = packed[:, 48 + 2 * i : 50 + 2 * i].copy().view(np.uint16)[:, 0]
            word = (word & 0x0FFF) | ((scale >> (4 * i) & 15) << 12)
            packed[:, 48 + 2 * i : 50 + 2 * i] = word.astype(np.uint16).view(np.uint8).reshape(BLOCKS, 2)
    if name == "MXFP4":  # subnormal scales, and the largest that is finite
        packed[:, 0] = [0, 1, 2, 100, 127, 128, 140, 250]
    values = quants.dequantize(packed, kind).reshape(-1)
    assert values.dtype == np.float32 and np.isfinite(values).all(), name
    return packed.reshape(-1), values


def codebooks() -> bytes:
    types = [quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S, quants.IQ1_S]
    return b"".join(bytes.fromhex(kind.grid_hex.decode()) for kind in types)


def main() -> None:
    packed, values = (np.concatenate(parts) for parts in zip(*map(blocks, TYPES)))
    if sys.argv[1:] == ["make"]:
        FIXTURE.mkdir(parents=True, exist_ok=True)
        np.save(FIXTURE / "packed.npy", packed)
        np.save(FIXTURE / "values.npy", values)
        CODEBOOKS.write_bytes(codebooks())
    elif sys.argv[1:] == ["check"]:
        assert (np.load(FIXTURE / "packed.npy") == packed).all()
        assert (np.load(FIXTURE / "values.npy").view(np.uint32) == values.view(np.uint32)).all()
        assert CODEBOOKS.read_bytes() == codebooks()
        print("gguf_blocks: ok")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
