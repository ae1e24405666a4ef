"""What tests that need root share: the publisher of the integration tests, and a local network."""

import os

import pytest

from tests.integration.conftest import publisher, web
from tests.system.lab import Lab, missing

__all__ = ["lab", "publisher", "web"]


@pytest.fixture
def lab(tmp_path):
    """Namespaces, switches, boxes and avahi, all gone after the test."""
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with Lab(tmp_path) as built:
        yield built
