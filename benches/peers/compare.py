#!/usr/bin/env python3
"""outpour beside llama.cpp and ik_llama.cpp, whole model in memory, in turn: compare.py DIR OUTPOUR [--layers N] [--threads N] …

DIR is where build.sh built. Makes a random model of Qwen3-30B-A3B's shape twice, with 4.5 bits a weight: Q4_0 as GGUF for
the others, MLX's affine 4 bits in groups of 64 for outpour. --gguf has outpour read the others' file instead. Another shape,
as --shape Qwen3.5-35B-A3B, is one Q4_0 file that `outpour synth` makes, for all.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
SHAPE = "Qwen3-30B-A3B"


def output(command):
    print("+", " ".join(map(str, command)), file=sys.stderr)
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


def llama_bench(binary, options, model, args):
    """Tokens a second of a prompt and of generated tokens."""
    command = [binary, *options, "-m", model, "-t", args.threads, "-p", args.prompt, "-n", args.generate, "-r", 1, "-o", "json"]
    rows = json.loads(output(command))
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def outpour_bench(binary, model, args):
    command = [binary, "bench", model, "--ram", args.ram, "--threads", args.threads, "--warm", "-r", 1]
    command += ["-p", args.prompt, "-n", args.generate, "-o", "json"]
    rows = json.loads(output(list(map(str, command))))
    speeds = {"prefill" if row["test"].startswith("pp") else "decode": row["tokens_per_second"] for row in rows}
    for row in rows:
        share = 100 * row["memory_seconds"] / row["seconds"]
        reading = row["memory_bytes_per_second"] / 1e9
        print(f"outpour {row['test']}: {share:.0f} % of its time its bytes take at the {reading:.1f} GB/s that memory gave", file=sys.stderr)
    return speeds


def made(folder, synth):
    """Makes a model, whole or not at all."""
    if not folder.exists():
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        output([*synth, part])
        part.rename(folder)


def count(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError("1 at least")
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("outpour", type=pathlib.Path)
    parser.add_argument("--layers", type=count, default=24)
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--prompt", type=count, default=512)
    parser.add_argument("--generate", type=count, default=32)
    parser.add_argument("--rounds", type=count, default=2)
    parser.add_argument("--ram", default="11G")
    parser.add_argument("--gguf", action="store_true")
    parser.add_argument("--shape", default=SHAPE, help="a name of configs/")
    args = parser.parse_args()
    config = HERE.parents[1] / f"configs/{args.shape}.json"
    stem = args.dir / f"{args.shape.lower()}-{args.layers}"
    synth = [args.outpour, "synth", config, "--layers", args.layers, "--no-check", "--format"]
    if args.shape == SHAPE:
        gguf = stem.with_name(stem.name + ".gguf")
        if not gguf.exists():
            part = gguf.with_name(gguf.name + ".part")
            output([args.dir / "venv/bin/python", HERE / "gguf_model.py", part, args.layers])
            part.rename(gguf)
        ours = gguf if args.gguf else stem.with_name(stem.name + "-mlx4")
        made(ours, [*synth, "mlx4"])
    else:
        folder = stem.with_name(stem.name + "-q4_0")
        made(folder, [*synth, "gguf-q4_0"])
        [gguf] = folder.glob("*.gguf")
        ours = gguf
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
        for name, run in list(engines.items()):
            try:
                found[name].append(run())
            except subprocess.CalledProcessError as error:
                if name == "outpour":
                    raise
                print(f"SKIPPED: {name} from here on, whose {error}", file=sys.stderr)
                del engines[name]
    print(f"| engine | {' | '.join(('prefill tok/s', 'decode tok/s', 'outpour / it, prefill', 'decode'))} |\n|---|---|---|---|---|")
    for name, rounds in found.items():
        if not rounds:
            continue
        for what in ("prefill", "decode"):
            print(f"{name}, {what}, round by round: {', '.join(f'{row[what]:.1f}' for row in rounds)}", file=sys.stderr)
        speeds = [statistics.median(row[what] for row in rounds) for what in ("prefill", "decode")]
        ratios = [
            statistics.median(ours[what] / theirs[what] for ours, theirs in zip(found["outpour"], rounds))
            for what in ("prefill", "decode")
        ]
        print(f"| {name} | {speeds[0]:.1f} | {speeds[1]:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


main()
