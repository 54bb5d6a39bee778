// Where every expert is and how often it was used, as the server tells it; and the grid that they are drawn on.

/** Where an expert is, as the server counts it. */
export const READING = 1;
export const MEMORY = 2;
export const EARLY = 3;

/** A cell's height in CSS pixels: at most, and from where on a layer is better drawn in several lines. */
const CELL_MAX = 40;
const CELL_MIN = 3;
const LINES_MAX = 16;

export class Experts {
  /** `layers[l]` experts in layer l. */
  constructor(layers) {
    this.layers = layers;
    this.first = [];
    this.count = 0;
    for (const experts of layers) {
      this.first.push(this.count);
      this.count += experts;
    }
    this.place = new Uint8Array(this.count);
    this.uses = new Uint32Array(this.count);
    this.reads = new Uint32Array(this.count);
  }

  /** Takes in pairs: how many experts further on, and place + 4 · uses + 256 · reads. Returns which, place, uses, reads. */
  update(pairs) {
    const changes = new Uint32Array(pairs.length * 2);
    let i = -1;
    for (let k = 0; k < pairs.length; k += 2) {
      i += pairs[k];
      const [place, uses, reads] = [pairs[k + 1] & 3, (pairs[k + 1] >> 2) & 63, pairs[k + 1] >> 8];
      this.place[i] = place;
      this.uses[i] += uses;
      this.reads[i] += reads;
      changes.set([i, place, uses, reads], k * 2);
    }
    return changes;
  }

  /** How many are in memory. */
  resident() {
    return this.place.reduce((sum, place) => sum + (place === MEMORY), 0);
  }

  /** What there is to say of one. */
  describe(i) {
    const layer = this.first.findLastIndex((first, layer) => first <= i && this.layers[layer] > 0);
    const place = { [READING]: "being read", [MEMORY]: "in memory", [EARLY]: "read ahead" }[this.place[i]] ?? "on the drive";
    const times = (n) => (n === 1 ? "once" : `${n.toLocaleString("en")} times`);
    return `Layer ${layer}, expert ${i - this.first[layer]}: ${place}, used ${times(this.uses[i])}, read ${times(this.reads[i])} since you watch`;
  }

  /** Fits a cell for each into a box of CSS pixels: a line for each layer, or several where cells would be too small. */
  grid(box) {
    const scale = Math.min(devicePixelRatio || 1, 2);
    const [width, height] = [Math.floor(box.width * scale), Math.floor(box.height * scale)];
    const most = Math.max(...this.layers, 1);
    const rows = this.layers.filter((experts) => experts > 0).length || 1;
    const fit = (lines) => {
      const columns = Math.ceil(most / lines);
      const gap = lines > 1 ? Math.round(2 * scale) : 0;
      const wide = width / columns;
      const tall = Math.min(wide, CELL_MAX * scale, (height - rows * gap) / (rows * lines));
      return { lines, columns, gap, wide: Math.max(1, wide), tall: Math.max(1, tall) };
    };
    let best = fit(1);
    for (let lines = 2; lines <= LINES_MAX && best.tall < CELL_MIN * scale; lines++) {
      const next = fit(lines);
      if (next.tall > best.tall) best = next;
    }
    const { lines, columns, gap, wide, tall } = best;
    const space = tall >= 4.5 ? Math.max(1, Math.round(tall * 0.12)) : 0;
    // Cells begin and end at whole pixels; some are one wider than others.
    const [across, down] = [(n) => Math.round(n * wide), (n) => Math.round(n * tall)];
    const [left, top, right, bottom] = [0, 0, 0, 0].map(() => new Uint16Array(this.count));
    let [line, above, end] = [0, 0, 1];
    this.layers.forEach((experts, layer) => {
      if (!experts) return;
      for (let expert = 0; expert < experts; expert++) {
        const [x, y, i] = [expert % columns, line + Math.floor(expert / columns), this.first[layer] + expert];
        left[i] = across(x);
        right[i] = across(x + 1) - space;
        top[i] = down(y) + above;
        bottom[i] = down(y + 1) + above - space;
      }
      line += lines;
      end = down(line) + above - space;
      above += gap;
    });
    this.drawn = { scale, left, top, right, bottom, width: across(columns) - space, height: Math.max(1, end), round: tall - space >= 7 * scale };
    return this.drawn;
  }

  /** The expert at a place of the grid, in CSS pixels; -1 where there is none. */
  find(x, y) {
    if (!this.drawn) return -1;
    const { scale, left, top, right, bottom } = this.drawn;
    const [px, py] = [x * scale, y * scale];
    return left.findIndex((_, i) => px >= left[i] && px <= right[i] && py >= top[i] && py <= bottom[i]);
  }
}
