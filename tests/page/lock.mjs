// A server that wants a key: the page asks for it, and keeps it for this tab only.

import { strict as assert } from "node:assert";
import { open } from "./browser.mjs";

const [url, key] = process.argv.slice(2);
const { context, page, wrong } = await open();
await page.goto(url);
const lock = page.getByRole("dialog", { name: "API key" });
await lock.waitFor();
await lock.getByLabel("Key", { exact: true }).fill("another");
await lock.getByRole("button", { name: "Unlock" }).click();
await lock.getByText("This key is not the right one.").waitFor();
await lock.getByLabel("Key", { exact: true }).fill(key);
await page.keyboard.press("Enter");
await page.getByRole("heading", { name: "model", exact: true }).first().waitFor();
const kept = await page.evaluate(() => [sessionStorage.getItem("key"), JSON.stringify(localStorage), document.cookie]);
assert.equal(kept[0], key);
assert.ok(!kept[1].includes(key) && !kept[2].includes(key), "the key is nowhere else");

await page.getByRole("textbox", { name: "Message" }).fill("What is 348 plus 277?");
await page.keyboard.press("Enter");
await page.locator(".turn.model .stats:not(:empty)").waitFor();
assert.equal(await page.locator(".wrong:not(:empty):visible").count(), 0);
// The view of the machine came in with the key, too.
await page.locator("#machine-state", { hasText: "idle" }).waitFor();
// A key that is no longer the right one: another wrong one does not pass for it.
await page.evaluate(() => sessionStorage.setItem("key", "old"));
await page.getByRole("textbox", { name: "Message" }).fill("And 250 plus 431?");
await page.keyboard.press("Enter");
await lock.waitFor();
await lock.getByLabel("Key", { exact: true }).fill("another");
const refused = page.waitForResponse((response) => response.url().endsWith("/v1/models") && response.status() === 401);
await page.keyboard.press("Enter");
await refused;
assert.ok(await lock.isVisible());
assert.equal(await page.getByText("The key is there now").count(), 0);
await lock.getByLabel("Key", { exact: true }).fill(key);
await page.keyboard.press("Enter");
await page.getByText("The key is there now: retry.").waitFor();
// A refusal is told on the console; nothing else may be.
assert.deepEqual(wrong.filter((text) => !text.includes("401")), []);
await context.close();
console.log("ok: the key");
