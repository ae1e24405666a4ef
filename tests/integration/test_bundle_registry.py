"""Releases in a real registry, on good days and bad ones, and back from it; and it dies."""

import asyncio
import contextlib
import json
import shutil
import urllib.request
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from yarl import URL

from appliance.bundles.layout import Layout
from appliance.errors import (
    LibraryError,
    NotFoundError,
    RegistryError,
    RegistryUnreachableError,
)
from appliance.library.manifest import MANIFEST_TYPE
from appliance.transfer.patience import Patience
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.publisher import web_root
from tests.fakes.release_desk import REPOSITORY, Desk, fatal, publish
from tests.integration.bundle_box import Box, enrol
from tools.bundles.copy import contents_at, copy_releases
from tools.bundles.in_registry import RegistryPlace
from tools.bundles.main import main
from tools.bundles.metadata import MetadataArtifact
from tools.bundles.network import connecting
from tools.bundles.places import LayoutPlace, opening

OLD = "acme/assistant:1.0.0"
QUICK = Patience(tries=6, stall_s=5, first_wait_s=0.01, longest_wait_s=0.02)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "desk").open()


@pytest.fixture
async def proxy(docker_registry):
    async with fault_proxy(docker_registry.address) as proxy:
        yield proxy


@asynccontextmanager
async def registry_at(address, spool, patience=QUICK):
    async with connecting(spool / "id", patience) as connect:
        yield RegistryPlace(URL(f"http://{address}"), connect, spool)


def names_seen(layout, root):
    """What a new box can install from a folder: names that are signed and whole."""
    assert fatal(layout, root) == []
    return sorted(layout.releases())


async def require_whole(place, reference):
    contents = await contents_at(place, reference, await place.find(reference))
    repository = reference.partition(":")[0]
    assert all([await place.has_blob(repository, blob) for blob in contents.blobs])


def stock_request(address, repository, tag):
    """A manifest as a stock Ollama client asks for it."""
    url = f"http://{address}/v2/{repository}/manifests/{tag}"
    request = urllib.request.Request(url, headers={"Accept": MANIFEST_TYPE})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read()


async def test_a_registry_serves_variants_to_stock_clients(desk, proxy, tiny_gguf, tmp_path):
    outcome = await asyncio.to_thread(desk.release, tiny_gguf, "1.0.0", "latest")
    async with registry_at(proxy.address, tmp_path) as place:
        await publish(desk, place)
        digest = outcome.release.variants[0].digest
        manifest = await asyncio.to_thread(desk.layout.read, digest, 1 << 20)
        for tag in ("1.0.0", "1.0.0-small", "latest"):
            answer = await asyncio.to_thread(stock_request, proxy.address, "acme/assistant", tag)
            assert answer == (MANIFEST_TYPE, manifest)
        assert await place.find(OLD) == await place.find("acme/assistant:latest") == outcome.digest
        proxy.requests.clear()
        again = await publish(desk, place)
    assert again.moved_bytes == 0
    assert {request.method for request in proxy.requests} == {"GET", "HEAD"}


async def test_a_registry_gives_everything_back(desk, proxy, tiny_gguf, tmp_path):
    """registry → stick in parts → folder; the signatures come along, and judge it."""
    await asyncio.to_thread(desk.release, tiny_gguf, "1.0.0")
    stick = await asyncio.to_thread(
        lambda: LayoutPlace(Layout.create(tmp_path / "stick" / "hearth", part_bytes=100_000))
    )
    async with registry_at(proxy.address, tmp_path) as place:
        await publish(desk, place)
        await copy_releases(place, stick, [OLD])
    parts = list((tmp_path / "stick" / "hearth" / "blobs" / "sha256").glob("*.00?"))
    assert len(parts) == -(-tiny_gguf.stat().st_size // 100_000)
    assert await asyncio.to_thread(names_seen, stick.layout, desk.root) == [OLD]
    folder = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "folder"))
    moved = await copy_releases(stick, folder)
    assert moved.kept_bytes == 0
    assert await asyncio.to_thread(names_seen, folder.layout, desk.root) == [OLD]
    async with registry_at(proxy.address, tmp_path) as place:
        with pytest.raises(NotFoundError, match="no release"):
            await copy_releases(place, folder, ["acme/assistant:9"])


