// What the browser keeps: conversations in IndexedDB, settings in localStorage, the API key for this tab only.

import { notice } from "./dom.js";

const NAME = "outpour";
const STORE = "conversations";

const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** Tells other tabs the ids of conversations that were stored or deleted. */
const channel = new BroadcastChannel(NAME);

/** One transaction; resolves, when all of it is done, to what `act(store)` asked for. */
async function ask(mode, act) {
  const database = await opened;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    const request = act(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** Those that were kept before there were versions have the first one. */
const numbered = (conversation) => conversation && { version: 1, ...conversation };

export const conversations = {
  /** All of them, the last one first. */
  all: async () => (await ask("readonly", (store) => store.getAll())).map(numbered).sort((a, b) => b.updated - a.updated),
  get: async (id) => numbered(await ask("readonly", (store) => store.get(id))),
  /**
   * Stores one as its next version, unless another tab has stored a later one or has deleted it: then `kept` is false, and
   * `stored` what is there.
   */
  save: async (conversation) => {
    const { id, version } = conversation;
    let kept = true;
    try {
      const stored = await ask("readwrite", (store) => {
        const found = store.get(id);
        found.onsuccess = () => {
          const mine = conversation.version;
          kept = found.result ? numbered(found.result).version <= mine : mine === 0;
          if (!kept) return;
          conversation.version = mine + 1;
          store.put(conversation);
        };
        return found;
      });
      if (kept) channel.postMessage(id);
      return { kept, stored: numbered(stored) };
    } catch (error) {
      conversation.version = version;
      throw error;
    }
  },
  remove: async (id) => {
    await ask("readwrite", (store) => store.delete(id));
    channel.postMessage(id);
  },
  /** Calls `act(id)` when another tab has stored or deleted a conversation. */
  follow: (act) => channel.addEventListener("message", ({ data }) => act(data)),
};

let told = false;

function unkept(why) {
  if (!told) notice(`Settings are not kept: ${why}`);
  told = true;
}

/** Strings by name. Where the browser denies them, they last as long as the page. */
class Strings {
  constructor(area) {
    this.area = area;
    this.own = new Map();
  }

  get(name) {
    if (this.own.has(name)) return this.own.get(name);
    try {
      return window[this.area].getItem(name);
    } catch (error) {
      unkept(error.message);
      return null;
    }
  }

  set(name, value) {
    try {
      window[this.area].setItem(name, value);
      this.own.delete(name);
    } catch (error) {
      this.own.set(name, value);
      unkept(error.message);
    }
  }
}

export const lasting = new Strings("localStorage");
const ofTab = new Strings("sessionStorage");

const DEFAULTS = { system: "", temperature: null, tokens: null, thinking: true, tools: "" };

export const settings = {
  /** What is not of its kind is as it is by default. */
  get: () => {
    let given = {};
    try {
      given = JSON.parse(lasting.get("settings") ?? "{}") ?? {};
    } catch {
      unkept("what the browser has of them cannot be read. Save them anew.");
    }
    const entries = Object.entries(DEFAULTS).map(([name, usual]) => [name, typeof given[name] === typeof (usual ?? 0) ? given[name] : usual]);
    return Object.fromEntries(entries);
  },
  set: (settings) => lasting.set("settings", JSON.stringify(settings)),
};

/** The conversation that this tab shows. */
export const shown = {
  get: () => ofTab.get("conversation"),
  set: (id) => ofTab.set("conversation", id),
};

export const key = {
  get: () => ofTab.get("key") ?? "",
  set: (key) => ofTab.set("key", key),
};
