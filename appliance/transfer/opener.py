"""Small files from the web, such as signed metadata, by the same rules as all that is transferred:
proxies, and where a redirect may lead. What comes is checked by who asked."""

from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from appliance.errors import RegistryError
from appliance.transfer.proxies import Proxies
from appliance.transfer.redirects import MAX_REDIRECTS, REDIRECTS, next_hop

# identity: a limit on bytes must be one on the bytes that were sent
_HEADERS = {"Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Opener:
    """Makes GET requests. How long they may take is the business of who calls."""

    session: aiohttp.ClientSession
    proxies: Proxies = field(default_factory=Proxies)

    async def __call__(self, address: str) -> aiohttp.ClientResponse:
        """The answer, of any status, after redirects; close it. Raises aiohttp.ClientError, and
        RegistryError for a redirect that may not be followed."""
        url = URL(address)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self.session.get(
                url,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(),
                **self.proxies.arguments(url, _HEADERS),
            )
            if response.status not in REDIRECTS:
                return response
            response.release()
            location = response.headers.get("Location", "")
            is_proxied = self.proxies.of_url(url) is not None
            url = await next_hop(url, location, is_proxied=is_proxied)
        raise RegistryError(f"{url.origin()} redirects more than {MAX_REDIRECTS} times")
