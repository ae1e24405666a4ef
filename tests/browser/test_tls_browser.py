"""Chromium and HTTPS: refused before the authority is imported, a secure context after it."""

import os
import shutil
import subprocess
import urllib.request

import pytest

from tests.fakes.thief import serve_forged

CHROMIUM = "/usr/bin/chromium"

pytestmark = pytest.mark.browser


def require(*programs):
    """Skip, or fail in CI, where they must be there."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        message = f"needs {' and '.join(missing)} (Debian: chromium, libnss3-tools)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
def secure(start_service):
    return start_service(host="0.0.0.0:0", tls="on", tls_port=0)


@pytest.fixture
def home(tmp_path):
    """A home folder with an NSS database, where Chromium keeps what a user imported."""
    require(CHROMIUM, "certutil")
    database = tmp_path / "home/.pki/nssdb"
    database.mkdir(parents=True)
    subprocess.run(["certutil", "-d", f"sql:{database}", "-N", "--empty-password"], check=True)
    return tmp_path / "home"


def visit(home, url, host):
    """(title or network error, isSecureContext) of a page as a fresh browser sees it."""
    from playwright.sync_api import Error, sync_playwright

    rules = f"--host-resolver-rules=MAP {host} 127.0.0.1"
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", rules],
            env={**os.environ, "HOME": str(home)},
        )
        try:
            page = browser.new_page()
            try:
                page.goto(url, timeout=30_000)
            except Error as error:
                return str(error), None
            return page.content(), page.evaluate("isSecureContext")
        finally:
            browser.close()


def test_importing_the_authority_makes_a_secure_context(secure, home):
    body = secure.call("GET", "/hearth/v1/tls")[1]
    name = body["names"][0]
    assert name.startswith("hearth-")
    url = f"https://{name}:{body['port']}/"
    said, _ = visit(home, url, name)
    assert "ERR_CERT_AUTHORITY_INVALID" in said

    ca = home / "hearth-ca.crt"
    with urllib.request.urlopen(f"{secure.url}/hearth/v1/ca.crt", timeout=20) as answer:
        ca.write_bytes(answer.read())
    database = f"sql:{home}/.pki/nssdb"
    subprocess.run(
        ["certutil", "-d", database, "-A", "-t", "C,,", "-n", "hearth", "-i", str(ca)], check=True
    )
    said, is_secure = visit(home, url, name)
    assert is_secure is True, said
    plain, is_secure = visit(home, url.replace("https", "http").replace(
        str(body["port"]), secure.url.rpartition(":")[2]), name)  # fmt: skip
    assert is_secure is False, plain


def test_a_stolen_key_gives_no_other_site(secure, home, tmp_path):
    """The authority is imported, its key is stolen: Chromium refuses the thief's example.com."""
    database = f"sql:{home}/.pki/nssdb"
    ca = secure.state / "tls/ca.crt"
    subprocess.run(
        ["certutil", "-d", database, "-A", "-t", "C,,", "-n", "hearth", "-i", str(ca)], check=True
    )
    with serve_forged(secure.state / "tls", "example.com", tmp_path) as port:
        said, _ = visit(home, f"https://example.com:{port}/", "example.com")
    assert "ERR_CERT" in said
    with serve_forged(secure.state / "tls", "localhost", tmp_path) as port:
        said, is_secure = visit(home, f"https://localhost:{port}/", "localhost")
    assert is_secure is True, said  # the forgery is sound; the name was what stopped it
