// The view of the machine: what the engine does now. Watches only while it can be seen.

import * as api from "./api.js";
import { byId, colourOf } from "./dom.js";
import { Experts } from "./experts.js";
import { EVERY_MS, untilDue } from "./graphics.js";
import { Curve, Steps, colours } from "./steps.js";

/** Speeds are those of so long. */
const WINDOW_S = 3;
const AGAIN_MS = 2000;

// The one script that this page loads by itself.
const MAP = "/page/map.js";
const PAINTER = globalThis.trustedTypes?.createPolicy("map", { createScriptURL: () => MAP }).createScriptURL("") ?? MAP;

const panel = byId("machine");
const canvas = byId("map");
/** Draws the map in a thread of its own: this one has the chat to show. */
const painter = new Worker(PAINTER, { type: "module" });
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const steps = new Steps(byId("steps"));
const curves = {
  speed: new Curve(byId("speed-curve")),
  hits: new Curve(byId("hits-curve"), { top: 100 }),
  drive: new Curve(byId("drive-curve")),
};
let paint = colours();
let model = null;
let experts = new Experts([]);
/** The last events, for speeds. */
let past = [];
let now = null;
let watching = null;
let last = { curves: 0, words: 0 };
/** There are steps that are not drawn. */
let news = false;
let focus = -1;

const bytes = (n) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1024;
  return [n < 10 ? n.toFixed(2) : n < 100 ? n.toFixed(1) : Math.round(n).toString(), units[i]];
};
const rate = (n) => (n < 1e9 ? [(n / 1e6).toFixed(n < 1e8 ? 1 : 0), "MB/s"] : [(n / 1e9).toFixed(2), "GB/s"]);
const round = (n) => (n < 10 ? n.toFixed(2) : n < 100 ? n.toFixed(1) : Math.round(n).toLocaleString("en"));

function figure(name, value, unit, note) {
  const set = (id, text) => {
    const element = byId(`${name}-${id}`);
    if (element.textContent !== text) element.textContent = text;
  };
  set("value", value);
  set("unit", unit);
  set("note", note);
}

/** Watches while `on`. */
export function watch(on) {
  panel.hidden = !on;
  if (on) fit();
  update();
}

function update() {
  const wanted = !panel.hidden && document.visibilityState === "visible";
  painter.postMessage({ seen: wanted });
  if (wanted && !watching) {
    watching = new AbortController();
    follow(watching.signal);
  } else if (!wanted && watching) {
    watching.abort();
    watching = null;
  }
}

async function follow(signal) {
  for (;;) {
    try {
      for await (const { event, data } of api.live(EVERY_MS.event, signal)) {
        if (event === "model") begin(data);
        else if (event === "now") take(data);
      }
    } catch (error) {
      if (signal.aborted) return;
      state("away", error.message);
    }
    if (signal.aborted) return;
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    if (signal.aborted) return;
  }
}

function state(kind, text) {
  panel.dataset.state = kind;
  const element = byId("machine-state");
  if (element.textContent !== text) element.textContent = text;
}

function begin(about) {
  model = about;
  past = [];
  steps.clear();
  const layers = about.layers.filter((experts) => experts > 0);
  const same = layers.every((experts) => experts === layers[0]);
  byId("machine-model").textContent = about.name;
  byId("map-shape").textContent = layers.length
    ? `${layers.length} layers × ${same ? layers[0] : `${Math.min(...layers)} to ${Math.max(...layers)}`}, ${about.top_k} for each token`
    : "This model has no experts.";
  byId("machine-about").textContent = about.describe;
  const of = (names) => about.buffers.filter(({ name }) => names.includes(name)).reduce((sum, buffer) => sum + buffer.bytes, 0);
  const parts = { trunk: of(["trunk", "trunk window"]), slab: of(["slab"]), rest: of(["process", "scratch"]) };
  for (const [name, part] of Object.entries(parts)) {
    byId(`ram-${name}`).style.width = `${(100 * part) / about.ram}%`;
    byId(`ram-${name}-bytes`).textContent = bytes(part).join(" ");
  }
  experts = new Experts(about.layers);
  canvas.hidden = experts.count === 0;
  painter.postMessage({ shape: experts.count });
  fit();
}

function take(event) {
  now = event;
  past.push(event);
  while (past.length > 2 && event.time_s - past[1].time_s > WINDOW_S) past.shift();
  if (event.cells?.length) painter.postMessage({ changes: experts.update(event.cells) });
  if (event.steps?.length) {
    steps.add(event.steps);
    news = true;
  }
  show();
}

let due = 0;

/** Shows the figures anew, when it is time. */
function show() {
  due ||= setTimeout(() => {
    due = 0;
    figures(performance.now());
  }, untilDue(EVERY_MS.figures));
}

const perSecond = (n, micros) => (1e6 * n) / micros;
const possible = (speed, bound) => (speed < 0.995 * bound ? `of ${round(bound)} possible` : "as fast as is possible here");