async def test_a_bad_day_of_the_registry(desk, proxy, tiny_gguf, tmp_path):
    await asyncio.to_thread(desk.release, tiny_gguf, "1.0.0")
    proxy.faults.fail_uploads = 2
    async with registry_at(proxy.address, tmp_path) as place:
        await publish(desk, place)
        folder = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "folder"))
        proxy.faults.fail_times, proxy.faults.cut_times, proxy.faults.cut_after = 2, 2, 1000
        await copy_releases(place, folder, [OLD])
        assert await asyncio.to_thread(names_seen, folder.layout, desk.root) == [OLD]
        proxy.faults.wrong_bytes = True
        other = LayoutPlace(await asyncio.to_thread(Layout.create, tmp_path / "other"))
        with pytest.raises(RegistryError):
            await copy_releases(place, other, [OLD])
        assert await asyncio.to_thread(other.layout.releases) == {}


async def test_a_registry_that_dies_at_every_write(desk, proxy, tiny_gguf, tmp_path):
    """At each POST, PATCH and PUT: until the last, a client of the old release sees nothing new."""
    gguf = await asyncio.to_thread(tiny_llama_gguf, tmp_path / "small.gguf")
    name = "acme/dying"
    once = Patience(tries=1, stall_s=5)

    def release(version):
        desk.build(gguf, version, name=name, system=f"Version {version}.")
        desk.sign(f"{name}:{version}", "latest")

    await asyncio.to_thread(release, "1.0.0")
    async with registry_at(proxy.address, tmp_path, once) as place:
        await publish(desk, place)
        old = await place.metadata(f"{name}:1.0.0")
        await asyncio.to_thread(release, "1.1.0")
        deaths = 0
        while True:
            proxy.faults.writes_left = deaths % 3 + 1  # a blob takes three
            with contextlib.suppress(RegistryUnreachableError):
                await publish(desk, place)
                break
            deaths += 1
            proxy.faults.writes_left = None
            assert await place.metadata(f"{name}:1.0.0") == old
            for tag in ("1.0.0", "latest"):
                await require_whole(place, f"{name}:{tag}")
        proxy.faults.writes_left = None
        new = await place.metadata(f"{name}:1.0.0")
    assert deaths > 10
    assert new != old


async def test_one_base_for_two_models(desk, proxy, tiny_gguf, tmp_path):
    """The second repository gets the weights by mount, not by upload."""
    for name in ("acme/one", "acme/two"):
        await asyncio.to_thread(desk.build, tiny_gguf, "1.0.0", name=name)
        await asyncio.to_thread(desk.sign, f"{name}:1.0.0")
    async with registry_at(proxy.address, tmp_path) as place:
        await publish(desk, place)
    mounted = [r for r in proxy.requests if r.query.get("from") == "acme/one"]
    assert len(mounted) > 3


def test_a_box_installs_what_the_registry_holds(
    desk, docker_registry, tiny_gguf, tmp_path, start_service
):
    """The web gives signatures only; every byte of the release comes from the registry."""
    desk.release(tiny_gguf, "1.0.0", "latest", name="acme/held", system="Be held.")
    address = f"registry+http://{docker_registry.address}"
    for place in (str(tmp_path / "web"), address):
        assert main(["publish", str(desk.layout.root), place]) == 0
    shutil.rmtree(tmp_path / "web" / "blobs")
    publisher = SimpleNamespace(name=REPOSITORY, root=desk.root)
    with web_root(tmp_path / "web") as web:
        enrol(tmp_path / "box", publisher, web.url, content=(address,))
        box = Box(start_service(tmp_path / "box"), publisher, web, "acme/held")
        box.install()
        assert "Be held." in box.ask()


@pytest.mark.parametrize(
    "text",
    [
        "registry+ftp://host",
        "registry+https://host/path",
        "registry+https://user:secret@host",
        "registry+https://",
        "https://host/folder",
    ],
)
async def test_places_that_are_none(text):
    with pytest.raises(Exception, match=r"place|address"):
        async with opening(text):
            pass


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body | {"artifactType": "text/plain"},
        lambda body: body | {"layers": [{"digest": "sha256:xyz", "size": 1}]},
        lambda body: body | {"layers": "all"},
        lambda body: body | {"annotations": {}},
        lambda body: body | {"annotations": {"hearth.repository": 7}},
        lambda body: [body],
    ],
)
def test_artifacts_of_metadata_that_lie(change):
    good = MetadataArtifact.of("acme", {"1.root.json": b"{}", "timestamp.json": b"{}"})
    assert MetadataArtifact.parse(good.encode()) == good
    with pytest.raises((RegistryError, LibraryError)):
        MetadataArtifact.parse(json.dumps(change(json.loads(good.encode()))).encode())
    layer = json.loads(good.encode())["layers"][0]
    layer["annotations"]["org.opencontainers.image.title"] = "../../1.root.json"
    lie = json.loads(good.encode()) | {"layers": [layer]}
    with pytest.raises(RegistryError, match="strange"):
        MetadataArtifact.parse(json.dumps(lie).encode())
