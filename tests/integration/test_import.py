"""Models by stick: exported by one box, imported by another that has no other source."""

import json
import shutil

import pytest

from appliance.bundles.layout import Layout
from tests.fakes.publisher import Publisher
from tests.integration.bundle_box import says
from tests.integration.medium_box import (
    NAME,
    WEIGHTS,
    OfflineBox,
    copied,
    enrol_offline,
    name_all,
    publish,
)

VERSION = "acme/assistant:1.0.0"


@pytest.fixture
def publisher(tmp_path):
    return Publisher(tmp_path / "published")


@pytest.fixture
def new_box(publisher, tmp_path, start_service):
    """Boxes that trust the publisher and have nothing."""

    def make(name="box", **fields):
        state = tmp_path / name
        enrol_offline(state, publisher, **fields)
        return OfflineBox(start_service(state))

    return make


@pytest.fixture
def box(new_box):
    return new_box()


@pytest.fixture
def stick(publisher, tmp_path):
    """The first release on a stick."""
    publish(publisher, "1.0.0", "Be kind.", "latest", smoke=says("Be kind."), card="About.")
    return copied(publisher, tmp_path / "stick")


def test_one_box_supplies_another(new_box, stick, tmp_path):
    first, second = new_box("first"), new_box("second")
    done = first.hearth("import", stick, NAME)
    assert done.stdout == ""
    assert "running smoke tests" in done.stderr
    (tmp_path / "usb").mkdir()
    done = first.hearth("export", NAME, tmp_path / "usb")
    assert done.stderr.splitlines()[-1] == "success"
    shutil.rmtree(stick)

    assert "success" in second.hearth("import", tmp_path / "usb").stderr
    assert "Be kind." in second.ask()
    assert second.version() == "1.0.0"
    assert second.version(VERSION) == "1.0.0"
    # and from there to the next, by what the second knows
    (tmp_path / "usb2").mkdir()
    second.hearth("export", VERSION, tmp_path / "usb2")
    third = new_box("third")
    assert "success" in third.hearth("import", tmp_path / "usb2").stderr
    assert "Be kind." in third.ask(name=VERSION)


def test_a_folder_of_a_publisher_is_a_medium_too(box, publisher, stick):
    assert "Be kind." in (box.imported(publisher.folder) and box.ask())


def test_without_names_everything_that_is_ours_comes(box, publisher, stick, tmp_path):
    publish(publisher, "2.0.0", "Be brief.", model="acme/scribe")
    publish(publisher, "1.0.0", "Not ours.", model="rival/thing")
    medium = copied(publisher, tmp_path / "two")
    statuses = box.imported(medium)
    assert "skipped rival/thing:1.0.0: no enrolled repository signs rival/thing:1.0.0" in statuses
    assert box.signed() == [VERSION, NAME, "acme/scribe:2.0.0"]


def test_with_names_nothing_else_comes(box, stick):
    box.imported(stick, VERSION)
    assert box.signed() == [VERSION]
    missing = box.not_imported(stick, "acme/other")
    assert missing["code"] == "registry_not_found"
    assert VERSION in missing["hint"]


def test_a_model_under_another_host_is_updated_too(publisher, new_box, stick, tmp_path):
    name = "models.example/acme/assistant:latest"
    box = new_box(names=("models.example/acme/*",))
    box.imported(stick, name)
    assert "Be kind." in box.ask(name=name)
    publish(publisher, "1.1.0", "Be brave.", "latest")
    box.imported(copied(publisher, tmp_path / "new"))
    assert box.version(name) == "1.1.0"


def test_the_same_stick_twice_moves_nothing(box, stick):
    box.imported(stick)
    before = box.everything()
    times = {p: p.stat().st_mtime_ns for p in box.service.state.rglob("models/**/*") if p.is_file()}
    statuses = box.imported(stick)
    assert "release 1.0.0 is active" in statuses
    assert not [status for status in statuses if status.startswith("pulling 0")]
    assert box.everything() == before
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_an_old_stick_after_a_newer_one_is_refused(box, publisher, stick, tmp_path):
    publish(publisher, "1.1.0", "Be brave.", "latest")
    box.imported(copied(publisher, tmp_path / "new"), NAME)
    before = box.everything()
    refusal = box.not_imported(stick)
    assert refusal["code"] == "rollback"
    assert "newer medium" in refusal["hint"]
    assert box.everything() == before
    assert "Be brave." in box.ask()


