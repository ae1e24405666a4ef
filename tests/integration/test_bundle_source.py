"""The publisher's side is away, late or lying, or this box has no room: what was active serves on.

Some tests run the installing in this process, where a blocking call on the event loop is caught.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess

import pytest

from appliance.bundles.bundles import Bundles
from appliance.bundles.resolve import Origin
from appliance.chat.job import ChatService
from appliance.config import load_settings
from appliance.errors import (
    ActivationError,
    MemoryFitError,
    NotFoundError,
    RegistryUnreachableError,
)
from appliance.library.library import Library
from appliance.library.names import ModelName
from appliance.models.manager import Models
from appliance.transfer.transfers import Transfers
from appliance.trust.errors import PolicyRefusedError
from appliance.trust.gate import Gate
from appliance.trust.repositories import Repositories
from tests.fakes.publisher import Publisher, web_root
from tests.fakes.tuf_repository import days
from tests.integration.bundle_box import SMOKE, WEIGHTS, Box, enrol, says

NAME = ModelName.parse("acme/assistant")


@pytest.fixture
def own(tmp_path):
    """A publisher of the test's own, with its web root."""
    publisher = Publisher(tmp_path / "own")
    with web_root(publisher.folder) as web:
        yield publisher, web


@pytest.fixture
def own_box(own, tmp_path, start_service):
    """A box that serves release 1.0.0 of that publisher."""
    publisher, web = own
    enrol(tmp_path / "box", publisher, web.url)
    box = Box(start_service(tmp_path / "box"), publisher, web)
    box.publish("1.0.0", "Be old.")
    box.install()
    return box


def test_nobody_answers(own_box):
    own_box.publish("2.0.0", "Be new.")
    own_box.web.wrong["tuf/acme/metadata/timestamp.json"] = b"{}"
    assert own_box.refused()[0] == "malformed"
    own_box.web.wrong["tuf/acme/metadata/timestamp.json"] = None
    assert own_box.refused()[0] in {"incomplete", "unreachable"}
    assert "Be old." in own_box.ask()
    own_box.web.wrong.clear()
    own_box.install()
    assert "Be new." in own_box.ask()


def test_a_repository_without_an_address(tmp_path, own, start_service):
    publisher, web = own
    enrol(tmp_path / "box", publisher, "")
    box = Box(start_service(tmp_path / "box"), publisher, web)
    code, error = box.refused()
    assert code == "unreachable"
    assert "removable media" in error


def test_word_that_is_too_old_allows_no_new_install(own_box):
    box, repository = own_box, own_box.publisher.repository
    variant = box.publisher.variant(WEIGHTS, "Be late.")
    index = box.publisher.release("2.0.0", variant)
    repository.add("acme/assistant/latest", box.publisher.blobs[str(index)], "acme")
    repository.timestamp.unrecognized_fields.clear()
    repository.publish("acme")
    box.publisher.write()
    box.install()  # it does not say when it was issued: allowed, as the policy has it
    assert "Be late." in box.ask()


