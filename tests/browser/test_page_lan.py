"""The page on a phone of the same network: guest, claim, neighbours that mean no good.

A lab of network namespaces (root); the phone is a Chromium in a namespace of its own.
"""

import contextlib
import os
import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import DESK, Chrome
from tests.system.lab import PORT, Lab, missing

pytestmark = [pytest.mark.browser, pytest.mark.system]

BOX, PHONE, EVIL = "10.77.0.1", "10.77.0.2", "10.77.0.66"
SCRIPT = "<img src=x onerror=alert(1)>"
# Announces a box by a name and facts that are HTML, as any device on the network may.
ANNOUNCE = f"""
import socket, sys, time
from zeroconf import ServiceInfo, Zeroconf
kind = "_hearth._tcp.local."
facts = {{"txtvers": "1", "id": "666666666666", "v": "{SCRIPT}", "caps": "chat,{SCRIPT}"}}
zc = Zeroconf(interfaces=["{EVIL}"])
zc.register_service(ServiceInfo(kind, "{SCRIPT}." + kind, addresses=[socket.inet_aton("{EVIL}")],
    port=80, server="evil.local.", properties=facts))
print("announced", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def lan(tmp_path_factory):
    """A switch with a new box, a phone and a stranger."""
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with Lab(tmp_path_factory.mktemp("page-lan")) as lab:
        switch = lab.switch()
        lab.box = lab.host("box", switch, f"{BOX}/24").start_box(name="Kitchen <b>box</b>")
        lab.phone = lab.host("phone", switch, f"{PHONE}/24")
        lab.evil = lab.host("evil", switch, f"{EVIL}/24")
        yield lab


@pytest.fixture(scope="module")
def phone_browser(launch, lan, chromium_in):
    running = launch(chromium_in(lan.phone.ns))
    yield running
    running.close()


@pytest.fixture
def phone(phone_browser):
    visitor = Chrome(phone_browser)
    yield visitor
    visitor.leave()
    assert visitor.problems == []


@contextlib.contextmanager
def ending(process):
    try:
        yield
    finally:
        process.terminate()


URL = f"http://{BOX}:{PORT}/"


def test_a_guest_chats_and_is_told_what_a_change_takes(phone, lan):
    page = phone.visit(URL)
    assert page.evaluate("isSecureContext") is False
    people = page.locator("#people")
    expect(people).to_contain_text("You are a guest of this network")
    expect(page.locator("h1")).to_have_text("Kitchen <b>box</b>")
    page.get_by_label("Your message").fill("hello box")
    page.keyboard.press("Enter")
    expect(page.locator(".theirs .prose")).to_contain_text("hello box")
    expect(page.locator(".meta")).to_contain_text("tokens")
    assert page.get_by_role("button", name="Remove").count() == 0
    expect(page.locator(".verdict")).to_be_hidden()  # conditions name folders of the box
    page.get_by_label(re.compile("Name of a model")).fill("smollm2:135m")
    page.keyboard.press("Enter")
    refusal = page.locator(".get [role=alert]")
    expect(refusal).to_contain_text("only the owner's key may do this from the network")
    expect(refusal).to_contain_text("run `hearth pair` on the box and claim it")


def test_the_address_comes_first_as_numbers_with_its_qr_code(phone, lan):
    page = phone.visit(URL, viewport=DESK)
    shown = page.locator(".addresses code").all_text_contents()
    assert shown[0] == f"http://{BOX}:{PORT}"
    assert re.fullmatch(rf"http://hearth-[0-9a-f]{{6}}\.local:{PORT}", shown[-1])
    picture = page.get_by_role("img", name=f"QR code of http://{BOX}:{PORT}")
    assert picture.evaluate("(it) => it.decode().then(() => it.naturalWidth > 0)")
    expect(page.get_by_role("tabpanel")).to_contain_text(f"http://{BOX}:{PORT}")
    refused = page.evaluate("fetch('/hearth/v1/qr.svg?host=evil.example').then((r) => r.status)")
    assert refused == 403


def test_copying_works_without_the_clipboard_api(phone, lan):
    page = phone.visit(URL)
    assert page.evaluate("navigator.clipboard === undefined")
    page.get_by_role("button", name="Copy: Address").first.click()
    expect(page.locator(".addresses .copy").first).to_have_text("Copied")
    page.get_by_label("Your message").focus()
    page.keyboard.press("Control+V")
    expect(page.get_by_label("Your message")).to_have_value(f"http://{BOX}:{PORT}")


def test_a_neighbour_that_calls_itself_a_script_is_shown_as_text(phone, lan):
    page = phone.visit(URL)
    command = ["ip", "netns", "exec", lan.evil.ns, sys.executable, "-c", ANNOUNCE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as evil, ending(evil):
        assert evil.stdout.readline() == "announced\n"
        near = page.locator("#near")
        expect(near.locator("bdi", has_text=SCRIPT)).to_have_text(SCRIPT)
        expect(near).to_contain_text("chat · <img src=x onerror=alert")
        assert near.locator("img, script").count() == 0
        assert near.get_by_role("link").first.get_attribute("href") == f"http://{EVIL}/"


def test_a_new_box_is_claimed_by_the_code_of_its_qr(phone, lan):
    _, pair = lan.box.get("/hearth/v1/pair")
    assert pair["claim_url"].startswith(f"http://{BOX}:{PORT}/#claim=")
    page = phone.visit(f"{URL}#claim=AAAA-AAAA")
    assert page.url == URL  # the code is gone from the address bar
    assert page.evaluate("history.length") <= 2
    page.get_by_role("button", name="Claim", exact=True).click()
    expect(page.locator("#claim [role=alert]")).to_be_visible()
    page.goto("about:blank")
    page.goto(pair["claim_url"])
    expect(page.locator("#claim")).to_be_in_viewport()
    page.get_by_label(re.compile("^Your name")).fill("Ann's phone")
    page.get_by_role("button", name="Claim", exact=True).click()
    people = page.locator("#people")
    expect(people).to_contain_text("The box is yours")
    expect(people.locator(".secret code")).to_have_text(re.compile("^hearth_"))
    expect(people).to_contain_text("You use the key “Ann's phone” (chat, manage, admin).")
    expect(page.locator("#claim")).to_be_hidden()
    expect(page.locator(".verdict")).to_be_visible()
    page.get_by_role("button", name="Forget the key in this tab").click()
    expect(people).to_contain_text("You are a guest of this network")
    _, pair = lan.box.get("/hearth/v1/pair")
    assert pair == {"claimed": True, "code": None, "urls": pair["urls"], "claim_url": None}
    assert page.evaluate("fetch('/hearth/v1/me').then((r) => r.json())")["ring"] == "lan"
