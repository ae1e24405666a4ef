"""A publisher on the web and a box that trusts it, shared by a file's tests; a model for each."""

import itertools

import pytest

from tests.fakes.publisher import Publisher, web_root
from tests.integration.bundle_box import Box, enrol

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory):
    return Publisher(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def web(publisher):
    with web_root(publisher.folder) as root:
        yield root


@pytest.fixture(scope="module")
def trusting_service(publisher, web, module_service, tmp_path_factory):
    """One service with the echo engine."""
    state = tmp_path_factory.mktemp("trusting")
    enrol(state, publisher, web.url)
    return module_service(state)


@pytest.fixture
def box(trusting_service, publisher, web):
    """The shared service, with a model of the test's own."""
    web.wrong.clear()
    return Box(trusting_service, publisher, web, f"acme/model{next(_NUMBERS)}")


@pytest.fixture
def start_box(publisher, web, tmp_path, start_service):
    """Starts a box of the test's own, with settings."""

    def start(**settings):
        state = tmp_path / f"box{next(_NUMBERS)}"
        enrol(state, publisher, web.url)
        return Box(start_service(state, **settings), publisher, web, f"acme/model{next(_NUMBERS)}")

    return start
