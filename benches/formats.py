#!/usr/bin/env python3
"""How fast each format is with all of the model in memory, and GGUF files beside llama.cpp.

    python benches/formats.py make OUTPOUR DIR FORMAT ...          DIR/FORMAT by `synth --format FORMAT`
    python benches/formats.py measure OUTPOUR DIR [LLAMA_BENCH]    every model in DIR, in turn, twice; appended to DIR/results.jsonl
    python benches/formats.py table DIR [PEAK ...]                 rows of EXPERIMENTS.md; shares of peaks in Gop/s, as FORMAT=925

The model has the shape of Qwen3-30B-A3B with 4 layers, 64 experts and a vocabulary of 8192. A folder in DIR that something else made of
DIR/bf16, as reference/requantise.py does, is measured too.
"""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[1] / "configs/Qwen3-30B-A3B.json"
SIZES = dict(num_hidden_layers=4, num_experts=64, vocab_size=8192)
LOAD = ["--ram", "7G", "--threads", "2", "--warm"]
TESTS = ["-p", "512", "-n", "64", "-r", "1", "-o", "json"]
ROUNDS = 2
# Weights that a prompt's token is multiplied with: attention, router and eight experts of each layer.
WEIGHTS = 4 * (2048 * (4096 * 2 + 512 * 2) + 2048 * 64 + 8 * 3 * 2048 * 768)


def json_of(*command) -> list:
    return json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE).stdout)


def make(outpour: str, folder: Path, formats: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(json.loads(CONFIG.read_text()) | SIZES))
    for format in formats:
        subprocess.run([outpour, "synth", folder / "config.json", folder / format, "--format", format, "--no-check"], check=True)


def ours(outpour: str, model: Path) -> dict:
    prompt, answer = json_of(outpour, "bench", model, *LOAD, *TESTS)
    return dict(
        prompt=prompt["tokens_per_second"], answer=answer["tokens_per_second"], memory=answer["memory_bytes_per_second"],
        bytes=answer["memory_seconds"] * answer["memory_bytes_per_second"] / answer["tokens"],
    )  # fmt: skip


def theirs(llama_bench: str, model: Path) -> dict:
    prompt, answer = json_of(llama_bench, "-m", model / "model.gguf", "-t", 2, *TESTS)
    return dict(prompt=prompt["avg_ts"], answer=answer["avg_ts"])


def measure(outpour: str, folder: Path, llama_bench: str | None) -> None:
    models = sorted(path.parent for name in ("config.json", "model.gguf") for path in folder.glob(f"*/{name}"))
    with open(folder / "results.jsonl", "a") as results:
        for model in models:
            for _ in range(ROUNDS):
                found = dict(format=model.name, outpour=ours(outpour, model))
                if llama_bench and (model / "model.gguf").exists():
                    found["llama.cpp"] = theirs(llama_bench, model)
                print(json.dumps(found), file=results, flush=True)


def table(folder: Path, peaks: dict[str, float]) -> None:
    rows = defaultdict(list)
    for line in (folder / "results.jsonl").read_text().splitlines():
        found = json.loads(line)
        rows[found["format"]].append(found)
    pair = lambda values, form: ", ".join(format(value, form) for value in values)
    for name, found in rows.items():
        own = [each["outpour"] for each in found]
        peak = peaks.get(name, peaks.get("", float("nan"))) * 1e9
        cells = [
            name, f"{own[0]['bytes'] / 1e6:.0f}", pair([x["prompt"] for x in own], ".0f"),
            pair([2 * WEIGHTS * x["prompt"] / peak for x in own], ".0%"), pair([x["answer"] for x in own], ".0f"),
            ", ".join(f"{x['answer'] * x['bytes'] / x['memory']:.0%} ({x['memory'] / 1e9:.0f})" for x in own),
        ]  # fmt: skip
        other = [each["llama.cpp"] for each in found if "llama.cpp" in each]
        for test in ("prompt", "answer"):
            most = lambda engine: max(x[test] for x in engine)
            cells.append(f"{pair([x[test] for x in other], '.0f')}: {most(own) / most(other):.1f}" if other else "–")
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    match sys.argv[1:]:
        case ["make", outpour, folder, *formats]:
            make(outpour, Path(folder), formats)
        case ["measure", outpour, folder, *llama_bench] if len(llama_bench) < 2:
            measure(outpour, Path(folder), *(llama_bench or [None]))
        case ["table", folder, *peaks]:
            table(Path(folder), {name: float(peak) for name, _, peak in (each.rpartition("=") for each in peaks)})
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
