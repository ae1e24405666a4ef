// Puts the page together and keeps it connected.

import { people } from "./access.js";
import { chat } from "./chat.js";
import { connect } from "./connect.js";
import { h, put } from "./dom.js";
import { health, now } from "./health.js";
import { home } from "./home.js";
import { run, watch, watchLink } from "./live.js";
import { models } from "./models.js";
import { neighbours, updates } from "./site.js";
import { t } from "./strings.js";

const PARTS = ["connect", "chat", "models", "now", "people"];

function top() {
  const dot = h("span.dot", { "aria-hidden": "true" });
  const word = h("span");
  const nav = h("nav", { "aria-label": t("nav") }, PARTS.map((part) => h("a", { href: `#${part}` }, t(part))));
  document.getElementById("top").append(h("span.link", { role: "status" }, dot, word), nav);
  watchLink(({ word: is }) => {
    dot.className = `dot ${is}`;
    put(word, t(`link.${is}`));
    document.body.classList.toggle("away", is === "off" || is === "stopping");
  });
  watch(["me"], ({ me }) => (nav.lastChild.hidden = !me));
}

function foot() {
  const version = h("span");
  watch(["box"], ({ box }) => box && put(version, t("foot.version", { version: box.version })));
  const links = ["status", "doctor"].map((name) => h("a", { href: `/hearth/v1/${name}`, hidden: true }, t(`foot.${name}`)));
  // A link carries no key, so only the box itself can follow these.
  watch(["me"], ({ me }) => links.forEach((link) => (link.hidden = me?.ring !== "here")));
  return h("footer.soft", {}, version, links);
}

put(document.getElementById("skip"), t("skip"));
top();
document.getElementById("main").append(home(), connect(), chat(), models(),
  h("div.pair-of", {}, now(), health()), people(), neighbours(), updates(), foot());
document.documentElement.dataset.ready = "true";
run();
