"""Signed releases on a box: installed from the web and from a registry, updated, refused, and back.

The engine is the echo: it says the prompt back, so an answer shows which release's system text it
was given; a system text with a directive makes a release that is slow or that crashes.
"""

import pytest

from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.publisher import Publisher, web_root
from tests.integration.bundle_box import Box, enrol, says

WEIGHTS = tiny_llama_bytes()


@pytest.fixture
def publisher(tmp_path):
    return Publisher(tmp_path / "published")


@pytest.fixture
def web(publisher):
    with web_root(publisher.folder) as root:
        yield root


@pytest.fixture
def box(publisher, web, tmp_path, start_service):
    state = tmp_path / "box"
    enrol(state, publisher, web.url)
    return Box(start_service(state), publisher, web)


def publish(publisher, version, system, *tags, weights=WEIGHTS, **fields):
    """A release with one variant under its version and the tags; its index."""
    index = publisher.release(version, publisher.variant(weights, system), **fields)
    publisher.list(index, version, *tags)
    return index


def test_it_installs_proves_and_serves(box, publisher):
    publish(publisher, "1.0.0", "Be kind.", "latest", smoke=says("Be kind."), card="About.")
    statuses = box.install()
    assert statuses[0] == "pulling manifest"
    assert statuses[-4:] == [
        "verifying sha256 digest", "running smoke tests", "writing manifest", "success",
    ]  # fmt: skip
    assert "Be kind." in box.ask()
    assert box.show()["version"] == "1.0.0"
