"""Holds export.py to mlx-lm's converter: every tensor of ../model equal, and mlx-lm generates with it.

    python test_export.py BF16_FOLDER       needs mlx and mlx-lm
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np

from export import nested, write_config

MODEL = Path(__file__).parent.parent / "model"


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor as the bits it is stored in."""
    out = {}
    for path in folder.glob("model*.safetensors"):
        for name, array in mx.load(str(path)).items():
            words = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
            out[name] = np.array(words)
    return out


def main() -> None:
    mx.set_default_device(mx.cpu)
    bf16 = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        source, theirs_at = Path(work) / "source", Path(work) / "mlx"
        shutil.copytree(bf16, source)
        write_config(source, nested(json.loads((bf16 / "config.json").read_text())))
        mlx_lm.convert(str(source), str(theirs_at), quantize=True, q_bits=4, q_group_size=64)
        theirs, ours = tensors(theirs_at), tensors(MODEL)
    mtp = {n for n in ours if n.startswith("mtp.")}
    assert set(theirs) == set(ours) - mtp, set(theirs) ^ (set(ours) - mtp)
    different = {n for n in theirs if theirs[n].shape != ours[n].shape or not np.array_equal(theirs[n], ours[n])}
    print(f"{len(theirs)} tensors, {len(different)} differ; {len(mtp)} more of the MTP layer")
    for n in sorted(different)[:5]:
        print("  ", n, theirs[n].shape, ours[n].shape, np.mean(theirs[n] != ours[n]))
    model, tokenizer = mlx_lm.load(str(MODEL))
    for question in ("What is 347 + 285?", "Tell me a story about a fox."):
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        print(mlx_lm.generate(model, tokenizer, prompt, max_tokens=250))
    assert not different


if __name__ == "__main__":
    main()
