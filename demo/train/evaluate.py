"""Greedy answers to held-out tasks, perplexity, MTP acceptance and the shares of experts.

    python evaluate.py WEIGHTS [--times N] [--seed S] [--out FILE.json] [--only 4-bit] [--show N]

WEIGHTS is a folder of train.py, or of a checkpoint. The model runs one token at a time with its state, KV and MTP cache,
for all tasks at once: another way through the arithmetic than the chunks of training. Everything is computed in float32
on three sets of weights: bf16, 4-bit (as in ../model), and 4-bit with activations rounded to int8 in blocks of 64.
"""

import argparse
import json
import re
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import corpus
import export
import heldout
import model as m
from chat import Chat, render

NEW_MAX = 320  # tokens of an answer


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Activations rounded to int8, as outpour rounds those of weights in groups of 64."""
    blocks = x.unflatten(-1, (-1, 64))
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-12)
    return (torch.round(blocks / scale) * scale).flatten(-2)


# -------------------------------------------------------------------------------------------------------------- decoding
class Decoder:
    """The model with the states of B sequences, all at the same position."""

    def __init__(self, c: m.Config, weights: dict[str, torch.Tensor], int8: bool = False):
        self.c, self.w, self.int8 = c, weights, int8
        self.device = weights["lm_head.weight"].device
        self.layers = [m.of(weights, f"model.layers.{i}.") for i in range(c.layers)] + [m.of(weights, "mtp.layers.0.")]
        self.down = [p["mlp.experts.down_proj"].transpose(1, 2).reshape(c.experts * c.width, -1) for p in self.layers]

    def start(self, rows: int, length: int) -> None:
        c, new = self.c, lambda *shape: torch.zeros(rows, *shape, device=self.device)
        channels = 2 * c.k_heads * c.k_dim + c.v_heads * c.v_dim
        self.tail = [new(c.kernel - 1, channels) for _ in range(c.layers)]
        self.state = [new(c.v_heads, c.k_dim, c.v_dim) for _ in range(c.layers)]
        full = [i for i in range(c.layers) if c.is_full(i)] + [c.layers]
        self.k = {i: new(c.kv_heads, length, c.head_dim) for i in full}
        self.v = {i: new(c.kv_heads, length, c.head_dim) for i in full}
        self.cos, self.sin = m.rope_tables(c, length, self.device)
        self.chosen: list[torch.Tensor] = []

    def linear(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.linear(rounded(x) if self.int8 else x, w)

    def delta_net(self, i: int, x: torch.Tensor) -> torch.Tensor:
        c, p = self.c, self.layers[i]
        qkv = self.linear(x, p["linear_attn.in_proj_qkv.weight"])  # [B, channels]
        window = torch.cat([self.tail[i], qkv[:, None]], 1)  # [B, 4, channels]
        self.tail[i] = window[:, 1:]
        mixed = F.silu((window * p["linear_attn.conv1d.weight"][:, 0].T).sum(1))
        q, k, v = mixed.split([c.k_heads * c.k_dim, c.k_heads * c.k_dim, c.v_heads * c.v_dim], -1)
        unit = lambda y: y * torch.rsqrt(y.square().sum(-1, keepdim=True) + 1e-6)
        share = c.v_heads // c.k_heads
        q, k = (unit(y.unflatten(-1, (c.k_heads, -1))).repeat_interleave(share, 1) for y in (q, k))  # [B, v_heads, dk]
        v = v.unflatten(-1, (c.v_heads, -1))
        beta = self.linear(x, p["linear_attn.in_proj_b.weight"]).sigmoid()
        a = self.linear(x, p["linear_attn.in_proj_a.weight"])
        decay = (-p["linear_attn.A_log"].exp() * F.softplus(a + p["linear_attn.dt_bias"])).exp()
        s = self.state[i] * decay[..., None, None]
        change = (v - (s * k[..., None]).sum(-2)) * beta[..., None]
        self.state[i] = s = s + k[..., None] * change[..., None, :]
        out = (s * q[..., None]).sum(-2) * c.k_dim**-0.5  # [B, v_heads, dv]
        out = out * torch.rsqrt(out.square().mean(-1, keepdim=True) + c.eps) * p["linear_attn.norm.weight"]
        out = out * F.silu(self.linear(x, p["linear_attn.in_proj_z.weight"]).view_as(out))
        return self.linear(out.flatten(1), p["linear_attn.out_proj.weight"])

    def attention(self, i: int, x: torch.Tensor, t: int) -> torch.Tensor:
        c, p = self.c, self.layers[i]
        q, gate = self.linear(x, p["self_attn.q_proj.weight"]).view(-1, c.heads, 2 * c.head_dim).chunk(2, -1)
        k = self.linear(x, p["self_attn.k_proj.weight"]).view(-1, c.kv_heads, c.head_dim)
        v = self.linear(x, p["self_attn.v_proj.weight"]).view(-1, c.kv_heads, c.head_dim)
        cos, sin = self.cos[t : t + 1], self.sin[t : t + 1]
        q, k = (
            m.rotate(m.rms_norm(y, p[f"self_attn.{n}_norm.weight"], c.eps)[:, None], cos, sin)[:, 0]
            for n, y in (("q", q), ("k", k))
        )
        self.k[i][:, :, t], self.v[i][:, :, t] = k, v
        share = c.heads // c.kv_heads
        keys, values = (y[i][:, :, : t + 1].repeat_interleave(share, 1) for y in (self.k, self.v))  # [B, heads, t + 1, dim]
        score = (keys @ q[..., None])[..., 0] * c.head_dim**-0.5
        out = (score.softmax(-1)[..., None, :] @ values)[..., 0, :] * gate.sigmoid()
        return self.linear(out.flatten(1), p["self_attn.o_proj.weight"])

    def moe(self, i: int, x: torch.Tensor) -> torch.Tensor:
        c, p = self.c, self.layers[i]
        probabilities = self.linear(x, p["mlp.gate.weight"]).softmax(-1)
        top = probabilities.topk(c.top_k, -1)
        if i < c.layers:
            self.chosen.append(top.indices)
        weights = torch.zeros_like(probabilities).scatter(-1, top.indices, top.values / top.values.sum(-1, keepdim=True))
        up = self.linear(x, p["mlp.experts.gate_up_proj"].flatten(0, 1)).view(-1, c.experts, 2, c.width)
        inner = F.silu(up[:, :, 0]) * up[:, :, 1]  # [B, E, I]
        if self.int8:  # rounded before the router's weight multiplies the output
            inner = rounded(inner)
        inner = inner * weights[..., None]
        out = inner.flatten(1) @ self.down[i]
        shared = F.silu(self.linear(x, p["mlp.shared_expert.gate_proj.weight"])) * self.linear(x, p["mlp.shared_expert.up_proj.weight"])
        shared = self.linear(shared, p["mlp.shared_expert.down_proj.weight"])
        return out + shared * self.linear(x, p["mlp.shared_expert_gate.weight"]).sigmoid()

    def layer(self, i: int, x: torch.Tensor, t: int) -> torch.Tensor:
        c, p = self.c, self.layers[i]
        normed = m.rms_norm(x, p["input_layernorm.weight"], c.eps)
        x = x + (self.attention(i, normed, t) if i in self.k else self.delta_net(i, normed))
        return x + self.moe(i, m.rms_norm(x, p["post_attention_layernorm.weight"], c.eps))

    def step(self, ids: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, V] after the token at position t, and the normed trunk output [B, H]."""
        x = F.embedding(ids, self.w["model.embed_tokens.weight"])
        for i in range(self.c.layers):
            x = self.layer(i, x, t)
        hidden = m.rms_norm(x, self.w["model.norm.weight"], self.c.eps)
        return self.linear(hidden, self.w["lm_head.weight"]), hidden

    def draft(self, hidden: torch.Tensor, following: torch.Tensor, t: int) -> torch.Tensor:
        """The MTP layer's logits for position t + 2, out of the trunk at t and the token at t + 1."""
        w, c = self.w, self.c
        embedded = F.embedding(following, w["model.embed_tokens.weight"])
        both = torch.cat([
            m.rms_norm(embedded, w["mtp.pre_fc_norm_embedding.weight"], c.eps), m.rms_norm(hidden, w["mtp.pre_fc_norm_hidden.weight"], c.eps),
        ], -1)
        x = self.layer(c.layers, self.linear(both, w["mtp.fc.weight"]), t)
        return self.linear(m.rms_norm(x, w["mtp.norm.weight"], c.eps), w["lm_head.weight"])


