// Joins the parts of the page: conversations at the left, the chat, the machine at the right.

import * as api from "./api.js";
import * as chat from "./chat.js";
import { byId, drawIcons, el, iconButton, notice, quiet, say } from "./dom.js";
import { conversations, lasting, shown } from "./kept.js";
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
    return el("li", { "data-id": conversation.id, class: chat.isRunning(conversation) ? "busy" : null }, show, remove);
  });
  const focused = document.activeElement?.closest("#conversations li");
  const which = focused && [...focused.children].indexOf(document.activeElement);
  byId("conversations").replaceChildren(...rows);
  if (focused) rows.find((row) => row.dataset.id === focused.dataset.id)?.children[which].focus();
}

const byTime = (a, b) => b.updated - a.updated;

async function forget(conversation) {
  chat.stop(conversation);
  const at = all.indexOf(conversation);
  all = all.filter((other) => other !== conversation);
  await conversations.remove(conversation.id);
  if (conversation === current) {
    open(chat.begin());
  } else {
    list();
    const rows = byId("conversations").querySelectorAll("button.row");
    (rows[Math.min(at, rows.length - 1)] ?? byId("new")).focus();
  }
  notice("Conversation deleted.", async () => {
    conversation.version = 0;
    all = [...all, conversation].sort(byTime);
    open(conversation);
    await conversations.save(conversation);
  });
}

/** Another tab has deleted it. */
function drop(conversation) {
  if (!all.includes(conversation)) return;
  chat.stop(conversation);
  all = all.filter((other) => other !== conversation);
  if (conversation === current) {
    open(chat.begin());
    notice("The conversation was deleted in another tab.");
  } else {
    list();
  }
}

/** Another tab has stored or deleted a conversation. One that is answered here stays as it is, until it is kept. */
async function follow(id) {
  const stored = await conversations.get(id);
  const here = all.find((conversation) => conversation.id === id);
  if (here && chat.isRunning(here)) return;
  if (!stored) {
    if (here) drop(here);
    return;
  }
  if (!here) all.push(stored);
  else if (stored.version > here.version) chat.follow(here, stored);
  all.sort(byTime);
  if (here === current) turns.changed(current);
  refresh();
}

chat.listeners.gone = drop;

chat.listeners.parted = (conversation, stored) => {
  all.push(stored);
  if (conversation === current) shown.set(conversation.id);
  refresh();
  notice(`This conversation went on in another tab. What was said here is kept as “${conversation.title}”.`);
};

let unkept = false;
chat.listeners.unkept = (error) => {
  if (!unkept) notice(`The browser does not keep conversations: ${error.message}`);
  unkept = true;
};

chat.listeners.changed = (conversation) => {
  if (!all.includes(conversation)) all.unshift(conversation);
  if (conversation === current) {
    turns.changed(conversation);
    if (byId("stop").hidden) refresh();
  }
};

chat.listeners.ended = (conversation) => {
  all.sort(byTime);
  // It was deleted while it was answered.
  if (!all.includes(conversation)) return;
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
  quiet();
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
  lasting.set("theme", root.dataset.theme);
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
  lasting.set("machine", on ? "open" : "closed");
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
  const found = await conversations.all().catch((error) => {
    chat.listeners.unkept(error);
    return [];
  });
  all = [...all, ...found.filter(({ id }) => all.every((other) => other.id !== id))];
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
  conversations.follow(follow);
  const recalled = recall();
  open(current);
  await meet();
  const wanted = lasting.get("machine");
  if (innerWidth >= MACHINE_PX ? wanted !== "closed" : false) showMachine(true);
  await recalled;
}

start();
