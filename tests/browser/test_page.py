"""The page as a person uses it: a real service, the built-in model, a real Chromium."""

import json
import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import DESK, PHONE
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.waiting import wait_for

pytestmark = pytest.mark.browser

SLOW_KBPS = 32_000  # the model of some megabytes then takes some seconds


@pytest.fixture(scope="module")
def box(module_service, docker_registry, tmp_path_factory):
    """A service whose registry is a real one that holds `faraway`."""
    gguf = tiny_llama_gguf(tmp_path_factory.mktemp("gguf") / "faraway.gguf", embd=512)
    registry = f"http://{docker_registry.address}"
    running = module_service(registry=registry, transfer_down_kbps=SLOW_KBPS)
    running.create("faraway", gguf)
    status, lines = running.call("POST", "/api/push", {"model": "faraway", "stream": False})
    assert status == 200, lines
    running.call("DELETE", "/api/delete", {"model": "faraway"})
    return running


def ask(page, text, model="hearth:latest"):
    page.get_by_role("combobox", name="Model", exact=True).select_option(model)
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def installed(box):
    return {model["name"] for model in box.call("GET", "/api/tags")[1]["models"]}


def test_the_first_screen_is_one_document_and_everything_comes_from_the_box(box, chrome):
    page = chrome.visit(box.url)
    name = page.evaluate("document.querySelector('h1').textContent")
    assert name.startswith("Hearth ")
    expect(page.get_by_role("heading", level=2)).to_have_text(
        ["Connect an app", "Chat", "Models", "Right now", "How the box feels", "You and others"]
    )
    expect(page.get_by_role("tab", name="Anthropic apps")).to_be_visible()
    assert {urlsplit(request.url).netloc for request in page.requested} == {
        urlsplit(box.url).netloc
    }
    kinds = [request.resource_type for request in page.requested]
    assert kinds.count("document") == 1
    assert kinds.count("stylesheet") == 1
    assert not {"font", "media", "websocket"} & set(kinds)
    fetched = [request for request in page.requested if request.resource_type == "fetch"]
    assert len([r for r in fetched if r.url.endswith("/hearth/v1/live")]) == 1


def test_state_comes_by_the_stream_and_nothing_is_asked_again(box, chrome):
    page = chrome.visit(box.url)
    expect(page.locator("#models .rows").first).to_contain_text("hearth:latest")
    before = len(page.requested)
    box.call("POST", "/api/copy", {"source": "hearth", "destination": "appeared"})
    expect(page.locator("#models .rows").first).to_contain_text("appeared:latest")
    box.call("DELETE", "/api/delete", {"model": "appeared"})
    expect(page.locator("#models .rows").first).not_to_contain_text("appeared:latest")
    assert len(page.requested) == before


def test_a_chat_streams_and_tells_its_speed(box, chrome):
    page = chrome.visit(box.url)
    ask(page, "a **bold** word and `code` <b>not html</b>")
    answer = page.locator(".theirs").first
    expect(answer.locator(".prose")).to_contain_text("a bold word and code <b>not html</b>")
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator(".meta")).to_have_text(re.compile(r"^\d+ tokens · [\d,.]+ tokens/s · "))
    ask(page, "again")
    expect(page.locator(".theirs .prose").nth(1)).to_contain_text("again")


def test_a_chat_is_stopped_and_the_model_is_free_again(box, chrome):
    page = chrome.visit(box.url)
    ask(page, "[[forever]] [[slow 20]] and on")
    expect(page.locator(".theirs .prose")).to_contain_text("on on")
    expect(page.locator("#now")).to_contain_text("hearth:latest: 1 of")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".meta")).to_contain_text("stopped")
    wait_for(lambda: not any(m["running"] for m in status(box)["models"]))
    page.get_by_role("button", name="New chat").click()
    ask(page, "next")
    expect(page.locator(".theirs .meta")).to_contain_text("tokens")
    expect(page.locator(".theirs .prose")).to_contain_text("next")


def status(box):
    return box.call("GET", "/hearth/v1/status")[1]


def test_thoughts_are_folded_away_and_a_broken_answer_says_so(box, chrome):
    page = chrome.visit(box.url)
    lines = [
        {"message": {"role": "assistant", "content": "", "thinking": "hm <i>"}, "done": False},
        {"message": {"role": "assistant", "content": "Yes."}, "done": False},
        {"error": "the worker was killed (SIGKILL)", "code": "engine_crashed"},
    ]
    body = "\n".join(json.dumps(line) for line in lines)
    page.route("**/api/chat", lambda route: route.fulfill(status=200, body=body))
    ask(page, "think")
    thoughts = page.locator("details.thinking")
    expect(thoughts.locator("summary")).to_have_text("Thoughts")
    expect(thoughts.locator("p")).to_have_text("hm <i>")
    expect(thoughts.locator("p")).to_be_hidden()
    expect(page.locator(".theirs .prose")).to_have_text("Yes.")
    expect(page.get_by_role("alert")).to_have_text("the worker was killed (SIGKILL)")


