#!/usr/bin/env python3
"""Make tiny random-weight checkpoints and their reference outputs, with Hugging Face transformers as the outside truth.

    python reference/models.py make [name ...]      write tests/fixtures/<name>/ (all of FAMILIES when none is named)
    python reference/models.py check [name ...]     reload it from disk with transformers and compare every array

A fixture folder holds a checkpoint as a user would download it (config.json, generation_config.json, *.safetensors and
perhaps model.safetensors.index.json) and what transformers computes from it in float32 on one CPU thread. P is the
length of the prompt, D the number of tokens decoded, V the vocabulary size, k the experts per token:

    prompt_ids.npy     i64 [P]                   random token ids, none of them special
    greedy_ids.npy     i64 [D]                   the argmax continuation, without an end-of-sequence token
    logits_full.npy    f32 [P+D, V]              one forward over prompt and continuation, no cache
    logits_cached.npy  f32 [D, V]                positions P-1 .. P+D-2 from prefill, then one token at a time with a
                                                 cache; row i predicts greedy_ids[i]
    router_idx.npy     i32 [moe_layers, P+D, k]  experts chosen in the forward of logits_full, largest weight first
    router_w.npy       f32 [moe_layers, P+D, k]  and the weights that multiply their outputs
    meta.json          versions, seed, MoE layers, dtypes on disk, logits_std, smallest gaps, max |full - cached|

Every parameter is drawn anew from a generator keyed by (seed, crc32(parameter name)), norm weights included, so a tensor
that is skipped, transposed or swapped shows in the logits. Each value is rounded to the dtype it is stored in before the
reference is computed: a float32 engine has to agree but for the order of its sums. The seed is the first for which no
choice is a coin flip (see GAPS), so experts and greedy tokens can be compared for equality.
"""

import argparse
import json
import os
import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
SAFETENSORS_NAMES = {BF16: "BF16", F16: "F16", F32: "F32"}
EAGER = dict(dtype=F32, attn_implementation="eager", experts_implementation="eager")

# The least distance between neighbours among the k+1 largest router probabilities, and, as a fraction of the standard
# deviation of the logits, between the two largest logits where a token is chosen.
GAPS = dict(router=1e-4, greedy=1e-3)
SEED_MAX = 100
# A reloaded checkpoint may differ from the stored reference by this fraction of the logits' standard deviation.
TOLERANCE = 1e-5

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """What one fixture is made of. Names of tensors are those of transformers' model unless said otherwise."""

    config: dict  # config.json
    generation: dict  # generation_config.json
    prompt: int  # P
    decode: int  # D
    dtype: Callable[[str], torch.dtype]  # on disk, by tensor name
    layout: Callable[[Path, Tensors], None]  # writes the *.safetensors under the names of the released checkpoint
    embed_std: float = 1.0  # small where the head is tied, or every token predicts itself


