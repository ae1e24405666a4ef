"""One repository in one registry, over HTTP: tokens, redirects, caps, errors in our words.

Speaks Ollama's protocol and plain OCI distribution, which differ in little. Bodies are never
decompressed. Knows nothing of files; `download.py` and `push.py` decide what to ask for.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from appliance.errors import RegistryError, RegistryNotFoundError, RegistryUnreachableError
from appliance.library.manifest import (
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    OCI_MANIFEST_TYPE,
    Digest,
)
from appliance.transfer.challenge import Challenge
from appliance.transfer.identity import Identity
from appliance.transfer.pace import Pace
from appliance.transfer.patience import DripWatch, Patience
from appliance.transfer.proxies import Proxies
from appliance.transfer.redirects import MAX_REDIRECTS, REDIRECTS, next_hop
from appliance.transfer.sources import Source

MAX_ANSWER_BYTES = 1 << 20  # tokens and error texts
MAX_ERROR_CHARACTERS = 300
READ_BYTES = 1 << 20

_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that another try may change
_WHO_WE_ARE = "it may have to know this box: the public key is id_ed25519.pub in the state folder"

Body = Callable[[], AsyncGenerator[bytes, None]] | bytes | None


def open_session(patience: Patience) -> aiohttp.ClientSession:
    """A session for all registries. Raw bytes, no cookies, stalls end in an error."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=patience.stall_s, sock_read=patience.stall_s
        ),
        headers={"User-Agent": "hearth", "Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BYTES,
    )


