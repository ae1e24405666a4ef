"""A real Chromium for the page. Skips loudly where there is none, except in CI, which installs it.

Playwright's synchronous API keeps an event loop running in this thread, so a browser lives for one
file and is gone before asynchronous tests of other files begin.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--headless=new", "--host-resolver-rules=MAP rebind.test 127.0.0.1")
LIMIT_MS = 15_000
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}


def require_chromium():
    """Skip the test without Chromium or playwright; fail in CI."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        missing = "playwright is missing: pip install -e '.[dev]'"
    else:
        missing = "" if Path(CHROMIUM).exists() else "chromium is missing: apt-get install chromium"
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


class Chrome:
    """A running browser; `visit` opens pages that note what the browser complains of."""

    def __init__(self, browser):
        self._browser = browser
        self._contexts = []
        self.problems = []

    def visit(self, url, viewport=PHONE, wait=True, **options):
        """A page of a person who was never here before."""
        context = self._browser.new_context(viewport=viewport, **options)
        context.set_default_timeout(LIMIT_MS)
        self._contexts.append(context)
        page = context.new_page()
        page.requested = []
        page.on("request", lambda request: page.requested.append(request))  # noqa: PLW0108
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.goto(url)
        if wait:
            page.locator("header .dot.on").wait_for()
        return page

    def _note(self, message):
        """Refusals that a test provokes are no fault of the page."""
        if message.type in {"error", "warning"} and not re.match(
            r"Failed to load resource: the server responded with a status of 4", message.text
        ):
            self.problems.append(f"{message.type}: {message.text}")

    def leave(self):
        for context in self._contexts:
            context.close()
        self._contexts.clear()


@pytest.fixture(scope="module")
def launch():
    """Starts a browser with other programs or flags: `launch(executable_path=…)`."""
    require_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield lambda path=CHROMIUM: playwright.chromium.launch(
            executable_path=str(path), args=list(FLAGS)
        )


@pytest.fixture(scope="module")
def browser(launch):
    running = launch()
    yield running
    running.close()


@pytest.fixture
def chrome(browser):
    """The browser for one test, which fails if any page complained: a violation of the content
    policy, an error in a script, a warning of the browser."""
    visitor = Chrome(browser)
    yield visitor
    visitor.leave()
    assert visitor.problems == []


@pytest.fixture(scope="session")
def chromium_in(tmp_path_factory):
    """A program that is Chromium inside a network namespace."""

    def wrapper(namespace):
        path = tmp_path_factory.mktemp("chromium") / "chromium"
        assert shutil.which("ip")
        path.write_text(f'#!/bin/sh\nexec ip netns exec {namespace} {CHROMIUM} "$@"\n')
        path.chmod(0o755)
        return path

    return wrapper