# ---------------------------------------------------------------------------------------------------------- weights
def rng_of(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def draw(name: str, shape: tuple[int, ...], seed: int, embed_std: float) -> torch.Tensor:
    """The float64 value of a parameter. It depends on nothing but the arguments."""
    mean, std = 0.0, shape[-1] ** -0.5  # a matrix: [..., out, in]
    if "norm" in name:
        mean, std = 1.0, 0.2
    elif name.endswith("embed_tokens.weight"):
        std = embed_std
    elif name.endswith(".mlp.gate.weight"):  # the router: clear choices
        std *= 2.0
    elif name == "lm_head.weight":
        std *= 1.5
    return torch.from_numpy(mean + std * rng_of(seed, name).standard_normal(shape))


def build(folder: Path, family: Family, seed: int) -> tuple[torch.nn.Module, Tensors]:
    """A float32 model made from folder/config.json and its parameters as they are to be stored (tied ones once)."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), **EAGER).eval()
    stored = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            stored[name] = draw(name, tuple(parameter.shape), seed, family.embed_std).to(family.dtype(name))
            parameter.copy_(stored[name])
    return model, stored


# ---------------------------------------------------------------------------------------------------------- reference
@torch.no_grad()
def forward(model, ids, start=0, cache=None, use_cache=False):
    ids = torch.as_tensor(ids)[None]
    positions = torch.arange(start, start + ids.shape[1])[None]
    return model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=use_cache)


@torch.no_grad()
def reference(model, prompt: np.ndarray, decode: int) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of the fixture by file stem, and numbers about them for meta.json."""
    out = forward(model, prompt, use_cache=True)
    cached, greedy = [out.logits[0, -1]], [int(out.logits[0, -1].argmax())]
    while len(greedy) < decode:
        out = forward(model, greedy[-1:], len(prompt) + len(greedy) - 1, out.past_key_values, use_cache=True)
        cached.append(out.logits[0, -1])
        greedy.append(int(cached[-1].argmax()))

    routers = {n: m for n, m in model.named_modules() if type(m).__name__.endswith("Router")}
    routed = {}  # name -> (logits, weights, indices), each [P+D, .]
    hooks = [m.register_forward_hook(lambda _m, _in, out, n=n: routed.update({n: out})) for n, m in routers.items()]
    full = forward(model, np.concatenate([prompt, greedy])).logits[0]
    for hook in hooks:
        hook.remove()
    layers = {int(re.search(r"layers\.(\d+)\.", n)[1]): routed[n] for n in routers}
    k = next(iter(layers.values()))[2].shape[-1]
    probabilities = torch.stack([r[0].double().softmax(-1) for r in layers.values()]).sort(descending=True).values
    top2 = torch.stack(cached).topk(2).values
    arrays = dict(
        prompt_ids=np.asarray(prompt, np.int64),
        greedy_ids=np.asarray(greedy, np.int64),
        logits_full=full.numpy(),
        logits_cached=torch.stack(cached).numpy(),
        router_idx=torch.stack([r[2] for r in layers.values()]).numpy().astype(np.int32),
        router_w=torch.stack([r[1] for r in layers.values()]).numpy(),
    )
    assert (np.diff(arrays["router_w"]) < 0).all(), "router weights are not in descending order"
    meta = dict(
        moe_layers=list(layers),
        logits_std=float(full.std()),
        router_gap_min=float(-probabilities[..., : k + 1].diff().max()),
        greedy_gap_min=float((top2[:, 0] - top2[:, 1]).min()),
        full_cached_diff_max=float((full[len(prompt) - 1 : -1] - torch.stack(cached)).abs().max()),
    )
    return arrays, meta


def rejected(arrays: dict[str, np.ndarray], meta: dict, eos: set[int]) -> str | None:
    """Why this seed will not do, if so."""
    if meta["router_gap_min"] < GAPS["router"]:
        return f"router gap {meta['router_gap_min']:.1e}"
    if meta["greedy_gap_min"] < GAPS["greedy"] * meta["logits_std"]:
        return f"greedy gap {meta['greedy_gap_min']:.1e}"
    if eos & set(arrays["greedy_ids"].tolist()):
        return "end of sequence among the greedy tokens"
    if len(set(arrays["greedy_ids"].tolist())) * 2 < len(arrays["greedy_ids"]):
        return "the greedy tokens repeat"
    return None


# ---------------------------------------------------------------------------------------------------------- layouts
def per_expert_shards(folder: Path, tensors: Tensors, shard_bytes_max: int = 150_000) -> None:
    """The layout of most released MoE checkpoints: a tensor per expert and matrix, in shards of bounded size."""
    flat = {}
    for name, t in tensors.items():
        prefix, experts, leaf = name.partition(".experts.")
        if not experts:
            flat[name] = t
            continue
        for e, matrix in enumerate(t):
            parts = zip(("gate_proj", "up_proj"), matrix.chunk(2)) if leaf == "gate_up_proj" else [(leaf, matrix)]
            flat |= {f"{prefix}.experts.{e}.{part}.weight": p.contiguous() for part, p in parts}
    shards, size = [{}], 0
    for name, t in flat.items():
        if size + t.nbytes > shard_bytes_max:
            shards.append({})
            size = 0
        shards[-1][name] = t
        size += t.nbytes
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = dict(total_size=sum(t.nbytes for t in flat.values()))
    index = dict(metadata=total, weight_map=dict(sorted(weight_map.items())))
    write_json(folder / "model.safetensors.index.json", index)


def fused_unpadded(folder: Path, tensors: Tensors) -> None:
    """Experts as 3-D tensors under transformers' own names, in a file whose data starts at an odd offset.

    safetensors pads its header to 8 bytes, other writers do not, and then no tensor is aligned to its dtype.
    """
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        begin, end = end, end + t.nbytes
        header[name] = dict(dtype=SAFETENSORS_NAMES[t.dtype], shape=list(t.shape), data_offsets=[begin, end])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (1 - len(text) % 2)
    data = b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors.values())
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