@dataclass(slots=True)
class Registry:
    """Requests to one source. Everything raises RegistryError or one of its kinds."""

    source: Source
    session: aiohttp.ClientSession
    identity: Identity
    patience: Patience
    pace: Pace = field(default_factory=Pace.free)
    proxies: Proxies = field(default_factory=Proxies)
    _token: str = field(default="", repr=False)
    _signing_in: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def manifest(self, tag: str) -> bytes:
        """The manifest's own bytes; checked against the digest that the registry sends along."""
        accept = f"{MANIFEST_TYPE}, {OCI_MANIFEST_TYPE}"
        url = self.source.url(f"manifests/{tag}")
        async with self.request("GET", url, headers={"Accept": accept}) as response:
            data = await read_capped(response, MAX_MANIFEST_BYTES, self.patience.stall_s)
            promised = response.headers.get("Docker-Content-Digest", "")
        if promised.startswith("sha256:") and promised != str(Digest.of(data)):
            raise RegistryUnreachableError(
                f"{self.source} sent a manifest of digest {Digest.of(data)} as {promised[:80]}"
            )
        return data

    @asynccontextmanager
    async def blob(
        self, digest: Digest, first: int, last: int
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a GET of bytes `first` to `last`: 206, or 200 with the whole blob."""
        url = self.source.blob_url(digest)
        headers = {"Range": f"bytes={first}-{last}"}
        async with self.request("GET", url, headers=headers) as response:
            yield response

    async def has_blob(self, digest: Digest) -> bool:
        try:
            async with self.request("HEAD", self.source.blob_url(digest)):
                return True
        except RegistryNotFoundError:
            return False

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer, after redirects of reading methods and a sign-in if asked for.

        A 307 to an upload is handed out as it is. Credentials go to the registry's origin alone.
        """
        may_sign_in, hops = True, 0
        while True:
            sent = CIMultiDict(headers or {})
            if self._token and url.origin() == self.source.base.origin():
                sent["Authorization"] = f"Bearer {self._token}"
            used = self._token
            async with self._send(method, url, sent, body) as response:
                if response.status in REDIRECTS and method in {"GET", "HEAD"}:
                    hops += 1
                    if hops > MAX_REDIRECTS:
                        raise RegistryError(
                            f"{self.source} redirects more than {MAX_REDIRECTS} times"
                        )
                    url = await self.next_hop(url, response.headers.get("Location", ""))
                    continue
                is_own = url.origin() == self.source.base.origin()
                if response.status != 401 or not may_sign_in or not is_own:
                    await self._check(response)
                    yield response
                    return
                challenge = response.headers.get("WWW-Authenticate", "")
            may_sign_in = False
            await self._sign_in(Challenge.parse(challenge, self.source.base), used)

    async def next_hop(self, url: URL, location: str) -> URL:
        """The target of a redirect from `url`; raises RegistryError when it may not be followed."""
        return await next_hop(url, location, is_proxied=self.proxies.of_url(url) is not None)

    @asynccontextmanager
    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str], body: Body
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, no redirects; what breaks on the way is a RegistryUnreachableError.

        The head of an answer to a reading method has the time of a stall, as it may drip too; that
        to an upload comes when all is sent.
        """
        data = body() if callable(body) else body
        arguments = self.proxies.arguments(url, headers)
        limit_s = self.patience.stall_s if method in {"GET", "HEAD"} else None
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(limit_s):
                    response = await stack.enter_async_context(
                        self.session.request(
                            method, url, data=data, allow_redirects=False, **arguments
                        )
                    )
                yield response
        except TimeoutError as error:
            raise RegistryUnreachableError(
                f"{self.source} sent nothing for {self.patience.stall_s:g} s"
            ) from error
        except aiohttp.ClientError as error:
            raise RegistryUnreachableError(
                f"{self.source}: {error or type(error).__name__}"
            ) from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise for a refusal and for a compressed body, which no registry has reason to send."""
        status = response.status
        if status >= 300 and not (status == 307 and response.method in {"PATCH", "PUT"}):
            text = await _error_text(response)
            if status == 404:
                raise RegistryNotFoundError("file does not exist", hint=f"asked: {self.source}")
            if status in _LATER:
                raise RegistryUnreachableError(
                    f"{self.source} answered {status}: {text}",
                    retry_after_s=_retry_after_s(response),
                )
            hint = _WHO_WE_ARE if status in {401, 403} else ""
            raise RegistryError(f"{self.source} answered {status}: {text}", hint=hint)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RegistryError(f"{self.source} sent a compressed body, which nobody asked for")

    async def _sign_in(self, challenge: Challenge, refused: str) -> None:
        """Get a token, unless another request got a new one since `refused` was sent."""
        async with self._signing_in:
            if self._token != refused:
                return
            nonce = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
            url = challenge.token_url(self.source.base, int(time.time()), nonce)
            signed = await asyncio.to_thread(self.identity.authorization, str(url))
            async with self._send("GET", url, {"Authorization": signed}, None) as response:
                await self._check(response)
                data = await read_capped(response, MAX_ANSWER_BYTES, self.patience.stall_s)
            self._token = _token_of(data)


async def read_capped(response: aiohttp.ClientResponse, limit: int, stall_s: float) -> bytes:
    """The whole body; raises RegistryError past `limit` bytes, and when it only drips."""
    data = bytearray()
    watch = DripWatch(stall_s, response.url.origin())
    async for piece in response.content.iter_any():
        data += piece
        watch.came(len(piece))
        if len(data) > limit:
            raise RegistryError(f"{response.url.origin()} sent more than the {limit} bytes allowed")
    return bytes(data)


async def _error_text(response: aiohttp.ClientResponse) -> str:
    """What a refusal says, shortened; a registry's JSON errors by their messages."""
    data = bytes(await response.content.read(MAX_ANSWER_BYTES))
    try:
        errors = msgspec.json.decode(data)["errors"]
        text = "; ".join(str(error.get("message") or error["code"]) for error in errors)
    except (msgspec.DecodeError, TypeError, KeyError, AttributeError):
        text = data.decode(errors="replace").strip() or (response.reason or "no text")
    return text[:MAX_ERROR_CHARACTERS]


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


def _token_of(data: bytes) -> str:
    """The token of a realm's answer, under Ollama's key or the older of Docker's two."""
    try:
        body = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise RegistryError("the registry's token answer is not JSON") from error
    token = body.get("token") or body.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise RegistryError("the registry's token answer holds no token")
    return token
