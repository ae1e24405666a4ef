"""Back to the release before, pinned, or taken back by its publisher: what serves then, and what
the garbage collection leaves of it.
"""

import os

import pytest

from tests.integration.bundle_box import SMOKE
from tests.integration.raw_http import send


@pytest.fixture
def updated(box):
    """A box that went from 1.0.0 to 2.0.0; no other test's model has these releases."""
    box.publish("1.0.0", f"Be first. {box.model}")
    box.install()
    box.publish("2.0.0", f"Be second. {box.model}")
    box.install()
    assert "Be second." in box.ask()
    return box


def test_rollback_is_local_and_instant(updated):
    box = updated
    before = sum(box.web.sent.values())
    status, body = box.act("rollback")
    assert (status, body["version"], body["previous"]) == (200, "1.0.0", "2.0.0")
    assert "Be first." in box.ask()
    assert sum(box.web.sent.values()) == before
    assert "rolled back from it" in box.show()["bad"][0]["reason"]


def test_what_was_left_comes_back_only_on_request(updated):
    box = updated
    box.act("rollback")
    code, error = box.refused()
    assert code == "activation_failed"
    assert "rolled back" in error
    assert "Be first." in box.ask()
    box.install(retry=True)
    assert "Be second." in box.ask()
    assert box.show()["bad"] == []


def test_rollback_twice_returns(updated):
    box = updated
    box.act("rollback")
    assert box.act("rollback")[1]["version"] == "2.0.0"
    assert "Be second." in box.ask()


def test_without_a_previous_release_there_is_no_way_back(box):
    box.publish("1.0.0", "Be only.")
    box.install()
    status, body = box.act("rollback")
    assert (status, body["code"]) == (409, "activation_failed")
    assert "no previous release" in body["error"]
    assert "Be only." in box.ask()


def test_the_release_before_the_previous_one_is_removed(updated):
    box = updated
    first = box.state()["previous"]["blobs"]
    second = box.state()["active"]["blobs"]
    box.publish("3.0.0", "Be third.")
    box.install()
    third = box.state()["active"]["blobs"]
    only_first = set(first) - set(second) - set(third)
    assert len(only_first) >= 3  # index, manifest, system text
    left = {path.name for path in (box.service.state / "models/blobs").iterdir()}
    assert not {digest.replace(":", "-") for digest in only_first} & left
    assert {digest.replace(":", "-") for digest in {*second, *third}} <= left


def test_a_prune_at_start_keeps_all_that_is_kept(start_box, start_service):
    box = start_box()
    box.publish("1.0.0", "Be first.")
    box.install()
    box.publish("2.0.0", "Be second.")
    box.install()
    box.publish("3.0.0", "[[crash]]", smoke=SMOKE)
    box.refused()
    box.service.stop()
    folder = box.service.state / "models/blobs"
    for path in folder.iterdir():
        os.utime(path, (1, 1))  # as old as can be
    box.service = start_service(box.service.state)
    assert "Be second." in box.ask()
    box.act("rollback")
    assert "Be first." in box.ask()


@pytest.mark.parametrize("verb", ["rollback", "pin"])
def test_there_is_no_way_back_to_what_is_damaged(start_box, start_service, verb):
    """A scrub set a part of it aside; the state must not say that it serves."""
    box = start_box()
    box.publish("1.0.0", "Be first.")
    box.install()
    box.publish("2.0.0", "Be second.")
    box.install()
    before = box.state()
    (gone,) = (
        set(before["previous"]["blobs"])
        - _shared(before)
        - {before["previous"]["index"]}
        - {before["previous"]["manifest"]}
    )
    (box.service.state / "models/blobs" / gone.replace(":", "-")).unlink()
    fields = {"version": "1.0.0"} if verb == "pin" else {}
    status, body = box.act(verb, **fields)
    assert (status, body["code"]) == (409, "activation_failed")
    assert gone in body["error"]
    assert box.state() == before
    box.service.stop()
    box.service = start_service(box.service.state)
    assert "Be second." in box.ask()


def _shared(state):
    return set(state["active"]["blobs"])


def test_a_pin_holds_a_version(updated):
    box = updated
    assert box.act("pin", version="2.0.0")[1]["pinned"] == "2.0.0"
    box.publish("3.0.0", "Be third.")
    assert box.install()[1] == "release 2.0.0 is active"
    box.act("unpin")
    box.install()
    assert "Be third." in box.ask()


def test_a_pin_to_the_previous_version_switches_at_once(updated):
    box = updated
    assert box.act("pin", version="1.0.0")[1]["version"] == "1.0.0"
    assert "Be first." in box.ask()
    assert box.install()[1] == "release 1.0.0 is active"
    assert box.show()["bad"] == []


def test_a_pin_to_another_version_is_for_the_next_install(updated):
    box = updated
    box.publish("3.0.0", "Be third.")
    box.install()
    assert box.act("pin", version="1.0.0")[1]["version"] == "3.0.0"
    box.install()
    assert "Be first." in box.ask()
    assert box.act("pin", version="../x")[0] == 400


# -- taken back by the publisher


@pytest.mark.parametrize("how", ["revoke", "withdraw"])
def test_warn_serves_on_and_says_so(updated, publisher, how):
    box = updated
    getattr(publisher, how)("2.0.0", model=box.model)
    status, body = box.act("check")
    assert status == 200
    assert body["revoked"]
    assert "Be second." in box.ask()
    entries = box.service.call("GET", "/hearth/v1/bundles")[1]["bundles"]
    (entry,) = [entry for entry in entries if entry["model"] == box.name()]
    assert entry["revoked"] == body["revoked"]