@torch.no_grad()
def generate(decoder: Decoder, prompts: list[list[int]], stops: set[int], new_max: int = NEW_MAX) -> dict:
    """Greedy continuations; the MTP layer's drafts against them; the experts chosen at each position."""
    device, rows = decoder.device, len(prompts)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    length = int(lengths.max()) + new_max
    tokens = torch.zeros(rows, length + 1, dtype=torch.long, device=device)
    for i, p in enumerate(prompts):
        tokens[i, : len(p)] = torch.tensor(p)
    stop = torch.tensor(sorted(stops), device=device)
    decoder.start(rows, length)
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    end = torch.full((rows,), length, device=device)
    drafted = accepted = 0
    draft = None
    for t in range(length):
        logits, hidden = decoder.step(tokens[:, t], t)
        # What is drafted for t + 1 was made at t − 1.
        answering = (t + 1 >= lengths) & ~done
        following = torch.where(answering, logits.argmax(-1), tokens[:, t + 1])
        if draft is not None:
            judged = answering & (t >= lengths)  # the first token of an answer has no draft that knows the question
            drafted += int(judged.sum())
            accepted += int((judged & (draft == following)).sum())
        tokens[:, t + 1] = following
        finished = answering & ((following[:, None] == stop).any(1) | (t + 1 >= lengths + new_max - 1))
        end = torch.where(finished, t + 1, end)
        done |= finished
        if bool(done.all()):
            break
        draft = decoder.draft(hidden, following, t).argmax(-1)
    answers = [tokens[i, len(p) : int(end[i])].tolist() for i, p in enumerate(prompts)]
    return {"answers": answers, "drafted": drafted, "accepted": accepted, "end": end.tolist()}


