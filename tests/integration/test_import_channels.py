"""What a publisher wants boxes to run, carried by a stick: heard, installed, passed on, and refused
where it is old, foreign, cut or of another's making.
"""

import json
import shutil

import pytest

from appliance.bundles.layout import Layout
from tests.fakes.publisher import Publisher
from tests.integration.bundle_box import says
from tests.integration.medium_box import (
    NAME,
    OfflineBox,
    copied,
    enrol_offline,
    publish,
    publish_heavy,
)
from tests.integration.test_import_interrupted import BALLAST, MIB, importing, until

KEY = "acme/stable"
BUNDLE = "acme/assistant"
DESIRED = "hearth/desired/acme/stable.json"


@pytest.fixture
def publisher(tmp_path):
    """Of three releases; `latest` is the newest."""
    made = Publisher(tmp_path / "published")
    made.repository.delegate("channels", ["channels/*"], terminating=True)
    made.repository.publish("targets", "channels")
    publish(made, "1.0.0", "Be kind.")
    publish(made, "1.1.0", "Be brave.")
    publish(made, "2.0.0", "Be new.", "latest")
    return made


@pytest.fixture
def box(publisher, tmp_path, start_service):
    enrol_offline(tmp_path / "box", publisher)
    return OfflineBox(start_service(tmp_path / "box"))


def say(publisher, generation, version="1.0.0", *, bundles=None, data=None, **fields):
    """Sign what the channel says and lay it where sticks have it."""
    document = {"generation": generation, "bundles": bundles or {BUNDLE: version}, **fields}
    data = data or json.dumps(document).encode()
    publisher.repository.add("channels/stable.json", data, "channels")
    publisher.repository.publish("channels")
    publisher.write()
    path = publisher.folder / "desired/acme/stable.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def channel(box):
    (found,) = box.service.call("GET", "/hearth/v1/channels")[1]["channels"]
    return found


