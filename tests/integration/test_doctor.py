"""`hearth doctor` on a real service and without one: real damage, real folders, exit statuses."""

import json
import os
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
