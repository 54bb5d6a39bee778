// Elements, made one by one: text stays text.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Attributes that are `true` are set empty, `false` and `null` are left out; `on` holds listeners. Children may be
 * lists of any length.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "on") for (const [event, listen] of Object.entries(value)) element.addEventListener(event, listen);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}

export const byId = (id) => document.getElementById(id);

// Strokes on a field of 24 × 24.
const ICONS = {
  menu: "M4 7h16M4 12h16M4 17h10",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 9a2 2 0 0 1 2-2h6a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H9a2 2 0 0 1-2-2z",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  done: "M5 13l4 4L19 7",
  retry: "M19 12a7 7 0 1 1-2.1-5M19 4v4h-4",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M13 5v4M7 15v4",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M5 19l1.5-1.5M17.5 6.5L19 5",
  machine: "M4 4h4v4H4zM10 4h4v4h-4zM16 4h4v4h-4zM4 10h4v4H4zM10 10h4v4h-4zM16 10h4v4h-4zM4 16h4v4H4zM10 16h4v4h-4zM16 16h4v4h-4z",
  wide: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  close: "M6 6l12 12M18 6L6 18",
  chevron: "M9 6l6 6-6 6",
  tool: "M14 7a4 4 0 0 1 5-4l-2.5 2.5 2 2L21 5a4 4 0 0 1-5.5 5L8 17.5a2 2 0 0 1-3-3L12.5 7z",
};

/** A drawing that says nothing by itself: what bears it has a name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button with a drawing, named by `label`. */
export function iconButton(name, label, act, attributes = {}) {
  return el("button", { type: "button", class: "quiet", "aria-label": label, title: label, on: { click: act }, ...attributes }, icon(name));
}

/** Gives the buttons of the markup their drawings. */
export function drawIcons() {
  for (const button of document.querySelectorAll("[data-icon]")) button.prepend(icon(button.dataset.icon));
}

/** A custom property's colour in the present theme, as `rgb(…)`. */
export function colourOf(name) {
  const probe = el("i", { hidden: true });
  probe.style.color = `var(${name})`;
  // Pictures need their colours where all others are the system's.
  probe.style.forcedColorAdjust = "none";
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** Tells those who listen to the page, and do not see it. */
export function say(text) {
  byId("said").textContent = text;
}

/** Says something to all, until it is put away; with `undo`, offers to take it back. */
export function notice(text, undo = null) {
  const act = (next) => () => {
    quiet();
    byId("ask").focus({ preventScroll: true });
    next?.();
  };
  byId("notice").replaceChildren(
    el("span", {}, text),
    ...(undo ? [el("button", { type: "button", class: "plain", on: { click: act(undo) } }, "Undo")] : []),
    iconButton("close", "Dismiss", act()));
  byId("notice").hidden = false;
  say(text);
}

/** Puts away what was said. */
export function quiet() {
  byId("notice").hidden = true;
}

export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure origin there is no clipboard but the old one.
    const field = el("textarea", { class: "unseen", "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.replaceChildren(icon("done"));
  say("Copied");
  setTimeout(() => button.replaceChildren(icon("copy")), 1200);
}
