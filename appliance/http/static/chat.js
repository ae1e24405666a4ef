// One conversation with one model: streams, stops, shows thoughts and speed.

import { documents } from "./api.js";
import { ICONS, complaint, field, h, icon, put, say, section } from "./dom.js";
import { count, decimal, duration } from "./format.js";
import { watch } from "./live.js";
import { prose } from "./prose.js";
import { t } from "./strings.js";

const NEAR_END_PX = 80;

let choose = () => {};

/** Talk to this model from now on. */
export const chatWith = (name) => choose(name);

export function chat() {
  const { node, head, body } = section("chat", t("chat"));
  const model = h("select", { id: "chat-model" });
  const fresh = h("button.quiet", { type: "button", hidden: true, onclick: startAnew }, t("chat.new"));
  const log = h("div.log", { role: "log", "aria-label": t("chat.log"), "aria-live": "off", tabindex: "0" });
  const input = h("textarea", { rows: 1, placeholder: t("chat.placeholder"), "aria-label": t("chat.label"), enterkeyhint: "send", dir: "auto" });
  const send = h("button.round", { type: "submit", "aria-label": t("chat.send") }, icon(ICONS.send));
  const form = h("form.composer", {}, input, send);
  const tries = h("div.tries", {}, [1, 2, 3].map((n) =>
    h("button.chip", { type: "button", onclick: () => ask(t(`chat.try.${n}`)) }, t(`chat.try.${n}`))));
  const empty = h("div.empty", {}, h("p.ask", {}, t("chat.empty")), tries, h("p.soft", {}, t("chat.private")));
  head.append(h("div.chat-head", {}, field(t("chat.with"), model), fresh));
  log.append(empty);
  body.append(h("div.card.chat", {}, log, form));

  let messages = [];
  let stop = null; // of the answer that comes
  let state = {};

  choose = (name) => {
    model.value = name;
    node.scrollIntoView();
    input.focus({ preventScroll: true });
  };

  watch(["models", "queue"], (now) => {
    state = now;
    const names = (now.models ?? []).filter((each) => each.capabilities?.includes("completion"))
      .map((each) => each.name);
    if (names.join("\n") !== [...model.options].map((each) => each.value).join("\n")) {
      const before = model.value;
      model.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
      if (names.includes(before)) model.value = before;
    }
    const isEmpty = now.models && !names.length;
    put(empty.firstChild, isEmpty ? t("chat.none") : t("chat.empty"));
    tries.hidden = Boolean(isEmpty);
  });

  input.addEventListener("input", grow);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
    if (event.key === "Escape") stop?.abort();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (stop) stop.abort();
    else if (input.value.trim()) ask(input.value.trim());
  });

  function grow() {
    input.style.height = "auto";
    input.style.height = `${Math.min(input.scrollHeight + 2, innerHeight / 3)}px`;
  }

  function startAnew() {
    stop?.abort();
    messages = [];
    log.replaceChildren(empty);
    fresh.hidden = true;
    input.focus();
  }

  function setBusy(controller) {
    stop = controller;
    log.setAttribute("aria-busy", String(Boolean(controller)));
    send.replaceChildren(icon(controller ? ICONS.stop : ICONS.send));
    send.setAttribute("aria-label", t(controller ? "chat.stop" : "chat.send"));
  }

  async function ask(text) {
    if (stop || !model.value) return;
    input.value = "";
    grow();
    empty.remove();
    fresh.hidden = false;
    log.append(h("div.turn.mine", {}, h("span.unseen", {}, t("chat.you")), h("p", { dir: "auto" }, text)));
    messages.push({ role: "user", content: text });
    const mine = messages;
    const controller = new AbortController();
    setBusy(controller);
    const content = await answer(model.value, mine, controller);
    if (mine !== messages) return;
    if (content) messages.push({ role: "assistant", content });
    else messages.pop();
    setBusy(null);
  }

  /** Shows the answer as it comes; returns its text, also of one that was stopped. */
  async function answer(name, asked, controller) {
    const turn = new Turn(name, () => state);
    log.append(turn.node);
    log.scrollTop = log.scrollHeight;
    try {
      const body = { model: name, messages: asked };
      for await (const line of documents("/api/chat", body, controller.signal)) {
        const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
        turn.add(line);
        if (isAtEnd) log.scrollTop = log.scrollHeight;
      }
      say(t("chat.done"));
    } catch (error) {
      if (error.name === "AbortError") turn.note(t("chat.stopped"));
      else turn.fail(error instanceof TypeError ? new Error(t("error.stream")) : error);
    }
    turn.end();
    log.scrollTop = log.scrollHeight;
    return turn.text;
  }
  return node;
}

/** One answer on the page. */
class Turn {
  constructor(model, state) {
    this.text = "";
    this.thoughts = "";
    this.model = model;
    this.state = state;
    this.began = performance.now();
    this.first = 0;
    this.pieces = 0;
    this.meta = h("p.meta.soft");
    this.prose = h("div.prose");
    this.thoughtText = h("p", { dir: "auto" });
    this.thinking = h("details.thinking", { hidden: true }, h("summary", {}, t("chat.thinking")), this.thoughtText);
    this.node = h("div.turn.theirs", {}, h("span.unseen", {}, model), this.thinking, this.prose, this.meta);
    this.wait();
    this.timer = setInterval(() => this.wait(), 500);
  }

  /** Before the first word: why it takes its time. */
  wait() {
    if (this.first) return;
    const mine = this.state().queue?.models.find((each) => each.name === this.model);
    this.meta.classList.add("pulse");
    if (mine?.loading) put(this.meta, t("chat.loading", { model: this.model }));
    else if (mine?.waiting) put(this.meta, t("chat.queued", { n: mine.waiting }));
    else put(this.meta, t("chat.waiting"));
  }

  add(line) {
    const { content = "", thinking = "" } = line.message ?? {};
    if ((content || thinking) && !this.first) {
      this.first = performance.now();
      this.meta.classList.remove("pulse");
    }
    if (thinking) {
      this.thoughts += thinking;
      this.thinking.hidden = false;
      put(this.thoughtText, this.thoughts);
    }
    if (content) {
      this.text += content;
      this.pieces += 1;
      if (this.thoughts) put(this.thinking.firstChild, t("chat.thought"));
      this.draw();
    }
    if (line.done) this.sum(line);
    else if (this.pieces > 4) {
      const rate = (this.pieces - 1) / ((performance.now() - this.first) / 1000);
      put(this.meta, t("chat.speed", { rate: decimal(rate) }));
    }
  }

  /** At most once a frame, however fast the words come. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      prose(this.prose, this.text);
    });
  }

  sum(line) {
    const facts = [];
    if (line.eval_count) facts.push(t("chat.tokens", { n: count(line.eval_count) }));
    if (line.eval_count > 1 && line.eval_duration) {
      facts.push(t("chat.speed", { rate: decimal(line.eval_count / (line.eval_duration / 1e9)) }));
    }
    if (this.first) facts.push(t("chat.first", { time: duration((this.first - this.began) / 1000) }));
    if (line.done_reason === "length") facts.push(t("chat.cut"));
    put(this.meta, facts.join(" · "));
  }

  note(text) {
    const before = this.first ? this.meta.textContent : "";
    put(this.meta, before ? `${before} · ${text}` : text);
  }

  fail(error) {
    put(this.meta, "");
    this.node.append(complaint(error));
  }

  end() {
    clearInterval(this.timer);
    this.first ||= performance.now();
    this.meta.classList.remove("pulse");
    prose(this.prose, this.text);
  }
}
