"""Which proxy a request to the outside goes through: the setting, else the standard variables.

HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in both cases, as curl and Go read them. This
machine itself is never asked through a proxy. Pure. Credentials are kept apart from the address,
so that no error and no log line can hold them.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Self

from yarl import URL

from appliance.errors import ConfigError
from appliance.trust.hosts import is_loopback

OFF = "off"  # as the setting: no proxy, whatever the environment says


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy; its address is without user and password."""

    address: URL
    authorization: str = field(default="", repr=False)  # value of Proxy-Authorization (RFC 7617)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError for what is no proxy's address, without repeating what it holds."""
        try:
            url = URL(text if "://" in text else f"http://{text}")
            is_usable = url.scheme in {"http", "https"} and bool(url.host)
        except ValueError:
            is_usable = False
        if not is_usable:
            raise ConfigError(
                "the proxy for transfers is not an address like http://proxy.example:3128",
                hint="see transfer_proxy, HTTP_PROXY, HTTPS_PROXY and ALL_PROXY",
            )
        authorization = ""
        if url.user is not None:
            words = f"{url.user}:{url.password or ''}".encode()
            authorization = f"Basic {base64.b64encode(words).decode()}"
        return cls(url.with_user(None).with_path("/"), authorization)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The rules of one service."""

    by_scheme: Mapping[str, Proxy] = field(default_factory=dict)
    exceptions: tuple[str, ...] = ()  # of NO_PROXY, lower case

    @classmethod
    def of(cls, setting: str, environ: Mapping[str, str]) -> Self:
        """`setting` is for every address and wins; NO_PROXY holds in any case."""

        def variable(name: str) -> str:
            # CGI programs get a request's Proxy header as HTTP_PROXY; this is none
            return environ.get(name, "").strip() or environ.get(name.upper(), "").strip()

        texts = {
            scheme: setting or variable(f"{scheme}_proxy") or variable("all_proxy")
            for scheme in ("http", "https")
        }
        found = {s: Proxy.parse(text) for s, text in texts.items() if text and text != OFF}
        names = variable("no_proxy").lower().split(",")
        return cls(found, tuple(name.strip() for name in names if name.strip()))

    def arguments(self, url: URL, headers: Mapping[str, str]) -> dict[str, Any]:
        """Of a request of aiohttp's session to `url`: its headers, and the proxy if any."""
        proxy = self.of_url(url)
        if proxy is None:
            return {"headers": headers}
        for_proxy = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
        if url.scheme == "http":  # then the proxy reads the request itself, else only a CONNECT
            headers = {**headers, **for_proxy}
        return {"headers": headers, "proxy": proxy.address, "proxy_headers": for_proxy}

    def of_url(self, url: URL) -> Proxy | None:
        """The proxy for a request to `url`; None: go there directly."""
        proxy = self.by_scheme.get(url.scheme)
        host = (url.host or "").lower().rstrip(".")
        if proxy is None or is_loopback(host):
            return None
        port = str(url.port or "")
        excepted = any(_covers(rule, host, port) for rule in self.exceptions)
        return None if excepted else proxy


def _covers(rule: str, host: str, port: str) -> bool:
    """Whether an entry of NO_PROXY means the host: *, a name and what is below it, an address,
    a network; each also with a port."""
    if rule == "*":
        return True
    name, colon, of_port = rule.rpartition(":")
    if colon and of_port.isdecimal() and ":" not in name.strip("[]"):
        if of_port != port:
            return False
        rule = name
    rule = rule.strip("[]")
    try:
        return ip_address(host) in ip_network(rule, strict=False)
    except ValueError:
        name = rule.removeprefix("*").lstrip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
