#!/usr/bin/env python3
"""Fixtures of models.py as llama.cpp's own converter makes GGUF files of them.

    python reference/gguf_converted.py make LLAMA_CPP [name ...]     write tests/fixtures/<name>_gguf/model.gguf (all of NAMES)
    python reference/gguf_converted.py check LLAMA_CPP [name ...]    convert again and compare

LLAMA_CPP is a checkout of llama.cpp with `conversion/` and `gguf-py/`; benches/peers/build.sh unpacks one. Each file is in
the smallest of BF16, F16 and F32 that loses nothing, so what transformers computed of the fixture is what its file has to
give, and the arrays are not written again; but for those of CHANGED, whose config says what GGUF files of the architecture
cannot. Files have no tokenizer. DeepSeek-V2's is rewritten as the converter left it before April 2025, as most files of it are.
"""

import argparse
import json
import logging
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from families import Family, text_config, write_json
from models import FAMILIES, FIXTURES, build, draw_prompt, eos_of, first_good, reference, summary, write_array

# Families, and what is changed in their config before it is converted.
NAMES: dict[str, dict] = {
    "deepseek_v2": {}, "deepseek_v3": {}, "deepseek_v32": {}, "glm4_moe_lite": {}, "glm_moe_dsa": {}, "glm4_moe": {},
    "gpt_oss_mxfp4": {}, "minimax_m2": {}, "mixtral": {}, "llama": {}, "qwen3": {}, "qwen2_moe": {}, "qwen3_5_moe": {},
    "ernie4_5_moe": {}, "hy_v3": {}, "exaone_moe": {}, "dots1": dict(scoring_func="sigmoid"),
    "olmoe": dict(clip_qkv=None), "llama4": dict(attention_chunk_size=8192, floor_scale=8192),
    "gemma3": dict(query_pre_attn_scalar=24), "gemma4": {}, "lfm2_moe": dict(routed_scaling_factor=1.0), "jamba": {}, "kimi_linear": {}, "solar_open": {}, "mistral4": {},
    "granitemoehybrid": {}, "granitemoehybrid_dense": {}, "mimo_v2_flash": {}, "minimax_m3": dict(swiglu_limit=7.0),
    "hunyuan_v1_moe": dict(hidden_size=128, num_attention_heads=1, head_dim=128, max_position_embeddings=32768),
    "nemotron_h": dict(mamba_head_dim=16, hybrid_override_pattern="MEM*E", num_hidden_layers=5),
    "nemotron_h_latent": dict(mamba_head_dim=16), "hy_v4": {}, "glm5_next": {}, "qwen4_exp": dict(ple_layer_ids=[1], full_attention_interval=3), "ling3": dict(num_hidden_layers=3),
    "minimax": dict(
        num_hidden_layers=8, layer_types=["linear_attention"] * 7 + ["full_attention"], num_local_experts=4, hidden_size=32,
    ),
    "granite": dict(layer_types=["attention"] * 3, position_embedding_type="rope", tie_word_embeddings=False),
    "granitemoe": dict(layer_types=["attention"] * 3, position_embedding_type="rope", tie_word_embeddings=False),
    "nemotron_h_dense": dict(mamba_head_dim=16, hybrid_override_pattern="M-*-", num_hidden_layers=4),
    "deepseek_v4": dict(
        hidden_size=32, moe_intermediate_size=32,
        compress_rates=dict(compressed_sparse_attention=4, heavily_compressed_attention=128),
    ),
    "phimoe": dict(
        rope_scaling=FAMILIES["phimoe"].config["rope_scaling"] | dict(short_mscale=1.5**0.5), router_jitter_noise=0.01,
    ),
}  # fmt: skip
# Those that compute something else then.
CHANGED = (
    "olmoe", "llama4", "gemma3", "lfm2_moe", "minimax_m3", "hunyuan_v1_moe", "nemotron_h", "nemotron_h_latent", "phimoe",
    "granite", "granitemoe", "nemotron_h_dense", "deepseek_v4", "minimax", "ling3", "qwen4_exp",
)  # fmt: skip
# What they are variants of, where that is no fixture of the same name.
BASES = {"granite": "granitemoehybrid_dense", "granitemoe": "granitemoehybrid", "nemotron_h_dense": "nemotron_h"}
# Prompts that fill a block of HCA.
PROMPTS = {"deepseek_v4": 150}
# Those whose experts the converter takes as MXFP4 alone.
MXFP4_EXPERTS = ("deepseek_v4",)
# Those that are rewritten.
UNSPLIT = ("deepseek_v2",)