def report(stick):
    newest = max((stick / "hearth/reports").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(newest.read_bytes())


@pytest.fixture
def following(box, publisher, tmp_path):
    """A box that follows the channel, which named 1.0.0 on its first stick."""
    say(publisher, 1)
    box.imported(copied(publisher, tmp_path / "first"), follow=[KEY])
    assert "Be kind." in box.ask()
    return box


def test_a_stick_says_what_a_box_without_a_network_runs(box, publisher, tmp_path):
    say(publisher, 1)
    stick = copied(publisher, tmp_path / "one")
    done = box.hearth("import", "--follow", KEY, stick)
    assert "the channel acme/stable decides on acme/assistant" in done.stderr
    assert "acme/assistant 1.0.0: active" in done.stderr
    assert box.signed() == [NAME]
    assert box.version() == "1.0.0"
    assert "Be kind." in box.ask()
    told = report(stick)["channels"]
    assert told == [
        {
            "channel": KEY,
            "generation": 1,
            "bundles": [{"bundle": BUNDLE, "version": "1.0.0", "state": "active", "reason": ""}],
        }
    ]
    say(publisher, 2, "1.1.0")
    box.imported(copied(publisher, tmp_path / "two"))  # it is followed now
    assert "Be brave." in box.ask()
    assert channel(box)["generation"] == 2
    assert channel(box)["trouble"] is None  # nobody polls what has no address


def test_nobody_s_channel_is_taken_unasked(box, publisher, tmp_path):
    say(publisher, 1)
    statuses = box.imported(copied(publisher, tmp_path / "stick"))
    assert "skipped the channel acme/stable: this box does not follow it" in statuses
    assert box.version() == "2.0.0"
    assert box.service.call("GET", "/hearth/v1/channels")[1]["channels"] == []


def test_a_person_does_not_wait_for_the_window_but_a_held_channel_holds(
    following, publisher, tmp_path
):
    say(publisher, 2, "1.1.0", window="00:00-00:01", hold=True)
    following.imported(copied(publisher, tmp_path / "held"))
    assert channel(following)["bundles"][0]["reason"] == "the channel holds"
    assert "Be kind." in following.ask()
    say(publisher, 3, "1.1.0", window=_closed_now())
    following.imported(copied(publisher, tmp_path / "go"))
    assert "Be brave." in following.ask()


def _closed_now():
    from datetime import datetime, timedelta

    start = datetime.now().astimezone() + timedelta(hours=6)
    return f"{start:%H:%M}-{start + timedelta(minutes=1):%H:%M}"


def test_names_say_what_is_wanted_and_no_channel_has_a_say(following, publisher, tmp_path):
    say(publisher, 2, "1.1.0")
    following.imported(copied(publisher, tmp_path / "new"), NAME)
    assert following.version() == "2.0.0"
    assert channel(following)["generation"] == 1


@pytest.mark.parametrize("generation", [1, 2])
def test_an_older_generation_and_two_words_under_one_number(
    following, publisher, tmp_path, generation
):
    say(publisher, 2, "1.1.0")
    following.imported(copied(publisher, tmp_path / "two"))
    say(publisher, generation, "2.0.0")
    last = following.not_imported(copied(publisher, tmp_path / "again"))
    assert last["code"] == "rollback"
    assert "Be brave." in following.ask()
    assert channel(following)["generation"] == 2
    assert report(tmp_path / "again")["import"][-1]["code"] == "rollback"


def test_an_older_stick_of_the_channel_is_refused(following, publisher, tmp_path):
    say(publisher, 2, "1.1.0")
    following.imported(copied(publisher, tmp_path / "two"))
    before = following.everything()
    assert following.not_imported(tmp_path / "first")["code"] == "rollback"
    assert following.everything() == before
    assert "Be brave." in following.ask()


HOSTILE = {
    "another's": (b'{"generation":9,"bundles":{"acme/assistant":"2.0.0"}}', {"digest"}),
    "empty": (b"", {"digest"}),
    "huge": (b" " * (300 << 10), {"registry_error"}),
}


@pytest.mark.parametrize("kind", [*HOSTILE, "link", "folder"])
def test_other_bytes_than_the_signed_ones_change_nothing(following, publisher, tmp_path, kind):
    say(publisher, 2, "1.1.0")
    stick = copied(publisher, tmp_path / "two")
    path, before = stick / DESIRED, following.everything()
    if kind in HOSTILE:
        data, codes = HOSTILE[kind]
        path.write_bytes(data)
    else:
        codes = {"registry_error"}
        good = tmp_path / "elsewhere"
        path.rename(good)
        path.symlink_to(good) if kind == "link" else path.mkdir()
    assert following.not_imported(stick)["code"] in codes
    assert following.everything() == before
    assert channel(following)["generation"] == 1
    assert "Be kind." in following.ask()


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"generation":0,"bundles":{}}', b'{"generation":2,"bundles":{"x":"1"}}']
)
def test_a_signed_document_that_makes_no_sense_is_told(following, publisher, tmp_path, data):
    say(publisher, 2, data=data)
    last = following.not_imported(copied(publisher, tmp_path / "two"))
    assert last["code"] == "malformed"
    assert channel(following)["generation"] == 1


def test_files_with_strange_names_are_passed_over(following, publisher, tmp_path):
    say(publisher, 2, "1.1.0")
    stick = copied(publisher, tmp_path / "two")
    folder = (stick / DESIRED).parent
    for name in (".json", "UP.json", "a b.json", "x.txt", "-.json"):
        (folder / name).write_bytes(b"{}")
    (folder.parent / "nobody").mkdir()
    (folder.parent / "nobody/stable.json").write_bytes(b"{}")
    following.imported(stick)
    assert "Be brave." in following.ask()


def test_a_channel_of_a_repository_that_is_not_enrolled(following, publisher, tmp_path):
    rival = Publisher(tmp_path / "rival", name="rival", namespace="acme")
    stick = copied(publisher, tmp_path / "two")
    shutil.copytree(rival.folder / "tuf/rival", stick / "hearth/tuf/rival")
    (stick / "hearth/desired/rival").mkdir()
    (stick / "hearth/desired/rival/stable.json").write_bytes(b'{"generation":1,"bundles":{}}')
    statuses = following.imported(stick)
    assert "skipped the channel rival/stable: this box does not follow it" in statuses
    last = following.not_imported(stick, follow=["rival/stable"])
    assert last["code"] == "not_found"
    assert following.not_imported(stick, follow=["rival"])["code"] == "bad_request"


