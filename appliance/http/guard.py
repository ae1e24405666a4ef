"""Who may talk to the box at all: rules for the Host header, the Origin and the caller's place.

Pure rules, no IO: `middleware.py` applies them to every path on every listener. The Host rule is
the only one that sees DNS rebinding on plain HTTP, because browsers send no Sec-Fetch headers to
`.local` names; the Origin rule stops other sites' pages from acting through a visitor's browser.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Self

from multidict import CIMultiDictProxy

from appliance.access.caller import Address, Caller, OriginKind, Ring
from appliance.access.rings import Neighbourhood, Network, ring_of
from appliance.errors import BadRequestError, ForbiddenError
from appliance.http.forwarded import is_forwarded, origin_of

_HOST = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?")
_LOOPBACK_ORIGIN = re.compile(r"https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?")
# Desktop apps and editors that Ollama admits (envconfig, AllowedOrigins), and browser extensions.
_APP_ORIGIN = re.compile(
    r"(?:app|file|tauri|vscode-webview|vscode-file|chrome-extension|moz-extension"
    r"|safari-web-extension)://.*"
)


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules, as the settings and the machine's name make them."""

    names: frozenset[str]  # lower case, without port
    origins: frozenset[str]  # lower case, `scheme://host[:port]`
    neighbourhood: Neighbourhood = field(default_factory=Neighbourhood)
    # What mDNS says of us, now: host name and addresses, which change with the network.
    announced: Callable[[], frozenset[str]] = frozenset
    proxies: tuple[Network, ...] = ()  # whose forwarding headers are believed

    @classmethod
    def of(
        cls,
        hostname: str,
        allowed_hosts: Iterable[str],
        allowed_origins: Iterable[str],
        neighbourhood: Neighbourhood | None = None,
        announced: Callable[[], frozenset[str]] = frozenset,
        trusted_proxies: Iterable[Network] = (),
    ) -> Self:
        """The guard of a machine called `hostname`, on the networks of `neighbourhood`."""
        own = hostname.lower().rstrip(".")
        label = own.partition(".")[0]
        names = {"localhost", own, label, f"{label}.local", *(h.lower() for h in allowed_hosts)}
        origins = frozenset(origin.lower() for origin in allowed_origins)
        own_names = frozenset(names - {"", ".local"})
        near = neighbourhood or Neighbourhood()
        return cls(own_names, origins, near, announced, tuple(trusted_proxies))

    def admit(self, headers: CIMultiDictProxy[str], peer: object, local: object) -> Caller:
        """The caller of a request with these headers over a connection from `peer` to `local`,
        as yet without key and scopes.

        `peer` and `local` are socket addresses as asyncio's transports give them. Raises
        BadRequestError (no Host or two) and ForbiddenError (a strange Host or Origin).
        """
        ours, theirs = _address_of(local), _address_of(peer)
        host = self.check_host(headers.getall("Host", []), ours)
        origins = headers.getall("Origin", [])
        kind = self.check_origin(origins, host)
        if kind is OriginKind.NONE and _is_foreign(headers):
            raise ForbiddenError(
                "requests from other sites' pages are refused",
                hint="add the page's origin to allowed_origins if it is yours",
            )
        passed_on = is_forwarded(headers)
        if passed_on and (origin := origin_of(headers, theirs, self.proxies)) is not None:
            theirs = origin
            ring = Ring.LAN if self.neighbourhood.has(origin) else Ring.OUTSIDE
        else:
            ring = ring_of(theirs, ours, self.neighbourhood, is_forwarded=passed_on)
        return Caller(
            address=str(theirs or ""),
            ring=ring,
            origin=kind,
            origin_text=origins[0] if origins else "",
        )

    def check_host(self, values: Sequence[str], local: Address | None) -> str:
        """The Host header, lower case, if it names this box; `local` is the connection's own end.

        An IP literal passes when it is loopback, `local` or announced, and 0.0.0.0, which some
        clients send as it is when OLLAMA_HOST says so, on a loopback connection; names pass when
        they are ours.
        """
        if len(values) != 1:
            raise BadRequestError(
                f"a request needs exactly one Host header, this has {len(values)}"
            )
        text = values[0].strip().lower()
        match = _HOST.fullmatch(text)
        if match is not None:
            host = match["six"] or match["name"].rstrip(".")
            literal = _literal(host)
            if literal is None and match["name"] and host in self.names | self.announced():
                return text
            if literal is not None and (literal.is_loopback or literal == local):
                return text
            if literal is not None and str(literal) in self.announced():
                return text
            if literal is not None and literal.is_unspecified and local and local.is_loopback:
                return text
        raise ForbiddenError(
            f"the Host header {values[0][:100]!r} is not one of this box's names",
            hint="use its IP address or host name, or add the name to allowed_hosts",
        )

    def check_own(self, host: str, local: object) -> None:
        """Raise ForbiddenError unless `host` (`name[:port]`) may stand in an address of this box;
        `local` is the socket address of the connection's own end."""
        self.check_host([host], _address_of(local))

    def check_origin(self, values: Sequence[str], host: str) -> OriginKind:
        """What kind of Origin this is; `host` is the request's admitted Host header."""
        if not values:
            return OriginKind.NONE
        origin = values[0].strip().lower()
        if len(values) == 1:
            own = origin in {f"http://{host}", f"https://{host}"}
            if own or origin in self.origins or _LOOPBACK_ORIGIN.fullmatch(origin):
                return OriginKind.TRUSTED
            if _APP_ORIGIN.fullmatch(origin):
                return OriginKind.APP
        raise ForbiddenError(
            f"web pages of the origin {values[0][:100]!r} may not call this box",
            hint="add the origin to allowed_origins if the page is yours",
        )


def require_json(caller: Caller, method: str, headers: CIMultiDictProxy[str]) -> None:
    """Raise BadRequestError if a page sends what a plain HTML form could, to change the box.

    A browser asks us first (CORS preflight) before it sends any other content type, so that a
    page which slipped through the rules above still could not act. Uploads are bytes.
    """
    if caller.origin is OriginKind.NONE or method not in {"POST", "PUT", "PATCH"}:
        return
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in {"application/json", "application/octet-stream"}:
        raise BadRequestError(
            f"a page sent Content-Type {kind[:60]!r}; what changes the box comes as"
            " application/json",
            hint="set the header Content-Type: application/json",
        )


def _is_foreign(headers: CIMultiDictProxy[str]) -> bool:
    """Whether a browser says that another site's page is behind this (Fetch Metadata). A link that
    a person followed is welcome: the page here opens on its own, and the other cannot look in."""
    if headers.get("Sec-Fetch-Site") != "cross-site":
        return False
    is_link = headers.get("Sec-Fetch-Mode") == "navigate"
    return not (is_link and headers.get("Sec-Fetch-Dest") == "document")


def _literal(host: str) -> Address | None:
    try:
        return _unmapped(ip_address(host))
    except ValueError:
        return None


def _address_of(socket_address: object) -> Address | None:
    """The IP address of a socket address; None for a Unix socket."""
    if not isinstance(socket_address, tuple) or not socket_address:
        return None
    return _literal(str(socket_address[0]).partition("%")[0])


def _unmapped(address: Address) -> Address:
    """An IPv4 address that came over an IPv6 socket, as itself."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
