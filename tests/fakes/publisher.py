"""A publisher of signed releases: builds them, signs them, puts them on a web server or a registry.

What lies in the folder is an OCI image layout with the repository's metadata below `tuf/`. The
server counts the bytes that it sends and can be told to send others.
"""

import asyncio
import json
import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from aiohttp import web

from appliance.bundles.release import (
    CARD_TYPE,
    CHUNKS_TYPE,
    EMPTY,
    INDEX_TYPE,
    SMOKE_TYPE,
    Extras,
    Release,
    Requires,
    Variant,
)
from appliance.library.manifest import (
    CONFIG_TYPE,
    MANIFEST_TYPE,
    MODEL_TYPE,
    OCI_MANIFEST_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    Digest,
    Layer,
    Manifest,
)
from tests.fakes.tuf_repository import TufRepository, days

CONFIG = b'{"model_format":"gguf","model_family":"llama","model_type":"130K","file_type":"F32"}'
MODEL = "acme/assistant"


class Publisher:
    """Releases of one publisher, in `folder`; `repository` is the TUF repository, free to lie."""

    def __init__(self, folder, name="acme", namespace="acme"):
        self.folder = folder
        self.name = name
        self.blobs = {}  # digest text -> bytes
        self.documents = {}  # of those, digest text -> media type of manifests and indexes
        self.repository = TufRepository()
        self.repository.delegate(name, [f"{namespace}/*/*"], terminating=True)
        self.repository.issue(days(0))
        self.repository.publish("targets", name)
        self.write()

    @property
    def root(self):
        return self.repository.files["1.root.json"]

    def put(self, data, media_type=""):
        """Keep bytes under their digest."""
        digest = Digest.of(data)
        self.blobs[str(digest)] = data
        if media_type in {MANIFEST_TYPE, OCI_MANIFEST_TYPE, INDEX_TYPE}:
            self.documents[str(digest)] = media_type
        return Layer(media_type, digest, len(data))

    def variant(self, weights, system="", template="", name="f32", config=CONFIG, **facts):
        """A variant's manifest and all its parts."""
        layers = [self.put(weights, MODEL_TYPE)]
        layers += [self.put(system.encode(), SYSTEM_TYPE)] if system else []
        layers += [self.put(template.encode(), TEMPLATE_TYPE)] if template else []
        manifest = Manifest(self.put(config, CONFIG_TYPE), tuple(layers)).encode()
        described = self.put(manifest, MANIFEST_TYPE)
        known = {"engine", "context", "quant", "rank"}
        return Variant(
            name,
            described.digest,
            described.size,
            requires=Requires(**{k: v for k, v in facts.items() if k not in known}),
            **{k: v for k, v in facts.items() if k in known},
        )

    def release(self, version, *variants, smoke=None, card="", chunks=b"", **fields):
        """Build a release; the digest of its index. `smoke` is the tests' JSON, or raw bytes."""
        layers = []
        if smoke is not None:
            data = smoke if isinstance(smoke, bytes) else json.dumps(smoke).encode()
            layers.append(self.put(data, SMOKE_TYPE))
        if card:
            layers.append(self.put(card.encode(), CARD_TYPE))
        if chunks:
            layers.append(self.put(chunks, CHUNKS_TYPE))
        extras = None
        if layers:
            self.put(EMPTY)
            extras = self.put(Extras(tuple(layers)).encode(), OCI_MANIFEST_TYPE)
        index = Release(version, variants, extras=extras, **fields).encode()
        return self.put(index, INDEX_TYPE).digest

    def list(self, index, *tags, model=MODEL):
        """Sign an index as these tags, and publish."""
        for tag in tags:
            self.repository.add(f"{model}/{tag}", self.blobs[str(index)], self.name)
        self.publish()

    def revoke(self, version, model=MODEL):
        """Take a release back, but go on listing it."""
        target = self.repository.roles[self.name].targets[f"{model}/{version}"]
        target.unrecognized_fields["custom"] = {"revoked": True}
        self.publish()

    def withdraw(self, version, model=MODEL):
        """Do not list a release any more."""
        del self.repository.roles[self.name].targets[f"{model}/{version}"]
        self.publish()

    def silent_for(self, count):
        """Publish as if the last word had been given so many days ago."""
        self.repository.issue(days(-count))
        self.repository.publish(self.name)
        self.write()

    def publish(self):
        self.repository.issue(days(0))
        self.repository.publish(self.name)
        self.write()

    def write(self):
        """Put everything into the folder."""
        blobs = self.folder / "blobs/sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        for digest, data in self.blobs.items():
            path = blobs / digest.removeprefix("sha256:")
            if not path.exists():
                path.write_bytes(data)
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.repository.write_to(self.folder / "tuf" / self.name / "metadata")

    def push(self, address, model=MODEL):
        """Put all blobs and documents into a docker-registry, manifests before indexes."""
        base = f"http://{address}/v2/{model}"
        for digest, data in self.blobs.items():
            if digest not in self.documents:
                upload = _send("POST", f"{base}/blobs/uploads/", b"").headers["Location"]
                joint = "&" if "?" in upload else "?"
                _send("PUT", f"{upload}{joint}digest={digest}", data)
        ordered = sorted(self.documents.items(), key=lambda item: item[1] == INDEX_TYPE)
        for digest, media_type in ordered:
            _send("PUT", f"{base}/manifests/{digest}", self.blobs[digest], media_type)