# --------------------------------------------------------------------------------------------------------------- judging
CALL = re.compile(r"<tool_call>\n<function=([^>\n]+)>\n(.*?)</function>\n</tool_call>", re.S)
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n(.*?)\n</parameter>\n", re.S)


def parse_calls(text: str, tools: list[dict]) -> list | None:
    """[[name, arguments], ...] with types as the schemas say; None where the text is not valid."""
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    calls = []
    for name, body in CALL.findall(text):
        if name not in schemas or PARAMETER.sub("", body):
            return None
        arguments = {}
        for key, value in PARAMETER.findall(body):
            schema = schemas[name]["properties"].get(key)
            if schema is None or key in arguments:
                return None
            try:
                if schema["type"] != "string":
                    value = json.loads(value)
            except ValueError:
                return None
            kinds = {"integer": int, "number": (int, float), "boolean": bool, "string": str, "array": list}
            if not isinstance(value, kinds[schema["type"]]) or ("enum" in schema and value not in schema["enum"]):
                return None
            arguments[key] = value
        if set(schemas[name]["required"]) - set(arguments):
            return None
        calls.append([name, arguments])
    rest = CALL.sub("", text)
    return None if "<tool_call>" in rest or "<function" in rest else calls


def judge(chat: Chat, answer: str, ended: bool) -> bool:
    """Whether the answer, the text after the thought, is right."""
    expect = chat.expect
    if not ended or (chat.thinking and "</think>" not in answer):
        return False
    text = answer.split("</think>")[-1].strip()
    if expect.get("no_call") and "<tool_call>" in text:
        return False
    if "number" in expect:
        numbers = re.findall(r"\d+", text)
        return bool(numbers) and int(numbers[-1]) == expect["number"]
    if "json" in expect:
        try:
            return json.loads(text) == expect["json"]
        except ValueError:
            return False
    if "calls" in expect:
        return parse_calls(text, chat.tools) == expect["calls"]
    if "items" in expect:
        lines = text.split("\n")
        return expect["items"] == (len(lines) if len(lines) > 1 else len(re.split(r", | and ", text)))
    if "story" in expect:
        return len(text) > 200 and all(w.lower() in text.lower() for w in expect["story"])
    return text == expect["text"] if "text" in expect else bool(text)


# ------------------------------------------------------------------------------------------------------------ perplexity
@torch.no_grad()
def perplexity(c: m.Config, weights: dict[str, torch.Tensor], tokenizer, texts: list[str], rows: int = 16) -> dict:
    """Perplexity by token over whole texts, of the trunk and of the MTP layer, and the shares of experts."""
    pad = tokenizer.token_to_id(corpus.END)
    packed = corpus.pack(corpus.encode(tokenizer, [[(t, True)] for t in texts]), pad)
    f, device = m.Functions(compiled=False), weights["lm_head.weight"].device
    total = np.zeros(4)
    shares = []
    for i in range(0, len(packed), rows):
        t = torch.from_numpy(packed[i : i + rows].astype(np.int32)).to(device)
        batch = m.Batch.of((t & corpus.IDS).long(), (t & corpus.OWN) > 0, (t & corpus.START) > 0, pad)
        main, mtp, _, n, n2, share = m.forward(c, f, weights, batch)
        total += np.array([main.item(), n.item(), mtp.item(), n2.item()])
        shares.append((share * batch.counted.sum()).cpu())
    share = torch.stack(shares).sum(0)
    share = share / share.sum(-1, keepdim=True)
    return {"perplexity": float(np.exp(total[0] / total[1])), "mtp_perplexity": float(np.exp(total[2] / total[3])),
            "tokens": int(total[1]), "shares": [[round(s, 4) for s in row] for row in share.tolist()]}


