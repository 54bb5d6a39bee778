// How much may be drawn. Where no graphics card puts the page together, the processor does, in time that the engine could
// compute with: less is drawn then.

/** What draws in software, as WebGL names it where a browser does not refuse it. */
const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;

function hasCard() {
  const context = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  if (!context) return false;
  const named = context.getExtension("WEBGL_debug_renderer_info")?.UNMASKED_RENDERER_WEBGL ?? context.RENDERER;
  const card = !SOFTWARE.test(context.getParameter(named));
  context.getExtension("WEBGL_lose_context")?.loseContext();
  return card;
}

const card = hasCard();

/** The server's events, the map (a little more than 30 times a second: more is of no use), text, figures, bars and curves. */
export const EVERY_MS = card
  ? { event: 100, map: 32, text: 96, figures: 288, curves: 576 }
  : { event: 250, map: 250, text: 250, figures: 500, curves: 1000 };

/** Time until what is drawn every `ms` is due: at whole multiples, so that what is due together is put together once. */
export const untilDue = (ms) => ms - (Date.now() % ms);
