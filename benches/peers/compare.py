#!/usr/bin/env python3
"""outpour beside llama.cpp and ik_llama.cpp, whole model in memory, in turn: compare.py DIR OUTPOUR [--layers N] [--threads N] …

DIR is where build.sh built. Makes a random model of Qwen3-30B-A3B's shape twice, with 4.5 bits a weight: Q4_0 as GGUF for
the others, MLX's affine 4 bits in groups of 64 for outpour. --gguf has outpour read the others' file instead.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def output(command):
    print("+", " ".join(map(str, command)), file=sys.stderr)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def llama_bench(binary, options, model, args):
    """Tokens a second of a prompt and of generated tokens."""
    command = [binary, *options, "-m", model, "-t", args.threads, "-p", args.prompt, "-n", args.generate, "-r", 1, "-o", "json"]
    rows = json.loads(output(list(map(str, command))))
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def outpour_bench(binary, model, args):
    command = [binary, "bench", model, "--ram", args.ram, "--threads", args.threads, "--warm", "-r", 1]
    command += ["-p", args.prompt, "-n", args.generate, "-o", "json"]
    rows = json.loads(output(list(map(str, command))))
    return {"prefill" if row["test"].startswith("pp") else "decode": row["tokens_per_second"] for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("outpour", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ram", default="11G")
    parser.add_argument("--gguf", action="store_true")
    args = parser.parse_args()
    gguf = args.dir / f"qwen3-30b-a3b-{args.layers}.gguf"
    if not gguf.exists():
        output([args.dir / "venv/bin/python", HERE / "gguf_model.py", gguf, str(args.layers)])
    ours = gguf if args.gguf else args.dir / f"qwen3-30b-a3b-{args.layers}-mlx4"
    if not ours.exists():
        config = HERE.parents[1] / "configs/Qwen3-30B-A3B.json"
        output([args.outpour, "synth", config, ours, "--format", "mlx4", "--layers", str(args.layers), "--no-check"])
    engines = {"outpour": lambda: outpour_bench(args.outpour, ours, args)}
    # Each at its best: llama.cpp puts weights in its kernels' order unasked, ik_llama.cpp when it is asked to.
    for name, build, options in [("llama.cpp", "build-llama", []), ("ik_llama.cpp", "build-ik", ["-rtr", 1])]:
        binary = args.dir / build / "bin/llama-bench"
        if binary.exists():
            engines[name] = lambda binary=binary, options=options: llama_bench(binary, options, gguf, args)
        else:
            print(f"SKIPPED: {binary} is not there: build.sh makes it", file=sys.stderr)
    found = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, run in engines.items():
            found[name].append(run())
    print(f"| engine | {' | '.join(('prefill tok/s', 'decode tok/s', 'outpour / it, prefill', 'decode'))} |\n|---|---|---|---|---|")
    for name, rounds in found.items():
        speeds = [statistics.median(row[what] for row in rounds) for what in ("prefill", "decode")]
        ratios = [
            statistics.median(ours[what] / theirs[what] for ours, theirs in zip(found["outpour"], rounds))
            for what in ("prefill", "decode")
        ]
        print(f"| {name} | {speeds[0]:.1f} | {speeds[1]:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


main()