# ---------------------------------------------------------------------------------------------------------- families
FAMILIES = {
    # Released Qwen3-MoE: flat config keys, untied head, a dense layer among the MoE ones, a dtype per tensor.
    "qwen3_moe": Family(
        config=dict(
            architectures=["Qwen3MoeForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1,
            decoder_sparse_step=1, eos_token_id=2, head_dim=16, hidden_act="silu", hidden_size=64,
            initializer_range=0.02, intermediate_size=96, max_position_embeddings=4096, max_window_layers=3,
            mlp_only_layers=[1], model_type="qwen3_moe", moe_intermediate_size=32, norm_topk_prob=True,
            num_attention_heads=4, num_experts=8, num_experts_per_tok=2, num_hidden_layers=3, num_key_value_heads=2,
            output_router_logits=False, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=1000000.0,
            router_aux_loss_coef=0.001, sliding_window=None, tie_word_embeddings=False, torch_dtype="bfloat16",
            transformers_version="4.51.0", use_cache=True, use_sliding_window=False, vocab_size=256,
        ),
        generation=dict(
            bos_token_id=1, do_sample=True, eos_token_id=[2, 1], pad_token_id=1, temperature=0.6, top_k=20, top_p=0.95,
            transformers_version="4.51.0",
        ),
        prompt=80, decode=16,
        dtype=lambda name: F32 if "norm" in name else F16 if "layers.1.self_attn" in name else BF16,
        layout=per_expert_shards,
    ),
    # No size but the head counts is a power of two, and heads * head_dim is not hidden_size; config.json as transformers
    # 5 spells it (rope_parameters, num_local_experts, dtype); expert weights not renormalised, tied head, odd offsets.
    "qwen3_moe_odd": Family(
        config=dict(
            architectures=["Qwen3MoeForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=None,
            decoder_sparse_step=1, dtype="bfloat16", eos_token_id=2, head_dim=24, hidden_act="silu", hidden_size=60,
            initializer_range=0.02, intermediate_size=180, max_position_embeddings=1000, mlp_only_layers=[],
            model_type="qwen3_moe", moe_intermediate_size=12, norm_topk_prob=False, num_attention_heads=4,
            num_experts_per_tok=3, num_hidden_layers=2, num_key_value_heads=2, num_local_experts=12,
            output_router_logits=False, pad_token_id=None, rms_norm_eps=1e-05,
            rope_parameters=dict(rope_theta=50000.0, rope_type="default"), router_aux_loss_coef=0.001,
            sliding_window=None, tie_word_embeddings=True, transformers_version="5.23.0", use_cache=True,
            use_sliding_window=False, vocab_size=120,
        ),
        generation=dict(do_sample=True, eos_token_id=2, temperature=0.7, top_p=0.8, transformers_version="5.23.0"),
        prompt=40, decode=8,
        dtype=lambda name: F16 if ".experts." in name else BF16,
        layout=fused_unpadded,
        embed_std=0.1,
    ),
}


# ---------------------------------------------------------------------------------------------------------- commands
def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def make(name: str) -> str:
    family, folder = FAMILIES[name], FIXTURES / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", family.config)
    write_json(folder / "generation_config.json", family.generation)
    eos = set(np.atleast_1d(family.generation["eos_token_id"]).tolist())
    for seed in range(1, SEED_MAX + 1):
        prompt = rng_of(seed, "prompt").integers(max(eos) + 1, family.config["vocab_size"], family.prompt)
        model, stored = build(folder, family, seed)
        arrays, meta = reference(model, prompt, family.decode)
        if not (why := rejected(arrays, meta, eos)):
            break
    else:
        raise SystemExit(f"{name}: none of {SEED_MAX} seeds will do; the last one: {why}")
    for old in [*folder.glob("*.safetensors*"), *folder.glob("*.npy")]:
        old.unlink()
    family.layout(folder, stored)
    for stem, array in arrays.items():
        with open(folder / f"{stem}.npy", "wb") as f:
            np.lib.format.write_array(f, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    made_with = dict(transformers=transformers.__version__, torch=torch.__version__, numpy=np.__version__)
    dtypes = sorted({SAFETENSORS_NAMES[t.dtype] for t in stored.values()})
    write_json(folder / "meta.json", dict(name=name, seed=seed, made_with=made_with, stored_dtypes=dtypes) | meta)
    return f"{name}: seed {seed}, {sum(f.stat().st_size for f in folder.iterdir()):,} bytes, {json.dumps(meta)}"


def check(name: str) -> str:
    """Load the checkpoint from disk with transformers' own loader and compare every array; one line if all is well."""
    folder = FIXTURES / name
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **EAGER)
    if bad := {k: v for k, v in loading.items() if v}:
        raise SystemExit(f"{name}: the checkpoint does not fit the model: {bad}")
    stored = {f.stem: np.load(f) for f in folder.glob("*.npy")}
    arrays, meta = reference(model.eval(), stored["prompt_ids"], len(stored["greedy_ids"]))
    diff = {}
    for stem, array in arrays.items():
        if (array.dtype, array.shape) != (stored[stem].dtype, stored[stem].shape):
            raise SystemExit(f"{name}: {stem}.npy is {stored[stem].dtype} {stored[stem].shape}; make it again")
        diff[stem] = float(np.abs(array - stored[stem]).max())
        if diff[stem] > (TOLERANCE * meta["logits_std"] if array.dtype == np.float32 else 0):
            raise SystemExit(f"{name}: {stem}.npy differs by {diff[stem]:.1e} from what the checkpoint on disk gives")
    return f"{name}: ok, max |d| " + ", ".join(f"{stem} {d:.1e}" for stem, d in diff.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "check"])
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of: {' '.join(FAMILIES)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(FAMILIES):
        sys.exit(f"no such fixture: {' '.join(sorted(unknown))}; there are: {' '.join(FAMILIES)}")
    for name in args.names or FAMILIES:
        print({"make": make, "check": check}[args.command](name), flush=True)


if __name__ == "__main__":
    main()
