// Conversations and the answers under way. What is said is data here; `turns.js` shows it.
//
// A conversation: {id, version, title, updated, messages}; the version counts how often it was stored. A message: {role: "user" | "assistant" | "tool", content} and of answers
// also thought, thoughtMs, calls: [{id, name, arguments}], and how they ended: stats, stopped, cut, error. The answer to a call
// is {role: "tool", id, content}.

import * as api from "./api.js";
import { conversations, settings } from "./kept.js";

/** An answer under way is kept this often, so that a reload loses little of it. */
const KEEP_MS = 1500;

/** Answers under way, by conversation. */
const running = new Map();

export const isRunning = (conversation) => running.has(conversation.id);

/**
 * What a run tells: `changed(conversation)` whenever there is more of it, `ended(conversation)`; and of what is kept: `gone` where
 * another tab deleted it, `parted` where another one went on with it and this one now has a copy, `unkept(error)`.
 */
export const listeners = { changed() {}, ended() {}, locked: async () => false, gone() {}, parted() {}, unkept() {} };

export function begin() {
  return { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, version: 0, title: "", updated: Date.now(), messages: [] };
}

export async function keep(conversation) {
  const { id } = conversation;
  conversation.updated = Date.now();
  try {
    const { kept, stored } = await conversations.save(conversation);
    if (kept) return;
    if (conversation.id === id) {
      if (!stored) return listeners.gone(conversation);
      part(conversation);
      listeners.parted(conversation, stored);
    }
    await keep(conversation);
  } catch (error) {
    listeners.unkept(error);
  }
}

/** Makes it a conversation of its own. */
function part(conversation) {
  const control = running.get(conversation.id);
  running.delete(conversation.id);
  Object.assign(conversation, { ...begin(), title: `${conversation.title} (2)`, messages: conversation.messages });
  if (control) running.set(conversation.id, control);
}

/** Takes on what another tab has stored. Messages that stay are the same objects, so that what shows them stays, too. */
export function follow(conversation, stored) {
  const before = conversation.messages;
  const fixed = ({ role, content, calls }) => JSON.stringify(role === "assistant" ? calls : [role, content]);
  const messages = stored.messages.map((message, at) => {
    // What is not whole yet is no call.
    if (message.calls) message.calls = message.calls.filter(isWhole);
    const old = before[at];
    if (!old || fixed(old) !== fixed(message)) return message;
    const { calls } = old;
    for (const name of Object.keys(old)) delete old[name];
    return Object.assign(old, message, calls && { calls });
  });
  Object.assign(conversation, stored, { messages });
}

/** Puts back what was said before an edit or a retry. */
export function restore(conversation, { title, messages }) {
  stop(conversation);
  Object.assign(conversation, { title, messages });
  listeners.changed(conversation);
  return keep(conversation);
}

/** A message as the server takes it. */
function spoken(message) {
  if (message.role === "tool") return { role: "tool", tool_call_id: message.id, content: message.content };
  if (message.role === "user") return { role: "user", content: message.content };
  const calls = message.calls ?? [];
  return {
    role: "assistant",
    content: message.content,
    ...(message.thought ? { reasoning_content: message.thought } : {}),
    ...(calls.length ? { tool_calls: calls.map(({ id, name, arguments: given }) => ({ id, type: "function", function: { name, arguments: given } })) } : {}),
  };
}

/** What is asked of the server: the conversation so far, as the settings have it. */
function request(conversation, { system, temperature, tokens, thinking, tools }) {
  const said = [];
  for (const message of conversation.messages) {
    const { role, content, thought, calls } = message;
    // An answer that was broken off before its first word is none; what is asked after it goes on with the question.
    if (role === "assistant" && !content && !thought && !calls.length) continue;
    if (role === "user" && said.at(-1)?.role === "user") said.at(-1).content += `\n\n${content}`;
    else said.push(spoken(message));
  }
  return {
    messages: system.trim() ? [{ role: "system", content: system }, ...said] : said,
    chat_template_kwargs: { enable_thinking: thinking },
    ...(temperature === null ? {} : { temperature }),
    ...(tokens === null ? {} : { max_tokens: tokens }),
    ...(tools.trim() ? { tools: JSON.parse(tools) } : {}),
  };
}

