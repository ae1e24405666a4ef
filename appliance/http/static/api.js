// Talks to the box. The key stays in this tab's session storage and travels as Bearer.

import { t } from "./strings.js";

const KEY = "hearth-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (secret) => sessionStorage.setItem(KEY, secret),
  clear: () => sessionStorage.removeItem(KEY),
};

/** A refusal: `message` and `hint` are the box's own sentences. */
export class Refusal extends Error {
  constructor(message, { hint = "", code = "", status = 0 } = {}) {
    super(message);
    Object.assign(this, { hint, code, status });
  }
}

/** A refusal from a JSON body of either dialect. */
export function refusal(body, status = 0) {
  const inner = body?.error;
  if (typeof inner === "string") return new Refusal(inner, { hint: body.hint, code: body.code, status });
  if (inner?.message) return new Refusal(inner.message, { code: inner.code, status });
  return new Refusal(t("error.status", { status }), { status });
}

/** The response, once it is known to be a good one. */
export async function request(method, path, body, options = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      ...options,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(t("error.offline"), { code: "offline" });
  }
  if (response.ok) return response;
  throw refusal(await response.json().catch(() => null), response.status);
}

export async function call(method, path, body) {
  const response = await request(method, path, body);
  return response.json().catch(() => null); // some answers have no body
}

/** The lines of a response, as they come. */
async function* lines(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += decoder.decode(value, { stream: !done });
      const found = rest.split("\n");
      rest = found.pop();
      yield* found;
      if (done) break;
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** JSON documents one a line; an error among them is thrown. */
export async function* documents(path, body, signal) {
  const response = await request("POST", path, body, { signal });
  for await (const line of lines(response)) {
    if (!line.trim()) continue;
    const document = JSON.parse(line);
    if (document.error) throw refusal(document, response.status);
    yield document;
  }
}

/** {kind, data} of a stream of server-sent events. */
export async function* events(path, signal) {
  const response = await request("GET", path, undefined, { signal });
  let kind = "message";
  for await (const line of lines(response)) {
    if (line.startsWith("event: ")) kind = line.slice(7);
    else if (line.startsWith("data: ")) yield { kind, data: JSON.parse(line.slice(6)) };
    else if (line === "") kind = "message";
  }
}
