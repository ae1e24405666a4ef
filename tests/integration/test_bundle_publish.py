"""Releases signed and on their way to folders: only what is missing, nothing torn, no lies."""

import asyncio
import json

import pytest

from appliance.bundles.confined import Disk
from appliance.bundles.layout import Layout
from appliance.errors import (
    ConfigError,
    LibraryError,
    NotFoundError,
    RegistryError,
)
from appliance.library.manifest import Manifest
from appliance.transfer.patience import Patience
from tests.fakes.release_desk import REPOSITORY, Desk, fatal, publish
from tools.bundles.copy import copy_releases
from tools.bundles.errors import RepositoryRefusedError
from tools.bundles.places import LayoutPlace
from tools.bundles.repository import RepositoryFolder
from tools.bundles.sign import sign_release

OLD, NEW = "acme/assistant:1.0.0", "acme/assistant:1.1.0"
QUICK = Patience(tries=6, stall_s=5, first_wait_s=0.01, longest_wait_s=0.02)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "desk").open()


def names_seen(layout, root):
    """What a new box can install from a folder: names that are signed and whole."""
    assert fatal(layout, root) == []
    return sorted(layout.releases())


# -- signing ---------------------------------------------------------------------------------


def test_signing_lists_the_version_and_moves_names(desk, tiny_gguf):
    outcome = desk.build(tiny_gguf, "1.0.0")
    signed = desk.sign(OLD, "latest")
    assert signed.paths == ("acme/assistant/1.0.0", "acme/assistant/latest")
    assert signed.digest == outcome.digest
    targets = desk.repo.published().role("acme").signed.targets
    assert {path: target.hashes["sha256"] for path, target in targets.items()} == dict.fromkeys(
        signed.paths, outcome.digest.hex
    )
    newer = desk.build(tiny_gguf, "1.1.0")
    desk.sign(NEW, "latest")
    targets = desk.repo.published().role("acme").signed.targets
    assert targets["acme/assistant/latest"].hashes["sha256"] == newer.digest.hex
    assert targets["acme/assistant/1.0.0"].hashes["sha256"] == outcome.digest.hex


def test_a_version_is_signed_once(desk, tiny_gguf):
    desk.release(tiny_gguf, "1.0.0")
    desk.sign(OLD)  # the same bytes again are no change
    desk.build(tiny_gguf, "1.0.0", system="Another.")
    with pytest.raises(ConfigError, match="another content"):
        desk.sign(OLD)


def test_a_name_that_nobody_may_sign(desk, tiny_gguf):
    desk.build(tiny_gguf, "1.0.0", name="evil/assistant")
    with pytest.raises(ConfigError, match="nobody may sign"):
        desk.sign("evil/assistant:1.0.0")


def test_a_foreign_key_signs_nothing(desk, tiny_gguf):
    desk.build(tiny_gguf, "1.0.0")
    with pytest.raises(RepositoryRefusedError, match="not one of those"):
        sign_release(desk.layout, OLD, [], desk.repo, [desk.online])


def test_a_release_with_a_hole_is_not_signed(desk, tiny_gguf):
    outcome = desk.build(tiny_gguf, "1.0.0")
    manifest = Manifest.parse(desk.layout.read(outcome.release.variants[0].digest, 1 << 20))
    desk.layout.remove(manifest.layers[0].digest)
    with pytest.raises(LibraryError, match="lacks blob"):
        desk.sign(OLD)
    with pytest.raises(NotFoundError, match="no release"):
        desk.sign("acme/assistant:7")


# -- a folder --------------------------------------------------------------------------------


async def test_a_folder_gets_what_is_missing(desk, tiny_gguf, tmp_path):
    await asyncio.to_thread(desk.release, tiny_gguf, "1.0.0", "latest")
    place = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "web"))
    first = await publish(desk, place)
    assert (first.names, first.kept_bytes) == (2, 0)
    await asyncio.to_thread(desk.release, tiny_gguf, "1.1.0", "latest", system="Shorter.")
    second = await publish(desk, place)
    size = tiny_gguf.stat().st_size
    assert second.moved_bytes < size / 50 < size < second.kept_bytes  # the weights stay
    found = await asyncio.to_thread(names_seen, place.layout, desk.root)
    assert found == [OLD, NEW, "acme/assistant:latest"]
    again = await publish(desk, place)
    assert again.moved_bytes == 0


async def test_unsigned_releases_stay_at_home(desk, tiny_gguf, tmp_path):
    await asyncio.to_thread(desk.release, tiny_gguf, "1.0.0")
    await asyncio.to_thread(desk.build, tiny_gguf, "1.1.0")
    place = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "web"))
    await publish(desk, place)
    assert list(await asyncio.to_thread(place.layout.releases)) == [OLD]


async def test_a_broken_set_is_not_published(desk, tiny_gguf, tmp_path):
    place = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "web"))
    with pytest.raises(RepositoryRefusedError, match="nothing is signed"):
        await publish(desk, place)
    await asyncio.to_thread(desk.release, tiny_gguf, "1.0.0")
    snapshot = desk.repo.metadata / "1.snapshot.json"
    snapshot.write_bytes(snapshot.read_bytes().replace(b"acme", b"evil"))
    with pytest.raises(Exception, match="snapshot") as refusal:
        await publish(desk, place)
    assert refusal.value.code in {"repository_broken", "repository_refused"}
    assert not (tmp_path / "web" / "tuf").exists()
    assert list((tmp_path / "web" / "blobs" / "sha256").glob("*")) == []


