// The messages of one conversation, on the page.

import * as chat from "./chat.js";
import { byId, copy, el, icon, iconButton, notice, say } from "./dom.js";
import { EVERY_MS, untilDue } from "./graphics.js";
import { Markdown } from "./markdown.js";

/** Nearer to the end than this, the view follows what is written. */
const FOLLOW_PX = 80;

const scroller = byId("turns");
const list = byId("list");
let conversation = null;
/** By message: how it is shown. */
let shown = [];
let drawing = false;
let following = true;

scroller.addEventListener("scroll", () => {
  following = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < FOLLOW_PX;
});

/** Shows a conversation from its beginning. */
export function open(next) {
  conversation = next;
  shown = [];
  list.replaceChildren();
  following = true;
  draw();
}

/** The view follows what is written next. */
export function follow() {
  following = true;
}

/** There is more of the conversation; shown soon. */
export function changed(of) {
  if (of !== conversation || drawing) return;
  drawing = true;
  setTimeout(requestAnimationFrame, untilDue(EVERY_MS.text), draw);
}

/** Whether a call waits for its result, which comes before any other message: leads to the field for it, and says so. */
export function awaitsResult() {
  const form = list.querySelector(".give");
  if (!form) return false;
  form.querySelector(".why").textContent = "Your message waits: the model asked for this first. Send what the tool gives, or nothing.";
  form.querySelector("textarea").focus();
  form.scrollIntoView({ block: "nearest" });
  return true;
}

function draw() {
  drawing = false;
  const { messages } = conversation;
  const running = chat.isRunning(conversation);
  // Results of calls are shown with the calls.
  while (shown.length > messages.length) shown.pop()?.element?.remove();
  messages.forEach((message, at) => {
    if (shown[at] && shown[at].message !== message) {
      shown.splice(at).forEach((view) => view.element?.remove());
    }
    shown[at] ??= view(message, at);
    shown[at].update?.(running && at === messages.length - 1);
  });
  if (scroller.ariaBusy !== String(running)) scroller.ariaBusy = String(running);
  if (following) scroller.scrollTop = scroller.scrollHeight;
}

function view(message, at) {
  const made = message.role === "user" ? question(message, at) : message.role === "assistant" ? answer(message, at) : {};
  if (made.element) list.append(made.element);
  return { message, ...made };
}

function question(message, at) {
  const text = el("div", { class: "words" }, message.content);
  const edit = iconButton("edit", "Edit message", () => editor(element, message, at));
  const copied = iconButton("copy", "Copy message", () => copy(message.content, copied));
  const element = el("article", { class: "turn user", "aria-label": "You" }, text, el("div", { class: "acts" }, edit, copied));
  return { element };
}

function editor(element, message, at) {
  if (chat.isRunning(conversation)) return;
  const field = el("textarea", { class: "words", "aria-label": "Edit message", rows: Math.min(12, message.content.split("\n").length + 1) });
  field.value = message.content;
  const before = [...element.childNodes];
  const cancel = () => {
    element.replaceChildren(...before);
    element.classList.remove("editing");
    element.querySelector("button")?.focus();
  };
  const save = () => {
    if (!field.value.trim()) return;
    const { value } = field;
    cancel();
    following = true;
    anew(at, () => chat.edit(conversation, at, value));
    byId("ask").focus();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      save();
    }
  });
  element.classList.add("editing");
  element.replaceChildren(
    field,
    el("div", { class: "choices" },
      el("button", { type: "button", class: "plain", on: { click: cancel } }, "Cancel"),
      el("button", { type: "button", class: "main", on: { click: save } }, "Send")),
  );
  field.focus();
}

/** Says at `at` something else; where more was asked after it, this can be undone. */
function anew(at, act) {
  const of = conversation;
  const before = { title: of.title, messages: [...of.messages] };
  act();
  if (before.messages.slice(at + 1).some(({ role }) => role === "user")) notice("What came after it was removed.", () => chat.restore(of, before));
}

/** Edits the last question. */
export function editLast() {
  const at = conversation.messages.findLastIndex((message) => message.role === "user");
  if (at >= 0) editor(shown[at].element, conversation.messages[at], at);
}

/** Answers the last question anew. */
export function retryLast() {
  const at = conversation.messages.findLastIndex((message) => message.role === "user");
  if (at >= 0 && !chat.isRunning(conversation)) chat.retry(conversation, at + 1);
}

