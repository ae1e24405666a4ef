"""A disk without a free byte, and one that the kernel made read-only: what serves, serves on, and
what does not is said once, with a cure. On a tmpfs, which only root can mount."""

import contextlib
import json
import shutil
import subprocess

import pytest

from tests.fakes.loop_disk import fill, small_disk
from tests.fakes.waiting import wait_for

CHAT = {"model": "m", "messages": [{"role": "user", "content": "one two"}], "stream": False}


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path, 64) as mount:
        yield mount


@contextlib.contextmanager
def read_only(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def codes(box):
    status, body = box.call("GET", "/hearth/v1/doctor")
    assert status == 200
    return {found["code"]: found for found in body["conditions"]}


def chats(box):
    return box.call("POST", "/api/chat", CHAT)[0] == 200


def test_a_full_disk_stops_what_writes_and_nothing_else(disk, start_service, tiny_gguf, tmp_path):
    box = start_service(disk / "state", log_path=tmp_path / "log", tls="on", tls_port=0)
    box.create("m", tiny_gguf)
    fill(disk / "ballast")
    assert shutil.disk_usage(disk).free == 0
    assert chats(box)
    refused = {
        ("POST", "/hearth/v1/keys"): {"name": "phone", "scopes": ["chat"]},
        ("POST", "/api/create"): {"model": "new", "from": "m", "system": "Be new."},
        ("POST", "/api/copy"): {"source": "m", "destination": "copy"},
        ("POST", "/hearth/v1/tls/renew"): {},
    }
    for (method, path), body in refused.items():
        status, answer = box.call(method, path, body)
        assert status == 507, (path, answer)
        assert "space" in json.dumps(answer) or "must stay free" in json.dumps(answer), answer
    status, answer = box.call("POST", "/api/pull", {"model": "127.0.0.1:1/a/b", "stream": False})
    assert status >= 500, answer
    assert codes(box)["disk_full"]["severity"] == "error"
    assert box.call("GET", "/hearth/v1/audit")[0] == 200  # with what waits to be written
    assert chats(box)
    assert box.call("DELETE", "/api/delete", {"model": "m"})[0] == 200  # room can be made
    (disk / "ballast").unlink()
    wait_for(lambda: shutil.disk_usage(disk).free > 32 << 20)  # a tmpfs gives back in its time
    box.create("m", tiny_gguf)
    assert chats(box)
    assert box.call("POST", "/hearth/v1/keys", {"name": "phone", "scopes": ["chat"]})[0] == 201
    actions = [e["action"] for e in box.call("GET", "/hearth/v1/audit")[1]["entries"]]
    assert "DELETE /api/delete" in actions
    assert box.stop() == 0
    assert "Traceback" not in box.log


def test_a_start_on_a_full_disk(disk, start_service, tiny_gguf, tmp_path):
    box = start_service(disk / "state", log_path=tmp_path / "log")
    box.create("m", tiny_gguf)
    assert box.stop() == 0
    fill(disk / "ballast")
    again = start_service(disk / "state", log_path=tmp_path / "log2")
    assert chats(again)
    assert "disk_full" in codes(again)
    assert again.stop() == 0
    assert "Traceback" not in again.log


def test_a_start_on_a_read_only_disk(disk, start_service, tiny_gguf, tmp_path):
    box = start_service(disk / "state", log_path=tmp_path / "log")
    box.create("m", tiny_gguf)
    assert box.stop() == 0
    with read_only(disk):
        again = start_service(disk / "state", log_path=tmp_path / "log2")
        assert chats(again)
        assert {"state_read_only", "models_read_only"} <= set(codes(again))
        status, answer = again.call("POST", "/api/copy", {"source": "m", "destination": "n"})
        assert status == 507
        assert "the disk is read-only" in answer["error"]
        assert again.stop() == 0
        assert "Traceback" not in again.log
