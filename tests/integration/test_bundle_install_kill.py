"""The service is killed at random moments while it installs one release after another. Afterwards
the state can be read, and the old release or the new one serves, whole.

HEARTH_TEST_KILLS=200 makes it a long run.
"""

import contextlib
import hashlib
import http.client
import os
import random
import signal
import threading
import time

import pytest

from appliance.bundles.state import States
from appliance.library.manifest import Manifest
from appliance.library.names import ModelName
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.waiting import wait_for
from tests.integration.bundle_box import SMOKE, says

KILLS = int(os.environ.get("HEARTH_TEST_KILLS", "25"))
WEIGHTS = [tiny_llama_bytes(seed=seed) for seed in range(3)]


def kill(service):
    service.process.send_signal(signal.SIGKILL)
    service.process.wait(timeout=30)


def begin(box, **fields):
    """Ask for an install in a thread that nobody waits for long: the service will die."""

    def ask():
        with contextlib.suppress(OSError, http.client.HTTPException):
            box.service.call("POST", "/api/pull", {"model": box.name(), **fields})

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def check_whole(box):
    """What is on the disk of a dead box: readable, and its model complete to the last byte.

    The manifest may be a step behind the state; the next start brings it there.
    """
    state = States(box.service.state / "bundles").get(ModelName.parse(box.name()))
    assert state.active is not None
    folder = box.service.state / "models/blobs"
    for kept in state.kept:
        for digest in kept.blobs:
            data = (folder / digest.replace(":", "-")).read_bytes()
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    manifest = Manifest.parse(box.manifest_file().read_bytes())
    assert all(box.has_blob(digest) for digest in manifest.digests)
    return state


@pytest.mark.timeout(120 + 6 * KILLS)
def test_random_kills_leave_the_old_release_or_the_new(start_box, start_service):
    rng = random.Random(KILLS)
    box = start_box()
    texts = {"0": "Be number 0."}
    box.publish("0", texts["0"], smoke=says(texts["0"]))
    started = time.monotonic()
    box.install()
    whole_s = time.monotonic() - started
    before, changed = "0", 0
    for number in range(1, KILLS + 1):
        version = str(number)
        texts[version] = f"Be number {version}."
        weights = WEIGHTS[number % len(WEIGHTS)]
        box.publish(version, texts[version], weights=weights, smoke=says(texts[version]))
        asking = begin(box, retry=True)
        time.sleep(rng.uniform(0, 1.5 * whole_s))
        kill(box.service)
        asking.join(30)
        state = check_whole(box)
        assert state.active.version in {before, version}
        box.service = start_service(box.service.state)
        answer = box.ask()
        assert texts[state.active.version] in answer
        assert box.show()["version"] == state.active.version
        changed += state.active.version == version
        before = state.active.version
    print(f"kills={KILLS} new={changed} old={KILLS - changed}")
    assert box.install(retry=True)[-1] == "success"
    assert texts[str(KILLS)] in box.ask()


@pytest.fixture
def dying(start_box, start_service):
    """A box that serves 1.0.0, and a way to kill and start it in the smoke tests of 2.0.0."""
    box = start_box()
    box.publish("1.0.0", "Be old.")
    box.install()
    test = SMOKE["tests"][0] | {"timeout_s": 600}
    box.publish("2.0.0", "[[slow 400]] Be new.", smoke={"tests": [test]})

    def die():
        asking = begin(box)
        wait_for(lambda: (box.state()["staged"] or {}).get("is_testing"))
        kill(box.service)
        asking.join(30)
        check_whole(box)
        box.service = start_service(box.service.state)

    return box, die


def test_tests_that_are_cut_short_twice_make_a_release_bad(dying):
    box, die = dying
    die()
    shown = box.show()
    assert (shown["state"], shown["attempts"], shown["bad"]) == ("staged", 1, [])
    assert "Be old." in box.ask()
    die()
    shown = box.show()
    assert (shown["state"], shown["staged"]) == ("failed", None)
    assert "cut short twice" in shown["bad"][0]["reason"]
    assert "Be old." in box.ask()
    assert box.refused()[0] == "activation_failed"