def test_a_release_that_is_withdrawn_is_skipped(box, publisher, stick, tmp_path):
    publisher.withdraw("1.0.0")
    statuses = box.imported(copied(publisher, tmp_path / "new"))
    assert f"skipped {VERSION}: acme does not list it" in statuses
    assert box.version() == "1.0.0"  # as latest it is still signed
    assert box.not_imported(tmp_path / "new", VERSION)["code"] == "not_listed"


def test_one_bad_release_does_not_keep_the_others_out(box, publisher, stick, tmp_path):
    publish(publisher, "1.0.0", "Be kind.", model="acme/bad", smoke=says("never said"))
    medium = copied(publisher, tmp_path / "two")
    error = box.hearth.fails(1, "import", medium)
    assert "acme/bad:1.0.0 was not imported: release 1.0.0 of acme/bad:1.0.0 is not used" in error
    assert "acme/assistant:latest is imported" in error
    assert "Be kind." in box.ask()
    report = json.loads((medium / "hearth/reports" / _reports(medium)[0]).read_bytes())
    assert {r["model"]: r["code"] for r in report["import"]}[
        "acme/bad:1.0.0"
    ] == "activation_failed"


# -- half of a stick ------------------------------------------------------------------------


def test_a_half_copied_stick_changes_nothing(box, publisher, stick, tmp_path):
    """Whichever file is missing or cut; and the complete stick of before still counts after it."""
    box.imported(stick, NAME)
    publish(publisher, "1.1.0", "Be brave.", "latest", smoke=says("Be brave."), card="New.")
    new = copied(publisher, tmp_path / "new")
    before = box.everything()
    needed = _needed(new)
    assert len(needed) > 8
    for path in needed:
        data = path.read_bytes()
        for part in (None, data[: len(data) // 2], b""):
            path.unlink()
            if part is not None:
                path.write_bytes(part)
            refusal = box.not_imported(new, NAME)
            assert refusal["code"] in {
                "incomplete",
                "malformed",
                "mix",
                "download_corrupt",
                "registry_not_found",
                "registry_error",
            }, (path, refusal)
            assert box.everything() == before, path
            path.write_bytes(data)
    assert "release 1.0.0 is active" in box.imported(stick, NAME)
    box.imported(new, NAME)
    assert "Be brave." in box.ask()


def _needed(medium):
    """The files that an import of what is new on the medium reads."""
    layout = Layout(medium / "hearth")
    index = layout.releases()[NAME]
    release = json.loads(layout.read(index, 1 << 20))
    digests = {str(index)}
    for child in release["manifests"]:
        digests.add(child["digest"])
        document = json.loads((layout.root / "blobs/sha256" / child["digest"][7:]).read_bytes())
        digests |= {part["digest"] for part in document["layers"]}
    old = {p.name for p in (medium.parent / "box/models/blobs").iterdir()}
    blobs = [layout.root / "blobs/sha256" / digest[7:] for digest in sorted(digests)]
    blobs = [path for path in blobs if f"sha256-{path.name}" not in old]
    metadata = layout.metadata_folder("acme")
    newest = [
        max(metadata.glob(f"*.{role}.json"), key=lambda p: int(p.name.partition(".")[0]))
        for role in ("snapshot", "acme")
    ]
    files = [layout.root / "oci-layout", layout.root / "index.json", metadata / "timestamp.json"]
    return [*blobs, *newest, *files]


# -- what is not for us ---------------------------------------------------------------------


def test_a_stranger_s_stick_says_how_to_enrol(tmp_path, stick, start_service):
    box = OfflineBox(start_service())
    refusal = box.not_imported(stick)
    assert refusal["code"] == "policy"
    assert "no enrolled repository signs acme/assistant:1.0.0" in refusal["error"]
    assert f"hearth trust add acme {stick}/hearth" in refusal["hint"]
    assert box.not_imported(stick, NAME)["code"] == "policy"
    assert box.everything() == {k: v for k, v in box.everything().items() if "acme" not in k}


def test_trust_is_added_from_a_stick(publisher, stick, tmp_path, start_service):
    from appliance.trust.repositories import read_root

    box = OfflineBox(start_service(tmp_path / "box"))
    fingerprint = read_root(publisher.root).fingerprint
    for number, place in enumerate((stick, stick / "hearth", stick / "hearth/tuf/acme/metadata")):
        add = ("trust", "add", "acme", place, "--names", f"acme{number}/*", "--fingerprint")
        box.hearth(*add, fingerprint, HEARTH_STATE=str(tmp_path / f"state{number}"))
    add = ("trust", "add", "acme", stick, "--names", "acme/*", "--fingerprint", fingerprint)
    box.hearth(*add, HEARTH_STATE=str(box.service.state))
    box.imported(stick)
    assert "Be kind." in box.ask()
    error = box.hearth.fails(1, "trust", "add", "other", stick, "--names", "other/*")
    assert "has no root of other" in error
    assert "tuf/other/metadata/1.root.json" in error


def test_a_link_as_root_of_trust_is_not_followed(publisher, stick, tmp_path, service):
    from tests.integration.cli_process import Command

    root = stick / "hearth/tuf/acme/metadata/1.root.json"
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")
    error = Command(service.url).fails(
        1, "trust", "add", "acme", stick, "--names", "acme/*", HEARTH_STATE=str(tmp_path / "s")
    )
    assert "has no root of acme" in error


def test_unsigned_models_go_out_on_request_and_never_come_in(box, tmp_path, tiny_gguf):
    box.service.create("mine", tiny_gguf)
    usb = tmp_path / "usb"
    usb.mkdir()
    error = box.hearth.fails(1, "export", "mine", usb)
    assert "nobody signed mine:latest" in error
    assert not list(usb.iterdir())

    box.hearth("export", "--unsigned", "mine", usb)
    layout = Layout(usb / "hearth")
    assert layout.releases() == {}
    (entry,) = layout.entries()
    assert entry.ref == "library/mine:latest"
    manifest = json.loads(layout.read(entry.digest, 1 << 20))
    for part in (manifest["config"], *manifest["layers"]):
        assert sum(map(len, layout.chunks(_digest(part)))) == part["size"]

    box.service.call("DELETE", "/api/delete", {"model": "mine"})
    before = box.everything()
    for names in ([], ["mine"]):
        refusal = box.not_imported(usb, *names)
        assert refusal["code"] == "policy"
        assert "by removable only signed models come in" in refusal["error"]
    assert box.everything() == before


def _digest(part):
    from appliance.library.manifest import Digest

    return Digest.parse(part["digest"])


def test_an_unsigned_model_under_a_signed_name_is_refused(box, stick, tmp_path, publisher):
    layout = Layout(stick / "hearth")
    layout.set_model(NAME, layout.releases()[NAME], 10)
    refusal = box.not_imported(stick, NAME)
    assert refusal["code"] == "policy"
    assert "signed or not at all" in refusal["error"]


# -- which folders --------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["import", "export"])
def test_paths_are_those_of_folders_that_an_administrator_names(box, stick, tmp_path, verb):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    models = {"models": [NAME]}

    def refused(path, headers=None):
        return box.service.call("POST", f"/hearth/v1/{verb}", {"path": path, **models}, headers)

    box.imported(stick, NAME)
    assert refused("stick")[1]["code"] == "bad_request"
    assert refused(str(tmp_path / "missing"))[1]["code"] == "bad_request"
    assert refused(str(tmp_path / "file"))[1]["code"] == "bad_request"
    assert refused("/proc/self/mem")[1]["code"] == "bad_request"
    assert refused("\0")[1]["code"] == "bad_request"
    assert refused(str(stick), {"X-Forwarded-For": "10.1.1.1"})[0] == 401
    assert refused(str(stick), {"Origin": "https://evil.example"})[0] == 403
    if verb == "import":
        assert refused(str(tmp_path / "empty"))[1]["code"] == "registry_not_found"
    else:
        assert "service's own state" in refused(str(box.service.state / "models"))[1]["error"]


# -- reports --------------------------------------------------------------------------------


def _reports(medium):
    return sorted(path.name for path in (medium / "hearth/reports").iterdir())


def test_the_box_reports_what_it_has(box, stick):
    box.imported(stick, NAME)
    box.imported(stick, NAME)
    first, second = _reports(stick)
    assert first.endswith("-1.json")
    assert second.endswith("-2.json")
    report = json.loads((stick / "hearth/reports" / second).read_bytes())
    assert report["format"] == "hearth.report.v1"
    assert report["signed"] is False
    assert report["repositories"]["acme"]["versions"]["timestamp"] > 1
    (bundle,) = report["bundles"]
    assert (bundle["model"], bundle["version"]) == (f"registry.ollama.ai/{NAME}", "1.0.0")
    assert report["import"] == [{"model": NAME, "code": "", "message": ""}]


def test_a_report_that_cannot_be_written_is_told(box, stick):
    (stick / "hearth/reports").write_text("in the way")
    statuses = box.imported(stick, NAME)
    assert any(s.startswith("no report was written onto the medium") for s in statuses)


# -- export ---------------------------------------------------------------------------------


def test_an_export_adds_to_what_is_there(box, publisher, stick, tmp_path):
    publish(publisher, "2.0.0", "Be brief.", model="acme/scribe")
    box.imported(copied(publisher, tmp_path / "two"))
    usb = tmp_path / "usb"
    usb.mkdir()
    box.hearth("export", NAME, usb)
    before = {p: p.stat().st_mtime_ns for p in (usb / "hearth/blobs").rglob("*")}
    box.hearth("export", NAME, "acme/scribe:2.0.0", usb)
    assert set(Layout(usb / "hearth").releases()) == {NAME, VERSION, "acme/scribe:2.0.0"}
    kept = {p: p.stat().st_mtime_ns for p in before if p.is_file()}
    assert kept == {p: time for p, time in before.items() if p.is_file()}


def test_an_export_replaces_what_is_damaged(box, stick, tmp_path):
    box.imported(stick, NAME)
    usb = tmp_path / "usb"
    usb.mkdir()
    box.hearth("export", NAME, usb)
    blob = max((usb / "hearth/blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    data = blob.read_bytes()
    blob.write_bytes(b"\0" * len(data))
    box.hearth("export", NAME, usb)
    assert blob.read_bytes() == data


def test_an_export_does_not_make_a_medium_older(box, publisher, stick, tmp_path):
    box.imported(stick, NAME)
    publish(publisher, "1.1.0", "Be brave.", "latest")
    new = copied(publisher, tmp_path / "new")
    before = (new / "hearth/tuf/acme/metadata/timestamp.json").read_bytes()
    error = box.hearth.fails(1, "export", NAME, new)
    assert "this box" in error
    assert "import the medium here first" in error
    assert (new / "hearth/tuf/acme/metadata/timestamp.json").read_bytes() == before


def test_what_the_repository_no_longer_lists_is_not_exported(box, publisher, stick, tmp_path):
    box.imported(stick)
    publisher.withdraw("1.0.0")
    index = publish(publisher, "1.1.0", "Be brave.", "latest")
    new = copied(publisher, tmp_path / "new")
    (tmp_path / "usb").mkdir()
    box.imported(new, "acme/assistant:1.1.0")
    error = box.hearth.fails(1, "export", VERSION, tmp_path / "usb")
    assert "lists release 1.0.0" in error
    assert not list((tmp_path / "usb").iterdir())
    box.hearth("export", "acme/assistant:1.1.0", tmp_path / "usb")
    assert set(Layout(tmp_path / "usb/hearth").releases().values()) == {index}


def test_usage(box, tmp_path):
    for arguments in (["import"], ["export", "x"], ["import", tmp_path / "missing"]):
        box.hearth.fails(2, *arguments)
    assert box.service.call("POST", "/hearth/v1/import", {"path": "/x", "pth": 1})[0] == 400
    assert box.service.call("POST", "/hearth/v1/export", {"path": "/x", "models": []})[0] == 400
    (tmp_path / "usb").mkdir()
    assert "not found" in box.hearth.fails(1, "export", "nothing", tmp_path / "usb")


def test_a_stick_without_the_variant_that_this_box_takes(box, publisher, stick, tmp_path):
    """Half of a copy, or a stick from a smaller box: not even trust moves forward."""
    box.imported(stick, NAME)
    small = publisher.variant(WEIGHTS, "Be small.", name="q4", rank=10)
    large = publisher.variant(WEIGHTS, "Be large.", name="q8", rank=20)
    index = publisher.release("2.0.0", small, large)
    publisher.list(index, "2.0.0", "latest")
    name_all(publisher, index, [NAME, "acme/assistant:2.0.0"])
    new = copied(publisher, tmp_path / "new")
    (new / "hearth/blobs/sha256" / large.digest.hex).unlink()
    before = box.everything()
    refusal = box.not_imported(new, NAME)
    assert refusal["code"] == "incomplete"
    assert "takes the variant q8, and only q4 is there" in refusal["error"]
    assert box.everything() == before
    assert "Be kind." in box.ask()
