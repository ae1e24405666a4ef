"""What does the page cost: bytes, requests, time until a person can use it, and what ten open pages
cost the service?

Chromium on the same machine, over loopback, with an empty cache each time; once as it is and once
with its CPU slowed four times, about a phone. "Interactive" is when every control is there and
works; "alive" is when the box's own state is on the screen too.
"""

from __future__ import annotations

import argparse
import gzip
import re
import time
import urllib.request
from typing import Any

import harness

CHROMIUM = "/usr/bin/chromium"
PHONE = {"width": 390, "height": 844}
PHONE_SLOWDOWN = 4
OPEN_PAGES = 10
PAGE_BAR_MS = 1000.0
WEIGHT_BAR = 60_000
# Notes when the page says that it is ready, and when the first state is drawn.
PROBE = """
const look = () => {
  const root = document.documentElement;
  if (root?.dataset.ready && !window.interactiveAt) window.interactiveAt = performance.now();
  if (document.querySelector(".dot.on") && !window.aliveAt) window.aliveAt = performance.now();
};
new MutationObserver(look).observe(document, {attributes: true, childList: true, subtree: true});
"""


def weigh(url: str) -> tuple[int, dict[str, int]]:
    """Bytes of all files of the page as they travel, and by kind."""
    html = _fetch(f"{url}/")
    found = {"html": len(html)}
    for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', gzip.decompress(html).decode()):
        kind = path.rpartition(".")[2]
        found[kind] = found.get(kind, 0) + len(_fetch(url + path))
    return sum(found.values()), found


def _fetch(url: str) -> bytes:
    headers = {"Accept": "text/html", "Accept-Encoding": "gzip"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        data: bytes = answer.read()
        return data


def load(browser: Any, url: str, slowdown: int) -> tuple[float, float, list[str]]:
    """One first visit: (ms to interactive, ms to alive, kinds of the requests)."""
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    kinds: list[str] = []
    page.on("request", lambda request: kinds.append(request.resource_type))
    page.add_init_script(PROBE)
    if slowdown > 1:
        session = context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
    page.goto(url)
    page.locator(".dot.on").wait_for()
    interactive, alive = page.evaluate("[window.interactiveAt, window.aliveAt]")
    context.close()
    return interactive, alive, kinds


def hold_open(browser: Any, service: harness.Service, seconds: float) -> dict[str, float]:
    """Memory and CPU of the service before, and with, ten open pages that nobody touches."""
    pid = service.process()
    before = harness.resident_mib(pid)
    contexts = [browser.new_context(viewport=PHONE) for _ in range(OPEN_PAGES)]
    for context in contexts:
        page = context.new_page()
        page.goto(service.url)
        page.locator(".dot.on").wait_for()
    time.sleep(2)
    used, began = harness.cpu_s(pid), time.perf_counter()
    time.sleep(seconds)
    cpu = (harness.cpu_s(pid) - used) / (time.perf_counter() - began) * 100
    after = harness.resident_mib(pid)
    for context in contexts:
        context.close()
    time.sleep(2)
    used, began = harness.cpu_s(pid), time.perf_counter()
    time.sleep(seconds)
    left = (harness.cpu_s(pid) - used) / (time.perf_counter() - began) * 100
    return {"rss_before": before, "rss_open": after, "cpu_open": cpu, "cpu_closed": left}


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    from playwright.sync_api import sync_playwright

    conditions = harness.machine() | {"loads": options.loads, "open_s": options.seconds}
    with harness.hearth_service(HEARTH_ENGINE="echo") as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--headless=new"]
        )
        conditions["browser"] = f"Chromium {browser.version}, loopback, empty cache, 390x844"
        weight, parts = weigh(service.url)
        load(browser, service.url, 1)  # the first one ever reads and packs the files
        rows = [["all files, gzipped, bytes", str(weight), _parts(parts)]]
        measured: dict[str, Any] = {"weight": weight, "parts": parts}
        figures = [harness.Figure("page: gzipped bytes", weight, WEIGHT_BAR, is_limit=True)]
        for name, slowdown in (("this machine", 1), ("CPU slowed 4 times", PHONE_SLOWDOWN)):
            visits = [load(browser, service.url, slowdown) for _ in range(options.loads)]
            interactive = harness.Spread.of([visit[0] for visit in visits])
            alive = harness.Spread.of([visit[1] for visit in visits])
            rows.append([f"interactive, {name}, ms", interactive.text(0), "bar 1000"])
            rows.append([f"alive, {name}, ms", alive.text(0), ""])
            measured |= {
                f"interactive {slowdown}": interactive.median,
                f"alive {slowdown}": alive.median,
            }
            what = f"page: ms to interactive, {name}"
            figures.append(harness.Figure(what, interactive.median, PAGE_BAR_MS, is_limit=True))
            kinds = visits[-1][2]
        counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
        rows.append(["requests of the first screen", str(len(kinds)), _parts(counts)])
        held = hold_open(browser, service, options.seconds)
        browser.close()
    growth = held["rss_open"] - held["rss_before"]
    rows.append(
        [f"service with {OPEN_PAGES} open pages, MiB", f"{held['rss_open']:.1f}", f"+{growth:.1f}"]
    )
    rows.append([f"its CPU, {OPEN_PAGES} open pages, % of a core", f"{held['cpu_open']:.2f}", ""])
    rows.append(["its CPU, all closed again, %", f"{held['cpu_closed']:.2f}", ""])
    measured |= {"requests": counts, **held}
    harness.report("page", conditions, ["page", "measured", ""], rows, measured, figures)


def _parts(parts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in parts.items())


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Weight, start and cost of the page")
    parser.add_argument("--loads", type=int, help="default 15, with --quick 5")
    parser.add_argument("--seconds", type=float, help="with open pages; default 20, --quick 5")
    options = parser.parse_args(argv)
    options.loads = options.loads or (5 if options.quick else 15)
    options.seconds = options.seconds or (5.0 if options.quick else 20.0)
    return options


if __name__ == "__main__":
    main()
