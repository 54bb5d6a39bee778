#!/usr/bin/env python3
"""Make tiny checkpoints in the MLX format and their reference outputs, with mlx-lm as the outside truth.

    python reference/mlx_models.py make [name ...]      write tests/fixtures/<name>/ (all of RECIPES and affine by default)
    python reference/mlx_models.py check [name ...]     compare what is on disk with mlx-lm, and with transformers

The folders hold what those of models.py hold; `mlx_affine` is described at write_affine. mlx-lm's own convert() writes
the checkpoint, out of a Hugging Face one made for the purpose. It is a model of its own: convert() rounds 1 + w of the
RMSNorm weights to bf16, quantises most matrices and casts the rest, so its reference is not that of the source.

The reference is mlx-lm's forward on the CPU of the checkpoint loaded from disk, with all floating-point parameters cast
to float32: the stored scales and biases keep their values, and activations and sums are float32. `check` does the same
again, and also runs transformers in float32 on weights that dequantise(), which shares nothing with MLX, unpacks.
"""

import argparse
import contextlib
import importlib
import io
import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import torch
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import models
from families import Family, text_config, write_json
from models import EAGER, FIXTURES, TOLERANCE
from more_families import FAMILIES

mx.set_default_device(mx.cpu)

# transformers on the unpacked weights may differ from mlx-lm by this fraction of the logits' standard deviation.
ACROSS = 1e-4


@dataclass(frozen=True)
class Recipe:
    """A checkpoint: what is converted, and how."""

    source: str  # of FAMILIES
    sizes: dict  # keys of its config.json that are different here
    bits: int
    group: int
    # (pattern, bits, group) of module paths, the first match counts; bits None: not quantised. With none of these,
    # mlx-lm decides: the routers and the gates of shared experts have 8 bits in groups of 64.
    overrides: tuple[tuple[str, int | None, int | None], ...] = ()
    modes: tuple[tuple[str, str], ...] = ()  # (pattern, mode) of module paths that are not affine
    said_false: tuple[str, ...] = ()  # modules not quantised of which config.json says so; mlx-lm would leave them out
    reads_all: bool = False  # mlx-lm would not pass over the source's further tensors

    def family(self) -> Family:
        family = FAMILIES[self.source]
        config = json.loads(json.dumps(family.config))
        text_config(config).update(self.sizes)
        return replace(family, config=config, unread={} if self.reads_all else family.unread)

    def predicate(self, path: str, _module) -> bool | dict:
        for pattern, bits, group in self.overrides:
            if re.search(pattern, path):
                return bits is not None and dict(group_size=group, bits=bits, mode="affine")
        for pattern, mode in self.modes:
            if re.search(pattern, path):
                return dict(zip(("group_size", "bits"), MODES[mode]), mode=mode)
        return True


QWEN3_NEXT_SIZES = dict(
    hidden_size=64, head_dim=32, moe_intermediate_size=64, shared_expert_intermediate_size=64, num_experts=6
)
QWEN3_5_SIZES = dict(
    hidden_size=64, moe_intermediate_size=32, shared_expert_intermediate_size=64, linear_value_head_dim=16
)

