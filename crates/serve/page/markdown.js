// Markdown as it streams in, as DOM nodes: no text of a model ever becomes HTML. CommonMark's and GitHub's usual forms; a
// line break in a paragraph is one, as models mean it. Pictures are shown as links, as nothing is loaded from elsewhere.

import { coloured } from "./code.js";
import { copy, el, iconButton } from "./dom.js";

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const TABLE_LINE = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
/** Lists and quotes in one another, at most. */
const DEPTH_MAX = 12;
/** Brackets in one another before a link is none. */
const BRACKETS_MAX = 32;
/** Runs of `*`, `_` and `~` in a block that are looked at: more is no emphasis. */
const RUNS_MAX = 1000;

/** Columns from one stop of tabs to the next. */
const TAB = 4;
/** A fence, in quotes and items. */
const FENCE_INSIDE = /^((?:\s|>|[-*+] |\d{1,9}[.)] )*)(`{3,}|~{3,})[^`]*$/;

/** The lines of a text, with tabs as spaces; but within code only those before it. */
function linesOf(text) {
  let fence = null;
  return text.replaceAll("\r\n", "\n").split("\n").map((line) => {
    const spaced = line.split("\t").reduce((before, part) => before + " ".repeat(TAB - (before.length % TAB)) + part);
    if (!fence) {
      const found = FENCE_INSIDE.exec(spaced);
      if (found) fence = { indent: found[1].length, mark: found[2] };
      return spaced;
    }
    const bare = line.replace(/^[\s>]*/, "").trimEnd();
    if (bare.startsWith(fence.mark) && bare === fence.mark[0].repeat(bare.length)) {
      fence = null;
      return spaced;
    }
    let [at, columns] = [0, 0];
    for (; columns < fence.indent && (line[at] === " " || line[at] === "\t"); at++) columns += line[at] === "\t" ? TAB - (columns % TAB) : 1;
    return " ".repeat(columns) + line.slice(at);
  });
}

/** The lines of a text as blocks: `{kind, lines, …}`; `spaced` where a blank line is before them. */
function blocks(lines, depth = 0) {
  if (depth >= DEPTH_MAX) return [{ kind: "paragraph", lines }];
  const out = [];
  let i = 0;
  let blank = false;
  const push = (block) => out.push({ ...block, spaced: blank });
  for (; i < lines.length; blank = false) {
    while (i < lines.length && !lines[i].trim()) {
      blank = true;
      i++;
    }
    if (i === lines.length) break;
    const line = lines[i];
    let found;
    if ((found = FENCE.exec(line))) {
      const [, indent, fence, info] = found;
      const end = new RegExp(`^ {0,3}${fence[0] === "`" ? "`" : "~"}{${fence.length},}\\s*$`);
      const inside = [];
      for (i++; i < lines.length && !end.test(lines[i]); i++) {
        inside.push(lines[i].startsWith(indent) ? lines[i].slice(indent.length) : lines[i].trimStart());
      }
      const closed = i < lines.length;
      i++;
      push({ kind: "code", lines: inside, language: info.trim().split(/\s+/)[0], closed });
    } else if ((found = HEADING.exec(line))) {
      push({ kind: "heading", level: found[1].length, lines: [found[2] ?? ""] });
      i++;
    } else if (RULE.test(line)) {
      push({ kind: "rule", lines: [line] });
      i++;
    } else if (QUOTE.test(line)) {
      const inside = [];
      for (; i < lines.length && lines[i].trim() && (QUOTE.test(lines[i]) || !begins(lines, i)); i++) inside.push(lines[i].replace(QUOTE, ""));
      push({ kind: "quote", lines: inside, inside: blocks(inside, depth + 1) });
    } else if (ITEM.test(line)) {
      const [block, next] = list(lines, i, depth);
      push(block);
      i = next;
    } else if (isTable(lines, i)) {
      const inside = [];
      for (; i < lines.length && lines[i].includes("|"); i++) inside.push(lines[i]);
      push({ kind: "table", lines: inside });
    } else {
      const inside = [line];
      for (i++; i < lines.length && lines[i].trim() && !begins(lines, i); i++) inside.push(lines[i]);
      push({ kind: "paragraph", lines: inside });
    }
  }
  return out;
}