def test_what_cannot_be_followed_from_a_stick(box, publisher, tmp_path):
    stick = copied(publisher, tmp_path / "stick")
    before = box.everything()
    assert box.not_imported(stick, follow=[KEY])["code"] == "not_listed"
    say(publisher, 1)
    without = copied(publisher, tmp_path / "without")
    (without / DESIRED).unlink()
    assert box.not_imported(without, follow=[KEY])["code"] == "incomplete"
    assert box.everything() == before


def test_a_half_copied_stick_changes_nothing(following, publisher, tmp_path):
    """The release that the channel names is cut: not even its word is taken."""
    publish(publisher, "3.0.0", "Be third.", smoke=says("Be third."))
    say(publisher, 2, "3.0.0")
    stick = copied(publisher, tmp_path / "two")
    before = following.everything()
    index = Layout(stick / "hearth").releases()[f"{BUNDLE}:3.0.0"]
    path = stick / "hearth/blobs/sha256" / index.hex
    data = path.read_bytes()
    path.write_bytes(data[:100])
    following.not_imported(stick)
    assert following.everything() == before
    assert channel(following)["generation"] == 1
    path.write_bytes(data)
    following.imported(stick)
    assert "Be third." in following.ask()


def test_an_index_of_yesterday_beside_signatures_of_today(following, publisher, tmp_path):
    """What is signed counts, not what the medium calls it; and trust does not move ahead of it."""
    stick = copied(publisher, tmp_path / "stick")
    index = publish(publisher, "3.0.0", "Be third.", "latest")
    folder = stick / "hearth/tuf/acme/metadata"
    shutil.copytree(publisher.folder / "tuf/acme/metadata", folder, dirs_exist_ok=True)
    before = following.everything()
    last = following.not_imported(stick, NAME)
    assert last["code"] == "incomplete"
    assert index.hex in last["error"]
    assert following.everything() == before


def test_a_release_that_is_not_on_the_stick_waits(following, publisher, tmp_path):
    say(publisher, 2, bundles={BUNDLE: "1.1.0", "acme/scribe": "1.0.0"})
    last = following.not_imported(copied(publisher, tmp_path / "two"))
    assert "error" in last
    assert "Be brave." in following.ask()
    states = {each["bundle"]: each["state"] for each in channel(following)["bundles"]}
    assert states == {BUNDLE: "active", "acme/scribe": "waiting"}


def test_pulled_out_in_the_middle_it_goes_on(following, publisher, tmp_path):
    digest = publish_heavy(publisher, "3.0.0", BALLAST)
    say(publisher, 2, "3.0.0")
    stick = copied(publisher, tmp_path / "two")
    with importing(following, stick, []) as lines:
        until(lines, digest, 40 * MIB)
        (stick / "hearth").rename(tmp_path / "pulled")
        errors = [line for line in lines if "error" in line]
    assert errors[-1]["code"] == "registry_unreachable", errors
    assert "Be kind." in following.ask()
    (tmp_path / "pulled").rename(stick / "hearth")
    lines = following.bring(stick)
    assert lines[-1] == {"status": "success"}
    counts = [line.get("completed", 0) for line in lines if line.get("digest") == str(digest)]
    assert next(count for count in counts if count) >= 8 * MIB
    assert following.version() == "3.0.0"


def test_a_box_passes_on_what_its_channels_say(following, publisher, tmp_path, start_service):
    usb = tmp_path / "usb"
    usb.mkdir()
    following.hearth("export", NAME, usb)
    assert json.loads((usb / DESIRED).read_bytes())["generation"] == 1
    enrol_offline(tmp_path / "second", publisher)
    second = OfflineBox(start_service(tmp_path / "second"))
    second.imported(usb, follow=[KEY])
    assert "Be kind." in second.ask()
    assert channel(second)["generation"] == 1
