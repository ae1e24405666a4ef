"""Which registries the administrator named, and on which ways nobody can change bytes. Pure."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from yarl import URL

from appliance.config import Settings

DEFAULT_HOSTS = frozenset({"registry.ollama.ai", "ollama.com", "hf.co", "huggingface.co"})


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """Hosts that unsigned models may come from: well-known ones, and those of the settings.

    `origins` are the addresses that the settings spell out, scheme and port included: there plain
    HTTP is the administrator's own word.
    """

    names: frozenset[str]
    origins: frozenset[URL]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        mirrors = [address for _, address in settings.registry_mirrors]
        origins = frozenset(URL(address).origin() for address in (settings.registry, *mirrors))
        named = {origin.host.lower() for origin in origins if origin.host}
        return cls(DEFAULT_HOSTS | named | frozenset(settings.trust_hosts), origins)

    def is_private(self, url: URL) -> bool:
        """Whether nobody on the way can change what comes, or the administrator accepts that."""
        is_safe = url.scheme == "https" or is_loopback(url.host or "")
        return is_safe or url.origin() in self.origins


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, by its name alone."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
