// What the browser keeps: conversations that two tabs have open, and a browser that keeps nothing. Answers are canned.

import { strict as assert } from "node:assert";
import { WAIT_MS, run } from "./browser.mjs";

const CHAT = "**/v1/chat/completions";
const field = (page) => page.getByRole("textbox", { name: "Message" });
const row = (page, name) => page.getByRole("navigation", { name: "Conversations" }).getByRole("button", { name, exact: true });
const focused = (page) => page.evaluate(() => document.activeElement.ariaLabel ?? document.activeElement.textContent);

async function waitFor(what, holds) {
  const began = Date.now();
  while (!(await holds())) {
    if (Date.now() - began > WAIT_MS) throw new Error(`it does not come to it: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function say(page, text) {
  await field(page).fill(text);
  await page.keyboard.press("Enter");
}

/** An answer of these deltas. */
function answer(...deltas) {
  const chunks = deltas.map((delta) => ({ choices: [{ index: 0, delta, finish_reason: null }] }));
  const timings = { predicted_n: 3, predicted_per_second: 10, cache_n: 0 };
  const last = { choices: [], usage: { prompt_tokens: 5 }, timings };
  const lines = [...chunks, last].map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`);
  return { status: 200, contentType: "text/event-stream", body: `${lines.join("")}data: [DONE]\n\n` };
}

/** Answers each question with itself; returns what was asked. */
async function echo(page) {
  const asked = [];
  await page.route(CHAT, (route) => {
    const { messages } = route.request().postDataJSON();
    asked.push(messages);
    return route.fulfill(answer({ content: `Re: ${messages.at(-1).content.split("\n").at(-1)}` }));
  });
  return asked;
}

async function answered(page, text) {
  await page.getByRole("article", { name: "Answer" }).getByText(text, { exact: true }).waitFor();
  await page.locator('#turns[aria-busy="false"]').waitFor();
}

const words = (page) => page.locator("#list .turn").evaluateAll((turns) => turns.map((turn) => turn.querySelector(".words, :scope > .prose").textContent));

async function openAt(page, url) {
  page.setDefaultTimeout(WAIT_MS);
  await page.goto(url);
  await page.getByRole("heading", { name: "model", exact: true }).first().waitFor();
  return page;
}

let other;

await run({
  "tabs follow one another": async (page, url) => {
    await openAt(page, url);
    other = await openAt(await page.context().newPage(), url);
    await echo(page);
    await echo(other);
    await say(page, "one");
    await answered(page, "Re: one");
    await row(other, "one").click();
    await answered(other, "Re: one");
    await say(other, "two");
    await answered(other, "Re: two");
    await answered(page, "Re: two");
    await say(page, "three");
    await answered(page, "Re: three");
    await answered(other, "Re: three");
    assert.deepEqual(await words(other), ["one", "Re: one", "two", "Re: two", "three", "Re: three"]);
  },

  "two tabs that answer at once lose nothing": async (page) => {
    let go;
    const held = new Promise((resolve) => (go = resolve));
    await page.unroute(CHAT);
    await page.route(CHAT, async (route) => {
      await held;
      await route.fulfill(answer({ content: "Re: slow" }));
    });
    await say(page, "slow");
    // The other tab sees the question, and asks something else.
    await other.getByRole("article", { name: "You" }).getByText("slow", { exact: true }).waitFor();
    await say(other, "quick");
    await answered(other, "Re: quick");
    go();
    await page.locator("#notice", { hasText: "What was said here is kept as" }).waitFor();
    await answered(page, "Re: slow");
    assert.deepEqual((await words(page)).slice(-2), ["slow", "Re: slow"]);
    await row(page, "one").click();
    await answered(page, "Re: quick");
    await row(other, "one (2)").click();
    await answered(other, "Re: slow");
    await page.unroute(CHAT);
    await echo(page);
  },

  "what is deleted elsewhere does not come back": async (page) => {
    await row(page, "one (2)").click();
    await page.getByRole("button", { name: "Delete one (2)" }).click();
    await other.locator("#notice", { hasText: "The conversation was deleted in another tab." }).waitFor();
    assert.equal(await row(other, "one (2)").count(), 0);
    // Nor when it is answered meanwhile.
    await row(page, "one").click();
    await row(other, "one").click();
    await other.unroute(CHAT);
    let go;
    const held = new Promise((resolve) => (go = resolve));
    await other.route(CHAT, async (route) => {
      await held;
      await route.fulfill(answer({ content: "late" })).catch(() => {});
    });
    await say(other, "wait");
    await page.getByRole("article", { name: "You" }).getByText("wait", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Delete one", exact: true }).click();
    await waitFor("it is gone there", async () => (await row(other, "one").count()) === 0);
    go();
    await page.reload();
    await page.getByRole("heading", { name: "model", exact: true }).first().waitFor();
    assert.equal(await row(page, "one").count(), 0);
    await other.close();
  },

  "a deletion is taken back, and the focus stays near": async (page) => {
    await echo(page);
    for (const text of ["first", "second"]) {
      await page.keyboard.press("Alt+n");
      await say(page, text);
      await answered(page, `Re: ${text}`);
    }
    await page.getByRole("button", { name: "Delete first" }).click();
    await page.locator("#notice", { hasText: "Conversation deleted." }).waitFor();
    assert.equal(await focused(page), "second");
    await page.getByRole("button", { name: "Undo" }).click();
    await answered(page, "Re: first");
    await page.reload();
    await row(page, "first").waitFor();
  },

  "an edit that removes what came after it is taken back": async (page) => {
    await row(page, "first").click();
    await say(page, "more");
    await answered(page, "Re: more");
    const all = await words(page);
    await page.getByRole("article", { name: "You" }).first().hover();
    await page.getByRole("button", { name: "Edit message" }).first().click();
    await page.getByRole("textbox", { name: "Edit message" }).fill("changed");
    await page.keyboard.press("Enter");
    await answered(page, "Re: changed");
    assert.equal((await words(page)).length, 2);
    await page.locator("#notice", { hasText: "What came after it was removed." }).waitFor();
    await page.getByRole("button", { name: "Undo" }).click();
    await answered(page, "Re: more");
    assert.deepEqual(await words(page), all);
  },

  "results go in the order of the calls": async (page) => {
    await page.unroute(CHAT);
    const asked = [];
    await page.route(CHAT, (route) => {
      asked.push(route.request().postDataJSON().messages);
      const calls = ["a", "b"].map((id, index) => ({ index, id, type: "function", function: { name: `tool_${id}`, arguments: "{}" } }));
      return route.fulfill(asked.length === 1 ? answer({ tool_calls: calls }) : answer({ content: "done" }));
    });
    await page.keyboard.press("Alt+n");
    await say(page, "call both");
    for (const name of ["tool_b", "tool_a"]) {
      await page.getByRole("textbox", { name: `Result of ${name}` }).fill(name);
      await page.getByRole("region", { name: `Call of ${name}` }).getByRole("button", { name: "Send result" }).click();
      assert.equal(await focused(page), name === "tool_b" ? "Result of tool_a" : "Message");
    }
    await answered(page, "done");
    assert.deepEqual(asked[1].slice(-2).map((message) => [message.tool_call_id, message.content]), [["a", "tool_a"], ["b", "tool_b"]]);
  },

  "an answer of thoughts alone is one": async (page) => {
    await page.unroute(CHAT);
    await page.route(CHAT, (route) => route.fulfill(answer({ reasoning_content: "hm" })));
    await page.keyboard.press("Alt+n");
    await say(page, "think");
    await page.getByText("Thoughts", { exact: true }).waitFor();
    await page.locator('#turns[aria-busy="false"]').waitFor();
    await page.unroute(CHAT);
    const asked = await echo(page);
    await say(page, "and");
    await answered(page, "Re: and");
    assert.deepEqual(asked[0].map(({ role, reasoning_content: thought }) => [role, thought]), [["user", undefined], ["assistant", "hm"], ["user", undefined]]);
  },

  "a server that ends is named": async (page) => {
    const message = await page.evaluate(async () => {
      const { chat } = await import("/page/api.js");
      const asked = window.fetch;
      window.fetch = async () => new Response(new ReadableStream({ start: (stream) => stream.error(new TypeError("network error")) }));
      try {
        for await (const _ of chat({}));
      } catch (error) {
        return error.message;
      } finally {
        window.fetch = asked;
      }
    });
    assert.equal(message, "The connection to the server broke off: is it still running?");
  },

  "the pictures keep their colours where all others are the system's": async (page) => {
    await page.emulateMedia({ forcedColors: "active" });
    const colours = await page.evaluate(async () => {
      const { colourOf } = await import("/page/dom.js");
      const keys = ["off", "used", "read", "trunk", "experts"].map((kind) => getComputedStyle(document.querySelector(`.legend .k-${kind}`)).backgroundColor);
      return [keys, ["--cell-off", "--cell-used", "--cell-read", "--bar-trunk", "--accent"].map(colourOf)];
    });
    assert.deepEqual(colours[0], colours[1]);
    assert.equal(new Set(colours[0]).size, 5);
    await page.emulateMedia({ forcedColors: "none" });
  },

  "settings that cannot be read are said, and made anew": async (page, url) => {
    await page.evaluate(() => localStorage.setItem("settings", "{"));
    await openAt(page, url);
    await page.getByRole("button", { name: "Settings" }).click();
    await page.locator("#notice", { hasText: "Settings are not kept" }).waitFor();
    await page.getByLabel("Temperature").fill("0");
    await page.getByRole("button", { name: "Save" }).click();
    assert.equal(await page.evaluate(() => JSON.parse(localStorage.getItem("settings")).temperature), 0);
  },

  "where the browser keeps no settings, they last as long as the page": async (page, url) => {
    await page.addInitScript(() => {
      const denied = { get: () => { throw new DOMException("access is denied", "SecurityError"); } };
      for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, denied);
    });
    await openAt(page, url);
    await page.locator("#notice", { hasText: "Settings are not kept: access is denied" }).waitFor();
    await page.getByRole("button", { name: "Dismiss" }).click();
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("System prompt").fill("Be brief.");
    await page.getByRole("button", { name: "Save" }).click();
    await page.unroute(CHAT);
    const asked = await echo(page);
    await say(page, "hello");
    await answered(page, "Re: hello");
    assert.deepEqual(asked[0].map(({ content }) => content), ["Be brief.", "hello"]);
    assert.equal(await page.locator("#notice:visible").count(), 0, "it is said once");
  },
});
