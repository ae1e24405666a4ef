"""Where a model may be found: from its name and the settings to registries, best first. Pure.

Names without a host go to the `registry` of the settings. Mirrors are asked before the registry
that a name means; they are the administrator's word, so plain HTTP is allowed where one says so.
"""

import re
from dataclasses import dataclass

from yarl import URL

from appliance.config import Settings
from appliance.errors import BadRequestError, ModelNameError
from appliance.library.manifest import Digest
from appliance.library.names import DEFAULT_HOST, ModelName
from appliance.trust.hosts import is_loopback

_AUTHORITY = re.compile(r"(?P<host>[A-Za-z0-9_.-]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Source:
    """One registry and the repository in it, below `/v2/`; or a published folder on the web.

    A folder is an OCI image layout: blobs only, and each in one place whoever it belongs to.
    """

    base: URL
    repository: str
    is_folder: bool = False

    def url(self, path: str) -> URL:
        """The address of `path` in the repository, such as `manifests/latest`."""
        return self.base / "v2" / self.repository / path

    def blob_url(self, digest: Digest) -> URL:
        if self.is_folder:
            return self.base / "blobs" / "sha256" / digest.hex
        return self.url(f"blobs/{digest}")

    def __str__(self) -> str:
        return str(self.base)


@dataclass(frozen=True, slots=True)
class Reference:
    """A model's name with what was said about how to reach it."""

    name: ModelName
    scheme: str  # http, https, or empty where the name says nothing
    insecure: bool  # the caller allows plain HTTP

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False) -> "Reference":
        """Raises ModelNameError, and BadRequestError for http:// without `insecure`."""
        scheme = text.partition("://")[0] if "://" in text else ""
        name = ModelName.parse(text)
        host = name.host.rpartition(":")[0] or name.host
        if scheme == "http" and not insecure and not is_loopback(host):
            raise BadRequestError(
                "insecure protocol http", hint="allow it with --insecure or 'insecure': true"
            )
        return cls(name, scheme, insecure)

    def origin(self, settings: Settings) -> Source:
        """The registry that the name means."""
        name = self.name
        repository = f"{name.namespace}/{name.model}"
        if name.host.lower() == DEFAULT_HOST:
            return Source(URL(settings.registry), repository)
        match = _AUTHORITY.fullmatch(name.host)
        if match is None or int(match["port"] or 0) > 65535:
            raise ModelNameError(
                "invalid model name", hint=f"{name.host!r} is not a host or host:port"
            )
        return Source(
            URL.build(scheme=self._scheme(match["host"]), authority=name.host), repository
        )

    def sources(self, settings: Settings) -> tuple[Source, ...]:
        """Mirrors first, then the registry that the name means."""
        host = self.name.host.lower()
        wanted = "" if host == DEFAULT_HOST else host
        origin = self.origin(settings)
        mirrors = (
            Source(URL(address), origin.repository)
            for mirrored, address in settings.registry_mirrors
            if mirrored == wanted
        )
        return tuple(dict.fromkeys([*mirrors, origin]))

    def _scheme(self, host: str) -> str:
        """Ollama: `insecure` means http. A registry on this very machine has no TLS to offer."""
        if self.insecure or (is_loopback(host) and self.scheme != "https"):
            return "http"
        return "https"