# ------------------------------------------------------------------------------------------------------------------ main
def load(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / "config.json").exists() and "quantization" in (folder / "config.json").read_text():
        return export.dequantised(folder)
    return {n: w for f in sorted(folder.glob("*.safetensors")) for n, w in load_file(f).items()}


def variants(weights: dict[str, torch.Tensor]) -> dict[str, tuple[dict, bool]]:
    """name -> (weights in float32, whether activations are int8)."""
    bf16 = {n: w if n.endswith("A_log") else w.bfloat16().float() for n, w in weights.items()}
    four = {n: m.fake_quantised(w, m.bits_of(n)) if m.bits_of(n) else w for n, w in bf16.items()}
    return {"bf16": (bf16, False), "4-bit": (four, False), "4-bit, int8 activations": (four, True)}


def evaluate(name: str, weights: dict, int8: bool, args, tokenizer) -> dict:
    c, began = m.Config(), time.time()
    chats = heldout.tasks(args.seed, args.times)
    prompts = ["".join(t for t, _ in render(chat, prompt=True)) for chat in chats]
    ids = [e.ids for e in tokenizer.encode_batch_fast(prompts, add_special_tokens=False)]
    stops = {tokenizer.token_to_id(t) for t in ("<|im_end|>", corpus.END)}
    right, asked, wrong, results = Counter(), Counter(), defaultdict(list), {}
    drafted = accepted = 0
    by_length = sorted(range(len(chats)), key=lambda i: len(ids[i]))
    for at in range(0, len(chats), args.batch):
        some = by_length[at : at + args.batch]
        out = generate(Decoder(c, weights, int8), [ids[i] for i in some], stops)
        drafted += out["drafted"]
        accepted += out["accepted"]
        for i, answer in zip(some, out["answers"]):
            text = tokenizer.decode(answer, skip_special_tokens=False)
            kind = chats[i].kind + (" (no thinking)" if chats[i].kind == "sums" and not chats[i].thinking else "")
            asked[kind] += 1
            is_right = judge(chats[i], text, len(answer) < NEW_MAX - 1)
            results[i] = [kind, is_right, text]
            if is_right:
                right[kind] += 1
            else:
                wrong[kind].append({"asked": chats[i].messages[-2]["content"], "answer": text, "expect": chats[i].expect})
    report = {"tasks": {k: [right[k], asked[k]] for k in sorted(asked)}, "mtp_accepted": accepted, "mtp_drafted": drafted}
    if args.text_times and not int8:  # the chunked form, which the perplexity takes, does not round activations
        report |= perplexity(c, weights, tokenizer, heldout.texts(args.seed, args.text_times))
    report["results"] = results
    report["wrong"] = {k: w[: args.keep] for k, w in wrong.items()}
    print(f"{name}: {time.time() - began:.0f} s, perplexity {report.get('perplexity', 0):.4f} over {report.get('tokens', 0):,} tokens, "
          f"MTP {accepted / max(1, drafted):.4f} of {drafted:,} drafts")
    for kind, (n, of) in report["tasks"].items():
        print(f"  {kind:24} {n:5} of {of:5}  {100 * n / of:6.2f} %")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--times", type=float, default=1, help="size of the suite, against heldout.jsonl")
    parser.add_argument("--text-times", type=float, default=1, help="the same for the texts of the perplexity")
    parser.add_argument("--seed", default="suite", help="'suite' makes the tasks of heldout.jsonl")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--only", help="one variant")
    parser.add_argument("--show", type=int, default=0, help="print so many wrong answers of each kind")
    parser.add_argument("--keep", type=int, default=12, help="wrong answers of each kind in the report")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = corpus.load_tokenizer()
    weights = {n: w.to(device).float() for n, w in load(args.weights).items()}
    reports = {}
    for name, (variant, int8) in variants(weights).items():
        if args.only in (None, name):
            reports[name] = evaluate(name, variant, int8, args, tokenizer)
            for kind, items in reports[name]["wrong"].items():
                for item in items[: args.show]:
                    print(f"--- {kind}\n{item['asked']}\n>>> {item['answer']}\nexpected {item['expect']}")
    if args.out:
        args.out.write_text(json.dumps(reports, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
