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
    router_idx.npy     i32 [moe_layers, P+D, k]  experts chosen in the forward of logits_full, largest weight first;
    router_w.npy       f32 [moe_layers, P+D, k]  and the weights that multiply their outputs: none of both in a dense model
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
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from families import F32, SAFETENSORS_NAMES, Family, Tensors, text_config, write_json
from more_families import FAMILIES

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
EAGER = dict(dtype=F32, attn_implementation="eager", experts_implementation="eager")

# The least distance between neighbours among the k+1 largest router probabilities, between the last key that an indexer
# chooses and the next one, and, as a fraction of the standard deviation of the logits, between the two largest logits where
# a token is chosen.
GAPS = dict(router=1e-4, index=2e-5, greedy=1e-3)
SEED_MAX = 100
# A reloaded checkpoint may differ from the stored reference by this fraction of the logits' standard deviation.
TOLERANCE = 1e-5

# Buffers that are stored as they are.
CONSTANTS = ("slope_rate", "_decay", "layer_multipliers", "ngram_heads_vocab_sizes", "ngram_heads_offsets")
# Buffers that are learnt.
LEARNT = ("correction_bias", "expert_bias", "layer_scalar", "rotary_emb.alpha")


# ---------------------------------------------------------------------------------------------------------- weights
def rng_of(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def draw(name: str, shape: tuple[int, ...], seed: int, family: Family) -> torch.Tensor:
    """The float64 value of a parameter. It depends on nothing but the arguments."""
    mean, std = 0.0, shape[-2 if family.transposed(name) else -1] ** -0.5  # a matrix: [..., out, in]
    if name.endswith("A_log"):  # heads that forget at once and heads that remember all of the prompt
        return torch.from_numpy(rng_of(seed, name).uniform(np.log(0.05), np.log(8.0), shape))
    if name.endswith("dt_bias"):
        return torch.from_numpy(rng_of(seed, name).uniform(-4.0, 1.0, shape))
    if name.endswith(("e_score_correction_bias", "expert_bias")):
        std = 0.1
    elif name.endswith(("layer_scalar", "router.scale", "per_expert_scale")):
        mean, std = 1.0, 0.15
    elif name.endswith("router.proj.weight"):  # its input is divided by the root of its width
        std = 2.0
    elif name.endswith("sinks"):
        std = 1.0
    elif name.endswith(("hc.scale", "hc_scale")):  # of hyper-connections
        mean, std = 1.0, 0.3
    elif name.endswith(("hc.base", "hc_base", "position_bias", "compress_ape")):
        std = 0.5
    elif name.endswith("softmax_scaling.scale"):
        mean, std = 0.3, 0.1
    elif name.endswith("softmax_scaling.bias"):
        mean, std = 1.0, 0.2
    elif name.endswith("rotary_emb.alpha"):
        std = 0.3
    elif name.endswith("bias"):
        std = 0.2
    elif "hc_norm" in name:  # what goes into a layer is a mean of several streams times about a half
        mean, std = 1.0, 0.2
    elif "norm" in name:
        mean, std = 0.0 if family.norms_from_zero and "linear_attn.norm" not in name else 1.0, 0.2
    elif name.endswith(("embed_tokens.weight", "word_embeddings.weight")):
        std = family.embed_std
    elif name.endswith((".gate.weight", ".router.weight", ".wg.weight", ".classifier.weight")):  # the router: clear choices
        std *= 2.0
    elif name == "lm_head.weight":
        std *= 1.5
    return torch.from_numpy(mean + std * rng_of(seed, name).standard_normal(shape))


def of_config(folder: Path, family: Family) -> torch.nn.Module:
    """A float32 model made from folder/config.json, its weights as they come."""
    if family.model:
        return family.model(family.config)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), **EAGER)


