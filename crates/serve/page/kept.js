// What the browser keeps: conversations in IndexedDB, settings in localStorage, the API key for this tab only.

const NAME = "outpour";
const STORE = "conversations";

const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

async function ask(mode, act) {
  const database = await opened;
  return new Promise((resolve, reject) => {
    const request = act(database.transaction(STORE, mode).objectStore(STORE));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export const conversations = {
  /** All of them, the last one first. */
  all: async () => (await ask("readonly", (store) => store.getAll())).sort((a, b) => b.updated - a.updated),
  save: (conversation) => ask("readwrite", (store) => store.put(conversation)),
  remove: (id) => ask("readwrite", (store) => store.delete(id)),
};

const DEFAULTS = { system: "", temperature: null, tokens: null, thinking: true, tools: "" };

export const settings = {
  get: () => ({ ...DEFAULTS, ...JSON.parse(localStorage.getItem("settings") ?? "{}") }),
  set: (settings) => localStorage.setItem("settings", JSON.stringify(settings)),
};

/** The conversation that this tab shows. */
export const shown = {
  get: () => sessionStorage.getItem("conversation"),
  set: (id) => sessionStorage.setItem("conversation", id),
};

export const key = {
  get: () => sessionStorage.getItem("key") ?? "",
  set: (key) => sessionStorage.setItem("key", key),
};
