#!/usr/bin/env python3
"""Prints the tables of docs/how-fast.md, by `outpour plan` on this machine: scripts/how_fast.py [OUTPOUR]."""

import json
import subprocess
import sys

OUTPOUR = sys.argv[1] if len(sys.argv) > 1 else "target/release/outpour"
DRIVES = [2.5, 5, 7, 14]
RAMS = [14, 26, 56, 120]
MODELS = [
    ("Qwen3-30B-A3B", "mlx4"),
    ("Qwen3-Next-80B-A3B", "mlx4"),
    ("GLM-4.5-Air", "mlx4"),
    ("gpt-oss-120b", "mxfp4"),
    ("MiniMax-M2", "mlx4"),
    ("Qwen3-235B-A22B", "mlx4"),
    ("Qwen3.5-397B-A17B", "mlx4"),
    ("DeepSeek-V3", "mlx4"),
    ("Kimi-K2", "mlx4"),
]


def plan(model, form, ram, drive):
    call = [OUTPOUR, "plan", f"configs/{model}.json", "--format", form, "--ram", f"{ram}G", "--drive", f"{drive}G"]
    return json.loads(subprocess.run([*call, "--json"], check=True, capture_output=True).stdout)


def fits(planned):
    return f"{100 * planned['expert_slots'] / planned['experts']:.0f} %"


def gb(planned):
    return planned["decode"]["bytes_read_per_token"] / 1e9


def hits(planned):
    return f"{100 * planned['decode']['hit_rate']:.0f} %"


print("| `--ram` | experts that fit | found in memory | read for a token |", *(f"{d} GB/s |" for d in DRIVES))
print("|---|---|---|---|" + "---|" * len(DRIVES))
for ram in RAMS:
    row = [plan("Qwen3.5-397B-A17B", "mlx4", ram, drive) for drive in DRIVES]
    cells = [f"{p['decode']['tokens_per_second']:.2f} of {d / gb(p):.2f} |" for p, d in zip(row, DRIVES)]
    print(f"| {ram}G | {fits(row[0])} | {hits(row[0])} | {gb(row[0]):.2f} GB |", *cells)
print()
print("| model | stored as | experts that fit | found in memory | read for a token | tok/s | bound by | a prompt of 512, tok/s |")
print("|---|---|---|---|---|---|---|---|")
for model, form in MODELS:
    p = plan(model, form, 26, 5)
    speed, prompt = p["decode"]["tokens_per_second"], p["prefill_cold"]["tokens_per_second"]
    print(f"| {model} | {form} | {fits(p)} | {hits(p)} | {gb(p):.2f} GB | {speed:.2f} | {p['bound_by']} | {prompt:.0f} |")