def test_what_was_taken_back_is_not_installed(box, publisher):
    box.publish("1.0.0", "Be revoked.")
    publisher.revoke("1.0.0", model=box.model)
    for tag in ("1.0.0", "latest"):  # `latest` is a pointer, and does not say so itself
        code, error = box.refused(tag)
        assert code == "policy"
        assert "took" in error
    assert box.service.call("POST", "/api/show", {"model": box.name()})[0] == 404


def test_a_newer_release_ends_the_warning(updated, publisher):
    box = updated
    publisher.revoke("2.0.0", model=box.model)
    box.act("check")
    box.publish("2.0.1", "Be repaired.")
    box.install()
    assert box.show()["revoked"] is None
    assert "Be repaired." in box.ask()


def test_replace_goes_back_to_the_previous_release(start_box, publisher):
    box = start_box(revoked="replace")
    box.publish("1.0.0", "Be first.")
    box.install()
    box.publish("2.0.0", "Be second.")
    box.install()
    publisher.revoke("2.0.0", model=box.model)
    assert box.act("check")[1]["version"] == "1.0.0"
    assert "Be first." in box.ask()
    publisher.revoke("1.0.0", model=box.model)
    assert box.act("check")[1]["revoked"]  # both: the older one serves on, with a warning
    assert "Be first." in box.ask()


def test_replace_also_when_the_newer_release_is_bad_or_the_previous_one_damaged(
    start_box, publisher
):
    box = start_box(revoked="replace")
    for version, system in (("1.0.0", "Be first."), ("2.0.0", "Be second.")):
        box.publish(version, system)
        box.install()
    publisher.revoke("2.0.0", model=box.model)
    box.publish("3.0.0", "[[crash]]", smoke=SMOKE)
    box.refused()  # 3.0.0 was the way out, and failed
    assert box.act("check")[1]["version"] == "1.0.0"
    assert "Be first." in box.ask()
    for path in (box.service.state / "models/blobs").iterdir():
        if path.read_bytes() == b"Be second.":
            path.unlink()
    publisher.repository.roles["acme"].targets[f"{box.model}/2.0.0"].unrecognized_fields.clear()
    publisher.revoke("1.0.0", model=box.model)
    status, body = box.act("check")  # 2.0.0 could be gone back to, but is not whole
    assert (status, body["version"]) == (200, "1.0.0")
    assert body["revoked"]
    assert "Be first." in box.ask()


def test_another_setting_counts_for_what_was_taken_back_before(start_box, start_service, publisher):
    box = start_box()
    box.publish("1.0.0", "Be gone.")
    box.install()
    publisher.revoke("1.0.0", model=box.model)
    assert box.act("check")[1]["version"] == "1.0.0"
    box.service.stop()
    box.service = start_service(box.service.state, revoked="stop")
    assert box.act("check")[1]["version"] is None
    assert "not found" in box.ask()


def test_stop_takes_it_out_of_use_until_another_comes(start_box, start_service, publisher):
    box = start_box(revoked="stop")
    box.publish("1.0.0", "Be stopped.")
    box.install()
    assert "Be stopped." in box.ask()
    publisher.revoke("1.0.0", model=box.model)
    assert box.act("check")[1]["version"] is None
    assert "not found" in box.ask()
    box.service.stop()
    box.service = start_service(box.service.state, revoked="stop")
    assert "not found" in box.ask()
    box.publish("1.0.1", "Be well.")
    box.install()
    assert "Be well." in box.ask()
    publisher.revoke("1.0.1", model=box.model)
    box.act("check")
    for status in (200, 404):  # what is stopped can be removed, once
        assert box.service.call("DELETE", "/api/delete", {"model": box.name()})[0] == status
    assert not box.state_file().exists()


def test_only_the_box_itself_may_switch(updated):
    forwarded = [("X-Forwarded-For", "10.0.0.1")]
    body = {"model": updated.name()}
    for verb in ("rollback", "pin", "unpin", "check"):
        path = f"/hearth/v1/bundles/{verb}"
        assert send(updated.service, "POST", path, body=body, headers=forwarded).status == 401
    assert updated.show()["version"] == "2.0.0"


def test_a_rollback_takes_the_pin_along(updated):
    """Only people move a pinned model, and a person just did."""
    box = updated
    box.act("pin", version="2.0.0")
    status, body = box.act("rollback")
    assert (status, body["version"], body["pinned"]) == (200, "1.0.0", "1.0.0")
    assert box.install()[1] == "release 1.0.0 is active"  # the pin left behind was refused here
    body = box.act("rollback")[1]
    assert (body["version"], body["pinned"]) == ("2.0.0", "2.0.0")
    assert "Be second." in box.ask()


def test_guests_are_not_told_why_a_release_failed(updated):
    box = updated
    box.publish("3.0.0", "[[crash]]", smoke=SMOKE)
    box.refused()
    path = f"/hearth/v1/bundles/show?model={box.name()}"
    (bad,) = box.show()["bad"]
    assert "the engine failed" in bad["reason"]
    assert bad["prompt"] == "one two"
    body = {"name": "a guest", "scopes": ["chat"]}
    secret = box.service.call("POST", "/hearth/v1/keys", body)[1]["secret"]
    reply = send(box.service, "GET", path, headers=[("Authorization", f"Bearer {secret}")])
    assert reply.status == 200
    (bad,) = reply.json["bad"]
    assert (bad["version"], bad["reason"], bad["prompt"]) == ("3.0.0", None, None)
