#!/usr/bin/env python3
"""What each format costs a model: a row of EXPERIMENTS.md's table for each.

    python reference/format_costs.py OUTPOUR LLAMA_QUANTIZE MODEL TEXTS [FORMAT ...]

Where none is named, all that requantise.py knows and that fit the model's rows.

MODEL is requantised by requantise.py into a folder that is removed again, and OUTPOUR's `eval --against MODEL` compares both over
TEXTS (lines of JSON that have a `text`).
"""

import json
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from safetensors.torch import load_file

from requantise import FORMATS, MLX, fits, make
from requantise_gguf import TYPES


def row(outpour: str, llama_quantize: str, model: str, texts: str, format: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made"
        with redirect_stdout(sys.stderr):  # what mlx-lm says
            bits = make(Path(model), out, format, llama_quantize)
        measure = [outpour, "eval", out, "--generate", texts, "--against", model, "--json"]
        found = json.loads(subprocess.run(measure, check=True, stdout=subprocess.PIPE).stdout)
    apart = found["divergence"]
    perplexity = next(s for s in found["tasks"][0]["scores"] if s["name"] == "perplexity")["this"]["value"]
    return f"| {format} | {bits:.2f} | {apart['kl_mean']:.1e} | {apart['top1_agreement']:.1%} | {perplexity:.4f} |"


def main() -> None:
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    files = load_file(Path(sys.argv[3]) / "model.safetensors")
    for format in sys.argv[5:] or [each for each in (*FORMATS, *MLX, *TYPES) if fits(each, files)]:
        print(row(*sys.argv[1:5], format), flush=True)


if __name__ == "__main__":
    main()
