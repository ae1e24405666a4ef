// Beyond this box: neighbours that were found, and signed updates with a way back.

import { call } from "./api.js";
import { button, h, keyed, put, say, section } from "./dom.js";
import { duration, until } from "./format.js";
import { may, watch } from "./live.js";
import { t } from "./strings.js";

export function neighbours() {
  const { node, body } = section("near", t("near"), t("near.lead"));
  const list = h("ul.rows.card", { "aria-labelledby": "near-title" });
  const none = h("p.card.soft", {}, t("near.none"));
  body.append(list, none);
  watch(["neighbours"], ({ neighbours: found }) => {
    node.hidden = !found;
    const all = found?.neighbours ?? [];
    list.hidden = !all.length;
    none.hidden = all.length > 0;
    keyed(list, all, (each) => `${each.name} ${each.kind} ${each.port}`, neighbour);
  });
  return node;
}

function neighbour() {
  const dot = h("span.dot", { "aria-hidden": "true" });
  const name = h("bdi");
  const facts = h("p.soft", { dir: "auto" });
  const open = h("a.button.quiet", { rel: "noreferrer noopener", dir: "ltr" });
  const node = h("li", {}, h("div.what", {}, h("p.title", {}, dot, name), facts), h("div.actions", {}, open));
  function update(now) {
    put(name, now.name);
    const life = now.is_alive === null ? "" : t(now.is_alive ? "near.alive" : "near.gone");
    dot.className = `dot ${now.is_alive === null ? "" : now.is_alive ? "on" : "off"}`;
    put(facts, [now.kind, now.version, ...(now.caps ?? []), life].filter(Boolean).join(" · "));
    const url = safeUrl(now.addresses?.[0], now.port);
    open.hidden = !url;
    if (url) {
      open.href = url;
      put(open, new URL(url).host);
      open.setAttribute("aria-label", t("near.open", { name: now.name }));
    }
  }
  return { node, update };
}

/** http://ADDRESS:PORT/ of an IP address, or nothing: a neighbour may say anything of itself. */
function safeUrl(address, port) {
  if (!/^[0-9a-f.:]+$/i.test(address ?? "") || !Number.isInteger(port)) return "";
  try {
    return new URL(`http://${address.includes(":") ? `[${address}]` : address}:${port}/`).href;
  } catch {
    return "";
  }
}

export function updates() {
  const { node, body } = section("updates", t("updates"), t("updates.lead"));
  const bundles = h("ul.rows.card", { "aria-labelledby": "updates-title" });
  const channels = h("ul.rows.card");
  body.append(bundles, channels);
  watch(["updates", "me"], ({ updates: found }) => {
    node.hidden = !found || !(found.bundles.length + found.channels.length);
    if (node.hidden) return;
    bundles.hidden = !found.bundles.length;
    channels.hidden = !found.channels.length;
    keyed(bundles, found.bundles, ({ model }) => model, bundle);
    keyed(channels, found.channels, (each) => each.channel, channel);
  });
  return node;
}

function bundle({ model }) {
  const facts = h("p.soft");
  const actions = h("div.actions");
  let previous = null;
  const node = h("li", {}, h("div.what", {}, h("p.title", {}, h("bdi", {}, model)), facts), actions);
  function update(now) {
    put(facts, [
      now.state,
      now.version && t("updates.version", { version: now.version }),
      now.previous && t("updates.previous", { version: now.previous }),
      now.staged && t("updates.staged", { version: now.staged }),
      now.pinned && t("updates.pinned", { version: now.pinned }),
      now.revoked && t("updates.revoked"),
    ].filter(Boolean).join(" · "));
    if (now.previous !== previous) {
      previous = now.previous;
      const version = previous;
      actions.replaceChildren(...(version ? [button(t("updates.back", { version }), async () => {
        await call("POST", "/hearth/v1/bundles/rollback", { model });
        say(t("updates.back.done", { model, version }));
      }, { sure: t("updates.back.sure", { model, version }) })] : []));
    }
    actions.hidden = !may("manage");
  }
  return { node, update };
}

function channel({ channel: name }) {
  const facts = h("p.soft", { dir: "auto" });
  const trouble = h("p.unfit", { dir: "auto", hidden: true });
  const act = (verb, more = {}) => call("POST", `/hearth/v1/channels/${verb}`, { channel: name, ...more });
  const pause = button(t("updates.pause"), () => act("pause"));
  const resume = button(t("updates.resume"), () => act("resume"));
  const check = button(t("updates.check"), () => act("check", { stream: false }));
  const actions = h("div.actions", {}, check, pause, resume);
  const title = h("p.title", {}, h("bdi", {}, t("updates.channel", { name })));
  const node = h("li", {}, h("div.what", {}, title, facts, trouble), actions);
  function update(now) {
    put(facts, [
      now.paused && t("updates.paused"),
      now.held && t("updates.held"),
      now.next_at && t("updates.next", { time: duration(until(now.next_at)) }),
    ].filter(Boolean).join(" · "));
    trouble.hidden = !now.trouble;
    put(trouble, now.trouble ?? "");
    pause.hidden = now.paused;
    resume.hidden = !now.paused;
    actions.hidden = !may("manage");
  }
  return { node, update };
}
