#!/usr/bin/env python3
"""Make tiny GGUF models, and what transformers computes from the values that their blocks stand for.

    python reference/gguf_models.py make [name ...]      write tests/fixtures/<name>/ (all of RECIPES when none is named)
    python reference/gguf_models.py check [name ...]     read the files with gguf-py, compute again and compare

A parameter is drawn as in models.py and goes into the file as llama.cpp's converter (conversion/qwen.py) would have it:
renamed, norms plus 1, decays as -exp(A_log), value heads of Qwen3.5 tiled over the key heads. There it is stored in a type of
the recipe: by gguf-py's own quantisation where it has one, else as random blocks of about the same size. What gguf-py's
dequantisation makes of them goes back into the model of transformers, whose float32 outputs are the reference; the
other files of a fixture are those of models.py. tests/fixtures/gguf_text/vocab.gguf is the tokenizer of
tests/fixtures/text, without weights.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter, quants
from transformers import AutoConfig, AutoModelForCausalLM

from families import Family, changed, text_config, write_json
from models import (
    EAGER, FIXTURES, TOLERANCE, compare, draw, draw_prompt, eos_of, first_good, reference, rng_of, summary, write_array,
)  # fmt: skip

Type = GGMLQuantizationType


@dataclass(frozen=True)
class Recipe:
    """What one fixture is made of."""

    family: Family
    arch: str
    types: Callable[[str], str]  # of a matrix, by its name in the file
    parts: int = 1


# ------------------------------------------------------------------------------------------------------------- names
STEMS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.in_proj_b": "ssm_beta", "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm", "linear_attn.out_proj": "ssm_out", "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp", "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp", "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "input_layernorm": "attn_norm",
}  # fmt: skip


def name_of(name: str, arch: str) -> str:
    """The name in the file of a parameter that stays one tensor."""
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, suffix = name.rpartition(".")
    if stem in outside:
        return f"{outside[stem]}.{suffix}"
    _, _, layer, rest = name.split(".", 3)
    if rest.endswith("A_log"):
        return f"blk.{layer}.ssm_a"
    if rest.endswith("dt_bias"):
        return f"blk.{layer}.ssm_dt.bias"
    rest, _, suffix = rest.rpartition(".")
    post = "ffn_norm" if arch == "qwen3moe" else "post_attention_norm"
    return f"blk.{layer}.{STEMS.get(rest, post)}.{suffix}"


# ------------------------------------------------------------------------------------------------------- conversion
def tiled(x: np.ndarray, axis: int, config: dict, head: int, back: bool) -> np.ndarray:
    """Value heads of `head` elements each along an axis, from grouped by key head to tiled over them, or back."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    order = (values // keys, keys) if back else (keys, values // keys)
    shape = x.shape
    x = x.reshape(*shape[:axis], *order, head, *shape[axis + 1 :])
    return np.ascontiguousarray(x.swapaxes(axis, axis + 1)).reshape(shape)


def reordered(name: str, x: np.ndarray, recipe: Recipe, back: bool) -> np.ndarray:
    """The value heads of a tensor of Qwen3.5's linear attention, in the order of the file, or back."""
    if recipe.arch != "qwen35moe" or "linear_attn." not in name or name.endswith("linear_attn.norm.weight"):
        return x
    config = text_config(recipe.family.config)
    width, keys = config["linear_value_head_dim"], 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"]
    if "out_proj" in name:
        return tiled(x, 1, config, width, back)
    if "in_proj_qkv" in name or "conv1d" in name:
        return np.concatenate([x[:keys], tiled(x[keys:], 0, config, width, back)])
    return tiled(x, 0, config, width if "in_proj_z" in name else 1, back)


