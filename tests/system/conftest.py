"""The publisher and the web root of the integration tests, for tests that need root."""

from tests.integration.conftest import publisher, web

__all__ = ["publisher", "web"]
