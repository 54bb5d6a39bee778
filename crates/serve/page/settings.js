// The dialogs: settings, and the key of a server that wants one.

import * as api from "./api.js";
import { byId } from "./dom.js";
import { key, settings } from "./kept.js";

const dialog = byId("settings");
const fields = { system: byId("system"), temperature: byId("temperature"), tokens: byId("tokens"), thinking: byId("thinking"), tools: byId("tools") };

/** What the server takes at most; the tokens of a context are known when it has said so. */
export const limits = { tokens: Infinity, temperature: 100 };

const number = (text) => (text.trim() === "" ? null : Number(text));

function problem({ temperature, tokens, tools }) {
  if (temperature !== null && !(temperature >= 0 && temperature <= limits.temperature)) return `Temperature: a number from 0 to ${limits.temperature}, or nothing.`;
  if (tokens !== null && !(Number.isInteger(tokens) && tokens > 0)) return "Longest answer: a whole number of tokens from 1 on, or nothing.";
  if (tokens > limits.tokens) return `Longest answer: this server's context has ${limits.tokens.toLocaleString("en")} tokens, prompt and answer together.`;
  if (!tools.trim()) return "";
  try {
    const given = JSON.parse(tools);
    const named = Array.isArray(given) && given.every((tool) => tool?.function?.name);
    return named ? "" : 'Tools: a list of {"type": "function", "function": {"name": …}}.';
  } catch (error) {
    return `Tools: ${error.message}`;
  }
}

export function openSettings() {
  const now = settings.get();
  fields.system.value = now.system;
  fields.temperature.value = now.temperature ?? "";
  fields.tokens.value = now.tokens ?? "";
  fields.thinking.checked = now.thinking;
  fields.tools.value = now.tools;
  byId("settings-wrong").textContent = "";
  dialog.showModal();
}

function save() {
  const next = {
    system: fields.system.value,
    temperature: number(fields.temperature.value),
    tokens: number(fields.tokens.value),
    thinking: fields.thinking.checked,
    tools: fields.tools.value,
  };
  const wrong = problem(next);
  byId("settings-wrong").textContent = wrong;
  if (wrong) return;
  settings.set(next);
  dialog.close();
}

byId("settings-save").addEventListener("click", save);
byId("settings-cancel").addEventListener("click", () => dialog.close());

const lock = byId("lock");
let waiting = null;

const WRONG_KEY = "This key is not the right one.";

/** Asks for the key; `true` where the right one was given. */
export function askKey() {
  waiting ??= new Promise((resolve) => {
    byId("lock-wrong").textContent = key.get() ? WRONG_KEY : "";
    byId("key").value = "";
    lock.showModal();
    lock.addEventListener("close", () => {
      waiting = null;
      resolve(lock.returnValue === "given");
    }, { once: true });
  });
  return waiting;
}

async function unlock() {
  const given = byId("key").value.trim();
  if (!given) return;
  const before = key.get();
  key.set(given);
  try {
    await api.model();
  } catch (error) {
    key.set(before);
    byId("lock-wrong").textContent = error.status === 401 ? WRONG_KEY : error.message;
    return;
  }
  lock.close("given");
}

byId("unlock").addEventListener("click", unlock);
byId("key").addEventListener("keydown", (event) => event.key === "Enter" && unlock());
lock.addEventListener("cancel", () => (lock.returnValue = ""));
