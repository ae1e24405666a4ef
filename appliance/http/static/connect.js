// "Connect my app": the exact address for each kind of app, ready to copy.

import { copyable, h, section } from "./dom.js";
import { addresses } from "./home.js";
import { watch } from "./live.js";
import { t } from "./strings.js";

const APPS = [
  { id: "ollama", fields: (base) => [["connect.url", base]] },
  { id: "openai", fields: (base) => [["connect.url", `${base}/v1`], ["connect.key", t("connect.key.any")]] },
  { id: "anthropic", fields: (base) => [["connect.url", base]] },
  { id: "ha", fields: (base, model) => [["connect.url", base], ["connect.model", model]] },
  { id: "webui", fields: (base) => [["connect.url", base], ["connect.command", `OLLAMA_BASE_URL=${base}`]] },
  {
    id: "curl",
    fields: (base, model) => [["connect.command",
      `curl ${base}/api/generate -d '{"model":"${model}","prompt":"Hello"}'`]],
  },
];

export function connect() {
  const { node, body } = section("connect", t("connect"), t("connect.lead"));
  const tabs = h("div.tabs", { role: "tablist", "aria-label": t("connect.tabs") });
  const panel = h("div.card", { role: "tabpanel", id: "connect-panel", tabindex: "0" });
  body.append(tabs, panel);
  let chosen = "ollama";
  let base = location.origin;
  let model = "hearth";
  let dialects = [];

  const buttons = APPS.map((app) => h("button", {
    type: "button", role: "tab", id: `tab-${app.id}`, "aria-controls": "connect-panel",
    onclick: () => choose(app.id),
  }, t(`connect.${app.id}`)));
  tabs.append(...buttons);
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const seen = buttons.filter((each) => !each.hidden);
    if (!step && event.key !== "Home" && event.key !== "End") return;
    event.preventDefault();
    const here = seen.indexOf(document.activeElement);
    const isRtl = getComputedStyle(tabs).direction === "rtl" && event.key.match(/Left|Right/);
    const next = event.key === "Home" ? 0 : event.key === "End" ? seen.length - 1
      : (here + (isRtl ? -step : step) + seen.length) % seen.length;
    seen[next].focus();
    seen[next].click();
  });

  function choose(id) {
    chosen = id;
    draw();
  }

  function draw() {
    APPS.forEach((app, place) => {
      const tab = buttons[place];
      tab.hidden = app.id === "anthropic" && !dialects.includes("anthropic");
      tab.setAttribute("aria-selected", String(app.id === chosen));
      tab.tabIndex = app.id === chosen ? 0 : -1;
    });
    const app = APPS.find(({ id }) => id === chosen);
    panel.setAttribute("aria-labelledby", `tab-${chosen}`);
    panel.replaceChildren(h("p", {}, t(`connect.${chosen}.how`)),
      ...app.fields(base, model).map(([label, value]) => copyable(t(label), value).node));
  }

  let drawn = "";
  watch(["box", "models"], (state) => {
    [base] = addresses(state);
    dialects = state.box?.dialects ?? [];
    model = state.models?.find((each) => each.capabilities?.includes("completion"))?.name ?? model;
    const now = JSON.stringify([base, model, dialects]);
    if (now !== drawn) draw(); // not under somebody's cursor
    drawn = now;
  });
  draw();
  return node;
}
