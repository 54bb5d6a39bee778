"""Makes tests/fixtures/deepseek_v3_q8_0: a small DeepSeek-V3 as llama.cpp's converter quantises it to Q8_0, `split.gguf` with the matrix of
keys and values in two, as files are now, and `whole.gguf` with it in one, as they were; and `split_f32.gguf` and `whole_f32.gguf`, the same with
the values that gguf-py says these blocks have.

    python reference/gguf_quantised.py LLAMA_CPP

LLAMA_CPP as in gguf_converted.py. Only tensors whose rows are no whole blocks stay as they are.
"""

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from families import write_json
from gguf_converted import before_split, converted
from models import FAMILIES, FIXTURES, build

OUT = FIXTURES / "deepseek_v3_q8_0"
SIZES = dict(
    hidden_size=32, intermediate_size=64, kv_lora_rank=32, q_lora_rank=32, qk_nope_head_dim=32, v_head_dim=32, vocab_size=32,
    moe_intermediate_size=32, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2,
)  # fmt: skip
SEED = 1


def dequantised(source: Path, out: Path) -> None:
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "deepseek2")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
    for t in reader.tensors:
        writer.add_tensor(t.name, np.ascontiguousarray(gguf.quants.dequantize(t.data, t.tensor_type), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]) / "gguf-py")]
    logging.disable(logging.WARNING)
    OUT.mkdir(exist_ok=True)
    family = FAMILIES["deepseek_v3"]
    config = json.loads(json.dumps(family.config)) | SIZES
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_json(folder / "config.json", config)
        _, stored = build(folder, family, SEED)
        family.layout(folder, {name: t for name, t in stored.items() if name not in family.unread})
        converted(folder, OUT / "split.gguf", "Q8_0")
    shutil.copy(OUT / "split.gguf", OUT / "whole.gguf")
    before_split(OUT / "whole.gguf")
    for name in ("split", "whole"):
        dequantised(OUT / f"{name}.gguf", OUT / f"{name}_f32.gguf")


if __name__ == "__main__":
    main()