def converted(source: Path, out: Path, kind: str) -> None:
    """The model in `source` as the file `out`, matrices in the type `kind`."""
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    base = get_model_class(get_model_architecture(ModelBase.load_hparams(source, False), ModelType.TEXT))
    # Of Mistral's wrapper, what converts the model in it.
    base = base.Mistral4Model if source.joinpath("config.json").read_text().find('"mistral4"') >= 0 else base
    # The made-up weights for multi-token prediction in some fixtures have no shape that it knows.
    fields = dict(model_arch=base.model_arch, set_vocab=lambda _self: None, _get_suppress_tokens=lambda _self: None)
    fields |= dict(no_mtp=True) if base.supports_mtp_export else {}
    ftype = {"BF16": "MOSTLY_BF16", "F16": "MOSTLY_F16", "F32": "ALL_F32", "Q8_0": "MOSTLY_Q8_0"}[kind]
    with torch.inference_mode():
        type(base.__name__, (base,), fields)(source, gguf.LlamaFileType[ftype], out).write()


def tensors(path: Path) -> dict[str, np.ndarray]:
    import gguf

    values = lambda t: t.data if t.tensor_type.name == "I32" else gguf.quants.dequantize(t.data, t.tensor_type)
    return {t.name: values(t) for t in gguf.GGUFReader(path).tensors}


def lossless(source: Path, out: Path) -> None:
    """The same in the smallest type that loses nothing."""
    exact = out.with_suffix(".exact")
    converted(source, exact, "F32")
    for kind in ("BF16", "F16", "F32"):
        converted(source, out, kind)
        ours, theirs = tensors(out), tensors(exact)
        if all((ours[name] == theirs[name]).all() for name in theirs):
            exact.unlink()
            return


def before_split(path: Path) -> None:
    """Rewrites a file of latent attention as it was before `kv_b_proj` was in two: one matrix, and a head's own widths."""
    import gguf

    reader, kept = gguf.GGUFReader(path), path.with_suffix(".old")
    said = {key: field.contents() for key, field in reader.fields.items()}
    writer = gguf.GGUFWriter(kept, "deepseek2")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key.endswith("_mla"):
            continue
        value = field.contents()
        for of in ("key_length", "value_length"):
            value = said[f"deepseek2.attention.{of}_mla"] if key.endswith(f"attention.{of}") else value
        value = said["deepseek2.attention.head_count"] if key.endswith("head_count_kv") else value
        writer.add_key_value(key, value, field.types[0], field.types[1] if len(field.types) > 1 else None)
    values = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    for t in reader.tensors:
        if t.name.endswith("attn_v_b.weight"):
            continue
        name, data, kind = t.name, t.data, t.tensor_type
        if name.endswith("attn_k_b.weight"):
            parts = [values[name].swapaxes(1, 2), values[name.replace("attn_k_b", "attn_v_b")]]
            joined = np.concatenate(parts, axis=1)
            name, data = name.replace("attn_k_b", "attn_kv_b"), gguf.quants.quantize(joined.reshape(-1, joined.shape[-1]), kind)
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    kept.replace(path)


