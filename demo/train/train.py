"""Trains the model, in commands that can be repeated until all steps are done.

    python train.py --out DIR --steps N [--minutes M] [--resume DIR]

A command ends after M minutes or with the last step, and leaves in DIR the weights in float32 (weights-*.safetensors, in
pieces of at most 15 MB), state.json and log.jsonl. --resume goes on from there; Muon's and Adam's moments start anew,
with a short warm-up. Shards of the corpus are made by processes beside the training and used once, in order; where the
makers are too slow, an older shard is used again, and the log counts it.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import corpus
import export
import model as m
from words import Source

ROWS = 128  # of corpus.ROW tokens: a step
PROMPT_WEIGHT = 0.1  # in the loss, of tokens that the model does not write itself
MTP_WEIGHT, BALANCE_WEIGHT = 0.2, 0.01
WARM_UP, WARM_AGAIN = 100, 30  # steps
DECAY_FROM, QUANTISE_FROM = 0.45, 0.75  # of all steps
MUON_RATE, EMBED_RATE, ADAM_RATE = 0.02, 4e-3, 2e-3
PIECE_BYTES_MAX = 15_000_000


# -------------------------------------------------------------------------------------------------------------- weights
class Master:
    """All weights in float32, in four flat leaves, so that rounding and optimisers are few large operations."""

    def __init__(self, c: m.Config, weights: dict[str, torch.Tensor], device):
        self.names: dict[str, list[str]] = {"muon": [], "embed": [], "adam": [], "vector": []}
        for name in weights:
            self.names[self.kind(name)].append(name)
        self.shapes = m.shapes(c)
        self.flat = {
            kind: torch.cat([weights[n].flatten() for n in names]).to(device).requires_grad_()
            for kind, names in self.names.items()
        }

    @staticmethod
    def kind(name: str) -> str:
        if m.bits_of(name) is None:
            return "vector"
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            return "embed"
        if m.bits_of(name) == 8 or name.endswith(("in_proj_a.weight", "in_proj_b.weight")):
            return "adam"
        return "muon"

    def views(self, flat: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = {}
        for kind, names in self.names.items():
            sizes = [torch.Size(self.shapes[n]).numel() for n in names]
            for name, part in zip(names, flat[kind].split(sizes)):
                out[name] = part.view(self.shapes[name])
        return out

    def bits(self, kind: str) -> torch.Tensor:
        """Bits of every group of a flat leaf, [groups, 1]."""
        parts = [torch.full((torch.Size(self.shapes[n]).numel() // m.GROUP, 1), m.bits_of(n)) for n in self.names[kind]]
        return torch.cat(parts)


def rounded(flat: torch.Tensor, bits: int, dtype: torch.dtype) -> torch.Tensor:
    return m.fake_quantised(flat.view(-1, m.GROUP), bits).flatten().to(dtype)


def prepare(master: Master, dtype: torch.dtype, quantised: bool, fake) -> dict[str, torch.Tensor]:
    """The weights of a step, with gradients back to the leaves."""
    flat = {"vector": master.flat["vector"]}
    for kind in ("muon", "embed", "adam"):
        w = master.flat[kind]
        if not quantised:
            flat[kind] = w.to(dtype)
        elif kind == "adam":  # routers and gates have 8 bits, the small projections 4
            eight = (master.bits(kind) == 8).to(w.device)
            flat[kind] = torch.where(
                eight, fake(w, 8, dtype).view(-1, m.GROUP), fake(w, 4, dtype).view(-1, m.GROUP)
            ).flatten()
        else:
            flat[kind] = fake(w, 4, dtype)
    return master.views(flat)


# ----------------------------------------------------------------------------------------------------------- optimisers
def orthogonal(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices to g [n, rows, columns], by Newton and Schulz's iteration (Muon)."""
    x = g.bfloat16() if g.is_cuda else g.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Momentum, made orthogonal, on the leaf of matrices."""

    def __init__(self, master: Master):
        self.flat, self.moment = master.flat["muon"], torch.zeros_like(master.flat["muon"])
        self.groups: dict[tuple, list[slice]] = {}
        at = 0
        for name in master.names["muon"]:
            shape = master.shapes[name]
            size = torch.Size(shape).numel()
            if name.endswith("gate_up_proj"):  # two matrices of each expert
                shape = (2 * shape[0], shape[1] // 2, shape[2])
            self.groups.setdefault(shape[-2:], []).append(slice(at, at + size))
            at += size

    @torch.no_grad()
    def step(self, rate: float, momentum: float, decay: float = 0.05) -> None:
        gradient = self.flat.grad
        self.moment.lerp_(gradient, 1 - momentum)
        looked_ahead = gradient.lerp(self.moment, momentum)
        self.flat.mul_(1 - rate * decay)
        for (rows, columns), slices in self.groups.items():
            stacked = torch.cat([looked_ahead[s].view(-1, rows, columns) for s in slices])
            update = orthogonal(stacked) * max(1.0, rows / columns) ** 0.5
            at = 0
            for s in slices:
                n = (s.stop - s.start) // (rows * columns)
                self.flat[s].sub_(update[at : at + n].flatten(), alpha=rate)
                at += n


def rate_at(done: float, since_resume: int, decay_from: float, warm_up: int) -> float:
    """Share of the full learning rate: warm up, stay, fall to nothing; `done` is the share of the steps behind."""
    warm = min(1.0, (since_resume + 1) / warm_up)
    fall = min(1.0, (1 - done) / (1 - decay_from))
    return warm * fall


# ----------------------------------------------------------------------------------------------------------------- data
def make_shards(folder: str, first: int, end: int, stride: int, tokens: int, more_tools: float) -> None:
    """A maker: shards first, first + stride, ... before end."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.nice(10)
    tokenizer = corpus.load_tokenizer()
    for seed in range(first, end, stride):
        rows = corpus.shard(seed, tokenizer, tokens, more_tools)
        path = Path(folder) / f"{seed}.npy"
        np.save(path.with_suffix(".part.npy"), rows)
        path.with_suffix(".part.npy").rename(path)