def packed_rows(config: dict) -> tuple[np.ndarray, np.ndarray]:
    """Rows of Qwen3-Next's in_proj_qkvz that are queries, keys and values, and those that are z."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    k, v = config["linear_key_head_dim"], config["linear_value_head_dim"] * (values // keys)
    rows = np.arange(keys * 2 * (k + v)).reshape(keys, -1)
    q, k, v, z = np.split(rows, [k, 2 * k, 2 * k + v], axis=1)
    return np.concatenate([q.ravel(), k.ravel(), v.ravel()]), z.ravel()


def to_file(name: str, x: np.ndarray, recipe: Recipe) -> dict[str, np.ndarray]:
    """A parameter as the tensors that the file has of it."""
    layer = name.split(".")[2] if name.startswith("model.layers.") else ""
    if name.endswith("experts.gate_up_proj"):
        gate, up = np.split(x, 2, axis=1)
        return {f"blk.{layer}.ffn_gate_exps.weight": gate, f"blk.{layer}.ffn_up_exps.weight": up}
    if name.endswith("experts.down_proj"):
        return {f"blk.{layer}.ffn_down_exps.weight": x}
    if name.endswith("in_proj_qkvz.weight"):
        qkv, z = packed_rows(text_config(recipe.family.config))
        return {f"blk.{layer}.attn_qkv.weight": x[qkv], f"blk.{layer}.attn_gate.weight": x[z]}
    x = reordered(name, x, recipe, back=False)
    if name.endswith("A_log"):
        x = -np.exp(x)
    elif "norm" in name and recipe.family.norms_from_zero and "linear_attn.norm" not in name:
        x = x + 1
    if "conv1d" in name or "shared_expert_gate" in name:
        x = x.squeeze()
    return {name_of(name, recipe.arch): x}


def from_file(name: str, shape, tensors: dict[str, np.ndarray], recipe: Recipe) -> np.ndarray:
    """The reverse."""
    layer = name.split(".")[2] if name.startswith("model.layers.") else ""
    of_layer = lambda stem: tensors[f"blk.{layer}.{stem}.weight"]
    if name.endswith("experts.gate_up_proj"):
        return np.concatenate([of_layer("ffn_gate_exps"), of_layer("ffn_up_exps")], axis=1)
    if name.endswith("experts.down_proj"):
        return of_layer("ffn_down_exps")
    if name.endswith("in_proj_qkvz.weight"):
        x = np.empty(shape, np.float32)
        qkv, z = packed_rows(text_config(recipe.family.config))
        x[qkv], x[z] = of_layer("attn_qkv"), of_layer("attn_gate")
        return x
    x = tensors[name_of(name, recipe.arch)].reshape(shape)
    x = reordered(name, x, recipe, back=True)
    if name.endswith("A_log"):
        return np.log(-x)
    if "norm" in name and recipe.family.norms_from_zero and "linear_attn.norm" not in name:
        return x - 1
    return x


# ----------------------------------------------------------------------------------------------------------- blocks
# Bytes at which blocks of types that gguf-py does not make have d, and dmin with what it is of d.
SCALES = {
    "Q2_K": (80, 82, 1.5), "Q3_K": (108, None, 0), "Q4_K": (0, 2, 7.5), "Q5_K": (0, 2, 15.5), "Q6_K": (208, None, 0),
    "IQ1_S": (0, None, 0), "IQ1_M": (None, None, 0), "IQ2_XXS": (0, None, 0), "IQ2_XS": (0, None, 0),
    "IQ2_S": (0, None, 0), "IQ3_XXS": (0, None, 0), "IQ3_S": (0, None, 0), "IQ4_NL": (0, None, 0),
    "IQ4_XS": (0, None, 0),
}  # fmt: skip


def random_blocks(x: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Random blocks whose values are about as large as x."""
    weights, size = GGML_QUANT_SIZES[Type[kind]]
    blocks = rng.integers(0, 256, (x.size // weights, size), dtype=np.uint8)
    at, at_min, ratio = SCALES[kind]

    def scale(d: np.ndarray) -> None:
        half = d.astype(np.float16)
        if at is None:  # IQ1_M: four bits in each of four words
            for i in range(4):
                blocks[:, 49 + 2 * i] = (blocks[:, 49 + 2 * i] & 15) | ((half.view(np.uint16) >> (4 * i) & 15) << 4)
            return
        blocks[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
        if at_min is not None:
            blocks[:, at_min : at_min + 2] = (half * np.float16(ratio)).view(np.uint8).reshape(-1, 2)

    scale(np.ones(len(blocks)))
    size_of_one = quants.dequantize(blocks, Type[kind]).std()
    scale(rng.uniform(0.75, 1.25, len(blocks)) * rng.choice([-1, 1], len(blocks)) * x.std() / size_of_one)
    return blocks.reshape(*x.shape[:-1], -1)


def stored(name: str, x: np.ndarray, recipe: Recipe, seed: int) -> tuple[np.ndarray, str]:
    """A tensor of the file as it is stored, and its type."""
    kind = "F32" if x.ndim == 1 or "ffn_gate_inp" in name or "conv1d" in name else recipe.types(name)
    x = x.astype(np.float32)
    if kind in SCALES:
        return random_blocks(x, kind, rng_of(seed, name)), kind
    return quants.quantize(x, Type[kind]), kind


def values(data: np.ndarray, kind: str) -> np.ndarray:
    return quants.dequantize(data, Type[kind]).astype(np.float32)


# -------------------------------------------------------------------------------------------------------------- files
def write_keys(writer: GGUFWriter, recipe: Recipe) -> None:
    config, arch = text_config(recipe.family.config), recipe.arch
    rope = config.get("rope_parameters") or config
    writer.add_name(f"tiny {arch}")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config.get("intermediate_size", config["moe_intermediate_size"]))
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_eos_token_id(min(eos_of(recipe.family)))
    if arch != "qwen3moe":
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
        writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        writer.add_ssm_state_size(config["linear_key_head_dim"])
        writer.add_ssm_group_count(config["linear_num_key_heads"])
        writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
        writer.add_ssm_inner_size(config["linear_num_value_heads"] * config["linear_value_head_dim"])
        writer.add_uint32(f"{arch}.full_attention_interval", config["full_attention_interval"])
        factor = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
        writer.add_rope_dimension_count(int(config["head_dim"] * factor))
    if arch == "qwen35moe":
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0])


