"""The page's files as HTTP: who gets HTML, how it is kept, what it may do."""

import gzip
import http.client
import re
from urllib.parse import urlsplit

import pytest

from appliance.http.page import FOLDER, prefers_html

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
WEIGHT_LIMIT = 60_000  # bytes, gzipped


def get(service, path, method="GET", **headers):
    """(status, headers, body) with exactly these headers."""
    where = urlsplit(service.url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html;q=0", False),
        ("text/plain, text/html;q=0.5", False),
        ("application/json, text/plain, */*", False),
        ("text/*", False),
        ("TEXT/HTML; q=0.9, */*;q=0.1", True),
        ("text/html;q=9", True),  # no weight that there is: it counts as none
    ],
)
def test_who_prefers_html(accept, is_html):
    assert prefers_html(accept) is is_html


def test_clients_of_ollama_still_find_their_heartbeat(service):
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        status, answer, body = get(service, "/", **headers)
        assert (status, body) == (200, b"Ollama is running")
        assert answer["Vary"] == "Accept"
    assert get(service, "/", "HEAD")[::2] == (200, b"")


def test_a_browser_gets_the_page_under_a_strict_policy(service):
    status, headers, body = get(service, "/", Accept=BROWSER)
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http:" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"
    text = body.decode()
    assert "{{" not in text
    assert not re.search(r"<script(?! type=\"module\" src=)|<style| style=| on\w+=", text)
    status, empty, nothing = get(service, "/", "HEAD", Accept=BROWSER)
    assert (status, nothing, empty["ETag"]) == (200, b"", headers["ETag"])
    assert get(service, "/", Accept=BROWSER, If_None_Match=headers["ETag"])[::2] == (304, b"")


def test_files_are_kept_for_good_and_small(service):
    page = get(service, "/", Accept=BROWSER)[2].decode()
    paths = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    names = {path.rpartition("/")[2] for path in paths}
    assert names == {path.name for path in FOLDER.iterdir()} - {"index.html"}
    whole = 0
    for path in [*paths, "/"]:
        headers = {"Accept": BROWSER, "Accept_Encoding": "br, gzip;q=0.8"}
        status, answer, packed = get(service, path, **headers)
        assert (status, answer["Content-Encoding"]) == (200, "gzip")
        assert gzip.decompress(packed) == get(service, path, Accept=BROWSER)[2]
        whole += len(packed)
        if path != "/":
            assert "immutable" in answer["Cache-Control"]
            assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
            unpacked = get(service, path, Accept_Encoding="gzip;q=0, br")[1]
            assert "Content-Encoding" not in unpacked
            status, _, body = get(service, path, If_None_Match=f'"other", W/{answer["ETag"]}')
            assert (status, body) == (304, b"")
    assert whole <= WEIGHT_LIMIT


@pytest.mark.parametrize(
    "path",
    ["/static/000000000000/main.js", "/static/x/..%2f..%2fpage.py", "/static/", "/static/x/y/z"],
)
def test_there_are_no_other_files(service, path):
    status, _, body = get(service, path)
    assert status == 404
    assert b"import" not in body


def test_scripts_make_no_html_of_text():
    risky = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|eval\(|new Function|srcdoc"
    )
    for path in FOLDER.glob("*.js"):
        assert not re.search(risky, path.read_text()), path.name
        assert not re.search(r"""(from|import|fetch)\W+["'`](https?:)?//""", path.read_text())


def test_a_qr_code_is_made_of_own_addresses_alone(service):
    own = urlsplit(service.url).netloc
    status, headers, body = get(service, f"/hearth/v1/qr.svg?host={own}&claim=ABCD-EFGH")
    assert (status, headers["Content-Type"]) == (200, "image/svg+xml")
    assert body.startswith(b"<svg")
    assert get(service, "/hearth/v1/qr.svg")[0] == 200
    for host in ("evil.example", f"{own}@evil.example", "", "evil.example\\@127.0.0.1", "8.8.8.8"):
        assert get(service, f"/hearth/v1/qr.svg?host={host}")[0] in {400, 403}, host
    assert get(service, f"/hearth/v1/qr.svg?host={own}&claim=%3Cscript%3E")[0] == 400