function isWhole(call) {
  try {
    JSON.parse(call.arguments);
    return true;
  } catch {
    return false;
  }
}

/** Calls of the last answer that have no result yet. */
export function openCalls(conversation) {
  const at = conversation.messages.findLastIndex((message) => message.role === "assistant");
  if (at < 0) return [];
  const results = new Set(conversation.messages.slice(at + 1).map((message) => message.id));
  return (conversation.messages[at].calls ?? []).filter((call) => !results.has(call.id));
}

export function send(conversation, text) {
  conversation.title ||= text.trim().split("\n")[0].slice(0, 60);
  conversation.messages.push({ role: "user", content: text });
  return answer(conversation);
}

/** Gives a call its result; with the last one the answer goes on. Results stand in the order of their calls. */
export function giveResult(conversation, call, content) {
  const { messages } = conversation;
  const at = messages.findLastIndex((message) => message.role === "assistant");
  const results = [...messages.splice(at + 1), { role: "tool", id: call.id, content }];
  const place = ({ id }) => messages[at].calls.findIndex((call) => call.id === id);
  messages.push(...results.sort((a, b) => place(a) - place(b)));
  return openCalls(conversation).length ? keep(conversation) : answer(conversation);
}

/** Answers anew what the message at `at` answers. */
export function retry(conversation, at) {
  conversation.messages.length = at;
  return answer(conversation);
}

/** Says something else at `at`; what came after is gone. */
export function edit(conversation, at, text) {
  conversation.messages.length = at;
  if (at === 0) conversation.title = "";
  return send(conversation, text);
}

export function stop(conversation) {
  running.get(conversation.id)?.abort();
}

async function answer(conversation) {
  if (isRunning(conversation)) return;
  const control = new AbortController();
  running.set(conversation.id, control);
  const asked = settings.get();
  const message = { role: "assistant", content: "", thought: "", calls: [] };
  let body;
  try {
    body = request(conversation, asked);
  } catch {
    message.error = "The tools in the settings are no JSON.";
  }
  conversation.messages.push(message);
  const keeping = setInterval(() => keep(conversation), KEEP_MS);
  keep(conversation);
  listeners.changed(conversation);
  try {
    if (body) await hear(conversation, message, body, control.signal);
  } catch (error) {
    if (control.signal.aborted) message.stopped = true;
    else message.error = error.message;
    if (error.status === 401 && (await listeners.locked())) message.error = "The key is there now: retry.";
  }
  clearInterval(keeping);
  delete message.waiting;
  delete message.prompt;
  // What was broken off within a call is none.
  message.calls = message.calls.filter(isWhole);
  running.delete(conversation.id);
  await keep(conversation);
  listeners.ended(conversation);
}

async function hear(conversation, message, body, signal) {
  const began = performance.now();
  for await (const chunk of api.chat(body, signal)) {
    if (chunk.waiting) message.waiting = chunk.waiting;
    if (chunk.prompt_progress) {
      delete message.waiting;
      message.prompt = chunk.prompt_progress;
    }
    if (chunk.timings) message.stats = { ...chunk.timings, prompt_tokens: chunk.usage.prompt_tokens };
    const [choice] = chunk.choices ?? [];
    if (choice) {
      const { content, reasoning_content: thought, tool_calls: calls } = choice.delta;
      if (content || thought || calls) {
        delete message.prompt;
        delete message.waiting;
      }
      if (thought) message.thought += thought;
      if (content || calls) message.thoughtMs ??= message.thought ? performance.now() - began : 0;
      if (content) message.content += content;
      for (const call of calls ?? []) {
        const at = (message.calls[call.index] ??= { id: call.id, name: "", arguments: "" });
        at.name += call.function.name ?? "";
        at.arguments += call.function.arguments ?? "";
      }
      if (choice.finish_reason === "length") message.cut = true;
    }
    listeners.changed(conversation);
  }
}
