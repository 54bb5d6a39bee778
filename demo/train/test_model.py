"""Holds model.py to transformers, and the affine quantisation to MLX where that is installed: python test_model.py"""

import torch
from transformers import Qwen3_5MoeForCausalLM
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig

import model as m
from export import hf_config


def main() -> None:
    c = m.Config(vocab=512, layers=4, experts=8, top_k=2)
    weights = m.initial(c)
    g = torch.Generator().manual_seed(1)
    for name, w in weights.items():  # make everything matter
        weights[name] = w + 0.3 * torch.randn(w.shape, generator=g) * (w.std() if w.numel() > 1 and w.std() > 0 else 0.3)
    config = Qwen3_5MoeTextConfig(**{k: v for k, v in hf_config(c).items() if k not in ("architectures", "model_type")})
    theirs = Qwen3_5MoeForCausalLM(config).eval()
    missing, unexpected = theirs.load_state_dict({k: v for k, v in weights.items() if not k.startswith("mtp.")}, strict=False)
    assert not missing and not unexpected, (missing, unexpected)

    # Two documents in a row of 128, each alone in transformers.
    ids = torch.randint(0, c.vocab, (1, 128), generator=g)
    start = torch.zeros(1, 128, dtype=torch.bool)
    start[0, 0] = start[0, 50] = True
    batch = m.Batch.of(ids, torch.ones_like(start), start, pad=-1)
    kept = {}
    f = m.Functions(compiled=False)
    inner = f.head_loss
    f.head_loss = lambda c, x, norm, head, *rest: kept.setdefault(len(kept), m.rms_norm(x, norm, c.eps) @ head.T) is not None and inner(c, x, norm, head, *rest)
    m.forward(c, f, weights, batch)
    with torch.no_grad():
        expected = torch.cat([theirs(ids[:, :50]).logits, theirs(ids[:, 50:]).logits], 1)
    difference = (kept[0] - expected).abs().max() / expected.std()
    print(f"logits: max |difference| {difference:.1e} of their standard deviation")
    assert difference < 1e-4

    # Keys that are all alike are the hardest case for the inverse.
    a = torch.full((1, 64, 64), 0.95, dtype=torch.float64).tril(-1)
    exact = torch.linalg.inv(torch.eye(64, dtype=torch.float64) + a)
    print(f"inverse: max |difference| {(m.inverse_of_unit_lower(a.float()).double() - exact).abs().max():.1e}")

    try:
        import mlx.core as mx
    except ImportError:
        return
    for bits in (4, 8):
        w = torch.randn(64, 256, generator=g).bfloat16()
        words, scales, biases = mx.quantize(mx.array(w.float().numpy()).astype(mx.bfloat16), group_size=64, bits=bits)
        their = torch.tensor(mx.dequantize(words, scales, biases, group_size=64, bits=bits).astype(mx.float32).tolist())
        ours = m.fake_quantised(w.float(), bits)
        print(f"{bits} bits: max |difference| to MLX {(their - ours).abs().max():.1e}, within bf16 rounding of the product")


if __name__ == "__main__":
    main()