def test_a_pull_shows_its_progress_survives_the_page_and_is_cancelled(box, chrome):
    page = chrome.visit(box.url)
    page.get_by_label(re.compile("Name of a model")).fill("faraway")
    page.get_by_role("button", name="Get it").click()
    bar = page.get_by_role("progressbar", name="Progress of faraway:latest")
    expect(page.locator(".moving")).to_contain_text(
        re.compile(r"[\d.]+ MB / [\d.]+ MB · [\d.]+ MB/s · .* left")
    )
    page.reload()
    expect(bar).to_be_visible()
    page.locator(".moving").get_by_role("button", name="Cancel").click()
    expect(bar).to_be_hidden()
    assert "faraway:latest" not in installed(box)
    page.get_by_label(re.compile("Name of a model")).fill("faraway")
    page.keyboard.press("Enter")
    expect(page.locator(".get .result")).to_have_text("faraway is ready.")
    expect(page.locator("#models .rows").first).to_contain_text("faraway:latest")
    row = page.locator("#models li", has_text="faraway:latest")
    row.get_by_role("button", name="Remove").click()
    row.get_by_role("button", name="Yes").click()
    expect(row).to_have_count(0)
    assert "faraway:latest" not in installed(box)


def test_a_pull_that_fails_says_why(box, chrome):
    page = chrome.visit(box.url)
    page.get_by_label(re.compile("Name of a model")).fill("nothing-of-that-name")
    page.keyboard.press("Enter")
    expect(page.locator(".get [role=alert]")).to_contain_text("does not exist")
    expect(page.locator(".moving")).to_be_hidden()


def test_who_comes_through_a_proxy_is_told_what_to_do_and_uses_a_key(box, chrome):
    """As from outside; a key with the scope chat may talk and change nothing."""
    status, made = box.call("POST", "/hearth/v1/keys", {"name": "Ann <b>", "scopes": ["chat"]})
    assert status == 201, made
    away = {"extra_http_headers": {"X-Forwarded-For": "203.0.113.9"}}
    page = chrome.visit(box.url, wait=False, **away)
    people = page.locator("#people")
    expect(people).to_contain_text("this needs a key with the scope chat")
    expect(people).to_contain_text("hearth keys create NAME")
    people.locator("input[type=password]").fill("nonsense")
    people.get_by_role("button", name="Use it").click()
    expect(people.get_by_role("alert")).to_contain_text("begins with hearth_")
    people.locator("input[type=password]").fill(made["secret"])
    people.get_by_role("button", name="Use it").click()
    expect(people).to_contain_text("You use the key “Ann <b>” (chat).")
    ask(page, "hello from afar")
    expect(page.locator(".theirs .prose")).to_contain_text("hello from afar")
    expect(page.get_by_role("button", name="Remove")).to_have_count(0)
    page.get_by_label(re.compile("Name of a model")).fill("faraway")
    page.get_by_role("button", name="Get it").click()
    refusal = page.locator(".get [role=alert]")
    expect(refusal).to_contain_text("has not the scope manage")
    expect(refusal).to_contain_text("hearth keys create NAME --scope manage")
    assert made["secret"] not in page.content()
    box.call("DELETE", f"/hearth/v1/keys/{made['key']['id']}")
    page.reload()
    expect(people).to_contain_text("this key is wrong or was revoked")


def test_keys_are_made_shown_once_and_revoked(box, chrome):
    page = chrome.visit(box.url)
    page.get_by_text("New key", exact=True).click()
    page.get_by_label("For whom or what").fill("Kitchen tablet")
    page.get_by_role("button", name="Make key").click()
    secret = page.get_by_role("group", name="New key").locator("code")
    expect(secret).to_have_text(re.compile(r"^hearth_\w+_\w+"))
    page.get_by_role("button", name="Close").click()
    row = page.locator("#people li", has_text="Kitchen tablet")
    row.get_by_role("button", name="Revoke").click()
    row.get_by_role("button", name="No").click()
    row.get_by_role("button", name="Revoke").click()
    row.get_by_role("button", name="Yes").click()
    expect(row).to_contain_text("revoked")


