// Makes elements. Text goes in as text, never as HTML: most of it comes from the network.

import { t } from "./strings.js";

/** `h("p.soft", {id: "x", onclick: f}, "text", child, null)`. Attributes that are null are left out. */
export function h(spec, attributes = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const node = document.createElement(tag || "div");
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** A line drawing of 24 by 24 that says nothing to a screen reader. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  const line = document.createElementNS(SVG, "path");
  for (const [name, value] of [["viewBox", "0 0 24 24"], ["class", "icon"], ["aria-hidden", "true"]]) {
    svg.setAttribute(name, value);
  }
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

export const ICONS = {
  copy: "M9 9h10v11H9zM5 15V4h10",
  done: "M5 13l4 4L19 7",
  send: "M12 20V5M5 12l7-7 7 7",
  stop: "M7 7h10v10H7z",
  warn: "M12 4l9 16H3zM12 10v4M12 17v.5",
  plus: "M12 5v14M5 12h14",
  shield: "M12 3l7 3v5c0 5-3 8-7 10-4-2-7-5-7-10V6z",
};

/** Change the text only if it is another one, so that a reader is not told again. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Keeps the children of `parent` in step with `items`: what stays keeps its element, and with it
 * focus and selection. `make(item)` gives {node, update(item)}.
 */
export function keyed(parent, items, keyOf, make) {
  const known = (parent.known ??= new Map());
  const wanted = new Set(items.map(keyOf));
  for (const [key, row] of known) {
    if (!wanted.has(key)) {
      row.node.remove();
      known.delete(key);
    }
  }
  items.forEach((item, place) => {
    const key = keyOf(item);
    let row = known.get(key);
    if (!row) known.set(key, (row = make(item)));
    row.update(item);
    if (parent.children[place] !== row.node) parent.insertBefore(row.node, parent.children[place] ?? null);
  });
}

/** A section of the page: heading, an optional line below it, and a body to fill. */
export function section(id, title, lead = "") {
  const body = h("div.body");
  const heading = h("h2", { id: `${id}-title` }, title);
  const head = h("div.head", {}, heading, lead ? h("p.soft", {}, lead) : null);
  const node = h("section", { id, "aria-labelledby": `${id}-title`, tabindex: "-1" }, head, body);
  return { node, head, body };
}

/** A value with a button that copies it, also without the clipboard API, which plain HTTP lacks. */
export function copyable(label, value, className = "") {
  const text = h("code", { dir: "ltr" }, value);
  const button = h("button.quiet.copy", { type: "button" }, icon(ICONS.copy), h("span", {}, t("copy")));
  const set = (next) => {
    put(text, next);
    button.setAttribute("aria-label", `${t("copy")}: ${label}`);
  };
  let restore = 0;
  button.addEventListener("click", async () => {
    const worked = await copy(text);
    put(button.lastChild, worked ? t("copied") : t("copy"));
    button.classList.toggle("done", worked);
    say(worked ? t("copied") : t("copy.failed"));
    clearTimeout(restore);
    restore = setTimeout(() => {
      put(button.lastChild, t("copy"));
      button.classList.remove("done");
    }, 2000);
  });
  set(value);
  const node = h("div.copyable", { class: `copyable ${className}` }, h("span.label", {}, label), h("div.value", {}, text, button));
  return { node, set };
}

async function copy(source) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(source.textContent);
      return true;
    } catch { /* refused: the old way may do */ }
  }
  const area = h("textarea.unseen", { readOnly: true, tabindex: "-1", "aria-hidden": "true" });
  area.value = source.textContent;
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  let worked = false;
  try {
    worked = document.execCommand("copy");
  } catch { /* not allowed here */ }
  area.remove();
  before?.focus?.({ preventScroll: true });
  if (!worked) getSelection().selectAllChildren(source);
  return worked;
}

/** Tell a screen reader. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** What went wrong, with the cure that the box itself names. */
export function complaint(error) {
  return h("div.complaint", { role: "alert" }, icon(ICONS.warn), h("div", {},
    h("p", { dir: "auto" }, error.message),
    error.hint ? h("p.soft", { dir: "auto" }, error.hint) : null));
}

/** A button that asks once more before it acts; `act` may throw an error with a message. */
export function button(label, act, { sure = "", className = "quiet", icon: path = "" } = {}) {
  const place = h("span.asking");
  const main = h("button", { type: "button", class: className }, path ? icon(path) : null, label);
  const run = async () => {
    main.disabled = true;
    place.querySelector(".complaint")?.remove();
    try {
      await act();
    } catch (error) {
      place.append(complaint(error));
    } finally {
      main.disabled = false;
    }
  };
  main.addEventListener("click", () => {
    if (!sure) return run();
    const yes = h("button.danger", { type: "button" }, t("yes"));
    const no = h("button.quiet", { type: "button" }, t("no"));
    const box = h("span.sure", { role: "group", "aria-label": sure }, h("span", {}, sure), yes, no);
    const close = () => {
      box.replaceWith(main);
      main.focus();
    };
    yes.addEventListener("click", () => { close(); run(); });
    no.addEventListener("click", close);
    box.addEventListener("keydown", (event) => event.key === "Escape" && close());
    main.replaceWith(box);
    no.focus();
  });
  place.append(main);
  return place;
}

/** A labelled field. */
export function field(label, input) {
  return h("label.field", {}, h("span.label", {}, label), input);
}
