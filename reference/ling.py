"""Ling 2.5 and Ring 2.5 (BailingMoeV2_5ForCausalLM) in plain torch: transformers has no class for them, and what it has under the
same model_type is Ling 3.0. Every layer is a loop over tokens or a dense softmax, in float32, under the names of the release.

Seven layers of Lightning Attention to one of latent attention (MLA), experts chosen by sigmoid within groups. Called as
transformers' models are; a cache is what earlier calls left in each layer.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import linear, silu


class RMSNorm(nn.Module):
    """Over the last dimension, or over each of so many equal parts of it."""

    def __init__(self, width: int, eps: float, parts: int = 1):
        super().__init__()
        self.weight, self.eps, self.parts = nn.Parameter(torch.ones(width)), eps, parts

    def forward(self, x):
        parts = x.unflatten(-1, (self.parts, -1))
        return (parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + self.eps)).flatten(-2) * self.weight


def matrix(columns: int, rows: int) -> nn.Linear:
    return nn.Linear(columns, rows, bias=False)


def angles(positions, width: int, theta: float):
    """cos and sin [T, 1, width / 2] of the pairs of a rotated slice."""
    angle = positions[:, None, None] * theta ** (-torch.arange(0, width, 2).float() / width)
    return angle.cos(), angle.sin()


def turn(a, b, cos, sin):
    return a * cos - b * sin, b * cos + a * sin


def decay_slopes(heads: int) -> list[float]:
    """ALiBi's: a geometric row for a power of two, filled up from the row of twice as many for other numbers."""
    whole = 2 ** math.floor(math.log2(heads))
    row = lambda n: [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]
    return row(whole) + row(2 * whole)[0::2][: heads - whole]


class Lightning(nn.Module):
    def __init__(self, c, layer: int):
        super().__init__()
        self.c, width = c, c.num_attention_heads * c.head_dim
        self.query_key_value = matrix(c.hidden_size, 3 * width)  # all queries, then all keys, then all values
        self.query_layernorm, self.key_layernorm = (RMSNorm(c.head_dim, c.rms_norm_eps) for _ in range(2))
        self.g_norm, self.g_proj = RMSNorm(width, c.rms_norm_eps, c.group_norm_size), matrix(c.hidden_size, width)
        self.dense = matrix(width, c.hidden_size)
        slower = 1 - (layer - 1) / (c.num_hidden_layers - 1) + 1e-5
        self.decay = torch.tensor([math.exp(-slope * slower) for slope in decay_slopes(c.num_attention_heads)])

    def forward(self, x, positions, kept):
        c, heads, dim = self.c, self.c.num_attention_heads, self.c.head_dim
        q, k, v = (part.unflatten(-1, (heads, dim)) for part in self.query_key_value(x).chunk(3, -1))
        q, k = self.query_layernorm(q), self.key_layernorm(k)
        turned = int(dim * c.partial_rotary_factor)
        cos, sin = angles(positions, turned, c.rope_theta)
        half = lambda t: torch.cat([*turn(*t[..., :turned].chunk(2, -1), cos, sin), t[..., turned:]], -1)
        q, k = half(q), half(k)
        state = kept.get("state", torch.zeros(heads, dim, dim))
        out = []
        for t in range(len(x)):
            state = self.decay[:, None, None] * state + k[t, :, :, None] * v[t, :, None, :]
            out.append((q[t, :, None, :] @ state)[:, 0] * dim**-0.5)
        kept["state"] = state
        return self.dense(self.g_norm(torch.stack(out).flatten(1)) * self.g_proj(x).sigmoid())


class LatentAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, heads = c, c.num_attention_heads
        self.q_a_proj, self.q_a_layernorm = matrix(c.hidden_size, c.q_lora_rank), RMSNorm(c.q_lora_rank, 1e-6)
        self.q_b_proj = matrix(c.q_lora_rank, heads * (c.qk_nope_head_dim + c.qk_rope_head_dim))
        self.kv_a_proj_with_mqa = matrix(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, 1e-6)
        self.kv_b_proj = matrix(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim))
        self.dense = matrix(heads * c.v_head_dim, c.hidden_size)

    def forward(self, x, positions, kept):
        c, heads = self.c, self.c.num_attention_heads
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).unflatten(-1, (heads, -1))
        q_nope, q_rope = q.split([c.qk_nope_head_dim, c.qk_rope_head_dim], -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([c.kv_lora_rank, c.qk_rope_head_dim], -1)
        cos, sin = angles(positions, c.qk_rope_head_dim, c.rope_theta)
        pairs = lambda t: torch.stack(turn(t[..., 0::2], t[..., 1::2], cos, sin), -1).flatten(-2)
        q_rope, k_rope = pairs(q_rope), pairs(k_rope[:, None])
        latent = torch.cat([kept.get("latent", latent[:0]), self.kv_a_layernorm(latent)])
        k_rope = torch.cat([kept.get("k_rope", k_rope[:0]), k_rope])
        kept |= dict(latent=latent, k_rope=k_rope)
        kv = self.kv_b_proj(latent).unflatten(-1, (heads, -1))
        k_nope, v = kv.split([c.qk_nope_head_dim, c.v_head_dim], -1)
        k = torch.cat([k_nope, k_rope.expand(-1, heads, -1)], -1)
        scores = torch.einsum("thd,shd->hts", torch.cat([q_nope, q_rope], -1), k) * q.shape[-1] ** -0.5
        future = torch.arange(len(k))[None, :] > positions[:, None]
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return self.dense(torch.einsum("hts,shd->thd", weights, v).flatten(1))


class MLP(nn.Module):
    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = matrix(hidden, width), matrix(hidden, width), matrix(width, hidden)

    def forward(self, x):
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class GroupedRouter(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.weight = c, nn.Parameter(torch.empty(c.num_experts, c.hidden_size))
        self.expert_bias = nn.Parameter(torch.empty(c.num_experts))

    def forward(self, x):
        c, logits = self.c, linear(x, self.weight)
        scores = logits.sigmoid()
        groups = (scores + self.expert_bias).unflatten(-1, (c.n_group, -1))
        kept = groups.topk(2, -1).values.sum(-1).topk(c.topk_group, -1).indices
        dropped = torch.ones(groups.shape[:-1], dtype=torch.bool).scatter(-1, kept, False)
        chosen = groups.masked_fill(dropped[..., None], -math.inf).flatten(-2).topk(c.num_experts_per_tok, -1).indices
        weights = scores.gather(-1, chosen)
        return logits, weights / (weights.sum(-1, keepdim=True) + 1e-20) * c.routed_scaling_factor, chosen


class Experts(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate = GroupedRouter(c)
        self.experts = nn.ModuleList(MLP(c.hidden_size, c.moe_intermediate_size) for _ in range(c.num_experts))
        self.shared_experts = MLP(c.hidden_size, c.moe_intermediate_size * c.num_shared_experts)

    def forward(self, x):
        _, weights, chosen = self.gate(x)
        routed = [sum(w * self.experts[e](x) for w, e in zip(ws, es.tolist())) for x, ws, es in zip(x, weights, chosen)]
        return self.shared_experts(x) + torch.stack(routed)


class Layer(nn.Module):
    def __init__(self, c, layer: int):
        super().__init__()
        group, layers = c.layer_group_size, c.num_hidden_layers
        latent = (layer + 1) % group == 0 or layer >= layers // group * group
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.attention = LatentAttention(c) if latent else Lightning(c, layer)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = Experts(c) if layer >= c.first_k_dense_replace else MLP(c.hidden_size, c.intermediate_size)

    def forward(self, x, positions, kept):
        x = x + self.attention(self.input_layernorm(x), positions, kept)
        return x + self.mlp(self.post_attention_layernorm(x))


class Ling25(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.config = c = SimpleNamespace(**config)
        self.model = nn.ModuleDict(
            dict(
                word_embeddings=nn.Embedding(c.vocab_size, c.hidden_size),
                layers=nn.ModuleList(Layer(c, layer) for layer in range(c.num_hidden_layers)),
                norm=RMSNorm(c.hidden_size, c.rms_norm_eps),
            )
        )
        self.lm_head = matrix(c.hidden_size, c.vocab_size)

    def forward(self, input_ids, position_ids, past_key_values=None, use_cache=False):
        kept = past_key_values or [{} for _ in self.model.layers]
        x = self.model.word_embeddings(input_ids[0])
        for layer, of_layer in zip(self.model.layers, kept):
            x = layer(x, position_ids[0].float(), of_layer)
        return SimpleNamespace(logits=self.lm_head(self.model.norm(x))[None], past_key_values=kept)