MODES = {"mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}  # group and bits

RECIPES = {
    # What most people download: one size for all but routers and gates, under the names of the vision wrapper.
    "qwen3_5_moe_mlx4": Recipe(
        "qwen3_5_moe", QWEN3_5_SIZES, bits=4, group=32,
    ),
    "qwen3_5_moe_mlx8": Recipe("qwen3_5_moe", QWEN3_5_SIZES, bits=8, group=32),
    # Experts in fewer bits than the rest, as in mixed exports.
    "qwen3_5_moe_mlx_mixed": Recipe(
        "qwen3_5_moe", QWEN3_5_SIZES, bits=6, group=32,
        overrides=(
            (r"\.mlp\.gate$|\.shared_expert_gate$", 8, 64),
            (r"switch_mlp\.down_proj$", 4, 32),
            (r"switch_mlp\.", 3, 32),
        ),
    ),
    "qwen3_next_mlx4": Recipe("qwen3_next", QWEN3_NEXT_SIZES, bits=4, group=64),
    "qwen3_next_mlx8": Recipe("qwen3_next", QWEN3_NEXT_SIZES, bits=8, group=64),
    # All bit widths, groups of 32 and 64, matrices of one expert in different widths, modules left alone.
    "qwen3_next_mlx_mixed": Recipe(
        "qwen3_next", QWEN3_NEXT_SIZES, bits=4, group=64,
        overrides=(
            (r"\.mlp\.gate$|\.shared_expert_gate$", 8, 64),
            (r"layers\.0\.mlp\.switch_mlp\.", 2, 32),
            (r"layers\.0\.linear_attn\.in_proj_ba$", None, None),
            (r"layers\.1\.mlp\.switch_mlp\.down_proj$", 6, 32),
            (r"layers\.1\.mlp\.switch_mlp\.", 3, 64),
            (r"layers\.1\.linear_attn\.", 6, 64),
            (r"layers\.2\.mlp\.switch_mlp\.", 5, 32),
            (r"layers\.2\.linear_attn\.", 3, 32),
            (r"layers\.3\.mlp\.switch_mlp\.down_proj$", 8, 64),
            (r"layers\.3\.self_attn\.k_proj$", None, None),
            (r"layers\.3\.self_attn\.v_proj$", 5, 64),
            (r"embed_tokens$", 6, 32),
            (r"lm_head$", 8, 32),
        ),
        said_false=("model.layers.3.self_attn.k_proj",),
    ),
    # The modes of floating-point codes beside affine ones.
    "qwen3_moe_mlx_fp4": Recipe(
        "qwen3_moe",
        dict(
            hidden_size=64, num_hidden_layers=2, mlp_only_layers=[], num_experts=6, moe_intermediate_size=32, head_dim=32,
            vocab_size=96,
        ),
        bits=8, group=64,
        overrides=((r"\.mlp\.gate$", 8, 64),),
        modes=((r"layers\.0\.mlp\.", "mxfp4"), (r"layers\.1\.mlp\.", "nvfp4"), (r"\.self_attn\.", "mxfp8")),
    ),
    # Latent attention as mlx-lm has it: `kv_b_proj` as two matrices of each head, `embed_q` and `unembed_out`.
    "deepseek_v3_mlx4": Recipe(
        "deepseek_v3",
        dict(
            hidden_size=64, intermediate_size=64, moe_intermediate_size=32, n_routed_experts=8, num_hidden_layers=2,
            num_nextn_predict_layers=0, vocab_size=96, kv_lora_rank=64, q_lora_rank=32, qk_nope_head_dim=32, v_head_dim=32,
        ),
        bits=4, group=32, reads_all=True,
    ),
    # Names of mlx-lm's own: gate, up and down for w1, w3 and w2; a convolution [channels, kernel, 1].
    "lfm2_moe_mlx4": Recipe(
        "lfm2_moe",
        dict(hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_experts=8, vocab_size=96),
        bits=4, group=32,
    ),
    # mlx-lm leaves the router's learnt bias out.
    "ernie4_5_moe_mlx4": Recipe(
        "ernie4_5_moe",
        dict(hidden_size=64, intermediate_size=64, moe_intermediate_size=32, moe_num_experts=8, vocab_size=96),
        bits=4, group=32,
    ),
}


# ------------------------------------------------------------------------------------------------------------ convert
class NoTokenizer:
    def save_pretrained(self, _folder) -> None:
        pass


def convert(source: Path, target: Path, recipe: Recipe) -> None:
    """mlx_lm.convert of a checkpoint that has no tokenizer."""
    module = importlib.import_module("mlx_lm.convert")
    module.load = lambda path, **_: (lambda model, config: (model, NoTokenizer(), config))(*load_model(path, lazy=True))
    predicate = recipe.predicate if recipe.overrides or recipe.modes else None
    with contextlib.redirect_stdout(io.StringIO()):
        module.convert(
            source, target, quantize=True, q_bits=recipe.bits, q_group_size=recipe.group, quant_predicate=predicate
        )
    config = json.loads((target / "config.json").read_text())
    for quantization in (config["quantization"], config["quantization_config"]):
        quantization.update(dict.fromkeys(recipe.said_false, False))
    write_json(target / "config.json", config)


class Listening(nn.Module):
    """A router that keeps its latest input, [tokens, hidden], and what it said of it."""

    def __init__(self, gate: nn.Module):
        super().__init__()
        self.gate = gate

    def __call__(self, x):
        said = self.gate(x)
        self.latest = x[0], said
        return said


def by_softmax(router: Listening, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(logits, weights, indices) of a router that says its logits."""
    logits = torch.from_numpy(np.array(router.latest[1][0]))
    weights, indices = logits.softmax(-1).topk(k)
    return logits, weights / weights.sum(-1, keepdim=True), indices


def by_sigmoid(router: Listening, block: nn.Module, gaps: models.TopkGaps) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same of LFM2's, whose learnt bias is no part of its weights."""
    logits = torch.from_numpy(np.array(router.latest[1][0]))
    scores = logits.sigmoid()
    with gaps:
        chosen = (scores + torch.from_numpy(np.array(block.expert_bias))).topk(block.top_k, -1).indices
    weights = scores.gather(-1, chosen)
    return logits, weights / (weights.sum(-1, keepdim=True) + 1e-6) * block.routed_scaling_factor, chosen


def by_groups(router: Listening, gaps: models.TopkGaps) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same of DeepSeek-V3's, which says its choice: it is made anew, watched for ties, and has to be the same."""
    gate, (x, (said, weights)) = router.gate, router.latest
    logits = torch.from_numpy(np.array(x @ gate.weight.T))
    groups = (logits.sigmoid() + torch.from_numpy(np.array(gate.e_score_correction_bias))).unflatten(-1, (gate.n_group, -1))
    with gaps:
        kept = groups.topk(2, -1).values.sum(-1).topk(gate.topk_group, -1).indices
        dropped = torch.ones(groups.shape[:-1], dtype=torch.bool).scatter(-1, kept, False)
        chosen = groups.masked_fill(dropped[..., None], -torch.inf).flatten(-2).topk(gate.top_k, -1).indices
    said, weights = (torch.from_numpy(np.array(each[0])) for each in (said.astype(mx.int64), weights))
    assert torch.equal(said.sort(-1).values, chosen.sort(-1).values), "mlx-lm chooses other experts"
    return logits, weights, said


def reference(folder: Path, prompt: np.ndarray, decode: int) -> tuple[dict[str, np.ndarray], dict]:
    """models.reference, by mlx-lm, of the checkpoint in a folder."""
    model, _ = load_model(folder, strict=True)
    model.set_dtype(mx.float32)
    blocks = {i: layer["mlp"] if "mlp" in layer else layer.feed_forward for i, layer in enumerate(model.layers)}
    routers = {}
    for i, block in blocks.items():
        if "gate" in block:
            routers[i] = block.gate = Listening(block.gate)

    def forward(ids, cache=None) -> np.ndarray:
        return np.array(model(mx.array(ids)[None], cache=cache)[0])

    cache = make_prompt_cache(model)
    cached = [forward(prompt, cache)[-1]]
    greedy = [int(cached[0].argmax())]
    while len(greedy) < decode:
        cached.append(forward(np.array(greedy[-1:]), cache)[-1])
        greedy.append(int(cached[-1].argmax()))
    full = forward(np.concatenate([prompt, greedy]))

    config = text_config(json.loads((folder / "config.json").read_text()))
    if "topk_group" in config:
        watched = [models.TopkGaps() for _ in routers]
        layers = {i: by_groups(router, gaps) for (i, router), gaps in zip(routers.items(), watched)}
        gaps = dict(router=min(gaps.least["router"] for gaps in watched))
    elif config.get("use_expert_bias"):
        watched = [models.TopkGaps() for _ in routers]
        layers = {i: by_sigmoid(router, blocks[i], gaps) for (i, router), gaps in zip(routers.items(), watched)}
        gaps = dict(router=min(gaps.least["router"] for gaps in watched))
    else:
        k = config.get("moe_k") or config["num_experts_per_tok"]
        layers = {i: by_softmax(router, k) for i, router in routers.items()}
        gaps = dict(router=models.softmax_gap(layers))
    return models.describe(prompt, greedy, torch.from_numpy(full), torch.from_numpy(np.stack(cached)), layers, gaps)


# --------------------------------------------------------------------------------------------------- without MLX
def dequantise(packed: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int) -> np.ndarray:
    """scale * q + bias in float64, of u32 words [..., columns * bits / 32] and a scale and bias per group of columns.

    The words are one little-endian bit stream per row: element i is in the bits from i * bits on, lowest bit first.
    """
    stream = np.unpackbits(np.ascontiguousarray(packed).view(np.uint8), axis=-1, bitorder="little")
    q = stream.reshape(*stream.shape[:-1], -1, bits) @ (1 << np.arange(bits))
    groups = q.reshape(*scales.shape, -1)
    return (scales[..., None].astype(np.float64) * groups + biases[..., None].astype(np.float64)).reshape(q.shape)


def dequantise_fp(packed: np.ndarray, scales: np.ndarray, mode: str) -> np.ndarray:
    """code * scale in float64, of u32 words and a byte per group: E2M1 or E4M3, times a power of two or E4M3."""
    e4m3 = lambda codes: torch.from_numpy(np.ascontiguousarray(codes)).view(torch.float8_e4m3fn).double().numpy()
    codes = np.ascontiguousarray(packed).view(np.uint8)
    if mode == "mxfp8":
        values = e4m3(codes)
    else:
        sizes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
        values = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)
        values = sizes[values & 7] * np.where(values < 8, 1, -1)
    scales = e4m3(scales) if mode == "nvfp4" else 2.0 ** (scales.astype(int) - 127)
    return values * np.repeat(scales, MODES[mode][0], -1)


def by_transformers(folder: Path, prompt: np.ndarray, decode: int, family: Family) -> tuple[dict[str, np.ndarray], dict]:
    """models.reference, by transformers, of the checkpoint in a folder, unpacked and under transformers' names."""
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization")
    assert quantization == config.pop("quantization_config")
    with tempfile.TemporaryDirectory() as plain:
        write_json(Path(plain) / "config.json", config)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(plain), **EAGER).eval()
    files = {}
    for file in folder.glob("*.safetensors"):
        files |= load_file(file)
    unpacked = {}
    for name, t in files.items():
        path, _, leaf = name.rpartition(".")
        if leaf in ("scales", "biases"):
            continue
        said = quantization.get(path) or quantization
        if (mode := said.get("mode", "affine")) != "affine" and f"{path}.scales" in files:
            t = torch.from_numpy(dequantise_fp(t.numpy(), files[f"{path}.scales"].numpy(), mode)).float()
        elif f"{path}.scales" in files:
            bits = said["bits"]
            scales, biases = (files[f"{path}.{part}"].float().numpy() for part in ("scales", "biases"))
            t = torch.from_numpy(dequantise(t.numpy(), scales, biases, bits)).float()
        name, t = name.removeprefix("language_model."), t.float()
        if family.norms_from_zero and leaf == "weight" and "norm" in name and "linear_attn.norm" not in name:
            t = t - 1  # exact in float32, and so is transformers' 1 + w
        dense = not any(part in name for part in ("switch_mlp", "experts"))
        if "feed_forward." in name and dense:
            for ours, theirs in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
                name = name.replace(f"feed_forward.{ours}", f"feed_forward.{theirs}")
        unpacked[name] = t.movedim(1, 2) if "conv1d" in name or "conv.conv" in name else t
    for name in [name for name in unpacked if name.endswith("embed_q.weight")]:
        stem = name.removesuffix("embed_q.weight")
        keys, values = unpacked.pop(name).mT, unpacked.pop(f"{stem}unembed_out.weight")  # [heads, ., rank]
        unpacked[f"{stem}kv_b_proj.weight"] = torch.cat([keys, values], 1).flatten(0, 1)
    learnt = [(n, b) for n, b in model.named_buffers() if n.endswith(("e_score_correction_bias", "expert_bias"))]
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *learnt]:
            stem, stacked, leaf = name.rpartition("experts.")
            parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(leaf) if stacked else None
            if parts:
                parameter.copy_(torch.cat([unpacked.pop(f"{stem}switch_mlp.{part}.weight") for part in parts], -2))
            elif "moe_statics" in name:  # mlx-lm has none
                parameter.zero_()
            else:
                parameter.copy_(unpacked.pop(name))
    assert not unpacked, f"transformers has no {sorted(unpacked)}"
    return models.reference(model, prompt, decode)


