// The last steps as bars, of the time that the trunk and the experts took and that was spent waiting for the drive; and the
// curves above them, which go over the same steps.

import { colourOf } from "./dom.js";

/** While there are few steps, each one is a bar; of many, quick ones are drawn together, until a bar stands for so long. */
const BAR_US = 120_000;
const BARS_MAX = 240;
/** Widths of a bar. */
const BAR_PX = 5;
const BAR_PX_MAX = 24;
/** A point of a curve is the mean of so many bars. */
const SMOOTH = 5;

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

/** Adds up what the bars have. */
const sum = (bars) => {
  const all = { ...read(Array(10).fill(0)), steps: 0 };
  for (const bar of bars) join(all, bar);
  return all;
};

function join(all, more) {
  for (const key of Object.keys(all)) if (key !== "prompt") all[key] += more[key];
}

export class Steps {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
  }

  clear() {
    this.bars = [];
    this.together = 0;
  }

  add(steps) {
    for (const step of steps.map(read)) this.put(step);
    if (this.bars.length <= BARS_MAX) return;
    if (this.together < BAR_US) {
      // Two of the usual ones, and a little, are one from now on.
      this.together = Math.min(BAR_US, (2.5 * sum(this.bars).time) / this.bars.length);
      const bars = this.bars;
      this.bars = [];
      for (const bar of bars) this.put(bar);
    }
    this.bars.splice(0, this.bars.length - BARS_MAX);
  }

  put(step) {
    const last = this.bars.at(-1);
    if (last && !last.prompt && !step.prompt && last.time + step.time < this.together) join(last, step);
    else this.bars.push(step);
  }

  /** Of the kind of the last step, what the last `time` microseconds come to; `null` before the first one. */
  newest(time) {
    const kind = this.bars.at(-1)?.prompt;
    const found = [];
    let took = 0;
    for (let i = this.bars.length - 1; i >= 0 && this.bars[i].prompt === kind && took < time; i--) {
      found.push(this.bars[i]);
      took += this.bars[i].time;
    }
    return found.length ? { ...sum(found), prompt: kind } : null;
  }

  /** Points of a curve: `of` what a few neighbours come to, over all bars, or over those of the last one's kind. */
  curve(of, alike = false) {
    const bars = alike ? this.bars.filter(({ prompt }) => prompt === this.bars.at(-1).prompt) : this.bars;
    return bars.map((_, i) => of(sum(bars.slice(Math.max(0, i - SMOOTH + 1), i + 1))));
  }

  draw(paint) {
    const { context, width, height, seen } = fitted(this.canvas);
    if (!seen) return;
    const bars = this.bars.slice(-Math.floor(width / BAR_PX));
    const each = Math.min(BAR_PX_MAX, width / Math.max(1, bars.length));
    // Each of the two kinds has a scale of its own; a few slow ones do not make the others small.
    const scaleOf = (prompt) => {
      const times = bars.filter((bar) => bar.prompt === prompt).map((bar) => bar.time / bar.steps).sort((a, b) => a - b);
      return times.length ? (height - 4) / (1.12 * times[Math.min(times.length - 1, Math.floor(times.length * 0.96))]) : 0;
    };
    const scales = [scaleOf(false), scaleOf(true)];
    for (const [i, bar] of bars.entries()) {
      const x = Math.round(i * each);
      const wide = Math.round((i + 1) * each) - x;
      const scale = scales[Number(bar.prompt)] / bar.steps;
      if (bar.prompt) {
        context.fillStyle = paint.shade;
        context.fillRect(x - 1, 0, wide + 1, height);
      }
      let y = height;
      for (const part of ["trunk", "experts", "blocked"]) {
        const tall = Math.min(bar[part] * scale, y);
        context.fillStyle = { trunk: paint.trunk, experts: paint.experts, blocked: paint.drive }[part];
        context.fillRect(x, y - tall, wide - 1, tall);
        y -= tall;
      }
      context.fillStyle = paint.bound;
      context.fillRect(x, Math.max(0, height - bar.bound * scale), wide - 1, 1);
    }
    this.drawn = { bars, each };
  }

  /** What there is to say of the bar at `x`, or of the last one. */
  describe(x = Infinity) {
    const { bars, each } = this.drawn ?? { bars: [], each: 1 };
    const bar = bars[Math.min(bars.length - 1, Math.floor(x / each))] ?? null;
    if (!bar) return "";
    const ms = (us) => `${(us / bar.steps / 1000).toFixed(us / bar.steps < 99500 ? 1 : 0)} ms`;
    const what = bar.prompt ? `Prompt, ${bar.tokens} tokens` : bar.steps > 1 ? `${bar.steps} steps, each` : "Step";
    const found = bar.hits + bar.misses ? `, ${Math.round((100 * bar.hits) / (bar.hits + bar.misses))} % found in memory` : "";
    return `${what}: ${ms(bar.time)} of which trunk ${ms(bar.trunk)}, experts ${ms(bar.experts)}, waiting ${ms(bar.blocked)}; possible ${ms(bar.bound)}${found}`;
  }
}

/** A curve over the last steps, and what it could have been, or one limit for all. */
export class Curve {
  constructor(canvas, { top = null } = {}) {
    Object.assign(this, { canvas, top });
  }

  draw(paint, values, limit = []) {
    const { context, width, height, seen } = fitted(this.canvas);
    if (!seen || !values.length) return;
    const limits = Array.isArray(limit) ? limit : values.map(() => limit);
    const most = this.top ?? 1.1 * Math.max(...[...values, ...limits].filter(Number.isFinite), 1e-9);
    // A single point is drawn as a line, too.
    const x = (i) => (values.length > 1 ? (i * width) / (values.length - 1) : i * width);
    const y = (value) => height - 1 - (Math.min(value, most) / most) * (height - 2);
    const line = (values) => {
      context.beginPath();
      let down = false;
      (values.length > 1 ? values : [...values, ...values]).forEach((value, i) => {
        if (!Number.isFinite(value)) down = false;
        else if (down) context.lineTo(x(i), y(value));
        else {
          context.moveTo(x(i), y(value));
          down = true;
        }
      });
      context.stroke();
    };
    context.strokeStyle = paint.soft;
    context.lineWidth = 1;
    context.setLineDash([2, 3]);
    line(limits);
    context.setLineDash([]);
    context.strokeStyle = paint.experts;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    line(values);
  }
}
