"""Followed channels: the real service, a real web root, and what a publisher says with generations.

A turn is asked for (`check`), so that no test waits for a poll; what depends on the time of day is
in `test_channel_turns.py`.
"""

import asyncio
import json
import signal

import pytest

from appliance.library.manifest import Digest
from tests.fakes.publisher import Publisher, web_root
from tests.fakes.waiting import until
from tests.integration.bundle_box import WEIGHTS, Box, enrol, says
from tests.integration.cli_process import Command
from tests.integration.raw_http import send

KEY = "acme/stable"
ROUTES = "/hearth/v1/channels"


@pytest.fixture
def publisher(tmp_path):
    made = Publisher(tmp_path / "published")
    made.repository.delegate("channels", ["channels/*"], terminating=True)
    made.repository.publish("targets", "channels")
    made.write()
    return made


@pytest.fixture
def web(publisher):
    with web_root(publisher.folder) as root:
        yield root


@pytest.fixture
def box(publisher, web, tmp_path, start_service):
    state = tmp_path / "box"
    enrol(state, publisher, web.url)
    return Box(start_service(state), publisher, web)


def say(publisher, generation, bundles, name="stable", **fields):
    """Sign and publish what the channel says."""
    document = {"generation": generation, "bundles": bundles} | fields
    data = json.dumps(document).encode()
    publisher.put(data)
    publisher.repository.add(f"channels/{name}.json", data, "channels")
    publisher.repository.publish("channels")
    publisher.write()


def act(box, verb, **fields):
    return box.service.call("POST", f"{ROUTES}/{verb}", {"channel": KEY, **fields})


def check(box, **fields):
    """The lines of a turn."""
    reply = send(box.service, "POST", f"{ROUTES}/check", body={"channel": KEY, **fields})
    return reply.lines


def entry(box):
    (found,) = box.service.call("GET", ROUTES)[1]["channels"]
    return found


def outcome(box):
    (found,) = entry(box)["bundles"]
    return found["state"], found["reason"] or ""


def follow(box):
    status, body = act(box, "follow")
    assert status == 200, body
    return body


def test_following_installs_proves_and_serves_in_the_background(box, publisher):
    box.publish("1.0.0", "One.", smoke=says("One."))
    box.publish("2.0.0", "Two.")
    say(publisher, 1, {"acme/assistant": "1.0.0"})
    assert follow(box)["generation"] == 1
    until_sync(lambda: entry(box)["bundles"])
    assert outcome(box) == ("active", "")
    assert "One." in box.ask()
    assert box.show()["version"] == "1.0.0"


def until_sync(condition):
    asyncio.run(until(condition))


def test_a_new_generation_moves_the_box_and_an_older_one_does_not(box, publisher):
    box.publish("1.0.0", "One.")
    box.publish("2.0.0", "Two.")
    say(publisher, 1, {"acme/assistant": "1.0.0"})
    follow(box)
    assert check(box)[-1] == {"status": "success"}
    say(publisher, 2, {"acme/assistant": "2.0.0"})
    statuses = [line["status"] for line in check(box)]
    assert "acme/stable is at generation 2" in statuses
    assert "acme/assistant 2.0.0: running smoke tests" in statuses
    assert "Two." in box.ask()
    for generation in (1, 2):
        say(publisher, generation, {"acme/assistant": "1.0.0"})
        last = check(box)[-1]
        assert last["code"] == "rollback"
        assert "higher generation" in last["hint"]
        assert "Two." in box.ask()
        assert entry(box)["failures"] >= 1
        assert "offers generation" in entry(box)["trouble"]
    say(publisher, 3, {"acme/assistant": "1.0.0"})  # going back is fine if it is said as news
    check(box)
    assert "One." in box.ask()
    assert entry(box)["failures"] == 0


def test_a_bad_release_is_refused_and_told_while_the_old_one_serves(box, publisher):
    box.publish("1.0.0", "One.")
    box.publish("2.0.0", "Two.", smoke=says("never said"))
    say(publisher, 1, {"acme/assistant": "1.0.0"})
    follow(box)
    check(box)
    say(publisher, 2, {"acme/assistant": "2.0.0"})
    check(box)
    state, reason = outcome(box)
    assert state == "failed"
    assert "release 2.0.0" in reason
    assert "One." in box.ask()
    command = Command(box.service.url)
    assert "release 2.0.0" in command.run("status").stdout
    assert "failed" in command.run("channel", "list").stdout