function answer(message, at) {
  const summary = el("summary", {}, icon("chevron"), el("span", {}, "Thinking"));
  const thought = el("div", { class: "prose" });
  const thoughts = el("details", { class: "thoughts", hidden: true }, summary, thought);
  const content = el("div", { class: "prose" });
  const calls = el("div", { class: "calls" });
  const state = el("p", { class: "state", hidden: true });
  const stats = el("span", { class: "stats" });
  const copied = iconButton("copy", "Copy answer", () => copy(message.content, copied));
  const again = iconButton("retry", "Retry", () => !chat.isRunning(conversation) && anew(at, () => chat.retry(conversation, at)));
  const acts = el("div", { class: "acts", hidden: true }, stats, copied, again);
  const element = el("article", { class: "turn model", "aria-label": "Answer" }, thoughts, content, calls, state, acts);
  const [thoughtText, contentText] = [new Markdown(thought), new Markdown(content)];
  const cards = [];
  const update = (running) => {
    if (thoughts.hidden !== !message.thought) thoughts.hidden = !message.thought;
    if (message.thought) {
      thoughtText.show(message.thought);
      const done = message.thoughtMs !== undefined || !running;
      summary.lastChild.textContent = done ? (message.thoughtMs ? `Thought for ${seconds(message.thoughtMs / 1000)}` : "Thoughts") : "Thinking";
      thoughts.classList.toggle("busy", !done);
    }
    contentText.show(message.content);
    while (cards.length > message.calls.length) cards.pop().element.remove();
    message.calls.forEach((call, i) => {
      if (!cards[i]) {
        cards[i] = callCard(call);
        calls.append(cards[i].element);
      }
      cards[i].update(running);
    });
    const told = progress(message, running);
    if (state.hidden !== !told) state.hidden = !told;
    if (message.error) state.className = "state wrong";
    if (state.textContent !== told) state.textContent = told;
    element.classList.toggle("writing", running && !told);
    // What does not change is not set anew: styles would be computed for it.
    if (acts.hidden && running) return;
    acts.hidden = running;
    copied.hidden = !message.content;
    stats.textContent = summaryOf(message);
  };
  return { element, update };
}

/** What is said in the place of an answer that is not there, or not whole. */
function progress(message, running) {
  if (message.error) return message.error;
  if (message.stopped) return "Stopped.";
  if (message.cut) return "Cut off: the limit of tokens was reached.";
  if (!running) return "";
  if (message.waiting) return `Waiting: place ${message.waiting} in the queue.`;
  if (message.prompt && message.prompt.processed < message.prompt.total) {
    return `Reading the prompt: ${message.prompt.processed} of ${message.prompt.total} tokens.`;
  }
  return "";
}

const seconds = (s) => (s < 10 ? `${s.toFixed(1)} s` : s < 100 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`);

function summaryOf({ stats }) {
  if (!stats) return "";
  const speed = stats.predicted_per_second;
  const shown = speed < 10 ? speed.toFixed(2) : speed < 100 ? speed.toFixed(1) : Math.round(speed);
  const cached = stats.cache_n ? `, ${stats.cache_n} of them known` : "";
  return `${stats.predicted_n} tokens at ${shown} a second · prompt of ${stats.prompt_tokens}${cached}`;
}

/** A call of a tool: its arguments, and a field for what the tool gives. */
function callCard(call) {
  const given = el("pre", { tabindex: "0" });
  const result = el("div", { class: "result" });
  const element = el("section", { class: "call", "aria-label": `Call of ${call.name}` },
    el("h3", {}, icon("tool"), call.name), given, result);
  let now = "";
  const update = (running) => {
    const text = pretty(call.arguments);
    if (given.textContent !== text) given.textContent = text;
    const found = conversation.messages.find((message) => message.role === "tool" && message.id === call.id);
    const open = !running && !found && chat.openCalls(conversation).some(({ id }) => id === call.id);
    const next = found ? "found" : open ? "open" : "";
    if (next === now) return;
    now = next;
    if (found) result.replaceChildren(el("h4", {}, "Result"), el("pre", { tabindex: "0" }, pretty(found.content)));
    else if (open) result.replaceChildren(resultForm(call));
    else result.replaceChildren();
  };
  return { element, update };
}

function resultForm(call) {
  const field = el("textarea", { rows: 2, "data-call": call.id, "aria-label": `Result of ${call.name}`, placeholder: "What the tool gives back" });
  const give = () => {
    chat.giveResult(conversation, call, field.value);
    changed(conversation);
    const open = new Set(chat.openCalls(conversation).map(({ id }) => id));
    const next = [...list.querySelectorAll(".give textarea")].find(({ dataset }) => open.has(dataset.call));
    (next ?? byId("ask")).focus();
    say("Result sent");
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      give();
    }
  });
  const send = el("button", { type: "button", class: "main", on: { click: give } }, "Send result");
  return el("div", { class: "give" }, el("p", { class: "why", role: "status" }), field, send);
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
