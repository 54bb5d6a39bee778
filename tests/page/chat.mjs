// The page with the demo model: send, stream, stop, retry, edit, thoughts, calls of tools, settings, conversations, colours, a
// phone's screen, keys, names for those who listen, and the view of the machine.

import { strict as assert } from "node:assert";
import { WAIT_MS, run } from "./browser.mjs";

const TOOLS = [
  { type: "function", function: { name: "get_weather", description: "Get the weather of a city", parameters: { type: "object", properties: { city: { type: "string", description: "Name of the city" } }, required: ["city"] } } },
  { type: "function", function: { name: "set_alarm", description: "Set an alarm", parameters: { type: "object", properties: { time: { type: "string", description: "Time as HH:MM" }, day: { type: "string", description: "Day of the week" } }, required: ["time"] } } },
];

const field = (page) => page.getByRole("textbox", { name: "Message" });
const answers = (page) => page.getByRole("article", { name: "Answer" });
const content = (answer) => answer.locator("> .prose");

async function say(page, text) {
  await field(page).fill(text);
  await page.keyboard.press("Enter");
}

/** Waits until the last answer has ended. */
async function ended(page) {
  await page.locator('#turns[aria-busy="false"]').waitFor();
  await page.getByRole("button", { name: "Send", exact: true }).waitFor();
}

async function set(page, values) {
  await page.getByRole("button", { name: "Settings" }).click();
  const dialog = page.getByRole("dialog", { name: "Settings" });
  for (const [label, value] of Object.entries(values)) {
    if (typeof value === "boolean") await dialog.getByRole("switch", { name: label }).setChecked(value);
    else await dialog.getByLabel(label).fill(value);
  }
  await dialog.getByRole("button", { name: "Save" }).click();
}

/** What the browser keeps. */
const kept = (page) =>
  page.evaluate(
    () =>
      new Promise((resolve) => {
        const opened = indexedDB.open("outpour", 1);
        opened.onsuccess = () => {
          const all = opened.result.transaction("conversations").objectStore("conversations").getAll();
          all.onsuccess = () => resolve(all.result);
        };
      }),
  );

async function metric(page, name) {
  const text = await page.evaluate(async () => (await fetch("/metrics")).text());
  return Number(new RegExp(`^${name} (.*)$`, "m").exec(text)[1]);
}