def test_an_administrators_pin_and_rollback_win(box, publisher):
    box.publish("1.0.0", "One.")
    box.publish("2.0.0", "Two.")
    say(publisher, 1, {"acme/assistant": "1.0.0"})
    follow(box)
    check(box)
    assert box.act("pin", version="1.0.0")[0] == 200
    say(publisher, 2, {"acme/assistant": "2.0.0"})
    check(box)
    assert outcome(box) == ("failed", "an administrator pinned it to 1.0.0")
    assert box.act("unpin")[0] == 200
    check(box)
    assert "Two." in box.ask()
    assert box.act("rollback")[0] == 200
    check(box)
    assert outcome(box)[0] == "failed"
    assert "rolled back" in outcome(box)[1]
    assert "One." in box.ask()


def test_held_paused_and_closed_channels_change_nothing(box, publisher):
    box.publish("1.0.0", "One.")
    say(publisher, 1, {"acme/assistant": "1.0.0"}, hold=True)
    follow(box)
    check(box)
    assert outcome(box) == ("waiting", "the channel holds")
    assert act(box, "pause")[0] == 200
    say(publisher, 2, {"acme/assistant": "1.0.0"})
    assert entry(box)["paused"]
    assert entry(box)["next_at"] is None
    assert act(box, "resume")[0] == 200
    until_sync(lambda: outcome(box) == ("active", ""))


def test_a_channel_has_no_say_in_names_of_others(box, publisher):
    say(publisher, 1, {"other/model": "1.0.0"})
    follow(box)
    check(box)
    assert outcome(box) == ("failed", "other/model:latest belongs to nobody, not to acme")


def test_what_cannot_be_followed(box, publisher, web):
    assert act(box, "follow")[1]["code"] == "not_listed"
    for channel, status in [("nobody/stable", 404), ("x", 400), ("https://b.example/x", 400)]:
        assert box.service.call("POST", f"{ROUTES}/follow", {"channel": channel})[0] == status
    publisher.put(b"{}")
    publisher.repository.add("channels/stable.json", b"{}", "channels")
    publisher.repository.publish("channels")
    publisher.write()
    assert act(box, "follow")[1]["code"] == "malformed"
    assert act(box, "unfollow")[0] == 404
    assert box.service.call("GET", ROUTES)[1]["channels"] == []
    forwarded = [("X-Forwarded-For", "10.0.0.1")]
    for verb in ("follow", "unfollow", "check", "pause", "resume"):
        path = f"{ROUTES}/{verb}"
        reply = send(box.service, "POST", path, body={"channel": KEY}, headers=forwarded)
        assert reply.status == 401


def test_the_command(box, publisher, web):
    box.publish("1.0.0", "One.")
    say(publisher, 1, {"acme/assistant": "1.0.0"})
    command = Command(box.service.url)
    told = command.run("channel", "follow", f"{web.url}/channels/stable.json")
    assert told.stdout == "following acme/stable, generation 1\n"
    done = command.run("channel", "check", KEY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == [
        "acme/stable", "1", "acme/assistant", "1.0.0", "active",
    ]  # fmt: skip
    assert command.run("channel", "pause", KEY).returncode == 0
    assert "paused" in command.run("channel", "list").stdout
    assert command.run("channel", "resume", KEY).returncode == 0
    assert command.run("channel", "unfollow", KEY).returncode == 0
    assert json.loads(command.run("channel", "list", "--json").stdout)["channels"] == []
    assert "One." in box.ask()


def test_a_kill_in_the_middle_resumes(box, publisher, web, start_service):
    index = box.publish("1.0.0", "One.")
    weights = f"blobs/sha256/{Digest.of(WEIGHTS).hex}"
    web.held.add(weights)
    say(publisher, 1, {"acme/assistant": "1.0.0"})
    follow(box)
    until_sync(lambda: weights in web.wanted)
    box.service.process.send_signal(signal.SIGKILL)
    box.service.process.wait()
    assert entry_file(box)["outcomes"] == {}
    web.held.clear()
    again = Box(start_service(box.service.state), publisher, web)
    until_sync(lambda: entry(again)["bundles"])
    assert outcome(again) == ("active", "")
    assert again.show()["active_release"]["index"] == str(index)
    assert "One." in again.ask()


def entry_file(box):
    return json.loads((box.service.state / "channels/acme/stable.json").read_bytes())


def test_a_damaged_file_is_told_and_can_be_left(box, publisher):
    box.publish("1.0.0", "One.")
    say(publisher, 1, {"acme/assistant": "1.0.0"})
    follow(box)
    path = box.service.state / "channels/acme/stable.json"
    path.write_bytes(b"{")
    body = box.service.call("GET", ROUTES)[1]
    assert body["channels"] == []
    assert "damaged" in body["problems"][0]
    assert "damaged" in box.service.call("GET", "/hearth/v1/status")[1]["problems"][0]
    assert act(box, "unfollow")[0] == 200
    assert not path.exists()
