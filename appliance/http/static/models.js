// What is installed, what of it is in memory, and how more is brought in.

import { call, documents } from "./api.js";
import { chatWith } from "./chat.js";
import { ICONS, button, complaint, field, h, icon, keyed, put, say, section } from "./dom.js";
import { bytes, duration, until } from "./format.js";
import { may, watch } from "./live.js";
import { t } from "./strings.js";

const FORGET = 0.7; // of the rate measured before, at each new measure

export function models() {
  const { node, body } = section("models", t("models"), t("models.lead"));
  const list = h("ul.rows.card", { "aria-labelledby": "models-title" });
  const none = h("p.card.soft", { hidden: true }, t("models.none"));
  const moving = h("ul.rows.card.moving", { hidden: true });
  body.append(list, none, moving, getForm());
  watch(["models", "queue", "me"], (state) => {
    if (!state.models) return;
    none.hidden = state.models.length > 0;
    list.hidden = !none.hidden;
    keyed(list, state.models, (each) => each.name, (each) => row(each, state));
    for (const { update } of list.known.values()) void update;
  });
  watch(["transfers"], ({ transfers }) => {
    const shown = (transfers ?? []).filter(({ verb }) => has(verb));
    moving.hidden = !shown.length;
    keyed(moving, shown, ({ verb, model }) => `${verb} ${model}`, transfer);
  });
  return node;
}

const VERBS = { pull: "models.pull", push: "models.push", install: "models.install" };
const has = (verb) => verb in VERBS;

function row(model) {
  const { name } = model;
  const badges = h("span.badges");
  const facts = h("p.soft");
  const fit = h("p.unfit", { dir: "auto", hidden: true });
  const talk = h("button.quiet", { type: "button", onclick: () => chatWith(name) }, t("models.chat"));
  const unload = button(t("models.unload"), () =>
    call("POST", "/api/generate", { model: name, keep_alive: 0 }));
  const remove = button(t("models.remove"), async () => {
    await call("DELETE", "/api/delete", { model: name });
    say(t("models.removed", { model: name }));
  }, { sure: t("models.remove.sure", { model: name }) });
  const actions = h("div.actions", { role: "group", "aria-label": t("models.actions", { model: name }) }, talk, unload, remove);
  const node = h("li", {}, h("div.what", {}, h("p.title", {}, h("bdi", {}, name), " ", badges), facts, fit), actions);

  function update(now) {
    const words = [bytes(now.size), now.parameters, now.quantization];
    if (now.fit?.fits) words.push(t("models.fits", { size: bytes(now.fit.need) }));
    put(facts, words.filter(Boolean).join(" · "));
    fit.hidden = !now.fit || now.fit.fits;
    put(fit, now.fit?.why ? t("models.toobig", { why: now.fit.why }) : "");
    const can = now.capabilities ?? [];
    keyed(badges, [
      { key: "trust", text: now.trust, tone: tone(now.trust) },
      ...(now.loaded ? [{ key: "loaded", text: loadedText(now.loaded), tone: "warm" }] : []),
      ...(can.includes("embedding") ? [{ key: "embedding", text: t("models.embedding") }] : []),
      ...(can.includes("rerank") ? [{ key: "rerank", text: t("models.rerank") }] : []),
      ...(can.includes("vision") ? [{ key: "vision", text: t("models.sees") }] : []),
    ], ({ key }) => key, badge);
    talk.hidden = !can.includes("completion");
    unload.hidden = !now.loaded || !may("manage");
    remove.hidden = !may("manage");
  }
  return { node, update };
}

const tone = (trust) => (/^(signed|built)/.test(trust) ? "good" : /damaged|changed/.test(trust) ? "bad" : "");

function badge() {
  const node = h("span.badge");
  return {
    node,
    update(now) {
      node.className = `badge ${now.tone ?? ""}`;
      put(node, now.text);
    },
  };
}

function loadedText(loaded) {
  if (!loaded.expires_at) return t("models.loaded");
  const left = until(loaded.expires_at);
  return left > 86400 * 30 ? t("models.loaded") : t("models.until", { time: duration(left) });
}

/** One transfer: how far, how fast, how long still; or why it failed. */
function transfer(first) {
  const { model, verb } = first;
  const bar = h("progress", { max: 1, "aria-label": t("models.progress", { model }) });
  const facts = h("p.soft");
  const title = h("p.title", {}, h("bdi", {}, t(VERBS[verb], { model })));
  const end = () => call("POST", "/hearth/v1/transfers/cancel", { model });
  const stop = button(t("cancel"), end);
  const dismiss = button(t("dismiss"), end);
  const node = h("li", {}, h("div.what", {}, title, bar, facts), h("div.actions", {}, stop, dismiss));
  let before = null;
  let rate = 0;

  function update(now) {
    const isFailed = now.state === "failed";
    bar.hidden = isFailed;
    stop.hidden = isFailed || verb === "push" || !may("manage");
    dismiss.hidden = !isFailed || !may("manage");
    node.classList.toggle("failed", isFailed);
    if (isFailed) {
      put(title, t("models.failed", { model }));
      put(facts, now.error);
      return;
    }
    measure(now);
    if (!now.total) {
      bar.removeAttribute("value");
      put(facts, now.status);
      return;
    }
    bar.value = now.completed / now.total;
    const words = [`${bytes(now.completed)} / ${bytes(now.total)}`];
    if (rate > 0) words.push(`${bytes(rate)}/s`);
    if (rate > 0 && now.completed < now.total) {
      words.push(t("models.left", { time: duration((now.total - now.completed) / rate) }));
    }
    put(facts, words.join(" · "));
  }

  function measure(now) {
    const at = performance.now();
    const { completed } = now;
    if (before && completed > before.completed && at > before.at) {
      const fresh = (completed - before.completed) / ((at - before.at) / 1000);
      rate = rate ? rate * FORGET + fresh * (1 - FORGET) : fresh;
    }
    if (!before || completed !== before.completed) before = { at, completed };
  }
  return { node, update };
}

function getForm() {
  const name = h("input", { type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: false, placeholder: "smollm2:135m", required: true, maxlength: "400" });
  const go = h("button.primary", { type: "submit" }, icon(ICONS.plus), t("models.get.start"));
  const said = h("div.result");
  const guest = h("p.soft", { hidden: true }, t("models.get.guest"));
  const form = h("form.card.get", {}, h("h3", {}, t("models.get")), guest, h("div.inline", {}, field(t("models.get.name"), name), go), said);
  watch(["me"], () => (guest.hidden = may("manage")));

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (name.value.trim()) get(name.value.trim(), false);
  });

  async function get(model, confirm) {
    said.replaceChildren();
    go.disabled = true;
    let last = null;
    try {
      // It goes on when this page is closed; the list above shows it, from the live stream.
      for await (const line of documents("/api/pull", { model, confirm, keep: true })) last = line.status;
      if (last === "success") {
        said.replaceChildren(h("p", {}, t("models.get.done", { model })));
        say(t("models.get.done", { model }));
        name.value = "";
      }
    } catch (error) {
      if (error.code === "cancelled") return;
      said.replaceChildren(complaint(error));
      if (error.code === "confirmation_needed") {
        said.append(button(t("models.get.anyway"), () => get(model, true), { className: "danger" }));
      }
    } finally {
      go.disabled = false;
    }
  }
  return form;
}
