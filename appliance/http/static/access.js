// Who you are to the box, the keys of others, and how a new box gets its owner.

import { call, key } from "./api.js";
import { button, complaint, copyable, field, h, keyed, put, say, section } from "./dom.js";
import { count, duration, since } from "./format.js";
import { may, reconnect, watch, watchLink } from "./live.js";
import { t } from "./strings.js";

const SCOPES = { chat: ["chat"], manage: ["chat", "manage"], admin: ["chat", "manage", "admin"] };

/** The code of `#claim=CODE`, which leaves the address bar and the history at once. */
function codeOfAddress() {
  const found = location.hash.match(/^#claim=([0-9A-Za-z-]{4,20})$/);
  if (found) history.replaceState(null, "", location.pathname);
  return found?.[1] ?? "";
}

export function people() {
  const { node, body } = section("people", t("people"));
  const who = h("p");
  const out = h("button.quiet", { type: "button", onclick: () => { key.clear(); reconnect(); } }, t("people.forget"));
  const secret = h("div.secret", { role: "group", "aria-label": t("people.secret.label"), tabindex: "-1", hidden: true });
  const code = codeOfAddress();
  const claim = claimForm(code, showSecret);
  const enter = h("details.enter", {}, h("summary", {}, t("people.enter")), keyForm());
  const mine = h("div.card", {}, who, out, enter);
  const owner = ownerPart(showSecret);
  body.append(secret, mine, claim.node, owner.node);
  claim.node.hidden = !code;
  node.hidden = !code;

  let isShown = !code;
  watch(["me"], ({ me }) => {
    node.hidden = !me && !code;
    out.hidden = !key.get();
    if (!me) return;
    put(who, me.key
      ? t("people.key", { name: me.key.name, scopes: me.scopes.join(", ") })
      : t({ here: "people.here", lan: "people.guest" }[me.ring] ?? "people.outside"));
    enter.hidden = Boolean(me.key) || me.ring === "here";
    claim.node.hidden = me.claimed;
    owner.show(may("admin"), me);
    if (!isShown && !me.claimed) requestAnimationFrame(claim.focus); // all that is above has its height by now
    isShown = true;
  });
  watchLink(({ word, error }) => {
    if (word !== "locked") return;
    node.hidden = false;
    enter.hidden = false;
    enter.open = true;
    out.hidden = !key.get();
    put(who, error.message);
    who.parentNode.querySelector(".hint")?.remove();
    if (error.hint) who.after(h("p.soft.hint", {}, error.hint));
  });

  function showSecret(text, value) {
    secret.replaceChildren(h("p", {}, text), copyable(t("people.secret.label"), value, "big").node,
      h("button.quiet", { type: "button", onclick: () => (secret.hidden = true) }, t("close")));
    secret.hidden = false;
    secret.focus();
    secret.scrollIntoView({ block: "center", behavior: "instant" });
  }
  return node;
}

function keyForm() {
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: false, required: true });
  const said = h("div");
  const form = h("form.inline", {}, field(t("people.enter.label"), input), h("button.primary", { type: "submit" }, t("people.use")), said);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const secret = input.value.trim();
    said.replaceChildren();
    if (!/^hearth_[!-~]+$/.test(secret)) return said.append(complaint(new Error(t("people.badkey"))));
    key.set(secret);
    input.value = "";
    reconnect();
  });
  return form;
}

function claimForm(code, showSecret) {
  const typed = h("input", { type: "text", autocomplete: "one-time-code", autocapitalize: "characters", spellcheck: false, required: true, maxlength: "20", value: code });
  const name = h("input", { type: "text", required: true, maxlength: "60", value: t("people.claim.name.default") });
  const go = h("button.primary", { type: "submit" }, t("people.claim.do"));
  const said = h("div");
  const form = h("form.inline", {}, field(t("people.claim.code"), typed), field(t("people.claim.name"), name), go);
  const node = h("div.card.claim", { id: "claim" }, h("h3", {}, t("people.claim")), h("p.soft", {}, t("people.claim.lead")), form, said);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    said.replaceChildren();
    go.disabled = true;
    try {
      const { secret } = await call("POST", "/hearth/v1/claim", { code: typed.value.trim(), name: name.value.trim() });
      key.set(secret);
      typed.value = "";
      node.hidden = true;
      showSecret(t("people.claim.done"), secret);
      reconnect();
    } catch (error) {
      said.append(complaint(error));
    } finally {
      go.disabled = false;
    }
  });
  const focus = () => {
    node.scrollIntoView({ block: "center", behavior: "instant" });
    go.focus({ preventScroll: true });
  };
  return { node, focus };
}

