"""A board without a hardware clock begins in 1970: it serves at once, signatures are judged by the
floor, and what is noted and certified has times that make sense.
"""

import socket
import ssl
import time

import pytest

from appliance.trust.clock import RELEASED_S
from tests.fakes import early_clock
from tests.integration.bundle_box import Box, enrol

DAY_S = 86_400


@pytest.fixture
def in_1970(tmp_path):
    """The words before a command whose clock begins on 2 January 1970."""
    return early_clock.words(early_clock.compiled(tmp_path))


@pytest.fixture
def box(publisher, web, tmp_path, start_service, in_1970):
    state = tmp_path / "state"
    enrol(state, publisher, web.url)
    service = start_service(state, prefix=in_1970, tls="on", tls_port=0)
    return Box(service, publisher, web, "acme/early")


def codes(service):
    return {c["code"] for c in service.call("GET", "/hearth/v1/doctor")[1]["conditions"]}


def test_it_serves_and_signed_models_are_judged_by_the_floor(box):
    service = box.service
    assert service.call("GET", "/readyz")[0] == 200
    assert "clock_behind" in codes(service)
    box.publish("1.0.0", "Be early.")
    box.install()
    assert "Be early." in box.ask()
    issued = box.service.call("GET", "/hearth/v1/status")[1]["trust"]["repositories"]
    assert [each["freshness"] for each in issued] == ["fresh"]


def test_what_is_noted_has_a_time_that_makes_sense(box):
    service = box.service
    for name in ("one", "two"):
        assert service.call("POST", "/hearth/v1/keys", {"name": name, "scopes": ["chat"]})[0] == 201
    entries = service.call("GET", "/hearth/v1/audit")[1]["entries"]
    times = [entry["at"] for entry in entries]
    assert times == sorted(times, reverse=True)
    assert "1970" not in str(entries)


def test_a_certificate_is_valid_for_those_who_know_the_time(box):
    port = int(box.service.log.split("https port=")[1].split()[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    status, authority = box.service.call("GET", "/hearth/v1/ca.crt")
    assert status == 200
    context.load_verify_locations(cadata=authority)
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain):
        pass  # verified by the right clock of this machine


def test_an_administrators_browser_tells_the_time(box, start_service, in_1970):
    service = box.service
    now_s = time.time()
    assert service.call("POST", "/hearth/v1/clock", {"now_s": now_s}) == (200, {"used": True})
    assert "clock_behind" not in codes(service)
    service.call("POST", "/hearth/v1/keys", {"name": "late", "scopes": ["chat"]})
    assert service.stop() == 0
    again = start_service(service.state, prefix=in_1970)
    assert "clock_behind" not in codes(again)  # it was kept
    for wrong in (0, RELEASED_S - 1, now_s + 30 * 365 * DAY_S, None, "now"):
        status, body = again.call("POST", "/hearth/v1/clock", {"now_s": wrong})
        assert status == 400, body
        assert "now_s" in body["error"]
