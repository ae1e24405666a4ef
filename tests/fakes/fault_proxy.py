"""A registry's bad day: a proxy before a real registry (or bytes of its own), with switches.

Every switch is a field of `Faults`, off by default, and may be changed between requests. What was
asked is recorded.
"""

import asyncio
import base64
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

TOKEN = "a-token-of-the-fake"
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass
class Faults:
    """What goes wrong. Counts say how often, then it is over."""

    wrong_bytes: bool = False  # the first byte of each blob answer is another
    fail_times: int = 0  # so many blob requests get `fail_status`
    fail_status: int = 503
    no_ranges: bool = False
    cut_times: int = 0  # so many blob answers break off after `cut_after` bytes
    cut_after: int = 0
    stall_after: int | None = None  # blob answers send so much and then nothing
    drip_s: float = 0.0  # blob answers come byte by byte, that long apart
    add_length: int = 0  # blob answers announce so many bytes more
    extra_bytes: bytes = b""  # sent behind each whole blob
    hold_after: int | None = None  # so many blob requests are answered, others wait for `release`
    release: asyncio.Event = field(default_factory=asyncio.Event)
    redirect_to: str = ""  # blob requests are sent to this base address
    realm: str = ""  # where a 401 sends for a token; "own" is this proxy
    fail_uploads: int = 0  # so many parts of uploads get `fail_status` when they have come
    deaf: bool = False  # parts of uploads are not read
    writes_left: int | None = None  # after so many POST, PATCH and PUT nothing answers any more
    storage: str = ""  # parts of uploads are sent to this base address, as Ollama's registry does
    compress: bool = False  # pretend Content-Encoding: gzip
    manifest: bytes | None = None  # sent for every manifest
    manifest_digest: str = ""  # Docker-Content-Digest of manifests


@dataclass
class Proxy:
    """A running proxy."""

    address: str
    faults: Faults
    requests: list = field(default_factory=list)  # method, path, headers
    blobs: dict = field(default_factory=dict)  # digest: bytes that need no registry behind
    sent_bytes: int = 0  # of blobs
    answering: int = 0  # blob answers under way
    most_at_once: int = 0

    def paths(self, part=""):
        return [request.path for request in self.requests if part in request.path]


@asynccontextmanager
async def fault_proxy(upstream=None):
    """A proxy before the registry at host:port `upstream`; without one only its own blobs."""
    proxy = Proxy("", Faults())
    app = web.Application(client_max_size=1 << 30)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        server = _Server(proxy, upstream, session)
        app.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.address = f"127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield proxy
        finally:
            await runner.cleanup()


