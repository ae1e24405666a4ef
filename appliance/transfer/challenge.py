"""The answer to a registry's "401, get a token there": what to ask, and whom never to ask. Pure.

A signed request or a token is worth something to whoever receives it. So the place that gives out
tokens must be the registry itself, same scheme, host and port (CVE-2025-51471).
"""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from yarl import URL

from appliance.errors import RegistryError

_PARAMETER = re.compile(r'([A-Za-z_]+)=(?:"([^"]*)"|([^\s",]+))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """WWW-Authenticate of a registry (RFC 6750 §3; OCI distribution, token authentication)."""

    realm: str
    service: str = ""
    scope: str = ""

    @classmethod
    def parse(cls, header: str, registry: URL) -> Self:
        """Raises RegistryError unless it is a Bearer challenge with a realm."""
        scheme, _, rest = header.strip().partition(" ")
        found = {m[1].lower(): m[2] or m[3] or "" for m in _PARAMETER.finditer(rest)}
        if scheme.lower() != "bearer" or not found.get("realm"):
            raise RegistryError(
                f"the registry {registry} wants {scheme[:20] or 'unknown'!s} authentication",
                hint="this release signs in with its ed25519 key at a token realm, or anonymously",
            )
        return cls(found["realm"], found.get("service", ""), found.get("scope", ""))

    def token_url(self, registry: URL, now_s: int, nonce: str) -> URL:
        """Where to ask for the token; raises RegistryError for a foreign realm.

        Query in the order of Go's url.Values.Encode, because the text is what gets signed.
        """
        try:
            realm = URL(self.realm)
            is_ours = realm.absolute and realm.origin() == registry.origin()
        except ValueError:
            is_ours = False
        if not is_ours:
            raise RegistryError(
                f"the registry {registry} sends us to {self.realm[:200]!r} for a token",
                hint="only a realm on the registry's own scheme, host and port is asked",
            )
        parts = urlsplit(self.realm)
        query = [*parse_qsl(parts.query, keep_blank_values=True), ("service", self.service)]
        query += [("scope", scope) for scope in self.scope.split(" ")]
        query += [("ts", str(now_s)), ("nonce", nonce)]
        text = urlencode(sorted(query, key=lambda item: item[0]))
        return URL(parts._replace(query=text, fragment="").geturl(), encoded=True)