def source_of(name: str, folder: Path) -> Path:
    """The fixture, or a copy of it with the changed config."""
    fixture = FIXTURES / BASES.get(name, name)
    if not NAMES[name] and name not in PREPARED:
        return fixture
    for file in fixture.glob("*.safetensors*"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((fixture / "config.json").read_text())
    text_config(config).update(NAMES[name])
    write_json(folder / "config.json", config)
    return folder


def with_vocabulary(folder: Path, config: dict) -> None:
    """Gemma's embedding is cut to the tokens that its tokenizer has."""
    tokens = {f"t{id}": id for id in range(config["vocab_size"])}
    write_json(folder / "tokenizer.json", dict(model=dict(vocab=tokens), added_tokens=[]))


def mimo_as_released(folder: Path, config: dict) -> None:
    """Without the keys that transformers' class wants beside the release's."""
    write_json(folder / "config.json", {k: v for k, v in config.items() if k != "layer_types"} | dict(model_type="mimo"))


def minimax_m3_as_released(folder: Path, config: dict) -> None:
    """The release's keys of what transformers calls otherwise."""
    text = config["text_config"]
    sparse = [int(kind == "minimax_m3_sparse") for kind in text["layer_types"]]
    index = dict(
        sparse_num_index_heads=text["index_n_heads"], sparse_index_dim=text["index_head_dim"],
        sparse_topk_blocks=text["index_topk_blocks"], sparse_block_size=text["index_block_size"],
        sparse_local_block=text["index_local_blocks"], sparse_attention_freq=sparse,
    )  # fmt: skip
    freq = [int(kind == "sparse") for kind in text["mlp_layer_types"]]
    more = dict(n_shared_experts=1, sparse_attention_config=index, moe_layer_freq=freq, scoring_func="sigmoid", model_type="m3")
    write_json(folder / "config.json", config | dict(model_type="m3_vl", text_config=text | more))


def in_a_wrapper(folder: Path, config: dict) -> None:
    """By the name of the class for images, which the release has."""
    write_json(folder / "config.json", config | dict(architectures=["Mistral3ForConditionalGeneration"]))


def nemotron_without_experts(folder: Path, config: dict) -> None:
    """Of transformers' class every config has experts."""
    kept = {key: value for key, value in config.items() if "expert" not in key and "moe" not in key}
    write_json(folder / "config.json", kept | dict(model_type="dense"))


def minimax_as_released(folder: Path, config: dict) -> None:
    """The release's class and keys, without the decays that transformers saves."""
    from safetensors.torch import load_file, save_file

    kept = {n: t for n, t in load_file(folder / "model.safetensors").items() if not n.endswith(("slope_rate", "_decay"))}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    of = {"full_attention": "full_attn", "linear_attention": "linear_attn", "mlp": "mlp"}
    scales = {f"layernorm_{ours}_{s}": config[f"{theirs}_{s}_factor"] for ours, theirs in of.items() for s in ("alpha", "beta")}
    named = dict(architectures=["MiniMaxText01ForCausalLM"], model_type="minimax_text_01", rotary_dim=config["head_dim"])
    write_json(folder / "config.json", config | scales | named)


def ling3_as_released(folder: Path, config: dict) -> None:
    """The maker's class, and what it says that transformers' takes for granted."""
    named = dict(architectures=["BailingMoeV3ForCausalLM"], model_type="bailing_moe_v3")
    named |= dict(gated_attention_proj_granularity_type="head_wise", no_kda_lora=True)
    shared = dict(moe_shared_expert_intermediate_size=config["num_shared_experts"] * config["moe_intermediate_size"])
    write_json(folder / "config.json", config | named | shared)


def qwen4_exp_as_released(folder: Path, config: dict) -> None:
    """By another name, so that transformers does not rename kinds of layers, by which the converter finds those that choose blocks."""
    text = config["text_config"] | dict(model_type="q4_exp_text")
    write_json(folder / "config.json", config | dict(model_type="q4_exp", text_config=text))


def glm5_next_as_released(folder: Path, config: dict) -> None:
    """The release's keys of delta attention and of layers without experts."""
    text = config["text_config"]
    linear = dict(
        num_heads=text["linear_num_heads"], head_dim=text["linear_head_dim"],
        short_conv_kernel_size=text["linear_conv_kernel_dim"], gate_lower_bound=text["linear_lower_bound"],
    )  # fmt: skip
    more = dict(linear_attn_config=linear, mla_use_nope=True, first_k_dense_replace=text["mlp_layer_types"].count("dense"))
    write_json(folder / "config.json", config | dict(text_config=text | more | dict(scoring_func="sigmoid")))


def mxfp4(x: np.ndarray) -> np.ndarray:
    """The values that MXFP4 has for x."""
    import gguf

    kind = gguf.GGMLQuantizationType.MXFP4
    return gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind).reshape(x.shape)


