// The first thing to see: it is alive, what it is called, where it is.

import { copyable, h, keyed, put } from "./dom.js";
import { duration, since } from "./format.js";
import { watch } from "./live.js";
import { t } from "./strings.js";

const LITERAL = /^https?:\/\/(\d+(\.\d+){3}|\[[0-9a-f:]+\])/i;
const FOUR = /^https?:\/\/\d/;
const LOOPBACK = /^(localhost|127\.|\[::1\])/;

/** The addresses of this box, those that always work (IP) first. */
export function addresses(state) {
  const own = location.origin;
  const known = state.box?.addresses?.length ? [...state.box.addresses] : [];
  if (!LOOPBACK.test(location.host) && !known.includes(own)) known.push(own);
  if (!known.length) known.push(own);
  return known.sort((a, b) => LITERAL.test(b) - LITERAL.test(a));
}

/** Those that a person types: an IP address of the older, shorter kind if there is one, the name. */
function forPeople(found) {
  const literals = found.filter((url) => LITERAL.test(url));
  const short = literals.filter((url) => FOUR.test(url));
  return [...(short.length ? short : literals).slice(0, 2), ...found.filter((url) => !LITERAL.test(url)).slice(0, 2)];
}

/** Whether anybody else could reach the box. */
export const isAlone = (state) => Boolean(state.box?.loopback);

export function home() {
  const name = h("h1", { id: "home-title", dir: "auto" }, "Hearth");
  const promise = h("p.promise", {}, t("home.promise"));
  const since_ = h("p.soft");
  const list = h("div.addresses", { role: "group", "aria-label": t("home.addresses") });
  const note = h("p.note", { hidden: true });
  const picture = h("img", { width: 148, height: 148, alt: "" });
  const qr = h("figure.qr", { hidden: true }, picture, h("figcaption", {}, t("home.scan")));
  const node = h("section.hero", { id: "home", "aria-labelledby": "home-title" },
    h("div.hero-text", {}, name, promise, since_, list,
      h("p.start", {}, h("a.button.primary", { href: "#chat" }, t("home.start"))), note), qr);

  watch(["box", "me"], (state) => {
    const { box, me } = state;
    if (!box) return;
    put(name, box.name);
    document.title = `${box.name} · Hearth`;
    put(since_, t("home.since", { time: duration(since(box.started_at)) }));
    const found = addresses(state);
    keyed(list, forPeople(found), (url) => url, (url) =>
      ({ node: copyable(LITERAL.test(url) ? t("home.address") : t("home.name"), url, "big").node, update() {} }));
    showQr(found[0]);
    const isNew = me && !me.claimed;
    note.hidden = !(isAlone(state) || isNew);
    note.replaceChildren(isAlone(state) ? t("home.loopback") : "");
    if (isNew && !isAlone(state)) {
      note.replaceChildren(t("home.unclaimed"), " ", h("a", { href: "#people" }, t("home.claim")));
    }
  });

  function showQr(url) {
    const host = new URL(url).host;
    qr.hidden = LOOPBACK.test(host);
    const source = `/hearth/v1/qr.svg?host=${encodeURIComponent(host)}`;
    if (!qr.hidden && picture.getAttribute("src") !== source) {
      picture.setAttribute("src", source);
      picture.alt = t("home.qr", { url });
    }
  }
  return node;
}
