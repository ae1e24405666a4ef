// The state of the box: one stream while this tab can be seen, sections by name.

import { events } from "./api.js";

const LONGEST_WAIT_MS = 15000;

const state = {};
const watchers = [];
const linkWatchers = [];
let link = { word: "wait", error: null };
let abort = null;
let wake = () => {};

/** Call `show(section, state)` now, if it is known, and at every change. Null: not there now. */
export function watch(names, show) {
  watchers.push({ names, show });
  if (names.some((name) => name in state)) show(state);
}

/** Call with {word: "on" | "wait" | "off" | "stopping" | "locked", error}. */
export function watchLink(show) {
  linkWatchers.push(show);
  show(link);
}

export const current = () => state;

/** Whether this caller has a scope; a box that does not say is asked by trying. */
export const may = (scope) => !state.me || state.me.scopes.includes(scope);

/** Connect anew, with another key for example. */
export function reconnect() {
  abort?.abort();
  wake();
}

function setLink(word, error = null) {
  link = { word, error };
  linkWatchers.forEach((show) => show(link));
}

function take(data, isWhole) {
  if (isWhole) for (const name of Object.keys(state)) if (!(name in data)) delete state[name];
  Object.assign(state, data);
  for (const { names, show } of watchers) {
    if (isWhole || names.some((name) => name in data)) show(state);
  }
}

async function listen() {
  abort = new AbortController();
  let word = "off";
  try {
    for await (const { kind, data } of events("/hearth/v1/live", abort.signal)) {
      if (kind === "end") word = "stopping";
      else if (kind === "error") break;
      else {
        take(data, kind === "snapshot");
        if (link.word !== "on") setLink("on");
        listen.waitMs = 500;
      }
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401 || error.status === 403) return setLink("locked", error);
  }
  setLink(word);
}
listen.waitMs = 500;

/** Keeps connected for as long as the page lives. */
export async function run() {
  document.addEventListener("visibilitychange", () => {
    // Browsers allow six connections to a host: hidden tabs must not hold one each.
    if (document.hidden) abort?.abort();
    else wake();
  });
  addEventListener("pagehide", () => abort?.abort());
  addEventListener("pageshow", () => wake());
  for (;;) {
    if (!document.hidden) await listen();
    const wait = new Promise((resolve) => (wake = resolve));
    const isLong = document.hidden || link.word === "locked";
    const pause = isLong ? null : setTimeout(wake, listen.waitMs);
    await wait;
    clearTimeout(pause);
    listen.waitMs = Math.min(LONGEST_WAIT_MS, listen.waitMs * 2);
  }
}
