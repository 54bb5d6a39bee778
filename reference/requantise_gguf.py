"""A Qwen3.5-MoE of transformers as a GGUF file whose matrices are all of one type.

Blocks of a type are made by gguf-py where it makes them, else by llama.cpp's `llama-quantize` without mixtures. A type of 256
weights needs rows of a multiple of 256. Where the model's are shorter, it is widened with zeros, to a model that computes
the same: nothing writes to what is added, norms have their mean over more elements and are scaled back.
"""

import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter, quants
from tokenizers import decoders

from families import FAMILIES, Tensors
from gguf_models import Recipe, to_file, write_keys

BY_GGUF_PY = ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4", "TQ2_0", "TQ1_0"]
# As llama-quantize calls files that have one of these types where it is told to be pure.
BY_LLAMA_QUANTIZE = {
    "Q6_K": "Q6_K", "Q5_K": "Q5_K_S", "Q4_K": "Q4_K_S", "Q3_K": "Q3_K_S", "Q2_K": "Q2_K", "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS",
    "IQ3_S": "IQ3_S", "IQ3_XXS": "IQ3_XXS", "IQ2_S": "IQ2_M", "IQ2_XS": "IQ2_XS", "IQ2_XXS": "IQ2_XXS", "IQ1_M": "IQ1_M",
    "IQ1_S": "IQ1_S",
}  # fmt: skip
# Those that llama-quantize makes with an importance matrix only; it gets one in which all columns are alike.
WITH_IMPORTANCE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")
# What widening alone costs.
WIDE = "BF16-wide"
# Files of two types, as llama.cpp mixes them by layer: most matrices, and the values of attention and the last of each MLP in the
# first and last eighth of the layers and every third between.
MIXED = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q2_K_mixed": ("Q2_K", "Q4_K")}
BY_PROGRAM = (*BY_LLAMA_QUANTIZE, *MIXED)
TYPES = [*BY_GGUF_PY, WIDE, *BY_LLAMA_QUANTIZE, *MIXED]

# ------------------------------------------------------------------------------------------------------------ widening
# Sizes of the config that are the length of rows.
SIZES = ("hidden_size", "moe_intermediate_size", "shared_expert_intermediate_size")
# Tensors of a row's length, and those that have as many rows.
NORMS = ("attn_norm", "post_attention_norm", "output_norm")
WRITES_ROWS = re.compile(r"ffn_(gate|up|down)_(exps|shexp)|attn_output|ssm_out")


