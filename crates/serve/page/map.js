// The heat map's pictures, drawn beside the page in a thread of its own (`machine.js` has it): a cell for each expert, layers
// from top to bottom. Pixels are written one by one into one picture, of which only the rows that changed are handed over: a
// frame costs about as much as the cells that changed in it.

import { EARLY, MEMORY, READING } from "./experts.js";

/** A use and a read fade to a third in so long. */
const USE_MS = 360;
const READ_MS = 560;
/** Less than half a step of the colours. */
const UNSEEN = 0.033;
/** How long an expert stays warm that was used often, and in how many parts the cells cool. */
const WARM_MS = 15000;
const PARTS = 24;
/** Steps of warmth, of a use and of a read that colours tell apart. */
const WARM = 8;
const USE = 16;
const READ = 16;

const mix = (a, b, t) => a.map((x, i) => Math.round(x + (b[i] - x) * t));
const packed = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r;

class HeatMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.calm = false;
    this.frames = 0;
    this.awake = false;
    /** Time from frame to frame. */
    this.every = 32;
    this.seen = true;
    this.then = 0;
  }

  /** Takes colours as `[r, g, b]`. */
  recolour({ ground, off, inside, warm, used, read }) {
    this.ground = packed(ground);
    this.colours = new Int32Array(2 * WARM * USE * READ);
    let i = 0;
    for (let memory = 0; memory < 2; memory++)
      for (let w = 0; w < WARM; w++)
        for (let u = 0; u < USE; u++)
          for (let r = 0; r < READ; r++) {
            const base = memory ? mix(inside, warm, w / (WARM - 1)) : mix(off, inside, (w / (WARM - 1)) * 0.25);
            this.colours[i++] = packed(mix(mix(base, used, u / (USE - 1)), read, (r / (READ - 1)) ** 1.7));
          }
    this.layout(this.grid);
  }

  /** A model of so many experts. */
  shape(count) {
    this.count = count;
    this.place = new Uint8Array(count);
    this.use = new Float32Array(count);
    this.read = new Float32Array(count);
    this.warm = new Float32Array(count);
    /** Whether a cell is among those that change from frame to frame. */
    this.glows = new Uint8Array(count);
    this.glowing = [];
    this.sweep = 0;
    this.fresh = true;
    // Nothing is drawn before there is a grid for it.
    this.grid = this.image = null;
  }

  /** Draws on a grid (`experts.js`) from now on. */
  layout(grid) {
    if (!grid || !this.colours) return;
    this.grid = grid;
    const { width, height } = grid;
    Object.assign(this.canvas, { width, height });
    this.image = this.context.createImageData(width, height);
    this.pixels = new Int32Array(this.image.data.buffer);
    this.pixels.fill(this.ground);
    this.drawn = new Uint16Array(this.count).fill(0xffff);
    this.dirty = [0, height];
    for (let i = 0; i < this.count; i++) this.paint(i);
    this.hand();
  }

  /** Cells that changed: which, where, uses, reads. */
  update(changes) {
    let all = 0;
    for (let k = 2; k < changes.length; k += 4) all += changes[k];
    // Where everything is used many times between two events, what shows is more than the mean.
    const mean = all / Math.max(1, this.count);
    const strength = (times) => Math.min(1, times / (1 + 2 * mean));
    for (let k = 0; k < changes.length; k += 4) {
      const [i, place, uses, reads] = [changes[k], changes[k + 1], changes[k + 2], changes[k + 3]];
      this.place[i] = place;
      if (this.fresh) {
        // What was done before anybody watched is no news.
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
    this.wake();
  }

  /** Draws only while it is `seen`. */
  show(seen) {
    this.seen = seen;
    this.wake();
  }

  wake() {
    if (this.awake || !this.seen) return;
    this.awake = true;
    this.then = performance.now();
    this.later();
  }

  tick() {
    const now = performance.now();
    const more = this.frame(Math.min(now - this.then, 250));
    this.then = now;
    this.frames++;
    if (more && this.seen) this.later();
    else this.awake = false;
  }

  /** Frames come at whole multiples of their time, with what the page draws. */
  later() {
    setTimeout(() => this.tick(), this.every - (Date.now() % this.every));
  }

  /** Draws what has changed in the last `ms`. Returns whether more will change by itself. */
  frame(ms) {
    if (!this.image) return false;
    const { place, use, read, glows, glowing } = this;
    const [fewerUses, fewerReads] = this.calm ? [0, 0] : [Math.exp(-ms / USE_MS), Math.exp(-ms / READ_MS)];
    let kept = 0;
    for (let k = 0; k < glowing.length; k++) {
      const i = glowing[k];
      const held = place[i] === READING ? 1 : place[i] === EARLY ? 0.5 : 0;
      const [u, r] = [use[i] * fewerUses, Math.max(held, read[i] * fewerReads)];
      if (u > UNSEEN || r > UNSEEN) {
        use[i] = u;
        read[i] = r;
        glowing[kept++] = i;
      } else {
        use[i] = read[i] = glows[i] = 0;
      }
      this.paint(i);
    }
    glowing.length = kept;
    const part = Math.ceil(this.count / PARTS);
    const cool = Math.exp((-ms * PARTS) / WARM_MS);
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
    const warm = (this.warm[i] * (WARM - 1) + 0.5) | 0;
    const use = (this.use[i] * (USE - 1) + 0.5) | 0;
    const read = (this.read[i] * (READ - 1) + 0.5) | 0;
    const index = (((this.place[i] === MEMORY ? WARM : 0) + warm) * USE + use) * READ + read;
    if (this.drawn[i] !== index) {
      this.drawn[i] = index;
      this.fill(i, this.colours[index]);
    }
  }

  fill(i, colour) {
    const { pixels, grid } = this;
    const { width, round } = grid;
    const left = grid.left[i];
    const right = grid.right[i];
    const top = grid.top[i];
    const bottom = grid.bottom[i];
    for (let y = top, at = top * width; y < bottom; y++, at += width) {
      for (let x = at + left; x < at + right; x++) pixels[x] = colour;
    }
    if (round) {
      for (const y of [top, bottom - 1]) pixels[y * width + left] = pixels[y * width + right - 1] = this.ground;
    }
    if (top < this.dirty[0]) this.dirty[0] = top;
    if (bottom > this.dirty[1]) this.dirty[1] = bottom;
  }

  /** Hands the rows that changed to the canvas. */
  hand() {
    const [from, to] = this.dirty;
    const { width, height } = this.grid;
    if (from < to) this.context.putImageData(this.image, 0, 0, 0, from, width, to - from);
    this.dirty = [height, 0];
  }
}

onmessage = ({ data }) => {
  if (data.canvas) self.map = new HeatMap(data.canvas);
  if (data.colours) self.map.recolour(data.colours);
  if (data.shape !== undefined) self.map.shape(data.shape);
  if (data.grid) self.map.layout(data.grid);
  if (data.every) self.map.every = data.every;
  if (data.calm !== undefined) self.map.calm = data.calm;
  if (data.seen !== undefined) self.map.show(data.seen);
  if (data.changes) self.map.update(data.changes);
};