const isTable = (lines, i) => lines[i].includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") && TABLE_LINE.test(lines[i + 1]) && cells(lines[i]).length === cells(lines[i + 1]).length;

const begins = (lines, i) => FENCE.test(lines[i]) || HEADING.test(lines[i]) || RULE.test(lines[i]) || QUOTE.test(lines[i]) || ITEM.test(lines[i]) || isTable(lines, i);

/** The list that begins at a line, and the line after it. It is loose where a blank line is between or right within items. */
function list(lines, i, depth) {
  const [, indent, mark] = ITEM.exec(lines[i]);
  const kindOf = (mark) => (/\d/.test(mark) ? "ordered" : "list");
  const block = { kind: kindOf(mark), first: parseInt(mark, 10) || 1, items: [], loose: false };
  const from = i;
  while (i < lines.length) {
    const found = ITEM.exec(lines[i]);
    if (!found || found[1].length > indent.length + 3 || kindOf(found[2]) !== block.kind || RULE.test(lines[i])) break;
    const width = found[1].length + found[2].length + Math.min(Math.max(found[3].length, 1), 4);
    const task = /^\[([ xX])\]\s+/.exec(found[4]);
    const item = [task ? found[4].slice(task[0].length) : found[4]];
    let blank = false;
    for (i++; i < lines.length; i++) {
      const line = lines[i];
      const deep = line.length - line.trimStart().length;
      if (!line.trim()) {
        blank = true;
        item.push("");
      } else if (deep >= Math.min(width, found[1].length + 2)) {
        item.push(line.slice(Math.min(deep, width)));
        blank = false;
      } else if (blank || begins(lines, i)) {
        break;
      } else {
        item.push(line.trimStart());
      }
    }
    const inside = blocks(item, depth + 1);
    block.loose ||= inside.slice(1).some(({ spaced }) => spaced) || (blank && i < lines.length && ITEM.test(lines[i]));
    block.items.push({ inside, done: task && task[1] !== " " });
  }
  return [{ ...block, lines: lines.slice(from, i) }, i];
}

const cells = (line) => {
  const inside = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1");
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
};

function table(lines) {
  const [head, align, ...rows] = lines;
  const side = cells(align).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : null));
  const row = (line, tag) => el("tr", {}, cells(line).slice(0, side.length).map((cell, i) => el(tag, { class: side[i] }, inline(cell))));
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table" },
    el("table", {}, el("thead", {}, row(head, "th")), el("tbody", {}, rows.map((line) => row(line, "td")))));
}

function codeBlock(block) {
  const text = block.lines.join("\n");
  // What is shown then: a block that grows keeps its button.
  const button = iconButton("copy", "Copy code", () => copy(button.closest("figure").querySelector("code").textContent, button));
  // While it grows it is not coloured: its strings and comments are not closed yet.
  const inside = block.closed ? coloured(text, block.language) : text;
  return el("figure", { class: "code" },
    el("figcaption", {}, el("span", {}, block.language || "code"), button),
    el("pre", { tabindex: "0" }, el("code", {}, inside)));
}

function node(block) {
  switch (block.kind) {
    case "code":
      return codeBlock(block);
    case "heading":
      // The page has the first two levels itself.
      return el(`h${Math.min(block.level + 2, 6)}`, {}, inline(block.lines[0]));
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, block.inside.map(node));
    case "table":
      return table(block.lines);
    case "list":
      return el("ul", {}, items(block));
    case "ordered":
      return el("ol", { start: block.first === 1 ? null : block.first }, items(block));
    default:
      return el("p", {}, inline(block.lines.map((line) => line.replace(/^ +/, "")).join("\n")));
  }
}