class Feed:
    """Rows for each step, out of the shards as they come."""

    def __init__(self, folder: Path, first: int, shards: int, makers: int, tokens: int, more_tools: float):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.next, self.used, self.reused = folder, first, [], 0
        self.rows = np.zeros((0, corpus.ROW), np.uint16)
        spawn = multiprocessing.get_context("spawn")
        self.makers = [
            spawn.Process(target=make_shards, args=(str(folder), first + i, first + shards, makers, tokens, more_tools), daemon=True)
            for i in range(makers)
        ]
        for maker in self.makers:
            maker.start()

    def take(self, n: int) -> np.ndarray:
        while len(self.rows) < n:
            path = self.folder / f"{self.next}.npy"
            while not path.exists() and not self.used:
                time.sleep(0.05)
            if path.exists():
                self.used.append(path)
                self.next += 1
            else:
                path = random.choice(self.used)
                self.reused += 1
            self.rows = np.concatenate([self.rows, np.load(path)])
        out, self.rows = self.rows[:n], self.rows[n:]
        return out

    def close(self) -> None:
        for maker in self.makers:
            maker.kill()


def batch_of(rows: np.ndarray, pad: int, device) -> m.Batch:
    t = torch.from_numpy(rows.astype(np.int32)).to(device, non_blocking=True)
    return m.Batch.of((t & corpus.IDS).long(), (t & corpus.OWN) > 0, (t & corpus.START) > 0, pad)


def held_out_rows(tokenizer, rows: int) -> np.ndarray:
    r, documents = Source("held-out rows", held=True), []
    while sum(map(len, documents)) < rows * corpus.ROW * 1.1:
        documents += corpus.encode(tokenizer, [corpus.document(r) for _ in range(50)])
    return corpus.pack(documents, tokenizer.token_to_id(corpus.END))[:rows]