async function waitFor(what, holds) {
  const began = Date.now();
  while (!(await holds())) {
    if (Date.now() - began > WAIT_MS) throw new Error(`it does not come to it: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Every name of a node that bears one for those who listen. */
async function unnamed(page) {
  const client = await page.context().newCDPSession(page);
  const { nodes } = await client.send("Accessibility.getFullAXTree");
  await client.detach();
  const named = ["button", "textbox", "switch", "checkbox", "img", "image", "Canvas", "dialog", "navigation", "complementary", "main", "log", "link", "article", "region", "form"];
  return nodes.filter((node) => !node.ignored && named.includes(node.role?.value) && !node.name?.value.trim()).map((node) => node.role.value);
}

await run({
  "the policy lets nothing else in": async (page, url) => {
    const response = await page.goto(url);
    const policy = response.headers()["content-security-policy"];
    for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "require-trusted-types-for 'script'", "frame-ancestors 'none'"]) {
      assert.ok(policy.includes(part), policy);
    }
    assert.ok(!policy.includes("unsafe"), policy);
    await page.getByRole("heading", { name: "model" }).first().waitFor();
  },

  "settings are checked and kept": async (page) => {
    await page.getByRole("button", { name: "Settings" }).click();
    const dialog = page.getByRole("dialog", { name: "Settings" });
    await dialog.getByLabel("Temperature").fill("hot");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.getByText("Temperature: a number").waitFor();
    await dialog.getByLabel("Temperature").fill("-1");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.getByText("Temperature: a number from 0 to 100").waitFor();
    await dialog.getByLabel("Temperature").fill("0");
    const { context_length: context } = await page.evaluate(async () => (await (await fetch("/v1/models")).json()).data[0]);
    for (const [tokens, why] of [["-5", "from 1 on"], ["NaN", "from 1 on"], ["1.5", "from 1 on"], [`${context + 1}`, `has ${context.toLocaleString("en")} tokens`]]) {
      await dialog.getByLabel("Longest answer, tokens").fill(tokens);
      await dialog.getByRole("button", { name: "Save" }).click();
      await dialog.getByText(why).waitFor();
    }
    await dialog.getByLabel("Longest answer, tokens").fill(`${context}`);
    await dialog.getByLabel("Tools, as JSON").fill("[{]");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.getByText("Tools:", { exact: false }).last().waitFor();
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await set(page, { Temperature: "0", "Longest answer, tokens": "", "Thinking, where": false });
    const settings = await page.evaluate(() => JSON.parse(localStorage.getItem("settings")));
    assert.deepEqual([settings.temperature, settings.thinking, settings.tools], [0, false, ""]);
  },

  "an answer streams": async (page) => {
    await page.evaluate(() => {
      window.lengths = new Set();
      new MutationObserver(() => {
        const prose = document.querySelector(".turn.model > .prose");
        if (prose) window.lengths.add(prose.textContent.length);
      }).observe(document.getElementById("list"), { childList: true, subtree: true, characterData: true });
    });
    await say(page, "Tell me a story about a fox.");
    await answers(page).locator(".stats:not(:empty)").waitFor();
    await ended(page);
    const lengths = await page.evaluate(() => [...window.lengths]);
    assert.ok(lengths.filter((length) => length > 0).length >= 2, `a part was shown before the whole: ${lengths}`);
    assert.match(await content(answers(page)).innerText(), /fox|Fox/);
    assert.match(await answers(page).locator(".stats").innerText(), /^\d+ tokens at [\d.,]+ a second · prompt of \d+/);
    assert.equal(await answers(page).locator(".thoughts:visible").count(), 0, "it was not to think");
    assert.equal(await page.locator("#said").innerText(), "Answer complete");
  },

  "an answer is stopped, and the engine with it": async (page) => {
    await page.keyboard.press("Alt+n");
    // One that would not end by itself for long.
    await page.route("**/v1/chat/completions", (route) => route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true }) }));
    await say(page, "Tell me a story about a bear.");
    await page.locator(".turn.model > .prose:not(:empty)").waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await answers(page).getByText("Stopped.").waitFor();
    await ended(page);
    assert.ok((await content(answers(page)).innerText()).length > 0, "what was said stays");
    await waitFor("one request cancelled", async () => (await metric(page, "outpour_requests_cancelled_total")) === 1);
    // And by its key.
    await say(page, "Tell me a story about an owl.");
    await page.locator(".turn.model >> nth=1").locator("> .prose:not(:empty)").waitFor();
    await page.keyboard.press("Escape");
    await answers(page).nth(1).getByText("Stopped.").waitFor();
    await ended(page);
    await page.unroute("**/v1/chat/completions");
  },

  "a conversation that is deleted while it is answered is gone": async (page) => {
    await page.keyboard.press("Alt+n");
    await page.route("**/v1/chat/completions", (route) => route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true }) }));
    await say(page, "Tell me a story about a snail.");
    await page.locator(".turn.model > .prose:not(:empty)").waitFor();
    await page.getByRole("button", { name: "Delete Tell me a story about a snail." }).click();
    await waitFor("three requests cancelled", async () => (await metric(page, "outpour_requests_cancelled_total")) === 3);
    await page.unroute("**/v1/chat/completions");
    await waitFor("it is gone", async () => !(await kept(page)).some(({ title }) => title.includes("snail")));
    await page.getByRole("button", { name: "Tell me a story about a bear.", exact: true }).click();
  },

  "an answer is made anew": async (page) => {
    await page.getByRole("button", { name: "Retry", exact: true }).last().click();
    await answers(page).nth(1).locator(".stats:not(:empty)").waitFor();
    await ended(page);
    assert.equal(await answers(page).count(), 2);
    assert.equal(await answers(page).nth(1).getByText("Stopped.").count(), 0);
    const { messages } = (await kept(page)).find(({ title }) => title.includes("bear"));
    assert.deepEqual(messages.map(({ role }) => role), ["user", "assistant", "user", "assistant"]);
  },

  "a message is changed, and what came after it is gone": async (page) => {
    await page.getByRole("article", { name: "You" }).first().hover();
    await page.getByRole("button", { name: "Edit message" }).first().click();
    const editor = page.getByRole("textbox", { name: "Edit message" });
    await editor.fill("What is 348 plus 277?");
    await page.keyboard.press("Enter");
    await content(answers(page).first()).getByText("625").waitFor();
    await ended(page);
    assert.equal(await answers(page).count(), 1);
    // From the keyboard: up in an empty field.
    await field(page).press("ArrowUp");
    await page.getByRole("textbox", { name: "Edit message" }).fill("What is 250 plus 431?");
    await page.keyboard.press("Enter");
    await content(answers(page).first()).getByText("681").waitFor();
    await ended(page);
  },

  "thoughts are folded": async (page) => {
    await set(page, { "Thinking, where": true });
    await page.getByRole("button", { name: "New conversation" }).click();
    await say(page, "What is 348 plus 277?");
    await content(answers(page)).getByText("625").waitFor();
    await ended(page);
    const thoughts = answers(page).locator("details");
    assert.equal(await thoughts.getAttribute("open"), null);
    assert.match(await thoughts.locator("summary").innerText(), /^Thought for [\d.]+ s$/);
    await thoughts.locator("summary").click();
    assert.ok((await thoughts.locator(".prose").innerText()).length > 0);
  },

  "a tool is called, and its result given": async (page) => {
    await set(page, { "Thinking, where": false, "Tools, as JSON": JSON.stringify(TOOLS) });
    await page.keyboard.press("Alt+n");
    await say(page, "Wake me at 06:45 on Monday.");
    const call = page.getByRole("region", { name: "Call of set_alarm" });
    await call.waitFor();
    await ended(page);
    assert.deepEqual(JSON.parse(await call.locator("pre").first().innerText()), { time: "06:45", day: "Monday" });
    // A message before its result stays where it is, and the field for the result is shown.
    await say(page, "And what is 1 + 1?");
    await call.getByText("Your message waits").waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), "Result of set_alarm");
    assert.equal(await field(page).inputValue(), "And what is 1 + 1?");
    assert.equal(await answers(page).count(), 1);
    await field(page).fill("");
    await call.getByRole("textbox", { name: "Result of set_alarm" }).fill('{"ok": true}');
    await call.getByRole("button", { name: "Send result" }).click();
    await answers(page).nth(1).locator(".stats:not(:empty)").waitFor();
    await ended(page);
    assert.ok((await content(answers(page).nth(1)).innerText()).length > 0, "it says what came of it");
    assert.equal(await call.locator("pre").count(), 2);
    const { messages } = (await kept(page)).find(({ title }) => title.includes("Wake me"));
    assert.deepEqual(messages.map(({ role }) => role), ["user", "assistant", "tool", "assistant"]);
  },

  "conversations are there after a reload": async (page) => {
    await page.reload();
    // The one that was open is open again.
    await page.getByRole("region", { name: "Call of set_alarm" }).waitFor();
    assert.equal(await answers(page).count(), 2);
    const rail = page.getByRole("navigation", { name: "Conversations" });
    const rows = rail.locator("li button.row");
    await rows.nth(3).waitFor();
    assert.equal(await rows.count(), 4);
    await rail.getByRole("button", { name: "Tell me a story about a fox.", exact: true }).click();
    assert.match(await content(answers(page)).innerText(), /fox|Fox/);
    await rail.getByRole("button", { name: "Delete Tell me a story about a fox." }).click();
    await waitFor("three are left", async () => (await rows.count()) === 3 && (await kept(page)).length === 3);
  },

  "an error is said, and can be mended": async (page) => {
    await page.keyboard.press("Alt+n");
    await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 200, contentType: "text/event-stream", body: 'data: {"error": {"message": "expert 3 of layer 2 cannot be read", "code": 503}}\n\n' }));
    await say(page, "What is 348 plus 277?");
    await page.getByText("expert 3 of layer 2 cannot be read").waitFor();
    await ended(page);
    await page.unroute("**/v1/chat/completions");
    await page.getByRole("button", { name: "Retry", exact: true }).click();
    await content(answers(page)).getByText("625").waitFor();
    await ended(page);
  },

  "a call that was broken off is none, and nothing waits for it": async (page) => {
    await page.keyboard.press("Alt+n");
    const half = { index: 0, id: "call_1", type: "function", function: { name: "set_alarm", arguments: '{"time": "06' } };
    const chunk = { choices: [{ index: 0, delta: { tool_calls: [half] }, finish_reason: null }] };
    await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 200, contentType: "text/event-stream", body: `data: ${JSON.stringify(chunk)}\n\n` }));
    await say(page, "Ring at six.");
    await page.getByText("The answer broke off.").waitFor();
    await ended(page);
    await page.unroute("**/v1/chat/completions");
    assert.equal(await page.getByRole("region", { name: "Call of set_alarm" }).count(), 0);
    await say(page, "What is 250 plus 431?");
    await content(answers(page).nth(1)).getByText("681").waitFor();
    await ended(page);
  },

  "the machine is shown as it is": async (page) => {
    const map = page.getByRole("img", { name: /^Experts: \d+ of 256 in memory/ });
    await map.waitFor();
    await waitFor("some experts in memory, and not all", async () => {
      const resident = Number(/: (\d+) of/.exec(await map.getAttribute("aria-label"))[1]);
      return resident > 0 && resident < 256;
    });
    await page.locator("#machine-state", { hasText: "idle" }).waitFor();
    // Figures and counters agree when nothing runs.
    const [hits, misses] = [await metric(page, "outpour_expert_hits_total"), await metric(page, "outpour_expert_misses_total")];
    await waitFor("the share of what is found", async () => {
      const text = await page.locator("#hits-value").innerText();
      return Math.abs(Number(text) - (100 * hits) / (hits + misses)) < 0.06;
    });
    assert.match(await page.locator("#speed-note").innerText(), /^(of [\d.,]+ possible|as fast as is possible here)$/);
    assert.match(await page.locator("#speed-name").innerText(), /^Last (answer|prompt)$/, "nothing runs");
    assert.match(await page.locator("#drive-note").innerText(), /^of [\d.]+ [GM]B\/s · busy \d+ %$/);
    assert.equal(await page.locator("#ram-note").innerText(), "of 74.0 MiB --ram");
    // Single experts, by mouse and by keys.
    await map.hover({ position: { x: 3, y: 3 } });
    await page.getByText(/^Layer 0, expert 0: (in memory|on the drive), used /).waitFor();
    await map.focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowRight");
    await page.getByText(/^Layer 1, expert 1: /).waitFor();
    // What is drawn is not one colour.
    const colours = await page.workers()[0].evaluate(() => new Set(self.map.pixels).size);
    assert.ok(colours >= 3, `${colours} colours`);
    // Curves and bars go over the whole width, after a reload, too.
    const inked = (id) =>
      page.evaluate((id) => {
        const { width, height } = document.getElementById(id);
        if (!width || !height) return 0;
        const { data } = document.getElementById(id).getContext("2d").getImageData(0, 0, width, height);
        const columns = [...Array(width).keys()].filter((x) => [...Array(height).keys()].some((y) => data[4 * (y * width + x) + 3] > 0));
        return columns.length ? (columns.at(-1) - columns[0] + 1) / width : 0;
      }, id);
    await page.reload();
    for (const id of ["speed-curve", "hits-curve", "drive-curve", "steps"]) await waitFor(`${id} is drawn`, async () => (await inked(id)) > 0.9);
    await map.waitFor();
    await page.getByRole("button", { name: "Whole page" }).click();
    await page.getByRole("complementary", { name: "Machine" }).waitFor();
    await waitFor("the map is as wide as the page", () => page.evaluate(() => document.getElementById("map").clientWidth > 0.97 * document.getElementById("map-box").clientWidth));
    assert.equal(await page.locator("#chat:visible").count(), 0);
    await page.keyboard.press("Escape");
    await page.locator("#chat").waitFor();
    await page.getByRole("button", { name: "Close machine" }).click();
    assert.equal(await page.getByRole("complementary").count(), 0);
    await page.keyboard.press("Alt+m");
    await page.getByRole("complementary", { name: "Machine" }).waitFor();
  },

  "dark and light": async (page) => {
    const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).reduce((sum, n) => sum + Number(n), 0));
    assert.ok((await paper()) < 120, "dark, as the system is");
    await page.emulateMedia({ colorScheme: "light" });
    assert.ok((await paper()) > 650, "light, as the system is");
    await page.getByRole("button", { name: "Dark colours" }).click();
    assert.ok((await paper()) < 120, "dark, as was chosen");
    await page.getByRole("button", { name: "Light colours" }).waitFor();
    await page.reload();
    assert.ok((await paper()) < 120, "dark after a reload");
    // All text can be read on all grounds, in both.
    for (const theme of ["dark", "light"]) {
      const low = await page.evaluate((theme) => {
        document.documentElement.dataset.theme = theme;
        const probe = document.body.appendChild(document.createElement("i"));
        const light = (name) => {
          probe.style.color = `var(${name})`;
          const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
          const [r, g, b] = getComputedStyle(probe).color.match(/\d+/g).map((x) => linear(x / 255));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
        const texts = ["--text", "--soft", "--faint", "--accent", "--wrong"];
        const pairs = texts.flatMap((text) => ["--ground", "--panel", "--raised"].map((ground) => [text, ground]));
        const code = ["--c-note", "--c-text", "--c-number", "--c-word", "--c-call"].map((text) => [text, "--code"]);
        return [...pairs, ...code, ["--on-accent", "--accent"]].filter(([a, b]) => ratio(a, b) < 4.5).map(([a, b]) => `${a} on ${b}: ${ratio(a, b).toFixed(2)}`);
      }, theme);
      assert.deepEqual(low, [], theme);
    }
    await page.evaluate(() => {
      localStorage.removeItem("theme");
      delete document.documentElement.dataset.theme;
    });
  },

  "those who listen hear what it is": async (page) => {
    await page.getByRole("navigation", { name: "Conversations" }).locator("li button.row").first().click();
    assert.deepEqual(await unnamed(page), []);
    await page.getByRole("main", { name: "Chat" }).getByRole("log", { name: "Messages" }).waitFor();
    for (const name of ["New conversation", "Settings", "Machine", "Send", "Whole page", "Close machine"]) {
      await page.getByRole("button", { name, exact: true }).first().waitFor();
    }
    await page.getByRole("button", { name: /^(Dark|Light) colours$/ }).waitFor();
    await page.getByRole("button", { name: "Settings" }).click();
    assert.deepEqual(await unnamed(page), []);
    await page.keyboard.press("Escape");
    // What comes first leads to the field, and is seen when it is reached.
    await page.keyboard.press("Alt+n");
    await page.reload();
    await page.locator("#welcome-note:not(:empty)").waitFor();
    assert.equal(await page.evaluate(() => document.querySelector("a, button, textarea").textContent), "To the message field");
    const skip = page.getByRole("link", { name: "To the message field" });
    await skip.focus();
    assert.ok((await skip.boundingBox()).y >= 0);
    await page.keyboard.press("Enter");
    await waitFor("the field", () => page.evaluate(() => location.hash === "#ask"));
    await page.evaluate(() => document.activeElement.blur());
    await page.keyboard.press("/");
    assert.equal(await page.evaluate(() => document.activeElement.id), "ask");
    assert.equal(await field(page).inputValue(), "");
  },

  "a phone": async (page) => {
    await page.setViewportSize({ width: 360, height: 740 });
    await page.reload();
    await page.locator("#welcome-note:not(:empty)").waitFor();
    const wide = () => page.evaluate(() => document.documentElement.scrollWidth > innerWidth || document.body.scrollWidth > innerWidth);
    assert.equal(await page.getByRole("complementary").count(), 0, "the chat comes first");
    assert.equal(await page.getByRole("navigation").count(), 0);
    await page.getByRole("button", { name: "Conversations" }).click();
    await page.getByRole("navigation", { name: "Conversations" }).locator("li button.row", { hasText: "Wake me" }).click();
    await page.getByRole("region", { name: "Call of set_alarm" }).waitFor();
    assert.equal(await wide(), false);
    await page.getByRole("button", { name: "Machine", exact: true }).click();
    await page.getByRole("img", { name: /^Experts: \d+ of 256/ }).waitFor();
    assert.equal(await wide(), false);
    const box = await page.locator("#map").boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 360, JSON.stringify(box));
    assert.deepEqual(await unnamed(page), []);
    await page.getByRole("button", { name: "Close machine" }).click();
    const send = await page.getByRole("button", { name: "Send", exact: true }).boundingBox();
    assert.ok(send.width >= 36 && send.y + send.height <= 740, JSON.stringify(send));
  },
});