function items({ items, loose }) {
  return items.map(({ inside, done }) => {
    const content = inside.map(node);
    const tight = loose ? content : content.flatMap((child) => (child.tagName === "P" ? [...child.childNodes] : [child]));
    const box = done === null ? null : el("input", { type: "checkbox", disabled: true, checked: done, "aria-label": done ? "done" : "to do" });
    return el("li", { class: box && "task" }, box, tight);
  });
}

const ESCAPES = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
const isSpace = (char) => !char || /\s/.test(char);
const isMark = (char) => Boolean(char) && /[\p{P}\p{S}]/u.test(char);

/** A text's emphasis, code and links, as nodes. */
export function inline(text, inLink = false) {
  // Texts, nodes, and runs of `*`, `_` and `~` that may open or close.
  const parts = [];
  let plain = "";
  const flush = () => {
    if (plain) parts.push(plain);
    plain = "";
  };
  let i = 0;
  while (i < text.length) {
    const char = text[i];
    let found;
    if (char === "\\" && text[i + 1] === "\n") {
      flush();
      parts.push(el("br"));
      i += 2;
    } else if (char === "\\" && i + 1 < text.length && ESCAPES.includes(text[i + 1])) {
      plain += text[i + 1];
      i += 2;
    } else if (char === "`" && (found = codeSpan(text, i))) {
      flush();
      parts.push(el("code", {}, found.code));
      i = found.end;
    } else if (char === "\n") {
      plain = plain.replace(/ +$/, "");
      flush();
      parts.push(el("br"));
      i++;
    } else if (!inLink && (char === "[" || (char === "!" && text[i + 1] === "[")) && (found = link(text, i))) {
      flush();
      parts.push(found.node);
      i = found.end;
    } else if (!inLink && (char === "<" || char === "h") && (found = bareLink(text, i))) {
      flush();
      parts.push(found.node);
      i = found.end;
    } else if (char === "&" && (found = /^&(amp|lt|gt|quot|nbsp|#39);/.exec(text.slice(i, i + 7)))) {
      plain += { amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00a0", "#39": "'" }[found[1]];
      i += found[0].length;
    } else if (char === "*" || char === "_" || char === "~") {
      let end = i;
      while (text[end] === char) end++;
      const [before, after] = [text[i - 1], text[end]];
      const left = !isSpace(after) && (!isMark(after) || isSpace(before) || isMark(before));
      const right = !isSpace(before) && (!isMark(before) || isSpace(after) || isMark(after));
      const word = char === "_";
      flush();
      parts.push({ char, count: end - i, opens: left && (!word || !right || isMark(before)), closes: right && (!word || !left || isMark(after)) });
      i = end;
    } else {
      plain += char;
      i++;
    }
  }
  flush();
  return emphasis(parts);
}

/** Joins what stands between runs that open and close. */
function emphasis(parts) {
  const isRun = (part) => typeof part === "object" && !(part instanceof Node);
  const many = parts.filter(isRun).length > RUNS_MAX;
  for (let close = many ? parts.length : 0; close < parts.length; close++) {
    const closer = parts[close];
    if (!isRun(closer) || !closer.closes) continue;
    let open = close - 1;
    const fits = (part) => isRun(part) && part.opens && part.char === closer.char && part.count > 0 && (closer.char !== "~" || part.count === closer.count);
    while (open >= 0 && !fits(parts[open])) open--;
    if (open < 0) continue;
    const opener = parts[open];
    const both = opener.char === "~" ? opener.count : Math.min(opener.count, closer.count, 2);
    if (opener.char === "~" && both > 2) continue;
    const tag = opener.char === "~" ? "s" : both === 2 ? "strong" : "em";
    const inside = parts.slice(open + 1, close).map((part) => (isRun(part) ? part.char.repeat(part.count) : part));
    opener.count -= both;
    closer.count -= both;
    parts.splice(open + 1, close - open - 1, el(tag, {}, inside));
    // The closer stands behind the new node; what is left of it may close more.
    close = open + (closer.count > 0 ? 1 : 2);
  }
  return parts.map((part) => (isRun(part) ? part.char.repeat(part.count) : part)).filter((part) => part !== "");
}

function codeSpan(text, from) {
  let width = 0;
  while (text[from + width] === "`") width++;
  let at = from + width;
  for (;;) {
    const begin = text.indexOf("`", at);
    if (begin < 0) return null;
    let end = begin;
    while (text[end] === "`") end++;
    if (end - begin === width) {
      const code = text.slice(from + width, begin).replaceAll("\n", " ");
      return { code: /^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code, end };
    }
    at = end;
  }
}

/** An address that may be followed; `null` for any other. */
function safe(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

const anchor = (address, children) => el("a", { href: address, title: address, target: "_blank", rel: "noopener noreferrer nofollow" }, children);

function link(text, from) {
  const begin = text[from] === "!" ? from + 2 : from + 1;
  let depth = 1;
  let end = begin;
  for (; end < text.length && depth > 0; end++) {
    if (text[end] === "\\") end++;
    else if (text[end] === "[" && ++depth > BRACKETS_MAX) return null;
    else if (text[end] === "]") depth--;
  }
  if (depth > 0 || text[end] !== "(") return null;
  const target = /^\(\s*<?((?:[^\s()<>]|\([^\s()]*\))*)>?(?:\s+["'(][^"')]*["')])?\s*\)/.exec(text.slice(end));
  const address = target && safe(target[1]);
  if (!address) return null;
  const label = text.slice(begin, end - 1);
  return { node: anchor(address, inline(label || address, true)), end: end + target[0].length };
}

function bareLink(text, from) {
  const rest = text.slice(from, from + 2000);
  const pointed = /^<((?:https?|mailto):[^\s<>]+)>/.exec(rest);
  const word = from === 0 || !/\w/.test(text[from - 1]);
  const bare = pointed ? null : word && /^https?:\/\/[^\s<>`]*[^\s<>`.,:;!?'"*_~)\]]/.exec(rest);
  const address = pointed ? safe(pointed[1]) : bare && safe(bare[0]);
  if (!address) return null;
  const shown = pointed ? pointed[1] : bare[0];
  return { node: anchor(address, shown), end: from + (pointed ? pointed[0].length : shown.length) };
}

/** Makes `parent`'s children from `child` on what `wanted` are. */
function patch(parent, child, wanted) {
  for (const next of wanted) {
    const after = child?.nextSibling;
    if (!child) parent.append(next);
    else if (!become(child, next)) child.replaceWith(next);
    child = after;
  }
  while (child) {
    const after = child.nextSibling;
    child.remove();
    child = after;
  }
}

/** Makes a node what another one is, if it can be: a text grows at its end, so that only its last line is laid out and drawn again. */
function become(node, next) {
  if (node.nodeName !== next.nodeName) return false;
  if (node.nodeType === Node.TEXT_NODE) {
    if (next.data.startsWith(node.data)) node.appendData(next.data.slice(node.data.length));
    else node.data = next.data;
    return true;
  }
  if (!node.cloneNode(false).isEqualNode(next.cloneNode(false))) return false;
  patch(node, node.firstChild, [...next.childNodes]);
  return true;
}

/** Shows a growing text in an element: of the blocks that have changed, what has changed in them. */
export class Markdown {
  constructor(element) {
    this.element = element;
    this.shown = [];
    this.text = "";
  }

  show(text) {
    if (text === this.text) return;
    this.text = text;
    const found = blocks(linesOf(text));
    const keys = found.map((block) => `${block.kind} ${block.level ?? block.language ?? block.first} ${block.closed} ${block.lines.join("\n")}`);
    let same = 0;
    while (same < keys.length && this.shown[same] === keys[same]) same++;
    patch(this.element, this.element.childNodes[same], found.slice(same).map(node));
    this.shown = keys;
  }
}
