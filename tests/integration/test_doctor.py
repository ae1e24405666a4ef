"""`hearth doctor` on a real service and without one: real damage, real folders, exit statuses."""

import json
import os
import socket
import time

from tests.integration.cli_process import Command

NOBODY = "http://127.0.0.1:1"


def codes(service):
    status, body = service.call("GET", "/hearth/v1/doctor")
    assert status == 200
    return {found["code"] for found in body["conditions"]}


def weights(service):
    blobs = service.state / "models/blobs"
    return max(blobs.iterdir(), key=lambda path: path.stat().st_size)


def test_what_happened_to_the_store_is_found(start_service, tiny_gguf):
    box = start_service()
    box.create("m", tiny_gguf)
    assert codes(box).isdisjoint({"blob_missing", "blobs_damaged", "manifest_unreadable"})
    path = weights(box)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    box.call("POST", "/hearth/v1/scrub", {"repair": False})
    bad = box.state / "models/manifests/registry.ollama.ai/library/bad/latest"
    bad.parent.mkdir()
    bad.write_text("{")
    part = path.with_name("sha256-" + "0" * 64 + "-part")
    part.write_bytes(b"x" * 5000)
    old = time.time() - 3 * 86_400
    os.utime(part, (old, old))
    box.state.chmod(0o777)
    assert codes(box) >= {
        "blob_missing",
        "blobs_damaged",
        "manifest_unreadable",
        "downloads_stuck",
        "state_not_private",
    }
    done = Command(box.url).run("doctor")
    assert done.returncode == 1
    assert "hearth scrub --repair" in done.stdout
    shown = Command(box.url).run("doctor", "--json")
    assert shown.returncode == 1
    assert not json.loads(shown.stdout)["healthy"]


def test_without_a_service_it_says_how_to_start_one_and_looks_itself(tmp_path):
    state = tmp_path / "state"
    (state / "models/manifests/h/n/m").mkdir(parents=True)
    (state / "models/manifests/h/n/m/t").write_text("{")
    done = Command(NOBODY).run("doctor", "--json", HEARTH_STATE=str(state))
    assert done.returncode == 1
    first, *others = json.loads(done.stdout)["conditions"]
    assert first["code"] == "service_down"
    assert "hearth serve" in first["cure"] + first["text"]
    assert "manifest_unreadable" in {found["code"] for found in others}


def test_a_folder_that_does_not_exist_yet(tmp_path):
    done = Command(NOBODY).run("doctor", "--json", HEARTH_STATE=str(tmp_path / "no"))
    body = json.loads(done.stdout)
    assert {"state_absent", "models_absent"} <= {c["code"] for c in body["conditions"]}
    assert not (tmp_path / "no").exists()


def test_a_port_that_another_program_has(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        host = f"127.0.0.1:{other.getsockname()[1]}"
        (tmp_path / "hearth.toml").write_text(f'host = "{host}"\nstate = "{tmp_path / "state"}"\n')
        config = str(tmp_path / "hearth.toml")
        done = Command(NOBODY).run("doctor", "--json", HEARTH_CONFIG=config)
    found = {c["code"]: c for c in json.loads(done.stdout)["conditions"]}
    assert "another program has it" in found["port_taken"]["text"]
    assert found["port_taken"]["severity"] == "error"


def test_a_service_that_was_killed_says_so_after_the_next_start(start_service):
    box = start_service()
    assert codes(box).isdisjoint({"unclean_stop"})
    box.process.kill()
    box.process.wait()
    assert "unclean_stop" in codes(start_service(box.state))


def test_an_unknown_variable_is_a_condition(start_service):
    box = start_service(nonsense="1")
    found = {c["code"]: c for c in box.call("GET", "/hearth/v1/doctor")[1]["conditions"]}
    assert "HEARTH_NONSENSE" in found["setting_unknown"]["text"]
