// What the box does right now, and how it feels: queue and speed, device, conditions with cures.

import { call } from "./api.js";
import { ICONS, h, icon, keyed, put, section } from "./dom.js";
import { bytes, count, decimal } from "./format.js";
import { may, watch } from "./live.js";
import { t } from "./strings.js";

const HOT_C = 80;
const WARM_C = 65;
const LITTLE = 0.1; // of the memory free
const ENOUGH_BYTES = 8 * 2 ** 30; // free on a disk, or a twentieth of it where that is less

export function now() {
  const { node, body } = section("now", t("now"));
  const figures = {};
  const row = h("dl.figures", {}, ["running", "waiting", "speed"].map((name) => {
    figures[name] = h("dd", {}, "–");
    return h("div", {}, figures[name], h("dt", {}, t(`now.${name}`)));
  }));
  const lines = h("ul.plain");
  const quiet = h("p.soft", {}, t("now.quiet"));
  body.append(h("div.card", {}, row, lines, quiet));
  watch(["queue"], ({ queue }) => {
    node.hidden = !queue;
    if (!queue) return;
    put(figures.running, count(queue.running));
    put(figures.waiting, count(queue.waiting));
    put(figures.speed, queue.tokens_per_s ? decimal(queue.tokens_per_s) : "0");
    quiet.hidden = queue.models.length > 0;
    keyed(lines, queue.models, ({ name }) => name, () => {
      const line = h("li.soft", { dir: "auto" });
      return { node: line, update: (each) => put(line, t("now.line", { ...each, model: each.name })) };
    });
  });
  return node;
}

export function health() {
  const { node, body } = section("health", t("health"));
  const facts = h("ul.facts.card");
  const verdict = h("div.verdict.card");
  const list = h("ul.plain.conditions");
  const notes = h("ul.plain.conditions");
  const summary = h("summary");
  const more = h("details", { hidden: true }, summary, notes);
  const well = h("p.well", {}, icon(ICONS.done), t("health.well"));
  verdict.append(well, list, more);
  body.append(facts, verdict);

  watch(["device", "box"], ({ device, box }) => {
    const shown = device ? deviceFacts(device) : [];
    if (box?.memory) shown.push(memoryFact(box.memory));
    facts.hidden = !shown.length;
    keyed(facts, shown, ({ key }) => key, fact);
  });
  watch(["conditions"], ({ conditions }) => {
    verdict.hidden = !conditions;
    if (!conditions) return;
    if (conditions.conditions.some(({ code }) => code === "clock_behind")) tellTime();
    const all = conditions.conditions.map((each, place) => ({ ...each, key: `${each.code} ${each.text} ${place}` }));
    const minor = all.filter(({ severity }) => severity === "note");
    well.hidden = !conditions.healthy;
    keyed(list, all.filter(({ severity }) => severity !== "note"), ({ key }) => key, condition);
    keyed(notes, minor, ({ key }) => key, condition);
    more.hidden = !minor.length;
    put(summary, minor.length === 1 ? t("health.note1") : t("health.notes", { n: minor.length }));
  });
  return node;
}

/** Once: a box without a clock believes an administrator's. */
function tellTime() {
  if (tellTime.isDone || !may("admin")) return;
  tellTime.isDone = true;
  call("POST", "/hearth/v1/clock", { now_s: Date.now() / 1000 }).catch(() => {}); // the condition stays
}

function deviceFacts(device) {
  const found = [];
  for (const { zone, celsius } of device.temperatures ?? []) {
    found.push({
      key: `t ${zone}`, label: `${t("health.temperature")}, ${zone}`, text: `${Math.round(celsius)} °C`,
      share: celsius / 100, tone: celsius >= HOT_C ? "bad" : celsius >= WARM_C ? "warm" : "good",
    });
  }
  for (const each of (device.throttled ?? [])) {
    found.push({ key: `now ${each}`, text: t("health.throttled", { why: each }), tone: "bad" });
  }
  for (const each of (device.throttled_since_boot ?? [])) {
    if (!device.throttled?.includes(each)) found.push({ key: `ago ${each}`, text: t("health.throttled.before", { why: each }), tone: "warm" });
  }
  if (device.power_watts !== null && device.power_watts !== undefined) {
    found.push({ key: "power", label: t("health.power"), text: t("health.watts", { n: decimal(device.power_watts) }) });
  }
  for (const disk of device.disks ?? []) {
    const isLittle = disk.free_bytes < Math.min(ENOUGH_BYTES, disk.total_bytes / 20);
    const used = disk.total_bytes ? 1 - disk.free_bytes / disk.total_bytes : 1;
    const words = [t("health.free", { free: bytes(disk.free_bytes), total: bytes(disk.total_bytes) })];
    if (disk.life_used !== null && disk.life_used !== undefined) words.push(t("health.life", { n: Math.round(disk.life_used * 100) }));
    found.push({ key: `d ${disk.mount}`, label: t("health.disk", { mount: disk.mount }), text: words.join(" · "), share: used, tone: isLittle ? "bad" : "good" });
  }
  return found;
}

function memoryFact({ total, available }) {
  return {
    key: "memory", label: t("health.memory"), share: 1 - available / total, tone: available / total < LITTLE ? "bad" : "good",
    text: t("health.free", { free: bytes(available), total: bytes(total) }),
  };
}

function fact() {
  const label = h("span.label", { dir: "auto" });
  const text = h("span", { dir: "auto" });
  const meter = h("meter", { min: 0, max: 1 });
  const node = h("li", {}, label, text, meter);
  return {
    node,
    update(now) {
      put(label, now.label ?? "");
      label.hidden = !now.label;
      put(text, now.text);
      node.className = now.tone ?? "";
      meter.hidden = now.share === undefined;
      meter.value = Math.min(1, Math.max(0, now.share ?? 0));
      meter.setAttribute("aria-label", now.label ?? now.text);
    },
  };
}

function condition(first) {
  const cure = first.cure ? h("p.soft", { dir: "auto" }, t("health.cure", { cure: first.cure })) : null;
  const node = h("li", { class: first.severity }, icon(ICONS.warn), h("div", {},
    h("p", {}, h("span.unseen", {}, `${t(`health.${first.severity}`)}: `), h("strong", { dir: "auto" }, first.title)),
    h("p", { dir: "auto" }, first.text), cure));
  return { node, update() {} };
}
