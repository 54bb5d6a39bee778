// Calls to the server that this page came from.

import { key } from "./kept.js";

/** What the server said instead of an answer. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const headers = { ...(key.get() ? { authorization: `Bearer ${key.get()}` } : {}), ...options.headers };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer: is it still running?", 0);
  }
  if (response.ok) return response;
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // Not one of the server's own errors: shown as it is.
  }
  throw new Refused(message || `The server answered ${response.status}.`, response.status);
}

/** The model that is served. */
export async function model() {
  return (await (await call("/v1/models")).json()).data[0];
}

/** The events of a stream, as `{event, data, comment}`. */
async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new Refused("The connection to the server broke off: is it still running?", 0);
      });
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      let end;
      let begin = 0;
      while ((end = rest.indexOf("\n\n", begin)) >= 0) {
        const found = { event: "", data: "", comment: "" };
        for (const line of rest.slice(begin, end).split("\n")) {
          if (line.startsWith("data: ")) found.data += line.slice(6);
          else if (line.startsWith("event: ")) found.event = line.slice(7);
          else if (line.startsWith(": ")) found.comment = line.slice(2);
        }
        yield found;
        begin = end + 2;
      }
      rest = rest.slice(begin);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What the engine does, told every `ms` for as long as `signal` lets it. */
export async function* live(ms, signal) {
  for await (const { event, data } of events(await call(`/live?every_ms=${ms}`, { signal }))) yield { event, data: JSON.parse(data) };
}

/** Chunks of an answer; `waiting` of those that tell a place in the queue. */
export async function* chat(body, signal) {
  const headers = { "content-type": "application/json" };
  const asked = { ...body, stream: true, stream_options: { include_usage: true }, return_progress: true };
  const response = await call("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(asked), signal });
  for await (const { data, comment } of events(response)) {
    const place = /^waiting, place (\d+)/.exec(comment);
    if (place) yield { waiting: Number(place[1]) };
    if (data === "[DONE]") return;
    if (!data) continue;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(chunk.error.message, chunk.error.code);
    yield chunk;
  }
  throw new Refused("The answer broke off.", 0);
}
