// The last steps as bars, of the time that the trunk and the experts took and that was spent waiting for the drive; and the
// curves above them.

import { colourOf } from "./dom.js";

/** Quick steps are drawn together until a bar stands for so long. */
const BAR_MS = 120;
const BARS_MAX = 240;
const BAR_PX = 5;
/** A curve has a place for so many points at least. */
const POINTS_MIN = 24;

/** Fits a canvas to its box; returns its context, its size in CSS pixels, and whether it can be seen. */
function fitted(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = Math.min(devicePixelRatio || 1, 2);
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height, seen: width > 0 && height > 0 };
}

export const colours = () => {
  const names = { trunk: "--bar-trunk", experts: "--accent", drive: "--cell-read", bound: "--text", soft: "--faint", shade: "--raised" };
  return Object.fromEntries(Object.entries(names).map(([key, name]) => [key, colourOf(name)]));
};

/** A step as the server tells it. */
const read = ([prompt, tokens, time, trunk, experts, blocked, bound, bytes, hits, misses]) => ({
  prompt: prompt === 1, steps: 1, tokens, time, trunk, experts, blocked, bound, bytes, hits, misses,
});

export class Steps {
  constructor(canvas) {
    this.canvas = canvas;
    this.bars = [];
  }

  clear() {
    this.bars = [];
  }

  add(steps) {
    for (const step of steps.map(read)) {
      const last = this.bars.at(-1);
      if (last && last.prompt === step.prompt && !step.prompt && last.time + step.time < BAR_MS * 1000) {
        for (const key of Object.keys(step)) if (key !== "prompt") last[key] += step[key];
      } else {
        this.bars.push(step);
      }
    }
    if (this.bars.length > BARS_MAX) this.bars.splice(0, this.bars.length - BARS_MAX);
  }

  draw(paint) {
    const { context, width, height, seen } = fitted(this.canvas);
    if (!seen) return;
    const bars = this.bars.slice(-Math.floor(width / BAR_PX));
    // Each of the two kinds has a scale of its own; a few slow ones do not make the others small.
    const scaleOf = (prompt) => {
      const times = bars.filter((bar) => bar.prompt === prompt).map((bar) => bar.time / bar.steps).sort((a, b) => a - b);
      return times.length ? (height - 4) / (1.12 * times[Math.min(times.length - 1, Math.floor(times.length * 0.96))]) : 0;
    };
    const scales = [scaleOf(false), scaleOf(true)];
    let x = width - bars.length * BAR_PX;
    for (const bar of bars) {
      const scale = scales[Number(bar.prompt)] / bar.steps;
      if (bar.prompt) {
        context.fillStyle = paint.shade;
        context.fillRect(x - 1, 0, BAR_PX + 1, height);
      }
      let y = height;
      for (const part of ["trunk", "experts", "blocked"]) {
        const tall = Math.min(bar[part] * scale, y);
        context.fillStyle = { trunk: paint.trunk, experts: paint.experts, blocked: paint.drive }[part];
        context.fillRect(x, y - tall, BAR_PX - 1, tall);
        y -= tall;
      }
      context.fillStyle = paint.bound;
      context.fillRect(x, Math.max(0, height - bar.bound * scale), BAR_PX - 1, 1);
      x += BAR_PX;
    }
    this.drawn = { bars, width };
  }

  /** What there is to say of the bar at `x`, or of the last one. */
  describe(x = Infinity) {
    const { bars, width } = this.drawn ?? { bars: [], width: 0 };
    const bar = bars[Math.min(bars.length - 1, Math.floor((x - (width - bars.length * BAR_PX)) / BAR_PX))] ?? null;
    if (!bar) return "";
    const ms = (us) => `${(us / bar.steps / 1000).toFixed(us / bar.steps < 99500 ? 1 : 0)} ms`;
    const what = bar.prompt ? `Prompt, ${bar.tokens} tokens` : bar.steps > 1 ? `${bar.steps} steps, each` : "Step";
    const found = bar.hits + bar.misses ? `, ${Math.round((100 * bar.hits) / (bar.hits + bar.misses))} % found in memory` : "";
    return `${what}: ${ms(bar.time)} of which trunk ${ms(bar.trunk)}, experts ${ms(bar.experts)}, waiting ${ms(bar.blocked)}; possible ${ms(bar.bound)}${found}`;
  }
}

/** A curve of the last minute; of less where it has just begun. */
export class Curve {
  constructor(canvas, { points = 120, top = null }) {
    Object.assign(this, { canvas, points, top, values: [], limits: [] });
  }

  add(value, limit = null) {
    this.values.push(value);
    this.limits.push(limit);
    if (this.values.length > this.points) {
      this.values.shift();
      this.limits.shift();
    }
  }

  draw(paint) {
    const { context, width, height, seen } = fitted(this.canvas);
    if (!seen) return;
    const most = this.top ?? (1.1 * Math.max(...this.values.filter(Number.isFinite), ...this.limits.filter(Number.isFinite), 1e-9));
    const x = (i) => (i * width) / Math.max(this.values.length - 1, POINTS_MIN);
    const y = (value) => height - 1 - (Math.min(value, most) / most) * (height - 2);
    const line = (values) => {
      context.beginPath();
      let down = false;
      values.forEach((value, i) => {
        if (!Number.isFinite(value)) down = false;
        else if (down) context.lineTo(x(i), y(value));
        else {
          context.moveTo(x(i), y(value));
          down = true;
        }
      });
    };
    const limit = this.limits.map((value) => value ?? NaN);
    if (limit.some(Number.isFinite)) {
      context.strokeStyle = paint.soft;
      context.lineWidth = 1;
      context.setLineDash([2, 3]);
      line(limit);
      context.stroke();
      context.setLineDash([]);
    }
    context.strokeStyle = paint.experts;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    line(this.values);
    context.stroke();
  }
}
