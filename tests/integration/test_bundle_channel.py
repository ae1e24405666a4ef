"""A publisher says what followers run, with the tool; a real box follows what was published."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from appliance.bundles.layout import Layout
from appliance.errors import ConfigError
from appliance.library.manifest import Digest
from appliance.trust.errors import TrustError
from tests.fakes.publisher import web_root
from tests.fakes.release_desk import REPOSITORY, Desk, fatal, publish
from tests.integration.bundle_box import enrol
from tests.integration.cli_process import Command
from tests.integration.raw_http import send
from tools.bundles import changes
from tools.bundles.channel import say
from tools.bundles.places import LayoutPlace
from tools.bundles.signing import add_signature, waiting

BUNDLE = "acme/assistant"


@pytest.fixture
def desk(tmp_path):
    """Whose releases acme signs, and whose channels have a key of their own."""
    desk = Desk(tmp_path / "desk").open()
    desk.channels = CryptoSigner.generate_ed25519()
    changes.add_publisher(desk.repo, "channels", ["channels/*"], [desk.channels.public_key])
    for role, signer in (("targets", desk.officer), ("channels", desk.channels)):
        add_signature(desk.repo, waiting(desk.repo, role, desk.repo.drafts()[role]), signer)
    return desk


def speak(desk, versions=(), **more):
    return say(desk.layout, desk.repo, "stable", [desk.channels], dict(versions), **more)


def test_each_word_is_the_next_generation_of_what_was_said(desk, tiny_gguf):
    desk.release(tiny_gguf, "1.0.0")
    first = speak(desk, {BUNDLE: "1.0.0"}, fields={"window": "02:00-05:00"})
    assert (first.generation, first.bundles) == (1, {BUNDLE: "1.0.0"})
    desk.repo.publish(desk.online)
    desk.release(tiny_gguf, "1.1.0", system="Shorter.")
    second = speak(desk, {BUNDLE: "1.1.0"})
    assert (second.generation, second.bundles, second.window) == (
        2,
        {BUNDLE: "1.1.0"},
        "02:00-05:00",
    )
    third = speak(desk, drop=[BUNDLE], fields={"hold": True})  # on top of what is only drafted
    assert (third.generation, third.bundles, third.hold) == (3, {}, True)


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"versions": {BUNDLE: "9.9.9"}}, "nobody signed acme/assistant/9.9.9"),
        ({"versions": {"lab/assistant": "1.0.0"}}, "nobody may sign lab/assistant/1.0.0"),
        ({"drop": ["acme/other"]}, "does not have acme/other"),
        ({"fields": {"window": "noon"}}, "time of day"),
    ],
)
def test_what_followers_could_not_follow_is_not_said(desk, tiny_gguf, wish, why):
    desk.release(tiny_gguf, "1.0.0")
    with pytest.raises((ConfigError, TrustError), match=why):
        speak(desk, **wish)
    assert "channels/stable.json" not in desk.repo.next_targets("channels").targets


def test_a_box_follows_what_was_published(desk, tiny_gguf, tmp_path, start_service):
    desk.release(tiny_gguf, "1.0.0")
    desk.release(tiny_gguf, "1.1.0", system="Shorter.")
    speak(desk, {BUNDLE: "1.0.0"})
    desk.repo.publish(desk.online)
    place = LayoutPlace(Layout.create(tmp_path / "web"))
    asyncio.run(publish(desk, place))
    with web_root(place.layout.root) as web:
        enrol(tmp_path / "box", SimpleNamespace(name=REPOSITORY, root=desk.root), web.url)
        box = start_service(tmp_path / "box")
        assert box.call("POST", "/hearth/v1/channels/follow", {"channel": "acme/stable"})[0] == 200
        check(box)
        assert version_on(box) == "1.0.0"
        speak(desk, {BUNDLE: "1.1.0"})
        desk.repo.publish(desk.online)
        asyncio.run(publish(desk, place))
        check(box)
        assert version_on(box) == "1.1.0"


def check(box):
    reply = send(box, "POST", "/hearth/v1/channels/check", body={"channel": "acme/stable"})
    assert reply.lines[-1] == {"status": "success"}


def version_on(box):
    return box.call("GET", f"/hearth/v1/bundles/show?model={BUNDLE}")[1]["version"]


def test_a_stick_says_it_too(desk, tiny_gguf, tmp_path, start_service):
    """Published to a stick, or copied to one from the web's folder, or from a box's export."""
    desk.release(tiny_gguf, "1.0.0")
    speak(desk, {BUNDLE: "1.0.0"})
    desk.repo.publish(desk.online)
    root = str(desk.layout.root)
    run("publish", root, str(tmp_path / "web"))
    assert not (tmp_path / "web/desired").exists()  # boxes ask the web for blobs
    run("publish", "--stick", root, str(tmp_path / "published"))
    run("copy", "--stick", str(tmp_path / "web"), str(tmp_path / "copied"))
    said = (tmp_path / "published/hearth/desired/acme/stable.json").read_bytes()
    assert (tmp_path / "copied/hearth/desired/acme/stable.json").read_bytes() == said

    assert fatal(Layout(tmp_path / "copied/hearth"), desk.root) == []
    (tmp_path / "published/hearth/desired/acme/stable.json").write_bytes(b"{}")
    (finding,) = fatal(Layout(tmp_path / "published/hearth"), desk.root)
    assert "what the medium says of the channel acme/stable" in finding.text

    enrol(tmp_path / "box", SimpleNamespace(name=REPOSITORY, root=desk.root), "")
    box = start_service(tmp_path / "box")
    command = Command(box.url)
    command("import", "--follow", "acme/stable", tmp_path / "copied")
    assert version_on(box) == "1.0.0"
    (tmp_path / "exported").mkdir()
    command("export", BUNDLE, tmp_path / "exported")
    stick = tmp_path / "exported/hearth"
    assert (stick / "desired/acme/stable.json").read_bytes() == said
    run("copy", "--stick", str(stick), str(tmp_path / "again"))
    assert (tmp_path / "again/hearth/desired/acme/stable.json").read_bytes() == said


def test_a_copy_without_its_channel_s_word_says_so(desk, tiny_gguf, tmp_path):
    desk.release(tiny_gguf, "1.0.0")
    document = speak(desk, {BUNDLE: "1.0.0"})
    desk.repo.publish(desk.online)
    run("publish", str(desk.layout.root), str(tmp_path / "web"))
    Layout(tmp_path / "web").remove(Digest.of(msgspec.json.encode(document)))
    done = run("copy", "--stick", str(tmp_path / "web"), str(tmp_path / "stick"))
    assert "has no bytes of channels/stable.json" in done.stderr
    assert not (tmp_path / "stick/hearth/desired").exists()
    assert (tmp_path / "stick/hearth/tuf/acme/metadata/timestamp.json").exists()


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "tools.bundles.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