def packed_experts(folder: Path, _config: dict) -> None:
    """Experts of such values as DeepSeek-V4 packs them: two codes a byte, and a scale for 32 of them."""
    import gguf
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if re.search(r"\.experts\.\d+\.w[123]\.weight$", name)]:
        x = tensors[name].float().numpy()
        blocks = gguf.quants.quantize(x, gguf.GGMLQuantizationType.MXFP4).reshape(len(x), -1, 17)
        codes = np.concatenate([blocks[..., 1:] & 15, blocks[..., 1:] >> 4], axis=-1)
        tensors[name] = torch.from_numpy((codes[..., 0::2] | codes[..., 1::2] << 4).reshape(len(x), -1))
        tensors[name.removesuffix("weight") + "scale"] = torch.from_numpy(blocks[..., 0].copy())
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


# What the converter has to find, which is in the release and not in the fixture.
PREPARED = {
    "gemma3": with_vocabulary, "gemma4": with_vocabulary, "mimo_v2_flash": mimo_as_released, "minimax_m3": minimax_m3_as_released,
    "minimax": minimax_as_released, "ling3": ling3_as_released, "glm5_next": glm5_next_as_released, "qwen4_exp": qwen4_exp_as_released,
    "mistral4": in_a_wrapper, "nemotron_h_dense": nemotron_without_experts, "deepseek_v4": packed_experts,
}  # fmt: skip


def prepare(name: str, source: Path) -> Path:
    """The folder as the converter wants it."""
    if name in PREPARED:
        PREPARED[name](source, json.loads((source / "config.json").read_text()))
    return source


def make(name: str) -> str:
    out = FIXTURES / f"{name}_gguf"
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = source_of(name, Path(folder))
        line = ""
        if name in CHANGED:
            base = FAMILIES[BASES.get(name, name)]
            config = json.loads((source / "config.json").read_text())
            family = Family(**{**vars(base), "config": config, "prompt": PROMPTS.get(name, base.prompt)})

            def attempt(seed: int):
                model, stored = build(source, family, seed)
                for of_experts in [n for n in stored if ".experts." in n and name in MXFP4_EXPERTS]:
                    rounded = torch.from_numpy(mxfp4(stored[of_experts].float().numpy()))
                    stored[of_experts] = rounded.to(stored[of_experts].dtype)
                    model.get_parameter(of_experts).data.copy_(rounded)
                return *reference(model, draw_prompt(family, seed), family.decode), stored

            seed, arrays, meta, stored = first_good(name, eos_of(family), attempt)
            for old in source.glob("*.safetensors*"):
                old.unlink()
            family.layout(source, stored)
            for stem, array in arrays.items():
                write_array(out / f"{stem}.npy", array)
            line = summary(f"{name}_gguf", seed, meta)
        lossless(prepare(name, source), out / "model.gguf")
    if name in UNSPLIT:
        before_split(out / "model.gguf")
    return line or f"{name}: {(out / 'model.gguf').stat().st_size:,} bytes"


def check(name: str) -> str:
    kept = tensors(FIXTURES / f"{name}_gguf" / "model.gguf")
    if name in CHANGED:
        return f"{name}: {len(kept)} tensors, its weights are not kept elsewhere"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        converted(prepare(name, source_of(name, Path(folder))), path, "F32")
        if name in UNSPLIT:
            before_split(path)
        again = tensors(path)
        assert kept.keys() == again.keys() and all((kept[n] == again[n]).all() for n in again), name
    return f"{name}: ok, {len(kept)} tensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "check"])
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of: {' '.join(NAMES)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        sys.exit(f"no such fixture: {' '.join(sorted(unknown))}; there are: {' '.join(NAMES)}")
    sys.path[:0] = [str(args.llama_cpp), str(args.llama_cpp / "gguf-py")]
    logging.disable(logging.WARNING)
    for name in args.names or NAMES:
        print({"make": make, "check": check}[args.command](name), flush=True)


if __name__ == "__main__":
    main()
