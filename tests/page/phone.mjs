// The page under a finger, on the narrowest screen: nothing stands over the edge, and what can be touched is large enough for it.

import { strict as assert } from "node:assert";
import path from "node:path";
import { run } from "./browser.mjs";

const WIDE = 320;
/** Of what is touched, in CSS pixels. */
const TOUCH_MIN = 44;
const TOOL = { type: "function", function: { name: "set_alarm", description: "Set an alarm", parameters: { type: "object", properties: { time: { type: "string", description: "Time as HH:MM" }, day: { type: "string", description: "Day of the week" } }, required: ["time"] } } };

/** What can be touched and is too small, and what stands over the edge of what holds it. */
const faults = (page) =>
  page.evaluate(([wide, least]) => {
    const seen = (element) => element.checkVisibility({ checkVisibilityCSS: true, checkOpacity: true }) && element.getBoundingClientRect().width > 0;
    const called = (element) => `${element.tagName} ${element.id || element.ariaLabel || element.className || element.textContent.slice(0, 20)}`;
    const found = [];
    const top = document.querySelector("dialog[open]") ?? document;
    for (const element of top.querySelectorAll("button, summary, textarea, input, label.check, a:not(.skip)")) {
      // A switch is touched with its label.
      if (!seen(element) || element.matches(".check input, .prose a")) continue;
      const { width, height, left, right } = element.getBoundingClientRect();
      if (width < least - 0.5 || height < least - 0.5) found.push(`${called(element)}: ${width} x ${height}`);
      if (left < -0.5 || right > wide + 0.5) found.push(`${called(element)}: from ${left} to ${right}`);
    }
    for (const element of [document.documentElement, document.body, ...document.querySelectorAll("main, aside, .scroll, #turns, dialog[open], nav")]) {
      if (element.scrollWidth > element.clientWidth + 1 && seen(element)) found.push(`${called(element)} is ${element.scrollWidth} wide in ${element.clientWidth}`);
    }
    return found;
  }, [WIDE, TOUCH_MIN]);

/** Looks at what is shown now; PICTURES names a folder for what it looks like. */
async function look(page, name) {
  if (process.env.PICTURES) await page.screenshot({ path: path.join(process.env.PICTURES, `${name}.png`) });
  assert.deepEqual(await faults(page), [], name);
}

const ended = (page) => page.locator('#turns[aria-busy="false"] .turn.model:last-child .stats:not(:empty)').waitFor();

await run(
  {
    "the welcome": async (page, url) => {
      await page.goto(url);
      await page.locator("#welcome-note:not(:empty)").waitFor();
      assert.equal(await page.evaluate(() => matchMedia("(pointer: coarse)").matches), true);
      await look(page, "welcome");
    },
    "thoughts and an answer": async (page) => {
      await page.evaluate((tool) => localStorage.setItem("settings", JSON.stringify({ temperature: 0, thinking: true, tools: JSON.stringify([tool]) })), TOOL);
      await page.getByRole("textbox", { name: "Message" }).fill("What is 348 plus 277?");
      await page.getByRole("button", { name: "Send", exact: true }).tap();
      await ended(page);
      await look(page, "answer");
      await page.locator(".thoughts summary").tap();
      await look(page, "thoughts");
    },
    "a message being changed": async (page) => {
      await page.getByRole("button", { name: "Edit message" }).tap();
      await look(page, "edit");
      await page.getByRole("button", { name: "Cancel" }).tap();
    },
    "a call that waits for its result": async (page) => {
      await page.evaluate(() => localStorage.setItem("settings", JSON.stringify({ ...JSON.parse(localStorage.getItem("settings")), thinking: false })));
      await page.getByRole("button", { name: "Conversations" }).tap();
      await page.getByRole("button", { name: "New conversation" }).tap();
      await page.getByRole("textbox", { name: "Message" }).fill("Wake me at 06:45 on Monday.");
      await page.getByRole("button", { name: "Send", exact: true }).tap();
      await page.locator(".give textarea").waitFor();
      await ended(page);
      await page.getByRole("textbox", { name: "Message" }).fill("And now?");
      await page.getByRole("button", { name: "Send", exact: true }).tap();
      await page.getByText("Your message waits").waitFor();
      await look(page, "call");
    },
    "conversations": async (page) => {
      await page.getByRole("button", { name: "Conversations" }).tap();
      await page.waitForFunction(() => document.getElementById("rail").getBoundingClientRect().left === 0);
      await look(page, "conversations");
    },
    "settings": async (page) => {
      await page.getByRole("button", { name: "Settings" }).tap();
      await page.locator("dialog .keys summary").tap();
      await look(page, "settings");
      await page.getByRole("button", { name: "Cancel" }).tap();
    },
    "the machine": async (page) => {
      await page.touchscreen.tap(WIDE - 5, 300);
      await page.getByRole("button", { name: "Machine", exact: true }).tap();
      await page.getByRole("img", { name: /^Experts: \d+ of 256/ }).waitFor();
      await look(page, "machine");
    },
  },
  { viewport: { width: WIDE, height: 640 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 },
);