def test_a_box_that_was_away_for_weeks(tmp_path, own, start_service):
    publisher, web = own
    enrol(tmp_path / "box", publisher, web.url)
    box = Box(start_service(tmp_path / "box"), publisher, web)
    variant = publisher.variant(WEIGHTS, "Be stale.")
    index = publisher.release("1.0.0", variant)
    publisher.repository.add("acme/assistant/latest", publisher.blobs[str(index)], "acme")
    publisher.repository.issue(days(-20))
    publisher.repository.publish("acme")
    publisher.write()
    code, error = box.refused()
    assert code == "expired"
    assert "20 days old" in error
    box.publish("1.0.1", "Be fresh.")
    box.install()
    assert "Be fresh." in box.ask()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder])
    if mounted.returncode:
        pytest.skip("this machine may not mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_without_room_is_told_before_the_first_byte(own, small_disk, start_service):
    publisher, web = own
    state = small_disk / "box"
    enrol(state, publisher, web.url)
    box = Box(start_service(state), publisher, web)
    box.publish("1.0.0", "Be old.")
    box.install()
    before = web.content_bytes
    box.publish("2.0.0", "Be new. " + "x" * (30 << 20))
    code, error = box.refused()
    assert code == "disk_full"
    assert "must stay free" in error
    assert web.content_bytes - before < 5000
    assert "Be old." in box.ask()
    last = box.pull()[-1]
    assert "hearth rm" in last["hint"]
    assert "hearth:latest" in last["hint"]  # the built-in model could go


# -- in this process


@pytest.fixture
def settings(own, tmp_path):
    """Of a box that trusts the publisher."""
    publisher, web = own
    enrol(tmp_path / "here", publisher, web.url)
    flags = {"engine": "echo", "state": str(tmp_path / "here"), "memory_reserve_mib": "0"}
    return load_settings(flags | {"transfer_tries": "1"}, {})


@contextlib.asynccontextmanager
async def opened(settings):
    """The installing part of a service, without HTTP."""
    library = Library(settings.models_dir)
    models = Models(settings)
    repositories = Repositories(settings.state / "trust")
    transfers = Transfers(settings, library, Gate(settings, repositories))
    chat = ChatService(library, models)
    bundles = Bundles(settings, library, models, chat, transfers, repositories)
    await asyncio.to_thread(bundles.reconcile)
    try:
        yield bundles, library, transfers
    finally:
        await bundles.close()
        await transfers.close()
        await models.close()


async def install(bundles, name=NAME, origin=None, **wishes):
    return [line.status async for line in bundles.install(name, origin, **wishes)]


async def test_no_step_blocks_the_event_loop(own, settings):
    publisher, web = own
    box = Box(None, publisher, web)
    async with opened(settings) as (bundles, library, _):
        pattern = {"tests": [{**SMOKE["tests"][0], "matches": "Be (one|two)"}]}
        box.publish("1.0.0", "Be one.", smoke=pattern, card="About.")
        assert (await install(bundles))[-1] == "success"
        box.publish("2.0.0", "Be two.", smoke=pattern)
        assert (await install(bundles))[-1] == "success"
        assert (await install(bundles))[-2] == "release 2.0.0 is active"
        await bundles.rollback(NAME)
        await bundles.pin(NAME, "1.0.0")
        await bundles.unpin(NAME)
        await bundles.check(NAME)
        box.publish("3.0.0", "Be bad.", smoke=says("Be good."))
        with pytest.raises(ActivationError):
            await install(bundles)
        stored = await asyncio.to_thread(library.get, NAME)
        assert await asyncio.to_thread(lambda: stored.system) == "Be one."


async def test_who_asks_for_the_same_shares_the_install(own, settings):
    publisher, web = own
    box = Box(None, publisher, web)
    async with opened(settings) as (bundles, _, _):
        index = box.publish("1.0.0", "Be shared.")
        both = await asyncio.gather(install(bundles), install(bundles))
        assert both[0][-1] == both[1][-1] == "success"
        assert "success" in both[1]
        path = f"blobs/sha256/{index.hex}"
        assert web.sent[path] == len(publisher.blobs[str(index)])


async def test_who_asks_for_another_thing_waits_and_gets_an_own_answer(own, settings):
    publisher, web = own
    box = Box(None, publisher, web)
    async with opened(settings) as (bundles, _, _):
        box.publish("1.0.0", "Be wanted.")
        wishes = (install(bundles), install(bundles, variant="q9"), install(bundles, retry=True))
        plain, other, again = await asyncio.gather(*wishes, return_exceptions=True)
        assert plain[-1] == "success"
        assert isinstance(other, MemoryFitError)
        assert again[-2:] == ["release 1.0.0 is active", "success"]


class DeletingContent:
    """Is asked for a release, and meanwhile somebody removes the model."""

    def __init__(self, content, bundles):
        self.content, self.bundles = content, bundles

    async def document(self, *asked):
        await asyncio.to_thread(self.bundles.delete, NAME)
        return await self.content.document(*asked)

    async def fetch(self, *asked):
        await self.content.fetch(*asked)


async def test_a_model_that_is_removed_while_it_is_updated_forgets_its_past(own, settings):
    from appliance.trust.fetch import from_folder

    publisher, web = own
    box = Box(None, publisher, web)
    async with opened(settings) as (bundles, library, transfers):
        box.publish("1.0.0", "Be old.")
        await install(bundles)
        box.publish("2.0.0", "Be new.")
        (content,) = transfers.contents([web.url])
        source = from_folder(publisher.folder / "tuf/acme/metadata")
        origin = Origin(source, (DeletingContent(content, bundles),))
        with contextlib.suppress(NotFoundError):  # it may also end here
            await install(bundles, origin=origin)
        assert not await asyncio.to_thread(library.has, NAME)
        assert await asyncio.to_thread(bundles.states) == []
        await install(bundles)
        state = await asyncio.to_thread(bundles.state, NAME)
        assert (state.active.version, state.previous) == ("2.0.0", None)


async def test_no_switch_comes_between_the_two_halves_of_a_removal(own, settings):
    publisher, web = own
    box = Box(None, publisher, web)
    async with opened(settings) as (bundles, library, _):
        for version, system in (("1.0.0", "Be first."), ("2.0.0", "Be second.")):
            box.publish(version, system)
            await install(bundles)
        loop, real, pinned = asyncio.get_running_loop(), library.delete, []

        def delete(name):
            real(name)
            pinned.append(asyncio.run_coroutine_threadsafe(bundles.pin(NAME, "1.0.0"), loop))
            with contextlib.suppress(TimeoutError):  # it has to wait for us
                pinned[0].result(timeout=0.5)

        library.delete = delete
        assert await asyncio.to_thread(bundles.delete, NAME)
        with pytest.raises(NotFoundError):
            await asyncio.wrap_future(pinned[0])
        assert not await asyncio.to_thread(library.has, NAME)
        assert await asyncio.to_thread(bundles.states) == []


async def test_making_room_does_not_take_what_an_earlier_try_brought(own, settings, monkeypatch):
    publisher, web = own
    box = Box(None, publisher, web)
    async with opened(settings) as (bundles, library, _):
        box.publish("1.0.0", "Be patient.")
        brought, _ = await asyncio.to_thread(library.blobs.put_bytes, WEIGHTS)
        nobodys, _ = await asyncio.to_thread(library.blobs.put_bytes, b"nobody's")
        for digest in (brought, nobodys):
            os.utime(library.blobs.path(digest), (1, 1))
        real, asked = shutil.disk_usage, []

        def disk_usage(path):
            asked.append(path)
            usage = real(path)
            return usage._replace(free=0) if 2 <= len(asked) <= 3 else usage

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        assert (await install(bundles))[-1] == "success"
        assert not await asyncio.to_thread(library.blobs.has, nobodys)
        assert f"blobs/sha256/{brought.hex}" not in web.sent


async def test_a_medium_brings_metadata_and_bytes(own, settings):
    from appliance.trust.fetch import from_folder

    publisher, web = own
    box = Box(None, publisher, web)
    box.publish("1.0.0", "Be carried.")
    async with opened(settings) as (bundles, _, transfers):
        source = from_folder(publisher.folder / "tuf/acme/metadata")
        origin = Origin(source, transfers.contents([web.url]))
        assert (await install(bundles, origin=origin))[-1] == "success"
        dead = Origin(source, transfers.contents(["http://127.0.0.1:1"]))
        assert (await install(bundles, origin=dead))[-2] == "release 1.0.0 is active"
        box.publish("2.0.0", "Be unreachable.")
        with pytest.raises(RegistryUnreachableError):
            await install(bundles, origin=dead)
        state = await asyncio.to_thread(bundles.state, NAME)
        assert state.active.version == "1.0.0"


async def test_a_name_that_nobody_signs(settings):
    async with opened(settings) as (bundles, _, _):
        with pytest.raises(PolicyRefusedError, match="no enrolled repository signs"):
            await install(bundles, ModelName.parse("free/model"))
