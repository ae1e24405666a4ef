"""HTTPS of a real service, judged by openssl, by Python's own ssl and by the command."""

import asyncio
import json
import re
import socket
import ssl
import stat
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from aiohttp import web

from appliance.access.authority import Clock, Wanted
from appliance.box import Box
from appliance.config import load_settings
from appliance.http.door import Limits
from appliance.http.https import Tls
from tests.fakes.thief import forged
from tests.fakes.waiting import until, wait_for
from tests.integration.raw_http import send


@pytest.fixture(scope="module")
def secure(module_service, tiny_gguf):
    """A service with HTTPS on every address."""
    running = module_service(host="0.0.0.0:0", tls="on", tls_port=0)
    running.create("echo", tiny_gguf)
    return running


@pytest.fixture(scope="module")
def ca(secure, tmp_path_factory):
    """The authority's certificate, fetched as a phone does."""
    reply = send(secure, "GET", "/hearth/v1/ca.crt")
    assert reply.headers["Content-Type"] == "application/x-x509-ca-cert"
    path = tmp_path_factory.mktemp("ca") / "hearth-ca.crt"
    path.write_bytes(reply.content)
    return path


def facts(service):
    status, body = service.call("GET", "/hearth/v1/tls")
    assert status == 200
    return body


def openssl(*arguments, text=""):
    done = subprocess.run(["openssl", *arguments], input=text, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def handshake(service, ca, name, **limits):
    """The TLS version of a verified connection; `ca` None for the system's authorities."""
    context = ssl.create_default_context(cafile=ca and str(ca))
    for limit, value in limits.items():
        setattr(context, limit, value)
    with (
        socket.create_connection(("127.0.0.1", facts(service)["port"]), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return connection.version()


def ask(service, ca, path="/healthz", *, host=None, headers=""):
    """One request over TLS, the answer's bytes."""
    port = facts(service)["port"]
    context = ssl.create_default_context(cafile=str(ca))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        named = host or f"localhost:{port}"
        head = f"GET {path} HTTP/1.1\r\nHost: {named}\r\n{headers}Connection: close\r\n\r\n"
        connection.sendall(head.encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_openssl_believes_the_certificate_for_every_name(secure, ca):
    body = facts(secure)
    where = ["-connect", f"127.0.0.1:{body['port']}", "-CAfile", str(ca), "-verify_return_error"]
    for name in body["names"]:
        kind = "-verify_hostname" if re.search("[a-z]", name) and ":" not in name else "-verify_ip"
        code, said = openssl("s_client", *where, kind, name)
        assert code == 0, said
        assert "Verification: OK" in said
    code, said = openssl("s_client", *where, "-verify_hostname", "example.com")
    assert "hostname mismatch" in said


def test_it_is_not_believed_without_the_authority(secure):
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-sig"):
        handshake(secure, None, "localhost")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_modern_versions_are_spoken(secure, ca, version):
    spoken = handshake(secure, ca, "localhost", minimum_version=version, maximum_version=version)
    assert spoken == version.name.replace("_", ".")


def test_old_versions_are_not(secure):
    port = facts(secure)["port"]
    code, said = openssl("s_client", "-connect", f"127.0.0.1:{port}", "-tls1_1",
                         "-cipher", "ALL:@SECLEVEL=0")  # fmt: skip
    assert code != 0
    assert "no peer certificate available" in said


@pytest.mark.parametrize("name", ["example.com", "evil.local", "8.8.8.8", "2001:db8::1"])
def test_its_stolen_key_signs_for_nobody_else(secure, ca, tmp_path, name):
    """Importing the authority gives it no power over other sites: openssl and Python refuse."""
    path = forged(secure.state / "tls", name, tmp_path)
    code, said = openssl("verify", "-CAfile", str(ca), str(path))
    assert code != 0
    assert "permitted subtree violation" in said
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cafile=str(ca))
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        meet(server, client, name)


@pytest.mark.parametrize("name", ["localhost", "192.168.7.7", "fd00::7"])
def test_the_forgery_itself_is_sound(secure, ca, tmp_path, name):
    """Else the test above would prove nothing."""
    path = forged(secure.state / "tls", name, tmp_path)
    code, said = openssl("verify", "-CAfile", str(ca), str(path))
    assert code == 0, said


def meet(server, client, name):
    """A handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (here, there, here, there):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


def test_no_sub_authority_can_be_made(ca):
    _, said = openssl("x509", "-in", str(ca), "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in said
    assert "Name Constraints: critical" in said


def test_the_same_rules_hold_over_tls(secure, ca):
    assert b"200 OK" in ask(secure, ca, "/api/tags")
    assert b" 403 " in ask(secure, ca, "/api/tags", host="evil.example")
    assert b" 403 " in ask(secure, ca, "/api/tags", headers="Origin: https://evil.example\r\n")
    own = f"Origin: https://localhost:{facts(secure)['port']}\r\n"
    assert b" 200 " in ask(secure, ca, "/api/tags", headers=own)
    assert b"malformed_http" in ask(secure, ca, "/api/tags", headers="X : y\r\n")


def test_plain_http_on_the_tls_port_disturbs_nobody(secure, ca):
    port = facts(secure)["port"]
    for junk in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\0" * 1000, b""):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(junk)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass
    assert b"200 OK" in ask(secure, ca)
    assert "Traceback" not in secure.log


def test_handshakes_that_never_end_leave_room_for_others(secure, ca):
    port = facts(secure)["port"]
    held = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(100)]
    try:
        assert b"200 OK" in ask(secure, ca)
    finally:
        for connection in held:
            connection.close()


def test_private_files_are_private(secure):
    folder = secure.state / "tls"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("ca.key", "server.pem"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert b"PRIVATE" not in send(secure, "GET", "/hearth/v1/ca.crt").content


def test_renewal_counts_at_once_and_keeps_the_key(secure, ca):
    before = facts(secure)
    old = ssl.get_server_certificate(("127.0.0.1", before["port"]))
    status, after = secure.call("POST", "/hearth/v1/tls/renew", {})
    assert status == 200
    assert ssl.get_server_certificate(("127.0.0.1", before["port"])) != old
    assert after["fingerprint"] == before["fingerprint"]
    assert after["ca_fingerprint"] == before["ca_fingerprint"]
    assert handshake(secure, ca, "localhost")


def test_who_may_renew(secure):
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    assert secure.call("POST", "/hearth/v1/tls/renew", {}, forwarded)[0] in {401, 403}
    assert secure.call("POST", "/hearth/v1/tls/renew", {"authority": 1})[0] == 400


def command(service, *arguments, **environ):
    names = {k: v for k, v in service.environ.items() if k != "HEARTH_HOST"}
    done = subprocess.run(
        [sys.executable, "-m", "appliance", *arguments],
        capture_output=True, text=True, env=names | environ, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_speaks_https(secure, ca):
    body = facts(secure)
    https = f"https://127.0.0.1:{body['port']}"
    code, _, said = command(secure, "list", "--host", https)
    assert code == 1
    assert "no trusted connection" in said
    assert "/hearth/v1/ca.crt" in said
    for given in ({"HEARTH_CA": str(ca)}, {"HEARTH_FINGERPRINT": body["fingerprint"]}):
        code, out, said = command(secure, "list", HEARTH_HOST=https, **given)
        assert (code, "echo" in out) == (0, True), said
        code, out, said = command(secure, "list", OLLAMA_HOST=https, **given)
        assert (code, "echo" in out) == (0, True), said
    code, out, said = command(secure, "tls", "--json", "--host", https, "--ca", str(ca))
    assert code == 0, said
    assert json.loads(out)["fingerprint"] == body["fingerprint"]


def test_the_command_refuses_another_key(secure, ca):
    https = f"https://127.0.0.1:{facts(secure)['port']}"
    code, _, said = command(secure, "list", HEARTH_HOST=https, HEARTH_FINGERPRINT="A" * 43)
    assert code == 1
    assert "not that of HEARTH_FINGERPRINT" in said
    code, _, said = command(secure, "list", HEARTH_HOST=https, HEARTH_FINGERPRINT="abc")
    assert code == 1
    assert "43 letters" in said
    code, _, said = command(secure, "list", "--ca", "/no/such/file", HEARTH_HOST=https)
    assert code == 1
    assert "cannot use /no/such/file" in said


def test_the_verb_prints_what_people_compare(secure):
    code, out, said = command(secure, "tls", HEARTH_HOST=secure.url)
    assert code == 0, said
    body = facts(secure)
    assert body["fingerprint"] in out
    assert body["ca_fingerprint"] in out
    code, out, said = command(secure, "tls", "renew", HEARTH_HOST=secure.url)
    assert code == 0, said
    assert body["fingerprint"] in out


def test_off_holds_nothing(start_service):
    plain = start_service()
    body = facts(plain)
    assert (body["on"], body["port"], body["problem"]) == (False, None, None)
    assert send(plain, "GET", "/hearth/v1/ca.crt").status == 404
    assert not (plain.state / "tls").exists()
    assert "HTTPS is off" in command(plain, "tls", HEARTH_HOST=plain.url)[1]


def test_a_taken_port_is_told(start_service, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"cannot listen on port {port} for HTTPS"):
            start_service(tls="on", tls_port=port)


@pytest.mark.parametrize("damage", ["key", "no-key", "certificate", "leaf", "facts"])
def test_damaged_files(start_service, tmp_path, damage):
    """What people imported is never replaced by itself; HTTP goes on, and the cure works."""
    state = tmp_path / "state"
    first = start_service(state, tls="on", tls_port=0)
    before = facts(first)
    first.stop()
    folder = state / "tls"
    if damage == "no-key":
        (folder / "ca.key").unlink()
    else:
        names = {"key": "ca.key", "certificate": "ca.crt", "leaf": "server.pem"}
        path = folder / names.get(damage, "server.json")
        path.write_bytes(path.read_bytes()[:100])
        if damage == "certificate":
            (folder / "server.json").unlink()  # else it is not needed yet
    second = start_service(state, tls="on", tls_port=0)
    assert second.call("GET", "/healthz")[0] == 200
    after = facts(second)
    if damage in {"leaf", "facts"}:  # ours to make again, under the authority that people know
        assert after["problem"] is None
        assert after["ca_fingerprint"] == before["ca_fingerprint"]
        return
    assert "tls/ca." in after["problem"]["error"]
    codes = [each["code"] for each in second.call("GET", "/hearth/v1/doctor")[1]["conditions"]]
    assert "tls_unusable" in codes
    code, _, said = command(second, "tls", "renew", "--authority", HEARTH_HOST=second.url)
    assert code == 0, said
    cured = facts(second)
    assert cured["problem"] is None
    assert cured["ca_fingerprint"] != before["ca_fingerprint"]
    path = tmp_path / "new.crt"
    path.write_bytes(send(second, "GET", "/hearth/v1/ca.crt").content)
    wait_for(lambda: b"200 OK" in ask(second, path))


def test_a_restart_keeps_everything(start_service, tmp_path):
    state = tmp_path / "state"
    first = start_service(state, tls="on", tls_port=0)
    before = ssl.get_server_certificate(("127.0.0.1", facts(first)["port"]))
    first.stop()
    second = start_service(state, tls="on", tls_port=0)
    assert ssl.get_server_certificate(("127.0.0.1", facts(second)["port"])) == before


async def test_a_new_address_counts_without_a_restart(tmp_path):
    """Names and addresses change under a running service: a lease, a renamed box, a set clock."""
    now_s = int(time.time())
    wanted = Wanted(("localhost",), ("127.0.0.1",), now_s, Clock.RIGHT)
    flags = {"state": str(tmp_path), "tls": "on", "tls_port": "0"}
    settings = await asyncio.to_thread(load_settings, flags, {})
    box = await asyncio.to_thread(Box.open, tmp_path)
    tls = Tls(settings, box, lambda: wanted)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await tls.open(runner.server, Limits.of(settings))
    serving = asyncio.create_task(tls.run_forever())
    try:
        first = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", tls.port))
        await tls.refresh()
        again = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", tls.port))
        assert again == first
        wanted = replace(wanted, addresses=("127.0.0.1", "192.168.7.9"))
        tls.look_now()
        await until(lambda: "192.168.7.9" in tls.leaf.names)
        other = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", tls.port))
        assert other != first
        assert tls.leaf.names == ["localhost", "127.0.0.1", "192.168.7.9"]
    finally:
        serving.cancel()
        tls.close()
        await runner.cleanup()
