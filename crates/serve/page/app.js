// Joins the parts of the page: conversations at the left, the chat, the machine at the right.

import * as api from "./api.js";
import * as chat from "./chat.js";
import { byId, drawIcons, el, iconButton, say } from "./dom.js";
import { conversations, shown } from "./kept.js";
import * as machine from "./machine.js";
import { askKey, limits, openSettings } from "./settings.js";
import * as turns from "./turns.js";

/** From this width on the machine is open unless it was closed. */
const MACHINE_PX = 1180;

let all = [];
let current = chat.begin();

const ideas = {
  demo: ["Tell me a story about a fox.", "What is 348 plus 277?", "What is the capital of Norway?"],
  others: ["Why is the sky blue?", "Write a sorting function in Rust, and explain it.", "Plan three days in Lisbon, as a table."],
};

function open(conversation) {
  current = conversation;
  shown.set(conversation.id);
  turns.open(conversation);
  refresh();
  byId("ask").focus({ preventScroll: true });
  closeRail();
}

/** What depends on the conversation as a whole. */
function refresh() {
  const running = chat.isRunning(current);
  byId("title").textContent = current.title || "New conversation";
  byId("welcome").hidden = current.messages.length > 0;
  byId("send").hidden = running;
  byId("stop").hidden = !running;
  list();
}

function list() {
  const rows = all.map((conversation) => {
    const here = conversation === current;
    const show = el("button", { type: "button", class: "row", "aria-current": here ? "page" : null, on: { click: () => open(conversation) } }, conversation.title || "Untitled");
    const remove = iconButton("trash", `Delete ${conversation.title || "conversation"}`, () => forget(conversation));
    return el("li", { class: chat.isRunning(conversation) ? "busy" : null }, show, remove);
  });
  byId("conversations").replaceChildren(...rows);
}

async function forget(conversation) {
  chat.stop(conversation);
  all = all.filter((other) => other !== conversation);
  await conversations.remove(conversation.id);
  if (conversation === current) open(chat.begin());
  else list();
  say("Conversation deleted");
}

chat.listeners.changed = (conversation) => {
  if (!all.includes(conversation)) all.unshift(conversation);
  if (conversation === current) {
    turns.changed(conversation);
    if (byId("stop").hidden) refresh();
  }
};

chat.listeners.ended = (conversation) => {
  all.sort((a, b) => b.updated - a.updated);
  if (!all.includes(conversation)) {
    // It was deleted while it was answered.
    conversations.remove(conversation.id);
    return;
  }
  if (conversation === current) {
    turns.changed(conversation);
    say("Answer complete");
  }
  refresh();
};

chat.listeners.locked = askKey;

const ask = byId("ask");

function grow() {
  ask.style.height = "auto";
  ask.style.height = `${Math.min(ask.scrollHeight, 0.4 * innerHeight)}px`;
}

function send(text = ask.value) {
  if (!text.trim() || chat.isRunning(current) || turns.awaitsResult()) return;
  ask.value = "";
  grow();
  turns.follow();
  chat.send(current, text);
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
ask.addEventListener("input", grow);
ask.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
  if (event.key === "ArrowUp" && !ask.value && current.messages.length) {
    event.preventDefault();
    turns.editLast();
  }
});
byId("stop").addEventListener("click", () => chat.stop(current));
byId("new").addEventListener("click", () => open(chat.begin()));
byId("open-settings").addEventListener("click", openSettings);

function closeRail() {
  document.body.classList.remove("rail");
  byId("veil").hidden = true;
  byId("menu").setAttribute("aria-expanded", "false");
}

byId("menu").addEventListener("click", () => {
  const open = document.body.classList.toggle("rail");
  byId("veil").hidden = !open;
  byId("menu").setAttribute("aria-expanded", String(open));
  if (open) byId("new").focus();
});
byId("veil").addEventListener("click", closeRail);

const root = document.documentElement;
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkSystem.matches);

function recolour() {
  byId("theme-name").textContent = isDark() ? "Light colours" : "Dark colours";
  machine.recolour();
}

byId("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  recolour();
  say(`${root.dataset.theme} colours`);
});
darkSystem.addEventListener("change", recolour);

/** Shows the machine: at the side, or on the whole page. */
function showMachine(on, whole = false) {
  document.body.dataset.view = on && whole ? "machine" : "chat";
  document.body.classList.toggle("machine", on);
  byId("show-machine").setAttribute("aria-pressed", String(on));
  byId("wide").setAttribute("aria-pressed", String(on && whole));
  localStorage.setItem("machine", on ? "open" : "closed");
  machine.watch(on);
}

const machineOpen = () => document.body.classList.contains("machine");
const machineWhole = () => document.body.dataset.view === "machine";
byId("show-machine").addEventListener("click", () => showMachine(!machineOpen()));
byId("close-machine").addEventListener("click", () => {
  showMachine(false);
  byId("show-machine").focus();
});
byId("wide").addEventListener("click", () => showMachine(true, !machineWhole()));

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("textarea, input");
  if (event.key === "Escape") {
    if (document.body.classList.contains("rail")) closeRail();
    else if (machineWhole()) showMachine(true);
    else chat.stop(current);
  } else if (event.key === "/" && !typing) {
    event.preventDefault();
    ask.focus();
  } else if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    open(chat.begin());
  } else if (event.altKey && event.code === "KeyR") {
    event.preventDefault();
    turns.retryLast();
  } else if (event.altKey && event.code === "KeyM") {
    event.preventDefault();
    if (event.shiftKey) showMachine(true, !machineWhole());
    else showMachine(!machineOpen());
  }
});

/** The model that is served; asks for the key where one is wanted. */
async function meet() {
  for (;;) {
    try {
      const model = await api.model();
      limits.tokens = model.context_length;
      byId("welcome-model").textContent = model.id;
      byId("welcome-note").textContent = `A context of ${model.context_length.toLocaleString("en")} tokens.`;
      document.title = `${model.id} · outpour`;
      const fitting = model.id === "demo" ? ideas.demo : ideas.others;
      byId("ideas").replaceChildren(...fitting.map((text) => el("button", { type: "button", class: "idea", on: { click: () => send(text) } }, text)));
      return;
    } catch (error) {
      if (error.status === 401 && (await askKey())) continue;
      byId("welcome-note").textContent = error.message;
      return;
    }
  }
}

/** Brings back what the browser has kept, and the conversation that this tab had open. */
async function recall() {
  const before = shown.get();
  all = [...all, ...(await conversations.all())];
  // An answer that a closed page left behind.
  for (const message of all.flatMap(({ messages }) => messages)) {
    if (message.role === "assistant" && !message.stats && !message.error) message.stopped ??= true;
  }
  const again = all.find(({ id }) => id === before);
  if (again && !current.messages.length) open(again);
  else list();
}

async function start() {
  drawIcons();
  recolour();
  const recalled = recall();
  open(current);
  await meet();
  const wanted = localStorage.getItem("machine");
  if (innerWidth >= MACHINE_PX ? wanted !== "closed" : false) showMachine(true);
  await recalled;
}

start();
