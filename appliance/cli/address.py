"""Where the service is: the address grammar that Ollama's clients use for OLLAMA_HOST.

Knows texts and the environment, opens nothing. The service itself parses its listening address in
`appliance.config`.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from appliance.errors import ConfigError

DEFAULT_PORT = 11434
_SCHEME_PORTS = {"http": 80, "https": 443}
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address; `host` has no brackets and is empty for ":port"."""

    scheme: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def for_client(self) -> "Address":
        """The address to connect to: "every interface" becomes this machine's loopback."""
        host = _EVERY_ADDRESS.get(self.host, self.host)
        return Address(self.scheme, host, self.port, self.path)

    @property
    def is_loopback(self) -> bool:
        """Whether it names this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Parse as Ollama parses OLLAMA_HOST: blanks and quotes are stripped, a port out of range
    becomes the default port, a scheme brings its own default port, a path is kept.

    Raises ConfigError if the scheme is neither http nor https.
    """
    text = text.strip().strip("\"'").strip()
    if text == "ollama.com":
        text = "https://ollama.com"
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    elif scheme not in _SCHEME_PORTS:
        raise ConfigError(f"the address {text!r} must begin with http:// or https://, or have none")
    default_port = _SCHEME_PORTS[scheme] if found else DEFAULT_PORT
    hostport, slash, path = rest.partition("/")
    host, port = _split(hostport, default_port)
    return Address(scheme, host, port, (slash + path).rstrip("/"))


def find_address(flag: str | None, environ: Mapping[str, str]) -> Address:
    """The address to connect to, from `--host`, HEARTH_HOST, OLLAMA_HOST or the default."""
    named = flag or environ.get("HEARTH_HOST") or environ.get("OLLAMA_HOST") or ""
    return parse_address(named).for_client()


@dataclass(frozen=True, slots=True)
class Trusted:
    """What an https address is believed by; empty: the certificates of this system."""

    ca_file: str = ""  # a certificate authority's certificate, PEM
    fingerprint: str = ""  # SHA-256 of the server's public key, base64url


def find_trusted(flag: str | None, environ: Mapping[str, str]) -> Trusted:
    """From `--ca`, HEARTH_CA and HEARTH_FINGERPRINT. The flag goes before both variables.

    Raises ConfigError for a fingerprint that cannot be one.
    """
    if flag:
        return Trusted(ca_file=flag)
    fingerprint = environ.get("HEARTH_FINGERPRINT", "").strip().rstrip("=")
    if fingerprint and not re.fullmatch(r"[A-Za-z0-9_-]{43}", fingerprint):
        raise ConfigError(
            f"HEARTH_FINGERPRINT {fingerprint[:60]!r} is not a SHA-256 in base64url,"
            " which has 43 letters, digits, - and _",
            hint="`hearth tls` on the box prints it",
        )
    return Trusted(environ.get("HEARTH_CA", ""), fingerprint)


def _split(hostport: str, default_port: int) -> tuple[str, int]:
    bare = hostport.strip("[]")
    if not hostport or _is_ip(bare):
        return (bare or "127.0.0.1"), default_port
    match = re.fullmatch(r"\[([^\]]*)\]:(.*)|([^:]*):(.*)", hostport)
    if match is None:
        return bare, default_port
    host = match[1] if match[1] is not None else match[3]
    port_text = match[2] if match[2] is not None else match[4]
    in_range = re.fullmatch(r"\d{1,5}", port_text) and int(port_text) <= 65535
    return host, int(port_text) if in_range else default_port


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
