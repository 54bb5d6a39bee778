"""The model as it is trained: Qwen3.5-MoE and its MTP layer, as functions of a dict of weights.

The names and the arithmetic are those of transformers' Qwen3_5MoeForCausalLM, so a checkpoint loads there as it is
(test_model.py compares the logits). What is different is speed:

  - The gated delta rule runs in chunks of 64 with the recurrence between chunks as one small matrix product each.
  - On a GPU all 32 experts are computed for every token and weighed with zeros where the router did not pick them. At this
    size that is one dense product, faster there than sorting tokens by expert, and no token is ever dropped.
  - Functions of one layer are compiled, not the whole, so layers share the compiled code.

Shapes: B rows, T tokens, H hidden, E experts, I width of an expert, V vocabulary, C chunk, N chunks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64


@dataclass(frozen=True)
class Config:
    vocab: int = 4096
    hidden: int = 192
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    rope_share: float = 0.25
    rope_theta: float = 10_000.0  # rows are short; the family's 1e7 is for hundreds of thousands of tokens
    k_heads: int = 2  # of the delta rule
    v_heads: int = 4
    k_dim: int = 64
    v_dim: int = 64
    kernel: int = 4
    experts: int = 32
    top_k: int = 4
    width: int = 64
    shared_width: int = 128
    eps: float = 1e-6

    def is_full(self, layer: int) -> bool:
        """Every fourth layer attends; the others carry a state."""
        return layer % 4 == 3


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """Every weight by its name in the checkpoint."""
    out = {"model.embed_tokens.weight": (c.vocab, c.hidden)}

    def layer(p: str, full: bool) -> None:
        out[p + "input_layernorm.weight"] = (c.hidden,)
        if full:
            out[p + "self_attn.q_proj.weight"] = (2 * c.heads * c.head_dim, c.hidden)
            for name in ("k_proj", "v_proj"):
                out[p + f"self_attn.{name}.weight"] = (c.kv_heads * c.head_dim, c.hidden)
            out[p + "self_attn.o_proj.weight"] = (c.hidden, c.heads * c.head_dim)
            out[p + "self_attn.q_norm.weight"] = out[p + "self_attn.k_norm.weight"] = (c.head_dim,)
        else:
            channels = 2 * c.k_heads * c.k_dim + c.v_heads * c.v_dim
            out[p + "linear_attn.in_proj_qkv.weight"] = (channels, c.hidden)
            out[p + "linear_attn.in_proj_z.weight"] = (c.v_heads * c.v_dim, c.hidden)
            out[p + "linear_attn.in_proj_b.weight"] = out[p + "linear_attn.in_proj_a.weight"] = (c.v_heads, c.hidden)
            out[p + "linear_attn.conv1d.weight"] = (channels, 1, c.kernel)
            out[p + "linear_attn.A_log"] = out[p + "linear_attn.dt_bias"] = (c.v_heads,)
            out[p + "linear_attn.norm.weight"] = (c.v_dim,)
            out[p + "linear_attn.out_proj.weight"] = (c.hidden, c.v_heads * c.v_dim)
        out[p + "post_attention_layernorm.weight"] = (c.hidden,)
        out[p + "mlp.gate.weight"] = (c.experts, c.hidden)
        out[p + "mlp.experts.gate_up_proj"] = (c.experts, 2 * c.width, c.hidden)
        out[p + "mlp.experts.down_proj"] = (c.experts, c.hidden, c.width)
        for name in ("gate_proj", "up_proj"):
            out[p + f"mlp.shared_expert.{name}.weight"] = (c.shared_width, c.hidden)
        out[p + "mlp.shared_expert.down_proj.weight"] = (c.hidden, c.shared_width)
        out[p + "mlp.shared_expert_gate.weight"] = (1, c.hidden)

    for i in range(c.layers):
        layer(f"model.layers.{i}.", c.is_full(i))
    out["model.norm.weight"] = (c.hidden,)
    out["lm_head.weight"] = (c.vocab, c.hidden)
    out["mtp.fc.weight"] = (c.hidden, 2 * c.hidden)
    layer("mtp.layers.0.", True)
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        out[f"mtp.{name}.weight"] = (c.hidden,)
    return out


def initial(c: Config, seed: int = 0) -> dict[str, Tensor]:
    """Random weights. Norms are stored as the distance from 1, but for the delta rule's own."""
    g = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(c).items():
        if name.endswith("A_log"):
            w = torch.empty(shape).uniform_(1, 16, generator=g).log()
        elif name.endswith("dt_bias"):  # softplus(dt_bias) from 0.001 to 0.1, evenly in the logarithm
            dt = torch.exp(torch.empty(shape).uniform_(-6.9, -2.3, generator=g))
            w = dt + torch.log(-torch.expm1(-dt))
        elif "norm" in name:
            w = torch.ones(shape) if "linear_attn.norm" in name else torch.zeros(shape)
        elif name.endswith("conv1d.weight"):
            w = torch.empty(shape).uniform_(-0.5, 0.5, generator=g)
        else:
            w = torch.randn(shape, generator=g) * (0.02 if name.endswith("embed_tokens.weight") else shape[-1] ** -0.5)
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "down_proj", "lm_head.weight")):
                w *= 0.3
        weights[name] = w
    return weights