def _send(method, url, data, media_type="application/octet-stream"):
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": media_type}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
        return answer


class WebRoot:
    """A web server over a folder, which also answers as a registry would that has the same blobs.
    `sent` counts bytes by path; `wrong` overrides files by path, None takes them away; what is in
    `held` is never answered, `moved` redirects, `odd` says how else a path misbehaves (a name of
    `_ODD`), and `wanted` tells what was asked."""

    def __init__(self, folder):
        self.folder = folder
        self.sent = {}
        self.wanted = set()
        self.held = set()
        self.wrong = {}
        self.odd = {}
        self.moved = {}
        self.url = ""

    def app(self):
        app = web.Application()
        app.router.add_get("/{path:.+}", self._file)
        app.on_response_prepare.append(self._count)
        return app

    async def _file(self, request):
        path = _IN_REGISTRY.sub("blobs/sha256/", request.match_info["path"])
        self.wanted.add(path)
        if path in self.moved:
            return web.Response(status=302, headers={"Location": self.moved[path]})
        if path in self.odd:
            return await _ODD[self.odd[path]](request)
        if path in self.held:
            await asyncio.Event().wait()  # until the server ends
        if path in self.wrong:
            data = self.wrong[path]
            return web.Response(status=404) if data is None else web.Response(body=data)
        file = self.folder / path
        return web.FileResponse(file) if file.is_file() else web.Response(status=404)

    async def _count(self, request, response):
        if response.status in {200, 206}:
            path = request.match_info["path"]
            self.sent[path] = self.sent.get(path, 0) + (response.content_length or 0)

    @property
    def content_bytes(self):
        """What was sent of releases, metadata not counted."""
        return sum(size for path, size in self.sent.items() if path.startswith("blobs/"))


_IN_REGISTRY = re.compile(r"^v2/.+/(?:manifests|blobs)/sha256:")


async def _drip(request):
    """A byte now and then, for ever: never a stall, never an end."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" ")
        await asyncio.sleep(0.02)


async def _drip_head(request):
    """As `_drip`, but already the head of the answer never ends."""
    request.transport.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not request.transport.is_closing():
        request.transport.write(b"x")
        await asyncio.sleep(0.02)
    return web.Response()


async def _endless(request):
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" " * 65536)


async def _stall(request):
    """The head, a byte, and then nothing."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(b" ")
    await asyncio.Event().wait()


_ODD = {"drip": _drip, "dripping head": _drip_head, "endless": _endless, "stall": _stall}


def _all_started(executor, count):
    """No test may find more threads at its end than at its start, so all begin now."""
    barrier = threading.Barrier(count)
    list(executor.map(lambda _: barrier.wait(), range(count)))
    return executor


@contextmanager
def web_root(folder):
    """A WebRoot in a thread of its own; its `url` is the folder's address, without a slash."""
    root = WebRoot(folder)
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_all_started(ThreadPoolExecutor(4, "web-root-file"), 4))
    thread = threading.Thread(target=loop.run_forever, name="web-root")
    thread.start()

    def call(step):
        return asyncio.run_coroutine_threadsafe(step, loop).result(30)

    runner = web.AppRunner(root.app(), shutdown_timeout=0.1)
    call(runner.setup())
    call(web.TCPSite(runner, "127.0.0.1", 0).start())
    host, port = runner.addresses[0][:2]
    root.url = f"http://{host}:{port}"
    try:
        yield root
    finally:
        call(runner.cleanup())
        call(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
