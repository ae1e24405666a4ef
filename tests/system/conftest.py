"""What tests that need root share: the publisher of the integration tests, and a local network."""

import contextlib
import os

import pytest

from tests.integration.conftest import publisher, web
from tests.system import booted as containers
from tests.system.booted import Booted
from tests.system.lab import Lab, missing
from tests.system.release_stand import build_stand

__all__ = ["booted", "lab", "publisher", "web"]


@pytest.fixture
def lab(tmp_path):
    """Namespaces, switches, boxes and avahi, all gone after the test."""
    _require(missing())
    with Lab(tmp_path) as built:
        yield built


@pytest.fixture
def booted(tmp_path):
    """Makes containers that boot systemd, `booted(**options)`; all are gone after the test."""
    _require(containers.missing())
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(Booted(tmp_path, **options))


@pytest.fixture(scope="session")
def stand():
    """The wheelhouses that tests of the installer install from."""
    return build_stand()


def _require(missing_thing):
    """Skip the test, loudly, or fail it where everything has to be there."""
    if missing_thing:
        if os.environ.get("CI"):
            pytest.fail(missing_thing)
        pytest.skip(missing_thing)