def up_to_blocks(size: int) -> int:
    return -(-size // 256) * 256


def padded(x: np.ndarray, axis: int) -> np.ndarray:
    more = [(0, 0)] * x.ndim
    more[axis] = (0, up_to_blocks(x.shape[axis]) - x.shape[axis])
    return np.pad(x, more)


def widened(name: str, x: np.ndarray) -> np.ndarray:
    stem = name.split(".")[-2]
    if stem in NORMS:
        return padded(x, 0) * np.float32((x.size / up_to_blocks(x.size)) ** 0.5)
    if stem == "ffn_gate_inp_shexp":
        return padded(x, 0)
    if x.ndim < 2 or stem == "ssm_conv1d":
        return x
    x = padded(x, -1)
    return padded(x, -2) if WRITES_ROWS.fullmatch(stem) else x


def widened_config(config: dict) -> dict:
    wider = {key: up_to_blocks(config[key]) for key in SIZES}
    return config | wider | dict(rms_norm_eps=config["rms_norm_eps"] * config["hidden_size"] / wider["hidden_size"])


# -------------------------------------------------------------------------------------------------------------- blocks
def all_alike(path: Path, columns: dict[str, int]) -> None:
    """An importance matrix of ones, in llama.cpp's older format: names, calls, and numbers."""
    number = lambda n: n.to_bytes(4, "little")
    of = lambda name, n: number(len(name)) + name.encode() + number(1) + number(n) + np.ones(n, "<f4").tobytes()
    path.write_bytes(number(len(columns)) + b"".join(of(*each) for each in columns.items()))


def by_llama_quantize(kind: str, matrices: list[np.ndarray], program: str) -> list[np.ndarray]:
    """Matrices as rows of blocks, [.., bytes]."""
    names = [f"blk.{i}.ffn_up.weight" for i in range(len(matrices))]
    with tempfile.TemporaryDirectory() as folder:
        plain, made, ones = (Path(folder) / name for name in ("plain.gguf", "made.gguf", "ones.dat"))
        writer = GGUFWriter(plain, "llama")
        writer.add_block_count(1)
        writer.add_context_length(256)
        writer.add_embedding_length(256)
        writer.add_feed_forward_length(256)
        writer.add_head_count(1)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_vocab_size(256)
        for name, x in zip(names, matrices):
            writer.add_tensor(name, x.reshape(-1, x.shape[-1]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        importance = []
        if kind in WITH_IMPORTANCE:
            all_alike(ones, {name: x.shape[-1] for name, x in zip(names, matrices)})
            importance = ["--imatrix", ones]
        subprocess.run([program, "--pure", *importance, plain, made, BY_LLAMA_QUANTIZE[kind], "1"], check=True, capture_output=True)
        tensors = {t.name: t for t in GGUFReader(made).tensors}
        assert {t.tensor_type.name for t in tensors.values()} == {kind}, kind
        return [np.array(tensors[name].data).reshape(*x.shape[:-1], -1) for name, x in zip(names, matrices)]


def of_layers(kinds: tuple[str, str], names: list[str], layers: int) -> list[str]:
    """The type of each matrix of a file of two."""

    def of(name: str) -> str:
        layer, eighth = int(name.split(".")[1]), layers // 8
        more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
        return kinds[more and bool(re.search(r"attn_v|attn_qkv|ffn_down", name))]

    return [of(name) for name in names]


def blocks(kind: str, matrices: list[np.ndarray], program: str | None) -> list[np.ndarray]:
    if kind in BY_LLAMA_QUANTIZE:
        return by_llama_quantize(kind, matrices, program)
    return [quants.quantize(x, GGMLQuantizationType[kind]) for x in matrices]


# ---------------------------------------------------------------------------------------------------------------- file
def write_tokenizer(writer: GGUFWriter, document: dict) -> None:
    """Merges without words: how the demo model's tokenizer cuts a text into words has no name in GGUF. Merges alone give the same
    tokens of plain texts, which `outpour eval --against` checks token by token; tokens that are no whole characters are left out."""
    read = lambda token: decoders.ByteLevel().decode([token]).replace(" ", "▁")
    whole = lambda token: "\ufffd" not in read(token)
    added = {token["id"]: token for token in document["added_tokens"]}
    vocab = {id: token for token, id in document["model"]["vocab"].items()}
    tokens, kinds = [], []
    for id in range(max([*added, *vocab]) + 1):
        if id in added:
            tokens.append(added[id]["content"])
            kinds.append(gguf.TokenType.CONTROL if added[id]["special"] else gguf.TokenType.USER_DEFINED)
        else:
            known = id in vocab and whole(vocab[id])
            tokens.append(read(vocab[id]) if known else f"[PAD{id}]")
            kinds.append(gguf.TokenType.NORMAL if known else gguf.TokenType.UNUSED)
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in document["model"]["merges"]]
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{read(a)} {read(b)}" for a, b in pairs if whole(a) and whole(b) and whole(a + b)])
    writer.add_add_bos_token(False)


def write(out: Path, tensors: Tensors, config: dict, tokenizer: dict, kind: str, plain: str, program: str | None) -> float:
    """Writes OUT/model.gguf; matrices whose names match `plain` stay BF16, and F32 what files have so. Returns the bits that a weight
    of the others takes."""
    wide = kind in (WIDE, *MIXED) or GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0] == 256
    kind = kind.removesuffix("-wide")
    config = with_sections(widened_config(config) if wide else config)
    eos = dict(eos_token_id=config["eos_token_id"])
    family = replace(FAMILIES["qwen3_5_moe"], config=config, generation=eos)
    recipe = Recipe(family, "qwen35moe", lambda name: kind)
    names, matrices, kept = [], [], {}
    for parameter, t in tensors.items():
        for name, x in to_file(parameter, t.float().numpy(), recipe).items():
            x = widened(name, x) if wide else x
            if x.ndim < 2 or "conv1d" in name:
                kept[name] = (x, "F32")
            elif re.search(plain, parameter):
                kept[name] = (quants.quantize(x, GGMLQuantizationType.BF16), "BF16")
            else:
                names.append(name)
                matrices.append(x)
    types = of_layers(MIXED[kind], names, config["num_hidden_layers"]) if kind in MIXED else [kind] * len(names)
    packed = dict.fromkeys(names)
    for each in dict.fromkeys(types):
        of_type = [(name, x) for name, x, its in zip(names, matrices, types) if its == each]
        packed |= zip((name for name, _ in of_type), blocks(each, [x for _, x in of_type], program))
    writer = GGUFWriter(out / "model.gguf", recipe.arch)
    write_keys(writer, recipe)
    write_tokenizer(writer, tokenizer)
    for name, (data, of) in (kept | {name: (packed[name], its) for name, its in zip(names, types)}).items():
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[of])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return 8 * sum(data.nbytes for data in packed.values()) / sum(x.size for x in matrices)


def with_sections(config: dict) -> dict:
    """A file says how positions in pictures share a head's rotation; of a text they are one."""
    rope = config["rope_parameters"]
    pairs = int(config["head_dim"] * rope["partial_rotary_factor"]) // 2
    return config | dict(rope_parameters=rope | dict(mrope_section=[pairs - 2 * (pairs // 3), pairs // 3, pairs // 3]))
