// A headless Chromium, and what the scripts of this folder share. The test hands over where driver, browser and profile are.

import { strict as assert } from "node:assert";
import { createRequire } from "node:module";
import path from "node:path";

const { chromium } = createRequire(path.join(process.env.DRIVER, "package.json"))("playwright-core");

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/** A machine under load may be slow; what hangs fails. */
export const WAIT_MS = 120_000;

/** Opens the page in a fresh profile; `wrong` gathers what goes wrong in it. */
export async function open(options = {}) {
  const context = await chromium.launchPersistentContext(process.env.PROFILE, {
    executablePath: process.env.CHROMIUM,
    headless: true,
    args: FLAGS,
    viewport: { width: 1440, height: 900 },
    colorScheme: "dark",
    ...options,
  });
  const page = context.pages()[0];
  page.setDefaultTimeout(WAIT_MS);
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`${error}`));
  page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
  page.on("request", (request) => {
    if (!request.url().startsWith(new URL(process.argv[2]).origin)) wrong.push(`it calls ${request.url()}`);
  });
  return { context, page, wrong };
}

/** Runs the parts of a test, one after the other, and says which one failed. */
export async function run(parts, options) {
  const { context, page, wrong } = await open(options);
  try {
    for (const [name, part] of Object.entries(parts)) {
      try {
        await part(page, process.argv[2]);
        assert.deepEqual(wrong, [], "errors of the page");
      } catch (error) {
        console.error(`${name}: ${error.stack}`);
        process.exitCode = 1;
        return;
      }
      console.log(`ok: ${name}`);
    }
  } finally {
    await context.close();
  }
}