function figures(time) {
  if (!now) return;
  const busy = now.running > 0;
  const newest = steps.newest(1e6 * WINDOW_S);
  const what = newest?.prompt ? "prompt" : "answer";
  byId("speed-name").textContent = busy || !newest ? what[0].toUpperCase() + what.slice(1) : `Last ${what}`;
  const [speed, bound] = newest ? [perSecond(newest.tokens, newest.time), perSecond(newest.tokens, newest.bound)] : [];
  figure("speed", newest ? round(speed) : "–", "tokens/s", newest ? possible(speed, bound) : "nothing was computed yet");

  const first = past[0];
  const seconds = now.time_s - first.time_s;
  const asked = now.hits - first.hits + now.misses - first.misses;
  const all = now.hits + now.misses;
  const share = asked > 0 ? (100 * (now.hits - first.hits)) / asked : all > 0 ? (100 * now.hits) / all : NaN;
  figure("hits", Number.isFinite(share) ? share.toFixed(share < 99.95 ? 1 : 0) : "–", "%", asked > 0 ? `of ${round(asked / seconds)} experts/s` : "of all experts asked for");

  const limit = now.drive_bytes_per_second || null;
  const drive = seconds > 0 ? (now.read_bytes - first.read_bytes) / seconds : 0;
  const flying = seconds > 0 ? (now.reading_s - first.reading_s) / seconds : 0;
  figure("drive", ...rate(drive), limit ? `of ${rate(limit).join(" ")} · busy ${Math.round(100 * Math.min(1, flying))} %` : "no experts to read");

  if (model) {
    const [used, unit] = bytes(now.memory_bytes);
    const back = now.given_back_bytes > 0 ? ` · ${bytes(now.given_back_bytes).join(" ")} given back` : "";
    figure("ram", used, unit, `of ${bytes(model.ram).join(" ")} --ram${back}`);
    byId("ram-now").style.left = `${Math.min(100, (100 * now.memory_bytes) / model.ram)}%`;
  }
  const loaded = now.loading_bytes ? Math.round((100 * now.loaded_bytes) / now.loading_bytes) : 0;
  const states = { loading: `loading, ${loaded} %`, released: "memory given back until the next request", failed: "the model cannot be loaded" };
  const waiting = now.waiting ? `, ${now.waiting} waiting` : "";
  state(now.state === "ready" && busy ? "busy" : now.state, states[now.state] ?? (busy ? `${now.running} running${waiting}` : "idle"));

  if (news && time - last.curves >= EVERY_MS.curves - EVERY_MS.figures / 2) {
    last.curves = time;
    news = false;
    drawCurves();
  }
  if (time - last.words >= 1000) {
    last.words = time;
    words(share);
  }
}

/** The same for those who do not see the pictures. */
function words(share) {
  const found = Number.isFinite(share) ? `; ${Math.round(share)} % of those asked for are found there` : "";
  if (model) canvas.setAttribute("aria-label", `Experts: ${experts.resident()} of ${experts.count} in memory${found}`);
  byId("steps").setAttribute("aria-label", steps.describe() ? `Last steps. ${steps.describe()}` : "Last steps: none yet");
  if (focus >= 0) byId("map-told").textContent = experts.describe(focus);
}

/** Fits the pictures to the panel. */
function fit() {
  const box = byId("map-box");
  if (panel.hidden || !box.clientWidth) return;
  const wide = document.body.dataset.view === "machine";
  const tall = wide ? Math.max(220, innerHeight - 640) : Math.max(180, Math.min(420, innerHeight * 0.4));
  if (experts.count) {
    const grid = experts.grid({ width: box.clientWidth, height: tall });
    canvas.style.width = `${grid.width / grid.scale}px`;
    canvas.style.height = `${grid.height / grid.scale}px`;
    painter.postMessage({ grid });
  }
  drawCurves();
}

function drawCurves() {
  steps.draw(paint);
  curves.speed.draw(paint, steps.curve((bar) => perSecond(bar.tokens, bar.time), true), steps.curve((bar) => perSecond(bar.tokens, bar.bound), true));
  curves.hits.draw(paint, steps.curve((bar) => (100 * bar.hits) / (bar.hits + bar.misses)));
  curves.drive.draw(paint, steps.curve((bar) => perSecond(bar.bytes, bar.time)), now?.drive_bytes_per_second || NaN);
}

function tell(i) {
  focus = i;
  byId("map-told").textContent = i >= 0 ? experts.describe(i) : "";
}

canvas.addEventListener("mousemove", (event) => tell(experts.find(event.offsetX, event.offsetY)));
canvas.addEventListener("mouseleave", () => tell(-1));
canvas.addEventListener("blur", () => tell(-1));
canvas.addEventListener("keydown", (event) => {
  const most = Math.max(...(model?.layers ?? [0]));
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: most, ArrowUp: -most }[event.key];
  if (!by || !experts.count) return;
  event.preventDefault();
  tell(Math.max(0, Math.min(experts.count - 1, Math.max(0, focus) + by)));
});
byId("steps").addEventListener("mousemove", (event) => (byId("steps-told").textContent = steps.describe(event.offsetX)));
byId("steps").addEventListener("mouseleave", () => (byId("steps-told").textContent = ""));

/** Takes the colours of the present theme. */
export function recolour() {
  paint = colours();
  const names = { ground: "--panel", off: "--cell-off", inside: "--cell-in", warm: "--cell-warm", used: "--cell-used", read: "--cell-read" };
  const numbers = (name) => colourOf(name).match(/\d+/g).map(Number);
  painter.postMessage({ colours: Object.fromEntries(Object.entries(names).map(([key, name]) => [key, numbers(name)])) });
  drawCurves();
}

const offscreen = canvas.transferControlToOffscreen();
painter.postMessage({ canvas: offscreen, calm: calm.matches, every: EVERY_MS.map }, [offscreen]);
new ResizeObserver(fit).observe(byId("map-box"));
addEventListener("resize", fit);
calm.addEventListener("change", () => painter.postMessage({ calm: calm.matches }));
document.addEventListener("visibilitychange", update);
