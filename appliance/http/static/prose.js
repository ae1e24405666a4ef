// Shows a model's text: paragraphs, code, lists, bold. Makes elements and text, never HTML.

import { copyable, h } from "./dom.js";

const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)/g;

/** Fill `node` with `text`. While it still comes, call again with more. */
export function prose(node, text) {
  const parts = [];
  text.split(/^```/m).forEach((piece, place) => {
    if (place % 2) parts.push(code(piece));
    else parts.push(...blocks(piece));
  });
  // Only what changed is replaced, so that a selection in earlier text stays.
  const old = [...node.children];
  parts.forEach((part, place) => {
    if (!old[place]) node.append(part);
    else if (!old[place].isEqualNode(part)) old[place].replaceWith(part);
  });
  old.slice(parts.length).forEach((rest) => rest.remove());
}

function code(piece) {
  const end = piece.indexOf("\n");
  const language = end < 0 ? "" : piece.slice(0, end).trim();
  const body = end < 0 ? piece : piece.slice(end + 1).replace(/\n$/, "");
  return copyable(language || "text", body, "code").node;
}

function blocks(text) {
  const found = [];
  for (const paragraph of text.split(/\n{2,}/)) {
    const rows = paragraph.replace(/^\n+|\n+$/g, "");
    if (!rows.trim()) continue;
    const heading = rows.match(/^(#{1,6})\s+(.*)$/);
    const items = rows.split("\n");
    if (heading) found.push(h("p", { dir: "auto" }, h("strong", {}, heading[2])));
    else if (items.every((row) => /^\s*([-*•]|\d+[.)])\s+/.test(row))) {
      const isNumbered = /^\s*\d/.test(items[0]);
      const start = isNumbered ? String(parseInt(items[0], 10)) : null;
      found.push(h(isNumbered ? "ol" : "ul", { dir: "auto", start },
        items.map((row) => h("li", {}, inline(row.replace(/^\s*([-*•]|\d+[.)])\s+/, ""))))));
    } else found.push(h("p", { dir: "auto" }, inline(rows)));
  }
  return found;
}

function inline(text) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    parts.push(text.slice(at, match.index));
    if (match[1]) parts.push(h("code", { dir: "auto" }, match[1].slice(1, -1)));
    else parts.push(h("strong", {}, match[2].slice(2, -2)));
    at = match.index + match[0].length;
  }
  return [...parts, text.slice(at)].filter(Boolean);
}
