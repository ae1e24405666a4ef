"""The page for people: plain files from `static/`, and the QR code that leads to it.

The files are read and compressed once, at the first request. Their addresses carry a hash of them
all, so browsers keep them for good and ask for one small document after an update. Nothing in them
comes from outside, and the policy that is sent along lets nothing else in.
"""

import asyncio
import hashlib
import io
import re
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import web

from appliance.errors import NotFoundError
from appliance.http.context import ACCESS, GUARD
from appliance.http.errors import FieldError

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
_VERSION_MARK = b"{{version}}"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
# Trusted types have the browser refuse to make HTML of text, whatever a script of ours does.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'"
)
_SAFETY = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LITERAL = re.compile(r"\[?(?P<address>[0-9a-fA-F:.]+?)\]?(?::\d{1,5})?")
_CLAIM_CODE = re.compile(r"[0-9A-Za-z-]{4,20}")


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    content_type: str
    body: bytes
    packed: bytes  # gzip
    tag: str  # for If-None-Match


async def root(request: web.Request) -> web.StreamResponse:
    """GET, HEAD /: the page for who prefers HTML, for all others the heartbeat of Ollama's clients
    (which accept anything, or say nothing)."""
    if not prefers_html(request.headers.get("Accept", "")):
        return web.Response(text="Ollama is running", headers={"Vary": "Accept"})
    _, assets = await asyncio.to_thread(_assets)
    return _send(request, assets[INDEX], "no-cache", "Accept")


async def static_file(request: web.Request) -> web.StreamResponse:
    """GET, HEAD /static/{version}/{name}: a file of the page, for good."""
    version, assets = await asyncio.to_thread(_assets)
    asset = assets.get(request.match_info["name"])
    if asset is None or request.match_info["version"] != version:
        raise NotFoundError(
            f"the page has no file {request.path[:200]!r}", hint="load the page again"
        )
    return _send(request, asset, "public, max-age=31536000, immutable")


async def qr(request: web.Request) -> web.StreamResponse:
    """GET /hearth/v1/qr.svg?host=ADDRESS[:PORT][&claim=CODE]: the page's address as a QR code, for
    addresses of this box alone. Without `host` it is the address that was asked."""
    host = request.query.get("host", request.host)
    local = request.transport.get_extra_info("sockname") if request.transport else None
    literal = _LITERAL.fullmatch(host)
    if not literal or literal["address"] not in request.app[ACCESS].addresses():
        request.app[GUARD].check_own(host, local)
    code = request.query.get("claim", "")
    if code and not _CLAIM_CODE.fullmatch(code):
        raise FieldError("claim", "claim must be a claim code like ABCD-EFGH")
    text = f"http://{host}/" + (f"#claim={code}" if code else "")
    body = await asyncio.to_thread(_qr_svg, text)
    headers = _SAFETY | {"Content-Type": "image/svg+xml", "Cache-Control": "no-store"}
    return web.Response(body=body, headers=headers)


def prefers_html(accept: str) -> bool:
    """Whether an Accept header names HTML, and nothing plainer with more weight (RFC 9110,
    12.5.1)."""
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            if found := re.fullmatch(r"q\s*=\s*([01](?:\.\d{0,3})?)", parameter):
                weight = float(found[1])
        weights[kind] = weight
    html = weights.get("text/html", 0.0)
    others = (weights.get("text/plain", 0.0), weights.get("application/json", 0.0))
    return html > 0 and html >= max(others)


@cache
def _assets() -> tuple[str, dict[str, Asset]]:
    """The version and the files by name. Blocking."""
    bodies = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir())}
    whole = hashlib.sha256()
    for name, body in bodies.items():
        whole.update(b"%s %d\n%s" % (name.encode(), len(body), body))
    version = whole.hexdigest()[:12]
    bodies[INDEX] = bodies[INDEX].replace(_VERSION_MARK, version.encode())
    return version, {name: _asset(name, body) for name, body in bodies.items()}


def _asset(name: str, body: bytes) -> Asset:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: gzip, without name or time
    packed = packer.compress(body) + packer.flush()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return Asset(_TYPES[Path(name).suffix], body, packed, tag)


def _send(request: web.Request, asset: Asset, caching: str, vary: str = "") -> web.Response:
    headers = _SAFETY | {
        "Content-Type": asset.content_type,
        "Cache-Control": caching,
        "ETag": asset.tag,
        "Vary": f"Accept-Encoding, {vary}" if vary else "Accept-Encoding",
    }
    known = request.headers.get("If-None-Match", "")
    if asset.tag in re.findall(r'"[^"]*"', known) or known.strip() == "*":
        return web.Response(status=304, headers=headers)
    if re.search(
        r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", request.headers.get("Accept-Encoding", "")
    ):
        return web.Response(body=asset.packed, headers=headers | {"Content-Encoding": "gzip"})
    return web.Response(body=asset.body, headers=headers)


def _qr_svg(text: str) -> bytes:
    """Dark on light also in the dark, with the quiet zone that readers need."""
    import segno  # 4.5 MiB, and most boxes are never asked

    out = io.BytesIO()
    segno.make(text, error="m", micro=False).save(
        out,
        kind="svg",
        scale=1,
        border=4,
        xmldecl=False,
        omitsize=True,
        dark="#2a211c",
        light="#fff",
    )
    return out.getvalue()