def test_by_keyboard_alone(box, chrome):
    page = chrome.visit(box.url, viewport=DESK)
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the chat")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate(FOCUSED))
        if page.evaluate("document.activeElement === document.body"):
            break
    for wanted in (
        "Connect an app",
        "Copy: Address",
        "Ollama apps",
        "Your message",
        "Send",
        "Get it",
    ):
        assert wanted in seen
    page.get_by_role("tab", name="Ollama apps").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="OpenAI apps")).to_be_focused()
    expect(page.get_by_role("tabpanel")).to_contain_text("/v1")
    page.get_by_label("Your message").focus()
    page.keyboard.type("[[forever]] [[slow 20]] typed")
    page.keyboard.press("Enter")
    expect(page.locator(".theirs .prose")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator(".meta")).to_contain_text("stopped")


FOCUSED = """(() => {
  const it = document.activeElement;
  return it.getAttribute("aria-label") || it.textContent.trim();
})()"""


def test_every_control_has_a_name(box, chrome):
    page = chrome.visit(box.url, viewport=DESK)
    ask(page, "something to look at")
    expect(page.locator(".meta")).to_contain_text("tokens")
    nameless = page.evaluate("""[...document.querySelectorAll(
        "button, input, select, textarea, a, progress, meter, img, [role=log], [role=tabpanel]")]
        .filter((it) => it.checkVisibility() && !(it.getAttribute("aria-label")
            || it.getAttribute("aria-labelledby") || it.alt || it.textContent.trim()
            || it.labels?.length)).map((it) => it.outerHTML)""")
    assert nameless == []


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_a_narrow_phone_never_scrolls_sideways(box, chrome, direction):
    page = chrome.visit(box.url, viewport={"width": 320, "height": 568})
    page.evaluate(f"document.documentElement.dir = '{direction}'")
    ask(page, "a_very_long_word_" * 12 + "\n```\n" + "code " * 60 + "\n```")
    expect(page.locator(".meta")).to_contain_text("tokens")
    page.get_by_text("New key", exact=True).click()
    for tab in page.get_by_role("tab").all():
        tab.click()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 320, tab.text_content()


def test_dark_and_light_follow_the_device_and_can_be_read(box, chrome):
    found = {}
    for scheme in ("light", "dark"):
        page = chrome.visit(box.url, viewport=PHONE, color_scheme=scheme)
        found[scheme] = page.evaluate(CONTRASTS)
        assert min(found[scheme]["ratios"].values()) >= 4.5, found[scheme]
    assert found["light"]["paper"] > 0.8
    assert found["dark"]["paper"] < 0.05


CONTRASTS = """(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = parts(text).map((n) => n / 255)
      .map((n) => (n <= 0.03928 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (it) => {
    for (; it; it = it.parentElement) {
      const colour = getComputedStyle(it).backgroundColor;
      if ((parts(colour)[3] ?? 1) === 1) return colour;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const ratio = (it) => {
    const [a, b] = [light(getComputedStyle(it).color), light(behind(it))].sort();
    return (b + 0.05) / (a + 0.05);
  };
  const ratios = {};
  for (const it of document.querySelectorAll("h1, h2, p, button, .badge, .label, dt, dd, a")) {
    if (it.checkVisibility() && it.textContent.trim()) {
      const what = `${it.tagName}.${it.className}`;
      ratios[what] = Math.min(ratios[what] ?? 99, ratio(it));
    }
  }
  return { paper: light(getComputedStyle(document.body).backgroundColor), ratios };
})()"""


def test_a_rebound_name_gets_nothing(box, browser, chrome):
    port = urlsplit(box.url).port
    context = browser.new_context()
    page = context.new_page()
    for path in ("/", "/hearth/v1/live", "/static/x/main.js", "/hearth/v1/qr.svg"):
        answer = page.goto(f"http://rebind.test:{port}{path}")
        assert answer.status == 403
        assert "not one of this box's names" in answer.text()
    context.close()


def test_a_page_in_a_frame_of_another_site_stays_empty(box, chrome, browser):
    context = browser.new_context()
    page = context.new_page()
    page.set_content(f'<iframe src="{box.url}/"></iframe>')
    inside = page.frame_locator("iframe").locator("body")
    expect(inside).to_contain_text("requests from other sites' pages are refused")
    context.close()


def test_the_page_says_that_the_box_is_gone_and_comes_back(start_service, chrome):
    service = start_service()
    port = urlsplit(service.url).port
    page = chrome.visit(service.url)
    service.stop()
    expect(page.locator("header .link")).to_have_text(re.compile("Restarting|Not reachable"))
    start_service(state=service.state, host=f"127.0.0.1:{port}")
    expect(page.locator("header .link")).to_have_text("Awake")
    # A browser tells of each try on its own; that is no complaint of the page.
    chrome.problems[:] = [p for p in chrome.problems if "net::ERR_" not in p]