/** Keys and guests, for owners; and how to pair another phone. */
function ownerPart(showSecret) {
  const pair = h("div.card.pair", { hidden: true });
  const list = h("ul.rows", { "aria-label": t("people.keys") });
  const none = h("p.soft", {}, t("people.keys.none"));
  const guests = h("ul.rows", { "aria-label": t("people.guests") });
  const guestPart = h("div", {}, h("h3", {}, t("people.guests")), guests);
  const said = h("div");
  const node = h("div.owner", { hidden: true }, pair,
    h("div.card", {}, h("h3", {}, t("people.keys")), none, list, newKey(), said, guestPart));
  let isShown = false;
  let wasClaimed = null;

  function newKey() {
    const name = h("input", { type: "text", required: true, maxlength: "60" });
    const scope = h("select", {}, Object.keys(SCOPES).map((each) => h("option", { value: each }, t(`people.scope.${each}`))));
    const form = h("form.inline", {}, field(t("people.keys.name"), name), field(t("people.scope"), scope),
      h("button.primary", { type: "submit" }, t("people.keys.make")));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      said.replaceChildren();
      try {
        const made = await call("POST", "/hearth/v1/keys", { name: name.value.trim(), scopes: SCOPES[scope.value] });
        name.value = "";
        showSecret(t("people.secret"), made.secret);
        await load();
      } catch (error) {
        said.append(complaint(error));
      }
    });
    return h("details.new", {}, h("summary", {}, t("people.keys.new")), form);
  }

  async function load() {
    const found = await call("GET", "/hearth/v1/keys").catch((error) => said.replaceChildren(complaint(error)));
    if (!found) return;
    none.hidden = found.keys.length > 0;
    keyed(list, found.keys, ({ id }) => id, (first) => keyRow(first, load));
    guestPart.hidden = !found.guests?.length;
    keyed(guests, found.guests ?? [], ({ address }) => address, guestRow);
  }

  async function loadPair() {
    const found = await call("GET", "/hearth/v1/pair").catch(() => null);
    pair.hidden = !found?.claim_url;
    if (!found?.claim_url) return;
    const { host } = new URL(found.claim_url);
    const source = `/hearth/v1/qr.svg?host=${encodeURIComponent(host)}&claim=${encodeURIComponent(found.code)}`;
    pair.replaceChildren(h("img", { src: source, alt: t("people.pair.qr"), width: 148, height: 148 }),
      h("p", {}, t("people.pair", { code: found.code })));
  }

  function show(isOwner, me) {
    node.hidden = !isOwner;
    if (isOwner && (!isShown || wasClaimed !== me.claimed)) {
      load();
      loadPair();
    }
    isShown = isOwner;
    wasClaimed = me.claimed;
  }
  return { node, show };
}

function keyRow(first, reload) {
  const facts = h("p.soft");
  const revoke = button(t("people.keys.revoke"), async () => {
    await call("DELETE", `/hearth/v1/keys/${encodeURIComponent(first.id)}`);
    say(t("people.keys.revoked"));
    await reload();
  }, { sure: t("people.keys.sure", { name: first.name }) });
  const node = h("li", {}, h("div.what", {}, h("p.title", {}, h("bdi", {}, first.name)), facts), h("div.actions", {}, revoke));
  function update(now) {
    revoke.hidden = Boolean(now.revoked_at);
    node.classList.toggle("gone", Boolean(now.revoked_at));
    put(facts, [
      now.revoked_at ? t("people.keys.revoked") : now.scopes.join(", "),
      now.last_used_at ? t("people.keys.used", { time: duration(since(now.last_used_at)) }) : t("people.keys.unused"),
      now.tokens_today ? t("people.keys.today", { n: count(now.tokens_today) }) : "",
      (now.models ?? []).join(", "),
    ].filter(Boolean).join(" · "));
  }
  return { node, update };
}

function guestRow() {
  const name = h("bdi");
  const facts = h("p.soft");
  const node = h("li", {}, h("div.what", {}, h("p.title", {}, name), facts));
  return {
    node,
    update(now) {
      put(name, now.address);
      put(facts, t("people.guests.line", { requests: count(now.requests), tokens: count(now.tokens), time: duration(since(now.last_seen_at)) }));
    },
  };
}
