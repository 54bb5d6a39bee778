"""The experts that held-out texts pick, for replaying cache policies without the model.

    python routes.py        writes ../routes.npy and ../routes.json from ../model and the texts of ../heldout.jsonl

    routes.npy    u8 [tokens, layers, top_k]   experts in falling order of the router's weight, text after text
    routes.json   where each text starts, and the sizes
"""

import json

import numpy as np
import torch
import torch.nn.functional as F

import corpus
import export
import model as m

OUT = export.MODEL.parent
TOKENS_MAX = 9000


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    c, tokenizer = m.Config(), corpus.load_tokenizer()
    weights = export.dequantised(export.MODEL)
    picked: list[torch.Tensor] = []
    plain = m.moe

    def listening(c, x, p, counted):
        picked.append(F.linear(x, p["mlp.gate.weight"]).softmax(-1).topk(c.top_k, -1).indices[0])
        return plain(c, x, p, counted)

    m.moe = listening
    routes, starts, total = [], [], 0
    lines = map(json.loads, open(OUT / "heldout.jsonl"))
    for text in (line["text"] for line in lines if line["kind"] == "text"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if total + len(ids) > TOKENS_MAX:
            break
        length = -(-len(ids) // m.CHUNK) * m.CHUNK
        row = torch.tensor([ids + [0] * (length - len(ids))])
        start = torch.zeros_like(row, dtype=torch.bool)
        start[0, 0] = True
        picked.clear()
        m.forward(c, m.Functions(compiled=False), weights, m.Batch.of(row, ~start, start, -1))
        routes.append(torch.stack(picked[: c.layers], 1)[: len(ids)].numpy().astype(np.uint8))
        starts.append(total)
        total += len(ids)
    np.save(OUT / "routes.npy", np.concatenate(routes))
    sizes = {"tokens": total, "layers": c.layers, "experts": c.experts, "top_k": c.top_k, "starts": starts}
    (OUT / "routes.json").write_text(json.dumps(sizes) + "\n")
    print(f"{total} tokens of {len(starts)} texts, {(OUT / 'routes.npy').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