def build(folder: Path, family: Family, seed: int) -> tuple[torch.nn.Module, Tensors]:
    """A float32 model made from folder/config.json and its parameters as they are to be stored (tied ones once)."""
    model = of_config(folder, family).eval()
    stored = {}
    with torch.no_grad():
        # Some weights are buffers.
        stored |= {n: b for n, b in model.named_buffers() if n.endswith(CONSTANTS)}
        learnt = ((n, b) for n, b in model.named_buffers() if n.endswith(LEARNT))
        for name, parameter in [*model.named_parameters(), *learnt]:
            stored[name] = draw(name, tuple(parameter.shape), seed, family).to(family.dtype(name))
            parameter.copy_(stored[name])
        for name, table in model.named_buffers():
            if name.endswith("tid2eid"):  # distinct experts for each token
                rng, experts = rng_of(seed, name), model.config.n_routed_experts
                rows = [rng.permutation(experts)[: table.shape[1]] for _ in table]
                stored[name] = torch.from_numpy(np.stack(rows))
                table.copy_(stored[name])
    unread = {name: draw(name, shape, seed, family).to(family.dtype(name)) for name, shape in family.unread.items()}
    return model, stored | unread


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

    routers = {n: m for n, m in model.named_modules() if type(m).__name__.endswith(("Router", "MoEV1Gate"))}
    routed = {}  # name -> (logits, weights, indices), each [P+D, .]
    hooks = [m.register_forward_hook(lambda m, _in, out, n=n: routed.update({n: route_of(m, out)})) for n, m in routers.items()]
    config = getattr(model.config, "text_config", model.config)
    chosen = [getattr(config, key, None) for key in ("index_topk", "index_topk_blocks")]
    chosen += [chosen[0] // config.index_kpool] if hasattr(config, "index_kpool") else []
    chosen += [config.indexer_budget // config.indexer_compress_ratio] if hasattr(config, "indexer_budget") else []
    with TopkGaps(chosen) as gaps:
        full = forward(model, np.concatenate([prompt, greedy])).logits[0]
    for hook in hooks:
        hook.remove()
    # MiniMax-M3's router leaves its factor to the layer.
    factor = config.routed_scaling_factor if getattr(config, "model_type", "") == "minimax_m3_vl_text" else 1.0
    layers = {int(re.search(r"layers\.(\d+)\.", n)[1]): (r[0], r[1] * factor, r[2]) for n, r in routed.items()}
    if layers and gaps.least["router"] == float("inf"):  # nothing was chosen by topk
        gaps.least["router"] = softmax_gap(layers)
    return describe(prompt, greedy, full, torch.stack(cached), layers, gaps.least)


def route_of(router: torch.nn.Module, out: tuple) -> tuple:
    """(logits, weights, indices) of what a router returns: Llama 4's returns a score for each expert, 0 if not chosen."""
    if len(out) == 3:
        return out
    scores, logits = out
    weights, indices = scores.sort(descending=True)
    return logits, weights[..., : router.top_k], indices[..., : router.top_k]


class TopkGaps:
    """The least distances where something is chosen meanwhile: by routers, between neighbours among the k+1 largest values;
    by indexers, which choose one of `index_counts`, between the last that is chosen and the next."""

    def __init__(self, index_counts: list[int | None] = ()):
        self.index_counts = [count for count in index_counts if count]

    def __enter__(self):
        self.least, self.kept = dict(router=float("inf"), index=float("inf")), (torch.topk, torch.Tensor.topk)
        torch.topk, torch.Tensor.topk = (self.watched(topk) for topk in self.kept)
        return self

    def watched(self, topk):
        def watched(x, k, dim=-1, **more):
            kind = "index" if k in self.index_counts else "router"
            values = x.detach().double().sort(dim, descending=True).values[..., : k + 1]
            gaps = -values.diff(dim=dim)
            gaps = gaps[..., k - 1 :] if kind == "index" else gaps
            # What may not be chosen is infinitely bad, or as bad as a float can be.
            real = gaps.isfinite() & (values[..., -gaps.shape[-1] - 1 : -1] > -1e30)
            if real.any():
                self.least[kind] = min(self.least[kind], float(gaps[real].min()))
            return topk(x, k, dim, **more)

        return watched

    def __exit__(self, *_):
        torch.topk, torch.Tensor.topk = self.kept


def softmax_gap(layers: dict[int, tuple]) -> float:
    """The same of routers that choose by softmax, from their logits."""
    k = next(iter(layers.values()))[2].shape[-1]
    probabilities = torch.stack([r[0].double().softmax(-1) for r in layers.values()]).sort(descending=True).values
    return float(-probabilities[..., : k + 1].diff().max())


def by_weight(route: tuple) -> tuple:
    """A router's (weights, indices), the largest weight first."""
    weights, order = route[1].sort(descending=True)
    return weights, route[2].gather(-1, order)


def describe(prompt, greedy, full, cached, layers: dict[int, tuple], gaps: dict[str, float]) -> tuple[dict[str, np.ndarray], dict]:
    """What reference() returns. `layers` has the router's (logits, weights, indices) by layer, each [P+D, .]; `gaps` are
    the least where something is chosen."""
    top2 = cached.topk(2).values
    arrays = dict(
        prompt_ids=np.asarray(prompt, np.int64),
        greedy_ids=np.asarray(greedy, np.int64),
        logits_full=full.numpy(),
        logits_cached=cached.numpy(),
    )
    if layers:
        weights, indices = zip(*map(by_weight, layers.values()))
        arrays |= dict(router_idx=torch.stack(indices).numpy().astype(np.int32), router_w=torch.stack(weights).numpy())
    meta = dict(
        moe_layers=list(layers),
        logits_std=float(full.std()),
        **{f"{kind}_gap_min": gap if layers else None for kind, gap in gaps.items() if gap != float("inf")},
        greedy_gap_min=float((top2[:, 0] - top2[:, 1]).min()),
        full_cached_diff_max=float((full[len(prompt) - 1 : -1] - cached).abs().max()),
    )
    return arrays, meta


def rejected(arrays: dict[str, np.ndarray], meta: dict, eos: set[int]) -> str | None:
    """Why this seed will not do, if so."""
    if meta["moe_layers"] and meta["router_gap_min"] < GAPS["router"]:
        return f"router gap {meta['router_gap_min']:.1e}"
    if meta.get("index_gap_min", 1.0) < GAPS["index"]:
        return f"index gap {meta['index_gap_min']:.1e}"
    if meta["greedy_gap_min"] < GAPS["greedy"] * meta["logits_std"]:
        return f"greedy gap {meta['greedy_gap_min']:.1e}"
    if eos & set(arrays["greedy_ids"].tolist()):
        return "end of sequence among the greedy tokens"
    if len(set(arrays["greedy_ids"].tolist())) * 2 < len(arrays["greedy_ids"]):
        return "the greedy tokens repeat"
    return None


# ---------------------------------------------------------------------------------------------------------- commands
def first_good(name: str, eos: set[int], attempt: Callable[[int], tuple]) -> tuple:
    """(seed, arrays, meta, more) of the first seed whose attempt, (arrays, meta, more), is not rejected."""
    for seed in range(1, SEED_MAX + 1):
        arrays, meta, more = attempt(seed)
        if not (why := rejected(arrays, meta, eos)):
            return seed, arrays, meta, more
    raise SystemExit(f"{name}: none of {SEED_MAX} seeds will do; the last one: {why}")


def eos_of(family: Family) -> set[int]:
    return set(np.atleast_1d(family.generation["eos_token_id"]).tolist())


def draw_prompt(family: Family, seed: int) -> np.ndarray:
    vocab = text_config(family.config)["vocab_size"]
    return rng_of(seed, "prompt").integers(max(eos_of(family)) + 1, vocab, family.prompt)


def clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.safetensors*"), *folder.glob("*.npy")]:
        old.unlink()


def write_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as f:
        np.lib.format.write_array(f, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)


def make(name: str) -> str:
    family, folder = FAMILIES[name], FIXTURES / name
    clear(folder)
    write_json(folder / "config.json", family.config)
    write_json(folder / "generation_config.json", family.generation)

    def attempt(seed: int):
        model, stored = build(folder, family, seed)
        return *reference(model, draw_prompt(family, seed), family.decode), stored

    seed, arrays, meta, stored = first_good(name, eos_of(family), attempt)
    family.layout(folder, stored)
    for stem, array in arrays.items():
        write_array(folder / f"{stem}.npy", array)
    made_with = dict(transformers=transformers.__version__, torch=torch.__version__, numpy=np.__version__)
    dtypes = sorted({SAFETENSORS_NAMES[t.dtype] for t in stored.values()})
    write_json(folder / "meta.json", dict(name=name, seed=seed, made_with=made_with, stored_dtypes=dtypes) | meta)
    return summary(name, seed, meta)


def summary(name: str, seed: int, meta: dict) -> str:
    size = sum(f.stat().st_size for f in (FIXTURES / name).iterdir())
    return f"{name}: seed {seed}, {size:,} bytes, {json.dumps(meta)}"


def check(name: str) -> str:
    """Load the checkpoint from disk with transformers' own loader and compare every array; one line if all is well."""
    folder = FIXTURES / name
    model = reload(folder, FAMILIES[name])
    stored = {f.stem: np.load(f) for f in folder.glob("*.npy")}
    arrays, meta = reference(model.eval(), stored["prompt_ids"], len(stored["greedy_ids"]))
    return f"{name}: ok, max |d| " + compare(name, stored, arrays, TOLERANCE * meta["logits_std"])


def reload(folder: Path, family: Family) -> torch.nn.Module:
    """The checkpoint on disk, loaded by transformers, or, where it cannot read the layout, under names restored by ours."""
    if family.restore or family.model:
        model = of_config(folder, family)
        tensors = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
        tensors = family.restore(tensors) if family.restore else tensors
        model.load_state_dict({k: v.to(F32) if v.is_floating_point() else v for k, v in tensors.items()})
        return model
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **EAGER)
    # Layers beyond the last, which predict further tokens, are passed over.
    beyond = f"model.layers.{model.config.get_text_config().num_hidden_layers}."
    loading["unexpected_keys"] = {key for key in loading["unexpected_keys"] if not key.startswith(beyond)}
    if bad := {k: v for k, v in loading.items() if v}:
        raise SystemExit(f"{folder.name}: the checkpoint does not fit the model: {bad}")
    return model


def compare(name: str, stored: dict[str, np.ndarray], arrays: dict[str, np.ndarray], tolerance: float) -> str:
    """The largest differences; ends the program where integers differ at all, or floats by more than `tolerance`."""
    diff = {}
    for stem, array in arrays.items():
        if (array.dtype, array.shape) != (stored[stem].dtype, stored[stem].shape):
            raise SystemExit(f"{name}: {stem}.npy is {stored[stem].dtype} {stored[stem].shape}; make it again")
        diff[stem] = float(np.abs(array - stored[stem]).max())
        if diff[stem] > (tolerance if array.dtype == np.float32 else 0):
            raise SystemExit(f"{name}: {stem}.npy differs by {diff[stem]:.1e} from what the checkpoint on disk gives")
    return ", ".join(f"{stem} {d:.1e}" for stem, d in diff.items())


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
