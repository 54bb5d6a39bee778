// The heat map: a cell for each expert, layers from top to bottom. Pixels are written one by one into one picture, of which
// only the rows that changed are handed over: a frame costs about as much as the cells that changed in it.

import { colourOf } from "./dom.js";

/** Where an expert is, as the server counts it. */
const READING = 1;
const MEMORY = 2;
const EARLY = 3;

/** A use and a read are seen for about so long. */
const USE_MS = 420;
const READ_MS = 700;
/** How long an expert stays warm that was used often. */
const WARM_MS = 15000;
/** Steps of warmth, of a use and of a read that colours tell apart. */
const WARM = 8;
const USE = 16;
const READ = 16;
const CELL_MAX = 26;
const CELL_MIN = 3;

const mix = (a, b, t) => a.map((x, i) => Math.round(x + (b[i] - x) * t));
const packed = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r;

const numbers = (name) => colourOf(name).match(/\d+/g).map(Number);

export class HeatMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.layers = [];
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.recolour();
  }

  /** Takes the colours of the present theme. */
  recolour() {
    const [off, inside, warm, used, read] = ["--cell-off", "--cell-in", "--cell-warm", "--cell-used", "--cell-read"].map(numbers);
    this.ground = packed(numbers("--panel"));
    this.colours = new Int32Array(2 * WARM * USE * READ);
    let i = 0;
    for (let memory = 0; memory < 2; memory++)
      for (let w = 0; w < WARM; w++)
        for (let u = 0; u < USE; u++)
          for (let r = 0; r < READ; r++) {
            const base = memory ? mix(inside, warm, w / (WARM - 1)) : mix(off, inside, (w / (WARM - 1)) * 0.25);
            this.colours[i++] = packed(mix(mix(base, used, u / (USE - 1)), read, r / (READ - 1)));
          }
    this.layout(this.box);
  }

  /** A model of so many experts in each layer. */
  shape(layers) {
    this.layers = layers;
    this.first = [];
    let n = 0;
    for (const experts of layers) {
      this.first.push(n);
      n += experts;
    }
    this.count = n;
    this.place = new Uint8Array(n);
    this.uses = new Uint32Array(n);
    this.reads = new Uint32Array(n);
    this.use = new Float32Array(n);
    this.read = new Float32Array(n);
    this.warm = new Float32Array(n);
    /** Whether a cell is among those that change from frame to frame. */
    this.glows = new Uint8Array(n);
    this.glowing = [];
    this.sweep = 0;
    this.fresh = true;
    this.layout(this.box);
  }

  /** Fits the cells into a box of CSS pixels: a line for each layer, or several where they would be too small. */
  layout(box) {
    if (!box || !this.layers.length) return;
    this.box = box;
    const scale = Math.min(devicePixelRatio || 1, 2);
    const [width, height] = [Math.floor(box.width * scale), Math.floor(box.height * scale)];
    const most = Math.max(...this.layers, 1);
    const rows = this.layers.filter((experts) => experts > 0).length || 1;
    const fit = (lines) => {
      const columns = Math.ceil(most / lines);
      const gap = lines > 1 ? Math.round(2 * scale) : 0;
      const wide = Math.min(width / columns, CELL_MAX * scale);
      const tall = Math.min(wide, (height - rows * gap) / (rows * lines));
      return { lines, columns, gap, wide: Math.max(1, wide), cell: Math.max(1, tall) };
    };
    let best = fit(1);
    for (let lines = 2; lines <= 16 && best.cell < CELL_MIN * scale; lines++) {
      const next = fit(lines);
      if (next.cell > best.cell) best = next;
    }
    const { lines, columns, gap, wide, cell } = best;
    const space = cell >= 4.5 ? Math.max(1, Math.round(cell * 0.12)) : 0;
    // Cells begin and end at whole pixels; some are one wider than others.
    const [across, edge] = [(n) => Math.round(n * wide), (n) => Math.round(n * cell)];
    this.round = cell - space >= 7 * scale;
    this.scale = scale;
    this.left = new Uint16Array(this.count);
    this.top = new Uint16Array(this.count);
    this.right = new Uint16Array(this.count);
    this.bottom = new Uint16Array(this.count);
    let [line, above, end] = [0, 0, 1];
    for (let layer = 0; layer < this.layers.length; layer++) {
      const experts = this.layers[layer];
      if (!experts) continue;
      for (let expert = 0; expert < experts; expert++) {
        const [x, y, i] = [expert % columns, line + Math.floor(expert / columns), this.first[layer] + expert];
        this.left[i] = across(x);
        this.right[i] = across(x + 1) - space;
        this.top[i] = edge(y) + above;
        this.bottom[i] = edge(y + 1) + above - space;
      }
      line += lines;
      end = edge(line) + above - space;
      above += gap;
    }
    this.width = across(columns) - space;
    this.height = Math.max(1, end);
    Object.assign(this.canvas, { width: this.width, height: this.height });
    this.canvas.style.width = `${this.width / scale}px`;
    this.canvas.style.height = `${this.height / scale}px`;
    this.image = this.context.createImageData(this.width, this.height);
    this.pixels = new Int32Array(this.image.data.buffer);
    this.pixels.fill(this.ground);
    this.drawn = new Uint16Array(this.count).fill(0xffff);
    this.dirty = [0, this.height];
    for (let i = 0; i < this.count; i++) this.paint(i);
    this.hand();
  }

  /** Cells that changed, as pairs: how many further on, and place + 4 · uses + 256 · reads. */
  update(pairs) {
    let all = 0;
    for (let k = 1; k < pairs.length; k += 2) all += (pairs[k] >> 2) & 63;
    // Where everything is used many times between two events, more than the mean is what shows.
    const mean = this.fresh ? 0 : all / Math.max(1, this.count);
    let i = -1;
    for (let k = 0; k < pairs.length; k += 2) {
      i += pairs[k];
      const [place, uses, reads] = [pairs[k + 1] & 3, (pairs[k + 1] >> 2) & 63, pairs[k + 1] >> 8];
      this.place[i] = place;
      this.uses[i] += uses;
      this.reads[i] += reads;
      const strength = (times) => Math.min(1, times / (1 + 2 * mean));
      if (this.fresh) {
        this.warm[i] = Math.min(0.5, uses / 63);
      } else {
        if (uses) {
          this.use[i] = Math.max(this.use[i], strength(uses));
          this.warm[i] = Math.min(1, this.warm[i] + 0.12 * strength(uses));
        }
        if (reads) this.read[i] = Math.max(this.read[i], strength(reads));
      }
      if (!this.glows[i]) {
        this.glows[i] = 1;
        this.glowing.push(i);
      }
    }
    this.fresh = false;
  }

  /** Draws what has changed in the last `ms`. Returns whether more will change by itself. */
  frame(ms) {
    if (!this.image) return false;
    const [use, read] = this.calm.matches ? [0, 0] : [Math.exp(-ms / USE_MS), Math.exp(-ms / READ_MS)];
    let kept = 0;
    for (const i of this.glowing) {
      this.use[i] *= use;
      const held = this.place[i] === READING || this.place[i] === EARLY;
      this.read[i] = held ? Math.max(this.read[i], this.place[i] === READING ? 1 : 0.5) : this.read[i] * read;
      this.paint(i);
      if (held || this.use[i] > 0.03 || this.read[i] > 0.03) this.glowing[kept++] = i;
      else {
        this.use[i] = this.read[i] = 0;
        this.glows[i] = 0;
        this.paint(i);
      }
    }
    this.glowing.length = kept;
    // Warmth goes slowly: a part of the cells at a time.
    const part = Math.ceil(this.count / 24);
    const cool = Math.exp((-ms * 24) / WARM_MS);
    for (let k = 0; k < part && this.count; k++) {
      this.sweep = (this.sweep + 1) % this.count;
      this.warm[this.sweep] *= cool;
      this.paint(this.sweep);
    }
    this.hand();
    return kept > 0;
  }

  /** Writes a cell's pixels where its colour has changed. */
  paint(i) {
    const memory = this.place[i] === MEMORY ? 1 : 0;
    const step = (value, steps) => Math.min(steps - 1, Math.round(value * (steps - 1)));
    const index = ((memory * WARM + step(this.warm[i], WARM)) * USE + step(this.use[i], USE)) * READ + step(this.read[i], READ);
    if (this.drawn[i] === index) return;
    this.drawn[i] = index;
    const colour = this.colours[index];
    const { pixels, width } = this;
    const [left, top, right, bottom] = [this.left[i], this.top[i], this.right[i], this.bottom[i]];
    for (let y = top; y < bottom; y++) pixels.fill(colour, y * width + left, y * width + right);
    if (this.round) {
      for (const y of [top, bottom - 1]) pixels[y * width + left] = pixels[y * width + right - 1] = this.ground;
    }
    if (top < this.dirty[0]) this.dirty[0] = top;
    if (bottom > this.dirty[1]) this.dirty[1] = bottom;
  }

  /** Hands the rows that changed to the canvas. */
  hand() {
    const [from, to] = this.dirty;
    if (from < to) this.context.putImageData(this.image, 0, 0, 0, from, this.width, to - from);
    this.dirty = [this.height, 0];
  }

  /** How many experts are in memory. */
  resident() {
    let n = 0;
    for (let i = 0; i < this.count; i++) if (this.place[i] === MEMORY) n++;
    return n;
  }

  /** The expert at a place of the canvas, in CSS pixels. */
  find(x, y) {
    const [px, py] = [x * this.scale, y * this.scale];
    for (let i = 0; i < this.count; i++) {
      if (px >= this.left[i] && px <= this.right[i] && py >= this.top[i] && py <= this.bottom[i]) return i;
    }
    return -1;
  }

  /** What there is to say of an expert. */
  describe(i) {
    let layer = 0;
    while (layer + 1 < this.layers.length && this.first[layer + 1] <= i) layer++;
    const place = { [READING]: "being read", [MEMORY]: "in memory", [EARLY]: "read ahead" }[this.place[i]] ?? "on the drive";
    const times = (n) => (n === 1 ? "once" : `${n.toLocaleString("en")} times`);
    return `Layer ${layer}, expert ${i - this.first[layer]}: ${place}, used ${times(this.uses[i])}, read ${times(this.reads[i])} since you watch`;
  }
}
