// Takes the pictures of docs/: `node pictures.mjs URL chat|machine FOLDER`, with DRIVER, CHROMIUM and PROFILE as the test sets
// them. `chat` is of `outpour serve demo --ram 74M`, `machine` of a larger model, made by `outpour synth`.

import path from "node:path";
import { open } from "./browser.mjs";

const [url, what, folder] = process.argv.slice(2);
const small = { width: 390, height: 780 };
const { context, page } = await open({ viewport: { width: 1360, height: 850 } });
const shoot = (name) => page.screenshot({ path: path.join(folder, `${name}.png`) });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

await page.goto(url);
await page.locator("#machine:not([hidden])").waitFor();
const say = async (text) => {
  await page.fill("#ask", text);
  await page.keyboard.press("Enter");
};
const ended = () => page.locator('#turns[aria-busy="false"] .turn.model:last-child .stats:not(:empty)').waitFor();

if (what === "chat") {
  await page.evaluate(() => {
    const tool = (name, description, properties, required) => ({ type: "function", function: { name, description, parameters: { type: "object", properties, required } } });
    const text = (description) => ({ type: "string", description });
    const tools = [
      tool("get_weather", "Get the weather of a city", { city: text("Name of the city") }, ["city"]),
      tool("set_alarm", "Set an alarm", { time: text("Time as HH:MM"), day: text("Day of the week") }, ["time"]),
    ];
    localStorage.setItem("settings", JSON.stringify({ temperature: 0, thinking: true, tools: JSON.stringify(tools) }));
  });
  await say("Wake me at 06:45 on Monday.");
  await page.locator(".give textarea").waitFor();
  await page.fill(".give textarea", '{"status": "ok"}');
  await page.getByRole("button", { name: "Send result" }).click();
  await page.locator(".turn.model").nth(1).waitFor();
  await ended();
  await page.keyboard.press("Alt+n");
  await page.evaluate(() => localStorage.setItem("settings", JSON.stringify({ temperature: 0.6, thinking: true })));
  await say("What is 348 plus 277?");
  await ended();
  await say("Tell me a story about a fox.");
  await page.waitForFunction(() => document.querySelector(".turn.model:last-child > .prose").textContent.length > 180);
  await shoot("chat");
  await ended();
  await page.emulateMedia({ colorScheme: "light" });
  await page.locator("#conversations button.row", { hasText: "Wake me" }).click();
  await pause(800);
  await shoot("chat-light");
} else {
  await say("Why is the sky blue?");
  await page.click("#wide");
  await pause(20_000);
  await shoot("machine");
  await page.keyboard.press("Escape");
  await page.setViewportSize(small);
  await pause(2000);
  await shoot("phone");
}
await context.close();