# ----------------------------------------------------------------------------------------------------------------- saving
def save(out: Path, master: Master, state: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    pieces: list[dict] = [{}]
    size = 0
    for name, w in master.views({k: f.detach().cpu() for k, f in master.flat.items()}).items():
        if size + 4 * w.numel() > PIECE_BYTES_MAX:
            pieces.append({})
            size = 0
        pieces[-1][name] = w.clone()
        size += 4 * w.numel()
    for i, piece in enumerate(pieces):
        save_file(piece, out / f"weights-{i}.safetensors")
    (out / "state.json").write_text(json.dumps(state) + "\n")


def load(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an earlier command, or of a checkpoint (of ../model, in 4 bits, the nearest there is to what was trained)."""
    if (folder / "config.json").exists() and "quantization" in (folder / "config.json").read_text():
        return export.dequantised(folder)
    weights = {}
    for piece in sorted(folder.glob("*.safetensors")):
        weights |= {n: w.float() for n, w in load_file(piece).items()}
    return weights


# ------------------------------------------------------------------------------------------------------------------ main
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--steps", type=int, required=True, help="of the whole training")
    parser.add_argument("--minutes", type=float, default=1e9, help="of this command")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of 1024 tokens in a step")
    parser.add_argument("--micro", type=int, default=ROWS, help="rows at once on the GPU")
    parser.add_argument("--makers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--shard-tokens", type=int, default=1_000_000)
    parser.add_argument("--shards", type=Path, default=Path("/tmp/demo-shards"))
    parser.add_argument("--check-every", type=int, default=250, help="steps between held-out losses")
    parser.add_argument("--quantise-from", type=float, default=QUANTISE_FROM)
    parser.add_argument("--decay-from", type=float, default=DECAY_FROM)
    parser.add_argument("--rate", type=float, default=1.0, help="share of the learning rates")
    parser.add_argument("--warm-up", type=int, help=f"steps [{WARM_UP}, after --resume {WARM_AGAIN}]")
    parser.add_argument("--more-tools", type=float, default=1, help="times as many documents with tools")
    parser.add_argument("--prompt-weight", type=float, default=PROMPT_WEIGHT, help="of tokens that the model does not write, in the loss")
    parser.add_argument("--restart", action="store_true", help="the schedule is of the steps from here on")
    args = parser.parse_args()
    began = time.time()

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = True
    state = {"step": 0, "tokens": 0, "next_shard": 0, "seconds": 0.0, "reused_shards": 0}
    c = m.Config()
    if args.resume:
        if (args.resume / "state.json").exists():
            state = json.loads((args.resume / "state.json").read_text())
        weights = load(args.resume)
    else:
        weights = m.initial(c)
    args.out.mkdir(parents=True, exist_ok=True)
    log = open(args.out / "log.jsonl", "a")
    if args.resume and args.resume != args.out and (args.resume / "log.jsonl").exists():
        log.write((args.resume / "log.jsonl").read_text())

    shards = 2 + (args.steps - state["step"]) * args.rows * corpus.ROW // args.shard_tokens
    feed = Feed(args.shards, state["next_shard"], shards, args.makers, args.shard_tokens, args.more_tools)
    tokenizer = corpus.load_tokenizer()
    pad = tokenizer.token_to_id(corpus.END)
    held_out = held_out_rows(tokenizer, min(args.micro, args.rows))
    master = Master(c, weights, device)
    functions = m.Functions(compiled=cuda)
    fake = torch.compile(rounded, dynamic=False) if cuda else rounded
    muon = Muon(master)
    adam = torch.optim.AdamW(
        [
            {"params": [master.flat["embed"]], "rate": EMBED_RATE, "weight_decay": 0.01},
            {"params": [master.flat["adam"]], "rate": ADAM_RATE, "weight_decay": 0.01},
            {"params": [master.flat["vector"]], "rate": ADAM_RATE, "weight_decay": 0.0},
        ],
        lr=ADAM_RATE, betas=(0.9, 0.95), eps=1e-10, fused=cuda,
    )

    def losses(quantised: bool, batch: m.Batch):
        weights = prepare(master, dtype, quantised, fake)
        main_sum, mtp_sum, balance, n, n2, shares = m.forward(c, functions, weights, batch, args.prompt_weight)
        return main_sum / n, mtp_sum / n2, balance, shares

    def note(**what) -> None:
        log.write(json.dumps(what) + "\n")
        log.flush()
        print(json.dumps(what)[:400], flush=True)

    def kept() -> dict:
        """What a next command has to know."""
        now = {"seconds": state["seconds"] + time.time() - trained_from, "next_shard": feed.next, "origin": origin,
               "reused_shards": state["reused_shards"] + feed.reused, "steps": args.steps}
        if cuda:
            now |= {"memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1), "device": torch.cuda.get_device_name()}
        return state | now

    first_step, trained_from = state["step"], time.time()
    origin = first_step if args.restart else state.get("origin", 0)  # of the schedule
    recent: list[torch.Tensor] = []
    for step in range(first_step, args.steps):
        done = (step - origin) / (args.steps - origin)
        quantised = done >= args.quantise_from
        share = args.rate * rate_at(done, step - first_step, args.decay_from, args.warm_up or (WARM_AGAIN if args.resume else WARM_UP))
        rows, micro = feed.take(args.rows), min(args.micro, args.rows)
        for part in np.split(rows, args.rows // micro):
            main_loss, mtp_loss, balance, shares = losses(quantised, batch_of(part, pad, device))
            loss = main_loss + MTP_WEIGHT * mtp_loss + BALANCE_WEIGHT * balance
            (loss * micro / args.rows).backward()
        muon.step(MUON_RATE * share, 0.85 + 0.1 * min(1.0, step / 300))
        for group in adam.param_groups:
            group["lr"] = group["rate"] * share
        adam.step()
        for flat in master.flat.values():
            flat.grad = None
        recent.append(torch.stack([main_loss.detach(), mtp_loss.detach(), balance.detach() / (c.layers + 1)]))
        state["step"], state["tokens"] = step + 1, state["tokens"] + args.rows * corpus.ROW

        if (step + 1) % 20 == 0 or step == first_step:
            values = torch.stack(recent).mean(0).tolist()
            recent.clear()
            if step == first_step:  # compiling is not training
                trained_from = time.time()
            seconds = state["seconds"] + time.time() - trained_from
            note(step=step + 1, tokens=state["tokens"], seconds=round(seconds, 1), loss=round(values[0], 4),
                 mtp=round(values[1], 4), balance=round(values[2], 4), rate=round(share, 4), reused=state["reused_shards"] + feed.reused)
        last = step + 1 == args.steps or time.time() - began > 60 * args.minutes
        if (step + 1) % args.check_every == 0 or last:
            held = losses(quantised, batch_of(held_out, pad, device))
            note(step=step + 1, held_loss=round(held[0].item(), 4), held_mtp=round(held[1].item(), 4),
                 least_share=round(held[3].min().item() * c.experts, 3), most_share=round(held[3].max().item() * c.experts, 3))
            del held
            save(args.out, master, kept())
        if last:
            break
    feed.close()
    note(saved=kept(), command_seconds=round(time.time() - began, 1))


if __name__ == "__main__":
    main()