class _Server:
    def __init__(self, proxy, upstream, session):
        self._proxy = proxy
        self._upstream = upstream
        self._session = session

    async def answer(self, request):
        proxy, faults = self._proxy, self._proxy.faults
        note = SimpleNamespace(
            method=request.method,
            path=request.path,
            headers=request.headers,
            query=request.query,
        )
        proxy.requests.append(note)
        if faults.writes_left is not None and request.method in {"POST", "PATCH", "PUT"}:
            if not faults.writes_left:
                request.transport.close()
                raise web.HTTPServiceUnavailable
            faults.writes_left -= 1
        if request.path == "/token":
            return self._token(request)
        if faults.realm and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            realm = f"http://{proxy.address}/token" if faults.realm == "own" else faults.realm
            said = f'Bearer realm="{realm}",service="fake",scope="repository:x:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": said})
        if request.method == "GET" and "/blobs/sha256:" in request.path:
            return await self._blob(request)
        if request.method == "PATCH" and faults.deaf:
            await asyncio.Event().wait()
        if request.method == "PATCH" and faults.fail_uploads:
            faults.fail_uploads -= 1
            await request.read()
            return web.Response(status=faults.fail_status, text="not now")
        if faults.storage and request.method in {"PATCH", "PUT"}:
            return await self._to_storage(request)
        if request.method == "PUT" and request.path.startswith("/part/"):
            self._proxy.blobs[request.path] = await request.read()
            return web.Response()
        if faults.manifest is not None and "/manifests/" in request.path:
            return web.Response(body=faults.manifest)
        return await self._forward(request)

    def _token(self, request):
        """A token for a rightly signed request (ollama: server/auth.go)."""
        public, _, signature = request.headers["Authorization"].partition(":")
        url = f"http://{self._proxy.address}{request.raw_path}"
        signed = f"GET,{url},{base64.b64encode(_EMPTY.encode()).decode()}".encode()
        key = load_ssh_public_key(f"ssh-ed25519 {public}".encode())
        key.verify(base64.b64decode(signature), signed)
        query = parse_qs(urlsplit(url).query)
        assert abs(int(query["ts"][0]) - time.time()) < 60
        assert len(base64.urlsafe_b64decode(query["nonce"][0] + "==")) == 16
        assert (query["service"], query["scope"]) == (["fake"], ["repository:x:pull"])
        return web.json_response({"token": TOKEN})

    async def _to_storage(self, request):
        """Ollama's way to take a blob: each part elsewhere, then the MD5 of the parts' MD5s."""
        await request.read()
        if request.method == "PUT":
            return web.Response(status=201)
        number = len([r for r in self._proxy.requests if r.method == "PATCH"])
        going_on = f"http://{self._proxy.address}{request.path}"
        return web.Response(
            status=307,
            headers={
                "Location": f"{self._proxy.faults.storage}/part/{number}?sig=a%2Bb",
                "Docker-Upload-Location": going_on,
            },
        )

    async def _forward(self, request):
        url = f"http://{self._upstream}{request.raw_path}"
        headers = {k: v for k, v in request.headers.items() if k not in {"Host", "Authorization"}}
        body = await request.read()
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k not in {"Transfer-Encoding"}}
            if "Location" in kept:
                kept["Location"] = kept["Location"].replace(self._upstream, self._proxy.address)
            if self._proxy.faults.manifest_digest and "/manifests/" in request.path:
                kept["Docker-Content-Digest"] = self._proxy.faults.manifest_digest
            if request.method == "HEAD":
                return web.Response(status=answer.status, headers=kept)
            kept.pop("Content-Length", None)
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def _content(self, request):
        digest = request.path.rsplit("/", 1)[1]
        if digest not in self._proxy.blobs:
            async with self._session.get(f"http://{self._upstream}{request.path}") as answer:
                if answer.status != 200:
                    raise web.HTTPNotFound
                self._proxy.blobs[digest] = await answer.read()
        return self._proxy.blobs[digest]

    async def _blob(self, request):
        faults = self._proxy.faults
        if faults.redirect_to:
            return web.Response(
                status=307, headers={"Location": faults.redirect_to + request.path + "?sig=a%2Bb"}
            )
        if faults.hold_after is not None:
            faults.hold_after -= 1
            if faults.hold_after < 0:
                await faults.release.wait()
        if faults.fail_times:
            faults.fail_times -= 1
            return web.Response(status=faults.fail_status, text="not now")
        data = await self._content(request)
        asked = request.http_range
        has_range = asked.start is not None and not faults.no_ranges
        body = data[asked] if has_range else data
        headers = {"Content-Length": str(len(body) + faults.add_length)}
        if has_range:
            first = asked.start
            headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
        else:
            body += faults.extra_bytes
            if faults.extra_bytes:
                del headers["Content-Length"]
        if faults.compress:
            headers["Content-Encoding"] = "gzip"
        if faults.wrong_bytes:
            body = bytes([body[0] ^ 1]) + body[1:]
        response = web.StreamResponse(status=206 if has_range else 200, headers=headers)
        return await self._send(request, response, body)

    async def _send(self, request, response, body):
        proxy, faults = self._proxy, self._proxy.faults
        proxy.answering += 1
        proxy.most_at_once = max(proxy.most_at_once, proxy.answering)
        try:
            await response.prepare(request)
            if faults.stall_after is not None:
                await response.write(body[: faults.stall_after])
                await asyncio.Event().wait()
            for at in range(len(body) if faults.drip_s else 0):
                await response.write(body[at : at + 1])
                await asyncio.sleep(faults.drip_s)
            if faults.cut_times:
                faults.cut_times -= 1
                await response.write(body[: faults.cut_after])
                proxy.sent_bytes += faults.cut_after
                request.transport.close()
                return response
            for first in range(0, len(body), 1 << 20):
                piece = body[first : first + (1 << 20)]
                await response.write(piece)
                proxy.sent_bytes += len(piece)
            if faults.add_length:
                request.transport.close()
            return response
        finally:
            proxy.answering -= 1
