"""What the box says of itself on the network: service types, instance, TXT records (RFC 6763).

Pure. Announcements go to everybody on the link: no model names, serials, users or keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.box import Box

HEARTH = "_hearth._tcp.local."
OLLAMA = "_ollama._tcp.local."
OPENAI = "_openai._tcp.local."
HTTP = "_http._tcp.local."

API = ("ollama", "openai", "anthropic")  # dialects that this release speaks
# what it can do, with the right model
CAPABILITIES = ("chat", "embed", "rerank", "tools", "vision")
HOST_TTL_S = 120
# PTR and TXT too, against the usual 75 minutes: a box that lost its power is gone from lists soon.
OTHER_TTL_S = 120
MAX_TXT_STRING_BYTES = 255  # RFC 6763, 6.1
MAX_TXT_BYTES = 400  # RFC 6763, 6.2: small enough to travel with everything else in one packet


@dataclass(frozen=True, slots=True)
class Facts:
    """What changes in the TXT record while the service runs."""

    version: str
    auth: str = "open"  # open | keys: what a stranger on the LAN needs to chat
    state: str = "new"  # new | owned: whether somebody claimed the box
    tls_port: int | None = None
    fingerprint: str = ""  # SHA-256 of the TLS public key, base64url; a hint and no proof


@dataclass(frozen=True, slots=True)
class Service:
    """One announced service."""

    type: str  # with a final dot
    instance: str
    host: str  # with a final dot
    port: int
    txt: Mapping[str, str]

    @property
    def name(self) -> str:
        """The full service instance name."""
        return f"{self.instance}.{self.type}"


def services_of(box: Box, port: int, facts: Facts) -> tuple[Service, ...]:
    """The four services of a box that answers HTTP on `port`.

    Raises ValueError if a TXT record would not fit, which python-zeroconf only notices by dropping
    the packet.
    """
    common = {"txtvers": "1", "id": box.id, "v": facts.version, "api": ",".join(API)}
    own = {**common, "auth": facts.auth}
    if facts.tls_port is not None:
        own["tls"] = str(facts.tls_port)
    if facts.fingerprint:
        own["fp"] = facts.fingerprint
    own |= {"caps": ",".join(CAPABILITIES), "st": facts.state}
    texts = {
        HEARTH: own,
        OLLAMA: {**common, "path": "/"},
        OPENAI: {**common, "path": "/v1"},
        HTTP: {"path": "/"},
    }
    for txt in texts.values():
        _check(txt)
    host = f"{box.host_name}."
    return tuple(Service(kind, box.instance_name, host, port, txt) for kind, txt in texts.items())


def _check(txt: Mapping[str, str]) -> None:
    sizes = [len(f"{key}={value}".encode()) for key, value in txt.items()]
    if max(sizes) > MAX_TXT_STRING_BYTES or sum(sizes) + len(sizes) > MAX_TXT_BYTES:
        raise ValueError(f"a TXT record of {sum(sizes)} bytes does not fit: {txt}")