def write_files(folder: Path, recipe: Recipe, tensors: dict[str, tuple[np.ndarray, str]]) -> None:
    names = list(tensors)
    for part in range(recipe.parts):
        last = f"-{part + 1:05}-of-{recipe.parts:05}" if recipe.parts > 1 else ""
        writer = GGUFWriter(folder / f"model{last}.gguf", recipe.arch)
        if part == 0:
            write_keys(writer, recipe)
        if recipe.parts > 1:
            writer.add_uint16("split.no", part)
            writer.add_uint16("split.count", recipe.parts)
            writer.add_int32("split.tensors.count", len(names))
        for name in names[part * len(names) // recipe.parts : (part + 1) * len(names) // recipe.parts]:
            data, kind = tensors[name]
            writer.add_tensor(name, data, raw_dtype=Type[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_files(folder: Path) -> dict[str, np.ndarray]:
    tensors = {}
    for path in sorted(folder.glob("*.gguf")):
        for t in GGUFReader(path).tensors:
            shape = tuple(int(dim) for dim in reversed(t.shape))
            tensors[t.name] = values(np.asarray(t.data), t.tensor_type.name).reshape(shape)
    return tensors


# ------------------------------------------------------------------------------------------------------------ recipes
def cycle(*kinds: str) -> Callable[[str], str]:
    """Types by the layer's number: a file of mixed types has others in every layer."""
    return lambda name: kinds[int(name.split(".")[1]) % len(kinds)] if name.startswith("blk.") else kinds[0]


def first_match(rules: list[tuple[str, Callable[[str], str]]]) -> Callable[[str], str]:
    return lambda name: next(kinds(name) for part, kinds in rules if part in name)


RECIPES = {
    # As the two-bit files of large models: experts by codebooks and K types, attention in more bits. One file.
    "qwen3moe_gguf": Recipe(
        family=changed("qwen3_moe", dict(
            hidden_size=256, num_hidden_layers=3, mlp_only_layers=[], num_experts=5, moe_intermediate_size=32,
            head_dim=32, vocab_size=128, num_attention_heads=4, num_key_value_heads=1,
        )),
        arch="qwen3moe",
        types=first_match([
            ("attn_output", cycle("Q4_1", "Q8_0", "MXFP4")), ("token_embd", cycle("Q4_K")), ("output.", cycle("Q6_K")),
            ("ffn_gate_exps", cycle("IQ2_XXS", "Q2_K", "IQ1_S")), ("ffn_up_exps", cycle("IQ2_XS", "Q3_K", "IQ3_XXS")),
            ("ffn_down_exps", cycle("IQ4_NL", "Q5_0", "Q8_0")), ("attn_q", cycle("Q5_K", "IQ4_XS", "IQ3_S")),
            ("attn_k", cycle("Q6_K", "IQ2_S", "TQ1_0")), ("attn_v", cycle("Q8_0", "IQ1_M", "Q4_K")),
        ]),
    ),
    # Value heads that are tiled, three parts, experts of Q4_K as most files have them.
    "qwen35moe_gguf": Recipe(
        family=changed("qwen3_5_moe", dict(
            hidden_size=256, num_experts=4, moe_intermediate_size=32, shared_expert_intermediate_size=32, head_dim=32,
            num_attention_heads=2, num_key_value_heads=1, linear_num_value_heads=6, linear_value_head_dim=16, vocab_size=96,
            num_hidden_layers=3, full_attention_interval=2,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
        )),
        arch="qwen35moe",
        types=first_match([
            ("attn_output", cycle("Q8_0")), ("token_embd", cycle("Q5_K")), ("output.", cycle("Q6_K")),
            ("ffn_gate_exps", cycle("Q4_K", "Q4_K", "Q3_K")), ("ffn_up_exps", cycle("Q4_K", "Q5_K", "Q2_K")),
            ("ffn_down_exps", cycle("Q5_1", "Q4_0", "MXFP4")), ("ffn_down_shexp", cycle("Q8_0")),
            ("shexp", cycle("Q6_K", "TQ2_0", "F16")), ("ssm_out", cycle("Q5_0")),
            ("ssm_alpha", cycle("F32")), ("ssm_beta", cycle("Q8_0", "F32", "F16")), ("", cycle("Q4_K", "Q6_K", "IQ4_XS")),
        ]),
        parts=3,
    ),
    # Queries, keys and values apart from z, a and b packed; rows that hold no block of 256; a tied head.
    "qwen3next_gguf": Recipe(
        family=changed("qwen3_next", dict(hidden_size=64, moe_intermediate_size=32, shared_expert_intermediate_size=32)),
        arch="qwen3next",
        types=first_match([
            ("token_embd", cycle("Q8_0")), ("output.", cycle("Q8_0")), ("ffn_gate_exps", cycle("Q4_0", "IQ4_NL", "MXFP4", "Q5_1")),
            ("ffn_up_exps", cycle("Q4_1", "Q5_0", "Q8_0", "IQ4_NL")), ("ffn_down_exps", cycle("Q5_0", "Q4_0", "Q4_1", "Q8_0")),
            ("", cycle("Q8_0", "Q5_1", "F16", "BF16")),
        ]),
    ),
}  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- commands
def model_of(recipe: Recipe) -> torch.nn.Module:
    """transformers' model, made from the recipe's config."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", recipe.family.config)
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), **EAGER).eval()


def fill(model: torch.nn.Module, tensors: dict[str, np.ndarray], recipe: Recipe) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(from_file(name, tuple(parameter.shape), tensors, recipe)))


def make(name: str) -> str:
    recipe, folder = RECIPES[name], FIXTURES / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.gguf"), *folder.glob("*.npy")]:
        old.unlink()

    def attempt(seed: int):
        model, tensors = model_of(recipe), {}
        for parameter_name, parameter in model.named_parameters():
            drawn = draw(parameter_name, tuple(parameter.shape), seed, recipe.family).numpy()
            for tensor_name, x in to_file(parameter_name, drawn, recipe).items():
                tensors[tensor_name] = stored(tensor_name, x, recipe, seed)
        fill(model, {tensor: values(*data) for tensor, data in tensors.items()}, recipe)
        return *reference(model, draw_prompt(recipe.family, seed), recipe.family.decode), tensors

    seed, arrays, meta, tensors = first_good(name, eos_of(recipe.family), attempt)
    write_files(folder, recipe, tensors)
    for stem, array in arrays.items():
        write_array(folder / f"{stem}.npy", array)
    versions = dict(transformers=transformers.__version__, torch=torch.__version__, numpy=np.__version__, gguf="0.19.0")
    kinds = sorted({kind for _, kind in tensors.values()})
    write_json(folder / "meta.json", dict(name=name, seed=seed, made_with=versions, stored_dtypes=kinds) | meta)
    return summary(name, seed, meta)


def check(name: str) -> str:
    recipe, folder = RECIPES[name], FIXTURES / name
    model = model_of(recipe)
    fill(model, read_files(folder), recipe)
    found = {f.stem: np.load(f) for f in folder.glob("*.npy")}
    arrays, meta = reference(model, found["prompt_ids"], len(found["greedy_ids"]))
    return f"{name}: ok, max |d| " + compare(name, found, arrays, TOLERANCE * meta["logits_std"])


def write_vocab() -> None:
    """The tokenizer and template of tests/fixtures/text, as the converter writes them."""
    text = FIXTURES / "text"
    tokenizer, config = (json.loads((text / f"{file}.json").read_text()) for file in ("tokenizer", "tokenizer_config"))
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    vocab = {id: token for token, id in tokenizer["model"]["vocab"].items()}
    tokens, kinds = [], []
    for id in range(max([*added, *vocab]) + 1):
        if id in added:
            tokens.append(added[id]["content"])
            kinds.append(gguf.TokenType.CONTROL if added[id]["special"] else gguf.TokenType.USER_DEFINED)
        else:
            tokens.append(vocab.get(id, f"[PAD{id}]"))
            kinds.append(gguf.TokenType.NORMAL if id in vocab else gguf.TokenType.UNUSED)
    ids = {token: id for id, token in enumerate(tokens)}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    folder = FIXTURES / "gguf_text"
    folder.mkdir(exist_ok=True)
    writer = GGUFWriter(folder / "vocab.gguf", "qwen3moe")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for key, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id)):
        if (token := config.get(key)) is not None:
            add(ids[token if isinstance(token, str) else token["content"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template((text / "chat_template.jinja").read_text())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "check"])
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of: {' '.join(RECIPES)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(RECIPES):
        sys.exit(f"no such fixture: {' '.join(sorted(unknown))}; there are: {' '.join(RECIPES)}")
    for name in args.names or RECIPES:
        print({"make": make, "check": check}[args.command](name), flush=True)
    if args.command == "make" and not args.names:
        write_vocab()


if __name__ == "__main__":
    main()
