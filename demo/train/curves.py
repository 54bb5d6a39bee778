"""Draws the loss curves of a log.jsonl as SVG: python curves.py LOG OUT.svg"""

import json
import math
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 400, 56, 40, 16, 16
LINES = [  # key, label, colour
    ("loss", "training", "#1f77b4"), ("mtp", "training, MTP layer", "#9ecae1"),
    ("held_loss", "held out", "#d62728"), ("held_mtp", "held out, MTP layer", "#f4a6a6"),
]


def main() -> None:
    log, out = sys.argv[1:]
    rows = [json.loads(line) for line in open(log)]
    rows = [r for r in rows if "step" in r]
    tokens_of = {r["step"]: r["tokens"] for r in rows if "tokens" in r}
    per_step = max(tokens_of.values()) / max(tokens_of)
    last = max(r["step"] for r in rows) * per_step / 1e6
    low, high = math.log(0.18), math.log(9)
    x = lambda millions: LEFT + millions / last * (WIDTH - LEFT - RIGHT)
    y = lambda loss: TOP + (high - math.log(loss)) / (high - low) * (HEIGHT - TOP - BOTTOM)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for loss in (0.2, 0.3, 0.5, 1, 2, 4, 8):
        parts.append(f'<path d="M{LEFT} {y(loss):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/><text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss}</text>')
    for millions in range(0, int(last) + 1, 100):
        parts.append(f'<text x="{x(millions):.1f}" y="{HEIGHT - 20}" text-anchor="middle">{millions}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">million tokens</text>')
    for i, (key, label, colour) in enumerate(LINES):
        points = " ".join(f"{x(r['step'] * per_step / 1e6):.1f},{y(r[key]):.1f}" for r in rows if key in r)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        at = TOP + 16 + 18 * i
        parts.append(f'<path d="M{WIDTH - 190} {at}h24" stroke="{colour}" stroke-width="2"/><text x="{WIDTH - 160}" y="{at + 4}">{label}</text>')
    with open(out, "w") as file:
        file.write("\n".join(parts + ["</svg>"]) + "\n")


if __name__ == "__main__":
    main()