# ------------------------------------------------------------------------------------------------------------- affine
AFFINE = FIXTURES / "mlx_affine"
BITS, GROUPS, ROWS, COLUMNS = (2, 3, 4, 5, 6, 8), (32, 64, 128), 2, 256


def affine() -> dict[str, np.ndarray]:
    """mlx.core.quantize of one random matrix per width and group, scales and biases in bf16 or, groups of 128, f16."""
    arrays = {}
    for group in GROUPS:
        dtype = mx.float16 if group == 128 else mx.bfloat16
        made = dict(packed=[], scales=[], biases=[], values=[])
        for bits in BITS:
            random = models.rng_of(bits, f"affine {group}").standard_normal((ROWS, COLUMNS)).astype(np.float32)
            packed, scales, biases = mx.quantize(mx.array(random).astype(dtype), group_size=group, bits=bits)
            stored = [np.array(a.view(mx.uint16)) for a in (scales, biases)]
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
            values = dequantise(np.array(packed), np.array(scales), np.array(biases), bits).astype(np.float32)
            by_mlx = np.array(mx.dequantize(packed, scales, biases, group_size=group, bits=bits))
            assert np.array_equal(values, by_mlx), f"mlx dequantises {bits} bits, groups of {group} to something else"
            words = np.zeros((ROWS, COLUMNS * max(BITS) // 32), np.uint32)
            words[:, : packed.shape[-1]] = np.array(packed)
            for part, array in zip(made, (words, *stored, values)):
                made[part].append(array)
        arrays |= {f"g{group}_{part}": np.stack(a) for part, a in made.items()}
    return arrays


def rows_to_quantise(dtype: mx.Dtype) -> np.ndarray:
    """f32 [8, 128] of values that `dtype` has: what is hard to quantise, then random rows."""
    rows = models.rng_of(7, f"quantise {dtype}").standard_normal((8, 128)).astype(np.float32)
    rows[0] = 0
    rows[1] = 1.5
    rows[2] = np.abs(rows[2]) + 3  # one sign, far from 0
    rows[3] = -np.abs(rows[3]) / 100
    rows[4, ::2] = -rows[4, 1::2]  # the smallest and the largest are of one size
    rows[5] *= 1e-9 if dtype == mx.float32 else 1e-6  # below what a scale may be
    return np.array(mx.array(rows).astype(dtype).astype(mx.float32))


def quantised() -> dict[str, np.ndarray]:
    """mlx.core.quantize of the same rows in each type, in every group and width."""
    arrays = {}
    for label, dtype in (("f32", mx.float32), ("bf16", mx.bfloat16), ("f16", mx.float16)):
        source = rows_to_quantise(dtype)
        packed = np.zeros((len(GROUPS), len(BITS), *source.shape[:1], 128 * max(BITS) // 32), np.uint32)
        scales, biases = np.zeros((2, len(GROUPS), len(BITS), *source.shape[:1], 128 // min(GROUPS)), np.float32)
        for g, group in enumerate(GROUPS):
            for b, bits in enumerate(BITS):
                made = mx.quantize(mx.array(source).astype(dtype), group_size=group, bits=bits)
                assert made[1].dtype == dtype and made[2].dtype == dtype
                for into, array in zip((packed, scales, biases), made):
                    array = np.array(array if array.dtype == mx.uint32 else array.astype(mx.float32))
                    into[g, b, :, : array.shape[-1]] = array
        arrays |= {f"quantise_{label}_{part}": a for part, a in
                   dict(source=source, packed=packed, scales=scales, biases=biases).items()}
    return arrays


def write_affine() -> str:
    """tests/fixtures/mlx_affine: how MLX packs, and how it quantises. For each group size of 32, 64, 128, and row i of the first dimension for
    the i-th of 2, 3, 4, 5, 6, 8 bits:

        g<group>_packed.npy  u32 [6, 2, 64]           the words of a row, 8 * bits of them, then zeros
        g<group>_scales.npy  u16 [6, 2, 256 / group]  bit patterns, of bf16 for groups of 32 and 64, of f16 for 128
        g<group>_biases.npy  u16 [6, 2, 256 / group]
        g<group>_values.npy  f32 [6, 2, 256]          scale * q + bias, rounded once; the product is exact in float32

    And for each type of f32, bf16, f16, by group and width, the rows ending in zeros:

        quantise_<type>_source.npy  f32 [8, 128]        values of that type
        quantise_<type>_packed.npy  u32 [3, 6, 8, 32]   words
        quantise_<type>_scales.npy  f32 [3, 6, 8, 4]    values of that type
        quantise_<type>_biases.npy  f32 [3, 6, 8, 4]
    """
    models.clear(AFFINE)
    for stem, array in (affine() | quantised()).items():
        models.write_array(AFFINE / f"{stem}.npy", array)
    return f"{AFFINE.name}: {sum(f.stat().st_size for f in AFFINE.iterdir()):,} bytes"


def check_affine() -> str:
    stored = {f.stem: np.load(f) for f in AFFINE.glob("*.npy")}
    return f"{AFFINE.name}: ok, max |d| " + models.compare(AFFINE.name, stored, affine() | quantised(), 0)


# ----------------------------------------------------------------------------------------------------------- commands
def make(name: str) -> str:
    recipe, folder = RECIPES[name], FIXTURES / name
    family = recipe.family()
    with tempfile.TemporaryDirectory() as work:
        source, target = Path(work) / "source", Path(work) / "target"

        def attempt(seed: int):
            for old in (source, target):
                shutil.rmtree(old, ignore_errors=True)
            source.mkdir()
            write_json(source / "config.json", family.config)
            write_json(source / "generation_config.json", family.generation)
            family.layout(source, models.build(source, family, seed)[1])
            convert(source, target, recipe)
            return *reference(target, models.draw_prompt(family, seed), family.decode), None

        seed, arrays, meta, _ = models.first_good(name, models.eos_of(family), attempt)
        models.clear(folder)
        for file in [*target.glob("*.json"), *target.glob("*.safetensors")]:
            shutil.copy(file, folder)
    for stem, array in arrays.items():
        models.write_array(folder / f"{stem}.npy", array)
    made_with = {"mlx": mx.__version__, "mlx-lm": mlx_lm.__version__, "numpy": np.__version__}
    how = "mlx-lm's forward on the CPU, every floating-point parameter cast to float32 (model.set_dtype)"
    write_json(folder / "meta.json", dict(name=name, seed=seed, made_with=made_with, evaluated=how) | meta)
    return models.summary(name, seed, meta)


def check(name: str) -> str:
    folder, family, lines = FIXTURES / name, RECIPES[name].family(), []
    unpacked = lambda *of: by_transformers(*of, family)
    stored = {f.stem: np.load(f) for f in folder.glob("*.npy")}
    for who, run, tolerance in (("mlx-lm", reference, TOLERANCE), ("transformers", unpacked, ACROSS)):
        arrays, meta = run(folder, stored["prompt_ids"], len(stored["greedy_ids"]))
        diff = models.compare(name, stored, arrays, tolerance * meta["logits_std"])
        lines.append(f"{name}: ok by {who}, max |d| {diff}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "check"])
    names = [*RECIPES, AFFINE.name]
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of: {' '.join(names)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        sys.exit(f"no such fixture: {' '.join(sorted(unknown))}; there are: {' '.join(names)}")
    for name in args.names or names:
        if name == AFFINE.name:
            print({"make": write_affine, "check": check_affine}[args.command](), flush=True)
        else:
            print({"make": make, "check": check}[args.command](name), flush=True)


if __name__ == "__main__":
    main()