# ---------------------------------------------------------------------------------------------------------- the parts
def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x / rms(x) · (1 + w) in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (1 + w)


def inverse_of_unit_lower(a: Tensor) -> Tensor:
    """(1 + a)⁻¹ of strictly lower triangular a [.., 64, 64].

    Blocks of 16 by (1 − a)(1 + a²)(1 + a⁴)(1 + a⁸), in exact float32 as its terms cancel; then blocks are joined by
    [[x, 0], [z, y]]⁻¹ = [[x⁻¹, 0], [−y⁻¹ z x⁻¹, y⁻¹]].
    """
    if not a.is_cuda:
        eye = torch.eye(CHUNK, dtype=a.dtype).expand_as(a)
        return torch.linalg.solve_triangular(a + eye, eye, upper=False, unitriangular=True)
    size = 16
    blocks = torch.stack([a[..., i : i + size, i : i + size] for i in range(0, CHUNK, size)], -3)
    exact = lambda x, y: (x[..., :, :, None] * y[..., None, :, :]).sum(-2)
    eye = torch.eye(size, device=a.device, dtype=a.dtype)
    inverse, power = eye - blocks, blocks
    for _ in range(3):
        power = exact(power, power)
        inverse = exact(inverse, eye + power)
    parts = list(inverse.unbind(-3))
    while len(parts) > 1:
        joined = []
        for i in range(0, len(parts), 2):
            x, y, at = parts[i], parts[i + 1], i * size
            z = a[..., at + size : at + 2 * size, at : at + size]
            low = -(y @ z @ x)
            joined.append(torch.cat([torch.cat([x, torch.zeros_like(x)], -1), torch.cat([low, y], -1)], -2))
        parts, size = joined, 2 * size
    return parts[0]


def delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """The gated delta rule, S ← e^g S + β k (v − e^g Sᵀk)ᵀ, o = Sᵀq, of [B, heads, T, dim] in float32, from S = 0."""
    b, h, t, dk = q.shape
    q, k, v = (x.view(b, h, t // CHUNK, CHUNK, -1) for x in (q, k, v))
    g, beta = (x.view(b, h, t // CHUNK, CHUNK) for x in (g, beta))
    g = g.cumsum(-1)  # [B, h, N, C]
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).tril()
    decay = (g[..., :, None] - g[..., None, :]).masked_fill(~lower, float("-inf")).exp()  # [B, h, N, C, C]
    kb = k * beta[..., None]
    solve = inverse_of_unit_lower(((kb @ k.mT) * decay).tril(-1))  # [B, h, N, C, C]
    u = solve @ (v * beta[..., None])  # [B, h, N, C, dv]
    w = solve @ (kb * g.exp()[..., None])  # [B, h, N, C, dk]
    k_end = k * (g[..., -1:] - g).exp()[..., None]  # each key as the chunk's end sees it
    # From chunk to chunk S ← move · S + add; all that is parallel is outside of the loop.
    eye = torch.eye(dk, device=q.device, dtype=q.dtype)
    move = g[..., -1, None, None].exp() * eye - k_end.mT @ w  # [B, h, N, dk, dk]
    add = k_end.mT @ u  # [B, h, N, dk, dv]
    states = [torch.zeros_like(add[:, :, 0])]
    for n in range(t // CHUNK - 1):
        states.append(move[:, :, n] @ states[-1] + add[:, :, n])
    s = torch.stack(states, 2)  # [B, h, N, dk, dv]
    inside = (q @ k.mT) * decay
    out = (q * g.exp()[..., None]) @ s + inside @ (u - w @ s)
    return out.reshape(b, h, t, -1)


RESET = -40.0  # e^RESET forgets a state


def delta_net(c: Config, x: Tensor, p: dict[str, Tensor], position: Tensor) -> Tensor:
    """Gated DeltaNet of normed x [B, T, H]; position [B, T] counts from the start of the document."""
    b, t, _ = x.shape
    qkv = F.linear(x, p["linear_attn.in_proj_qkv.weight"]).float()  # [B, T, channels]
    kernel = p["linear_attn.conv1d.weight"][:, 0].float()  # [channels, 4], the last is for the token itself
    mixed = qkv * kernel[:, -1]
    for back in range(1, c.kernel):
        shifted = F.pad(qkv, (0, 0, back, 0))[:, :t]
        mixed = mixed + shifted * kernel[:, -1 - back] * (position >= back)[..., None]
    qkv = F.silu(mixed)
    q, k, v = qkv.split([c.k_heads * c.k_dim, c.k_heads * c.k_dim, c.v_heads * c.v_dim], -1)
    unit = lambda y: y * torch.rsqrt(y.square().sum(-1, keepdim=True) + 1e-6)
    share = c.v_heads // c.k_heads
    q, k = (unit(y.view(b, t, c.k_heads, c.k_dim)).repeat_interleave(share, 2) for y in (q, k))
    v = v.view(b, t, c.v_heads, c.v_dim)
    beta = F.linear(x, p["linear_attn.in_proj_b.weight"]).float().sigmoid()  # [B, T, v_heads]
    a = F.linear(x, p["linear_attn.in_proj_a.weight"]).float()
    g = -p["linear_attn.A_log"].float().exp() * F.softplus(a + p["linear_attn.dt_bias"].float())
    g = torch.where((position == 0)[..., None], RESET, g)
    heads_first = lambda y: y.transpose(1, 2).contiguous()
    out = delta_rule(
        heads_first(q) * c.k_dim**-0.5, heads_first(k), heads_first(v), heads_first(g), heads_first(beta)
    ).transpose(1, 2)  # [B, T, v_heads, v_dim]
    z = F.linear(x, p["linear_attn.in_proj_z.weight"]).float().view(b, t, c.v_heads, c.v_dim)
    out = out * torch.rsqrt(out.square().mean(-1, keepdim=True) + c.eps) * p["linear_attn.norm.weight"].float()
    out = (out * F.silu(z)).to(x.dtype).reshape(b, t, -1)
    return F.linear(out, p["linear_attn.out_proj.weight"])


def rope_tables(c: Config, t: int, device) -> tuple[Tensor, Tensor]:
    """cos and sin [T, rotated / 2] of positions in the row: only distances matter."""
    rotated = int(c.head_dim * c.rope_share)
    frequency = c.rope_theta ** (-torch.arange(0, rotated, 2, device=device).float() / rotated)
    angle = torch.arange(t, device=device).float()[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on the first dimensions of x [B, T, heads, dim], halves paired."""
    half = cos.shape[-1]
    x1, x2, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[:, None], sin[:, None]  # [T, 1, half]
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest], -1)


def attention(c: Config, x: Tensor, p: dict[str, Tensor], mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Gated attention of normed x [B, T, H]; mask [B, 1, T, T] is True where one may look."""
    b, t, _ = x.shape
    q, gate = F.linear(x, p["self_attn.q_proj.weight"]).view(b, t, c.heads, 2 * c.head_dim).chunk(2, -1)
    k = F.linear(x, p["self_attn.k_proj.weight"]).view(b, t, c.kv_heads, c.head_dim)
    v = F.linear(x, p["self_attn.v_proj.weight"]).view(b, t, c.kv_heads, c.head_dim)
    q = rotate(rms_norm(q, p["self_attn.q_norm.weight"], c.eps), cos, sin).to(x.dtype)
    k = rotate(rms_norm(k, p["self_attn.k_norm.weight"], c.eps), cos, sin).to(x.dtype)
    share = c.heads // c.kv_heads
    k, v = (y.repeat_interleave(share, 2) for y in (k, v))
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    out = out.transpose(1, 2) * gate.sigmoid()  # [B, T, heads, head_dim]
    return F.linear(out.reshape(b, t, -1), p["self_attn.o_proj.weight"])


def dense_experts(c: Config, x: Tensor, p: dict[str, Tensor], chosen: Tensor, weights: Tensor) -> Tensor:
    """All experts of x [N, H], with weights [N, E] that are 0 where the router did not choose: one product, fast on a GPU."""
    up = F.linear(x, p["mlp.experts.gate_up_proj"].flatten(0, 1)).view(len(x), c.experts, 2, c.width)
    inner = F.silu(up[:, :, 0]) * up[:, :, 1] * weights[..., None].to(x.dtype)  # [N, E, I]
    return inner.flatten(1) @ p["mlp.experts.down_proj"].transpose(1, 2).reshape(c.experts * c.width, -1)


def sorted_experts(c: Config, x: Tensor, p: dict[str, Tensor], chosen: Tensor, weights: Tensor) -> Tensor:
    """The same by the chosen experts [N, top_k] alone, expert by expert: an eighth of the work, for a CPU."""
    expert, order = chosen.flatten().sort(stable=True)
    token = order // c.top_k  # [N top_k], of each expert one after the other
    counts = expert.bincount(minlength=c.experts).tolist()
    parts = zip(x[token].split(counts), p["mlp.experts.gate_up_proj"], p["mlp.experts.down_proj"])
    outs = []
    for part, gate_up, down in parts:
        gate, up = F.linear(part, gate_up).chunk(2, -1)  # [n, I]
        outs.append(F.linear(F.silu(gate) * up, down))
    weighed = torch.cat(outs) * weights[token, expert, None].to(x.dtype)
    return torch.zeros_like(x).index_add(0, token, weighed)


def moe(c: Config, x: Tensor, p: dict[str, Tensor], counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Experts of normed x [B, T, H]: the output, the balance loss, and each expert's share of the choices [E].

    counted [B, T] is 0 where a token is padding.
    """
    b, t, _ = x.shape
    x = x.view(b * t, -1)
    probabilities = F.linear(x, p["mlp.gate.weight"]).float().softmax(-1)  # [BT, E]
    top = probabilities.topk(c.top_k, -1)
    chosen = torch.zeros_like(probabilities).scatter(-1, top.indices, 1.0)
    weights = probabilities * chosen
    weights = weights / weights.sum(-1, keepdim=True)

    experts = dense_experts if x.is_cuda else sorted_experts
    out = experts(c, x, p, top.indices, weights)

    shared = F.silu(F.linear(x, p["mlp.shared_expert.gate_proj.weight"])) * F.linear(x, p["mlp.shared_expert.up_proj.weight"])
    shared = F.linear(shared, p["mlp.shared_expert.down_proj.weight"])
    out = out + shared * F.linear(x, p["mlp.shared_expert_gate.weight"]).sigmoid()

    # As in Switch: E · Σ share of choices · mean probability, 1 where all are equal.
    counted = counted.reshape(-1, 1) / counted.sum()
    share = (chosen * counted).sum(0) / c.top_k
    balance = c.experts * (share.detach() * (probabilities * counted).sum(0)).sum()
    return out.view(b, t, -1), balance, share.detach()


def delta_layer(c: Config, x: Tensor, p: dict[str, Tensor], position: Tensor, counted: Tensor):
    dtype = p["mlp.gate.weight"].dtype
    x = x + delta_net(c, rms_norm(x, p["input_layernorm.weight"], c.eps).to(dtype), p, position)
    out, balance, share = moe(c, rms_norm(x, p["post_attention_layernorm.weight"], c.eps).to(dtype), p, counted)
    return x + out, balance, share


def attention_layer(c: Config, x: Tensor, p: dict[str, Tensor], mask: Tensor, cos: Tensor, sin: Tensor, counted: Tensor):
    dtype = p["mlp.gate.weight"].dtype
    x = x + attention(c, rms_norm(x, p["input_layernorm.weight"], c.eps).to(dtype), p, mask, cos, sin)
    out, balance, share = moe(c, rms_norm(x, p["post_attention_layernorm.weight"], c.eps).to(dtype), p, counted)
    return x + out, balance, share


def mtp_in(c: Config, hidden: Tensor, following: Tensor, fc: Tensor, norm_e: Tensor, norm_h: Tensor) -> Tensor:
    """What the MTP layer starts from: the trunk's normed output and the embedding of the token after it."""
    both = torch.cat([rms_norm(following, norm_e, c.eps), rms_norm(hidden, norm_h, c.eps)], -1)  # [B, T, 2H]
    return F.linear(both.to(fc.dtype), fc).float()


def head_loss(c: Config, x: Tensor, norm: Tensor, lm_head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The normed x [B, T, H] and the weighted sum of the cross entropy."""
    normed = rms_norm(x, norm, c.eps)
    if x.is_cuda:
        logits = F.linear(normed.to(lm_head.dtype), lm_head).float().flatten(0, 1)  # [BT, V]
    else:  # shapes may change: only where there is a loss
        counted = weights.flatten() > 0
        logits = F.linear(normed.flatten(0, 1)[counted], lm_head)  # [n, V]
        targets, weights = targets.flatten()[counted], weights.flatten()[counted]
    loss = F.cross_entropy(logits, targets.flatten(), reduction="none")
    return normed, (loss * weights.flatten()).sum()


class Functions:
    """The parts above, compiled or not."""

    def __init__(self, compiled: bool):
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.delta_layer, self.attention_layer = wrap(delta_layer), wrap(attention_layer)
        self.mtp_in, self.head_loss = wrap(mtp_in), wrap(head_loss)


def of(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: w for name, w in weights.items() if name.startswith(prefix)}


@dataclass
class Batch:
    """Rows of tokens with what follows from where documents start."""

    ids: Tensor  # [B, T]
    own: Tensor  # [B, T] bool: written by the model
    start: Tensor  # [B, T] bool
    position: Tensor  # [B, T] in the document
    mask: Tensor  # [B, 1, T, T]
    counted: Tensor  # [B, T] 1.0 where a token is no padding

    @staticmethod
    def of(ids: Tensor, own: Tensor, start: Tensor, pad: int) -> "Batch":
        t = ids.shape[1]
        at = torch.arange(t, device=ids.device)
        position = at - torch.where(start, at, 0).cummax(1).values
        document = start.cumsum(1)
        mask = (document[:, :, None] == document[:, None, :]) & (at[:, None] >= at)
        return Batch(ids, own, start, position, mask[:, None], 1.0 - (start & (ids == pad)).float())


def forward(c: Config, f: Functions, weights: dict[str, Tensor], batch: Batch, prompt_weight: float = 1.0):
    """The losses of a batch: (main, MTP, balance, weight of all tokens), and the shares of experts [layers + 1, E]."""
    embed, t = weights["model.embed_tokens.weight"], batch.ids.shape[1]
    cos, sin = rope_tables(c, t, batch.ids.device)
    x = F.embedding(batch.ids, embed).float()  # [B, T, H]
    balances, shares = [], []
    for i in range(c.layers):
        p = of(weights, f"model.layers.{i}.")
        if c.is_full(i):
            x, balance, share = f.attention_layer(c, x, p, batch.mask, cos, sin, batch.counted)
        else:
            x, balance, share = f.delta_layer(c, x, p, batch.position, batch.counted)
        balances.append(balance)
        shares.append(share)

    # Position t predicts t + 1, unless that starts another document.
    shift = lambda y, n: F.pad(y[:, n:], (0, n))
    own, start = batch.own.float(), batch.start.float()
    wanted = shift(own + prompt_weight * (1 - own), 1) * shift(1 - start, 1)
    normed, main = f.head_loss(c, x, weights["model.norm.weight"], weights["lm_head.weight"], shift(batch.ids, 1), wanted)

    # The MTP layer sees t + 1 and predicts t + 2.
    following = F.embedding(shift(batch.ids, 1), embed).float()
    x = f.mtp_in(c, normed, following, weights["mtp.fc.weight"], weights["mtp.pre_fc_norm_embedding.weight"], weights["mtp.pre_fc_norm_hidden.weight"])
    x, balance, share = f.attention_layer(c, x, of(weights, "mtp.layers.0."), batch.mask, cos, sin, batch.counted)
    balances.append(balance)
    shares.append(share)
    wanted2 = shift(own + prompt_weight * (1 - own), 2) * shift(1 - start, 1) * shift(1 - start, 2)
    _, mtp = f.head_loss(c, x, weights["mtp.norm.weight"], weights["lm_head.weight"], shift(batch.ids, 2), wanted2)
    return main, mtp, torch.stack(balances).sum(), wanted.sum(), wanted2.sum(), torch.stack(shares)


# ---------------------------------------------------------------------------------------------------- quantised weights
def bits_of(name: str) -> int | None:
    """How many bits mlx-lm's converter gives a weight: routers and gates of shared experts 8, other matrices 4."""
    if name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
        return 8
    if "norm" in name or name.endswith(("A_log", "dt_bias", "conv1d.weight")):
        return None
    return 4


GROUP = 64


def affine(w: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """MLX's affine quantisation of [.., columns] in groups of 64 columns: (q, scale, bias) with w ≈ scale · q + bias.

    The end of the range that is larger in magnitude is kept exactly, and zero is a step; scales and biases are rounded
    to bf16, as they are stored.
    """
    top = 2**bits - 1
    w = w.float().unflatten(-1, (-1, GROUP))
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    scale = ((high - low) / top).clamp(min=1e-7)
    from_low = low.abs() > high.abs()
    scale = torch.where(from_low, scale, -scale)
    edge = torch.where(from_low, low, high)
    steps = torch.round(edge / scale)
    scale = torch.where(steps != 0, edge / torch.where(steps != 0, steps, 1.0), scale)
    bias = torch.where(steps != 0, edge, 0.0)
    q = torch.round((w - bias) / scale).clamp(0, top)
    return q, scale.bfloat16().float(), bias.bfloat16().float()


def fake_quantised(w: Tensor, bits: int) -> Tensor:
    """w as it is after quantisation, with the gradient passed through."""
    with torch.no_grad():
        q, scale, bias = affine(w.bfloat16(), bits)
        rounded = (q * scale + bias).flatten(-2)
    return w + (rounded - w).detach()


def prepared(weights: dict[str, Tensor], dtype: torch.dtype, quantised: bool) -> dict[str, Tensor]:
    """The weights that a step computes with: matrices in `dtype`, perhaps as after quantisation; vectors in float32."""
    out = {}
    for name, w in weights.items():
        bits = bits_of(name)
        if bits is None:
            out[name] = w
        else:
            out[name] = (fake_quantised(w, bits) if quantised else w).to(dtype)
    return out


def parameters(c: Config) -> int:
    return sum(torch.Size(s).numel() for s in shapes(c).values())