async def test_a_signed_release_that_is_nowhere(desk, tiny_gguf, tmp_path):
    outcome = await asyncio.to_thread(desk.release, tiny_gguf, "1.0.0")
    await asyncio.to_thread(desk.layout.remove, outcome.digest)
    place = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "web"))
    with pytest.raises(RepositoryRefusedError, match="neither here nor at"):
        await publish(desk, place)
    assert not (tmp_path / "web" / "tuf").exists()


async def test_older_metadata_does_not_replace_newer(desk, tiny_gguf, tmp_path):
    await asyncio.to_thread(desk.release, tiny_gguf, "1.0.0")
    place = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "web"))
    await publish(desk, place)
    old = await asyncio.to_thread(desk.repo.files)
    await asyncio.to_thread(desk.release, tiny_gguf, "1.1.0")
    await publish(desk, place)
    before = (desk.repo.metadata / "timestamp.json").read_bytes()
    with pytest.raises(RepositoryRefusedError, match="already"):
        await place.put_metadata(REPOSITORY, old, [])
    published = tmp_path / "web" / "tuf" / REPOSITORY / "metadata" / "timestamp.json"
    assert published.read_bytes() == before


async def test_a_rotten_blob_does_not_travel(desk, tiny_gguf, tmp_path):
    outcome = await asyncio.to_thread(desk.release, tiny_gguf, "1.0.0")
    data = await asyncio.to_thread(desk.layout.read, outcome.release.variants[0].digest, 1 << 20)
    blob = desk.layout.root / "blobs" / "sha256" / Manifest.parse(data).layers[0].digest.hex
    rotten = bytearray(blob.read_bytes())
    rotten[-1] ^= 1
    blob.write_bytes(rotten)
    place = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "web"))
    with pytest.raises(Exception, match="digest mismatch"):
        await publish(desk, place)
    assert await asyncio.to_thread(place.layout.releases) == {}
    assert not (tmp_path / "web" / "tuf").exists()


class DiesAtRename(Disk):
    """The power goes at the nth rename."""

    def __init__(self, survives):
        self.left = survives

    def rename(self, old, new, folder):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        super().rename(old, new, folder)


def test_killed_at_every_rename(desk, tiny_gguf, tmp_path):
    """Whatever was renamed last, boxes find the old release or the new one, never a torn one."""
    desk.release(tiny_gguf, "1.0.0", "latest")
    web = tmp_path / "web"
    asyncio.run(publish(desk, LayoutPlace(Layout.create(web))))
    old_digest = Layout(web).releases()["acme/assistant:latest"]
    desk.release(tiny_gguf, "1.1.0", "latest", system="New.")
    seen, deaths = [], 0
    while True:
        # from the second on each run does one rename more than the one before, and dies
        place = LayoutPlace(Layout(web, disk=DiesAtRename(min(deaths, 1))))
        try:
            asyncio.run(publish(desk, place))
        except KeyboardInterrupt:
            deaths += 1
        else:
            break
        files = RepositoryFolder(web / "tuf" / REPOSITORY / "metadata").published()
        latest = files.role("acme").signed.targets["acme/assistant/latest"].hashes["sha256"]
        seen.append(latest == old_digest.hex)
        assert fatal(Layout(web), desk.root) == []
    assert deaths > 10
    assert all(seen)  # the timestamp's rename is the last one, and makes the new release count
    assert names_seen(Layout(web), desk.root) == [OLD, NEW, "acme/assistant:latest"]


# -- hostile ---------------------------------------------------------------------------------


def with_variant(change):
    """The index with its first variant's descriptor changed."""

    def changed(body):
        return body | {"manifests": [body["manifests"][0] | change, *body["manifests"][1:]]}

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body | {"manifests": []},
        lambda body: body | {"artifactType": "text/plain"},
        lambda body: [body],
        lambda body: body | {"annotations": {"org.opencontainers.image.version": "../1"}},
        with_variant({"size": -1}),
        with_variant({"size": 7}),
        with_variant({"digest": "sha256:../../etc/passwd"}),
        with_variant({"digest": f"sha256:{'0' * 64}"}),
        with_variant({"mediaType": "text/plain"}),
        with_variant({"annotations": {"variant": "../../x"}}),
        with_variant({"annotations": {"variant": "x", "rank": "best"}}),
    ],
)
async def test_an_index_that_lies_goes_nowhere(desk, tiny_gguf, tmp_path, change):
    outcome = await asyncio.to_thread(desk.build, tiny_gguf, "1.0.0")

    def lie():
        body = json.loads(desk.layout.read(outcome.digest, 1 << 20))
        data = json.dumps(change(body)).encode()
        desk.layout.set_release(OLD, desk.layout.put_bytes(data), len(data))

    await asyncio.to_thread(lie)
    place = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "web"))
    with pytest.raises((LibraryError, RegistryError)):
        await copy_releases(LayoutPlace(desk.layout), place)
    assert await asyncio.to_thread(place.layout.releases) == {}
    with pytest.raises((LibraryError, RegistryError)):
        await asyncio.to_thread(desk.sign, OLD)
    assert desk.repo.published() is None