def test_a_stop_of_the_service_says_nothing_about_the_release(dying, start_service):
    box, _ = dying
    asking = begin(box)
    wait_for(lambda: (box.state()["staged"] or {}).get("is_testing"))
    assert box.service.stop() == 0
    asking.join(30)
    assert box.state()["staged"] == {**box.state()["staged"], "attempts": 0, "is_testing": False}
    box.service = start_service(box.service.state)
    before = box.web.content_bytes
    box.publish("2.0.0", "[[slow 1]] Be new.")
    box.install()
    assert "Be new." in box.ask()
    assert box.web.content_bytes - before < 3000


def test_the_state_wins_over_the_manifest(start_box, start_service):
    """As if the power went between the commit and what follows from it."""
    box = start_box()
    box.publish("1.0.0", "Be old.")
    box.install()
    old = box.manifest_file().read_bytes()
    box.publish("2.0.0", "Be new.")
    box.install()
    new = box.manifest_file().read_bytes()
    for wrong in (old, b"torn"):
        kill(box.service)
        box.manifest_file().write_bytes(wrong)
        box.service = start_service(box.service.state)
        assert box.manifest_file().read_bytes() == new
        assert "Be new." in box.ask()
    kill(box.service)
    box.manifest_file().unlink()
    box.service = start_service(box.service.state)
    assert "Be new." in box.ask()


DAMAGE = {
    "torn": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data.replace(b'"1.0.0"', b'"1.0.1"'),
    "empty": lambda _: b"",
    "not ours": lambda _: b"{}",
}


@pytest.mark.parametrize("how", ["torn", "flipped", "empty", "not ours"])
def test_a_damaged_state_is_one_clear_error_and_loses_nothing(start_box, start_service, how):
    box = start_box()
    box.publish("1.0.0", "Be old.")
    box.install()
    box.publish("2.0.0", "Be new.")
    box.install()
    kept = {*box.state()["active"]["blobs"], *box.state()["previous"]["blobs"]}
    box.service.stop()
    path = box.state_file()
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    folder = box.service.state / "models/blobs"
    for blob in folder.iterdir():
        os.utime(blob, (1, 1))
    box.service = start_service(box.service.state)
    assert "Be new." in box.ask()  # it serves on
    assert {digest.replace(":", "-") for digest in kept} <= {p.name for p in folder.iterdir()}
    for status, body in (
        box.service.call("GET", f"/hearth/v1/bundles/show?model={box.name()}"),
        box.act("rollback"),
    ):
        assert (status, body["code"]) == (500, "library_error")
        assert "damaged" in body["error"]
        assert "--retry" in body["hint"]
    assert "damaged" in box.service.call("GET", "/hearth/v1/bundles")[1]["problems"][0]
    assert box.refused()[0] == "library_error"
    box.install(retry=True)
    assert (box.show()["version"], box.show()["state"]) == ("2.0.0", "active")
    assert "Be new." in box.ask()


def test_what_a_crash_left_in_the_state_folder_is_swept(start_box, start_service):
    """Files of writers that died, and folders of enrolments and removals that did."""
    box = start_box()
    box.publish("1.0.0", "Be tidy.")
    box.install()
    box.service.stop()
    state = box.service.state
    left = [box.state_file().parent / ".hearth-1", state / "channels/acme/.hearth-2"]
    left += [state / "maps/.hearth-3"]
    folders = [state / "trust/.new-4", state / "trust/.gone-5"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    for folder in folders:
        folder.mkdir()
        (folder / "repository.json").write_bytes(b"{}")
        os.utime(folder, (1, 1))
    (state / "trust/.new-young").mkdir()  # somebody enrols right now
    box.service = start_service(state)
    assert not [path for path in [*left, *folders] if path.exists()]
    assert (state / "trust/.new-young").exists()
    assert "Be tidy." in box.ask()
