"""Media that mean harm, and paths that an administrator gave without thinking."""

import pytest

from appliance.bundles.layout import Layout
from tests.fakes.publisher import Publisher
from tests.integration.medium_box import NAME, OfflineBox, copied, enrol_offline, publish


@pytest.fixture
def publisher(tmp_path):
    return Publisher(tmp_path / "published")


@pytest.fixture
def box(publisher, tmp_path, start_service):
    enrol_offline(tmp_path / "hearth", publisher, ("acme/*", "evil.example/acme/*"))
    return OfflineBox(start_service(tmp_path / "hearth"))


@pytest.fixture
def stick(publisher, tmp_path):
    publish(publisher, "1.0.0", "Be kind.", "latest")
    return copied(publisher, tmp_path / "stick")


STRANGE = [
    "evil.example/acme/assistant:1.0.0",
    "registry.ollama.ai/acme/other:1.0.0",
    "ACME/other:1.0.0",
    "acme/other",
    "https://evil.example/acme/assistant:9",
    "acme/../../x:1",
    "\x1b]0;owned\x07\n",
    "\ud800",
]


@pytest.mark.parametrize("ref", STRANGE)
def test_a_name_that_could_be_written_otherwise_is_passed_over(box, stick, ref):
    layout = Layout(stick / "hearth")
    (entry, *_) = layout.entries()
    layout.set_release(ref, entry.digest, entry.size)
    statuses = box.imported(stick)
    assert any(line.startswith(f"skipped {ref!r}") for line in statuses), statuses
    assert sorted(box.signed()) == [f"{NAME.partition(':')[0]}:1.0.0", NAME]
    missing = box.not_imported(stick, "acme/missing")
    assert missing["code"] == "registry_not_found"
    assert missing["hint"] == f"it has acme/assistant:1.0.0, {NAME}"


def test_an_export_beside_the_state_does_not_go_into_it(box, stick, tmp_path):
    """The folder `hearth` of the folder that was named is the state folder itself."""
    box.imported(stick, NAME)
    before = sorted(path.name for path in box.service.state.iterdir())
    body = {"path": str(tmp_path), "models": [NAME]}
    status, answer = box.service.call("POST", "/hearth/v1/export", body)
    assert (status, answer["code"]) == (400, "bad_request")
    assert "service's own state" in answer["error"]
    assert sorted(path.name for path in box.service.state.iterdir()) == before


def test_a_medium_s_folder_must_not_be_a_link(box, stick, tmp_path):
    (stick / "hearth").rename(tmp_path / "elsewhere")
    (stick / "hearth").symlink_to(tmp_path / "elsewhere")
    assert box.not_imported(stick)["code"] == "registry_not_found"
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb/hearth").symlink_to(tmp_path / "somewhere")
    (tmp_path / "somewhere").mkdir()
    box.imported(tmp_path / "elsewhere", NAME)  # an administrator may name any folder
    body = {"path": str(tmp_path / "usb"), "models": [NAME]}
    status, answer = box.service.call("POST", "/hearth/v1/export", body)
    assert (status, answer["code"]) == (502, "registry_error")
    assert list((tmp_path / "somewhere").iterdir()) == []
