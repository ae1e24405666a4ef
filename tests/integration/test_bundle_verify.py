"""`bundle verify` and `bundle adopt`: judged as a box judges, and no byte of weights moved."""

import json

import pytest

from appliance.bundles.layout import Layout
from appliance.bundles.release import Release
from appliance.library.library import Library
from appliance.library.manifest import Digest, Manifest
from appliance.library.names import ModelName
from appliance.trust.locks import Lock, Locks
from tests.fakes.libraries import add_model
from tests.fakes.release_desk import SMOKE, Desk, fatal
from tools.bundles.main import main
from tools.bundles.verify import verify_layout

OLD = "acme/assistant:1.0.0"


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "desk").open()


@pytest.fixture
def signed(desk, tiny_gguf):
    desk.outcome = desk.release(tiny_gguf, "1.0.0", "latest")
    return desk


def texts(layout, root):
    return [finding.text for finding in fatal(layout, root)]


def blob_path(desk, kind):
    """A blob of the release: its index, a manifest, or a layer."""
    variant = desk.outcome.release.variants[0]
    manifest = Manifest.parse(desk.layout.read(variant.digest, 1 << 20))
    digests = {
        "index": desk.outcome.digest,
        "manifest": variant.digest,
        "extras": desk.outcome.release.extras.digest,
        "config": manifest.config.digest,
        "weights": manifest.layers[0].digest,
    }
    return desk.layout.root / "blobs" / "sha256" / digests[kind].hex


def test_all_is_well(signed):
    assert verify_layout(signed.layout, signed.root) == []


@pytest.mark.parametrize("kind", ["index", "manifest", "extras", "config", "weights"])
def test_a_flipped_bit_is_found(signed, kind):
    path = blob_path(signed, kind)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    found = texts(signed.layout, signed.root)
    assert found
    assert all("mismatch" in text for text in found)


@pytest.mark.parametrize("kind", ["manifest", "extras", "config", "weights"])
def test_a_missing_part_is_found(signed, kind):
    blob_path(signed, kind).unlink()
    assert texts(signed.layout, signed.root)


def test_a_link_is_not_followed(signed, tmp_path):
    path = blob_path(signed, "weights")
    (tmp_path / "aside").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "aside")
    assert texts(signed.layout, signed.root)


def test_another_root_trusts_nothing(signed, tmp_path):
    other = Desk(tmp_path / "other").open()
    foreign = other.repo.drafts()["root"].data
    [text] = texts(signed.layout, foreign)
    assert "acme" in text


def test_tampered_metadata(signed):
    path = signed.repo.metadata / "1.acme.json"
    path.write_bytes(path.read_bytes().replace(b"assistant/1.0.0", b"assistant/9.9.9"))
    assert texts(signed.layout, signed.root)


def test_what_is_unsigned_or_elsewhere_is_told(signed, tiny_gguf):
    signed.build(tiny_gguf, "1.1.0")
    [finding] = verify_layout(signed.layout, signed.root)
    assert (finding.is_fatal, finding.text) == (False, "acme/assistant:1.1.0 is not signed")
    blob_path(signed, "index").unlink()
    found = verify_layout(signed.layout, signed.root)
    assert [f for f in found if "not in this folder" in f.text and not f.is_fatal]


def test_the_command(signed, tmp_path, capsys):
    (tmp_path / "root.json").write_bytes(signed.root)
    command = ["verify", str(signed.layout.root), "--root", str(tmp_path / "root.json")]
    assert main(command) == 0
    assert "all is well" in capsys.readouterr().out
    blob_path(signed, "weights").unlink()
    assert main([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["fatal"]


def test_a_stick(signed, tmp_path, capsys):
    """The releases lie in its folder hearth; both commands find them there."""
    (tmp_path / "root.json").write_bytes(signed.root)
    stick = tmp_path / "stick"
    assert main(["copy", str(signed.layout.root), str(stick), "--stick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["names"] == 2
    assert {path.name for path in stick.iterdir()} == {"hearth"}
    assert main(["verify", str(stick), "--root", str(tmp_path / "root.json")]) == 0
    assert main(["copy", str(stick), str(tmp_path / "web"), "--release", OLD]) == 0
    assert list(Layout(tmp_path / "web").releases()) == [OLD]
    assert main(["copy", str(stick), str(tmp_path / "web"), "--release", "acme/x:1"]) == 1


# -- adopt -----------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path, tiny_gguf):
    """The state folder of a box that pulled a public model."""
    state = tmp_path / "state"
    models = state / "models"
    models.mkdir(parents=True)
    (models / "tiny.gguf").write_bytes(tiny_gguf.read_bytes())
    add_model(Library(models), models, "llama3.2:3b", system="Public.")
    (models / "tiny.gguf").unlink()
    return state


def adopt(box, out, *more):
    (box / "smoke.json").write_text(json.dumps({"tests": SMOKE}))
    command = ["adopt", "llama3.2:3b", "--as", "acme/llama3.2", "--version", "1.0.0"]
    command += ["--models", str(box / "models"), "--smoke", str(box / "smoke.json")]
    return main([*command, "--licenses", "LicenseRef-Llama-3.2", "-o", str(out), *more])


def test_adopting_moves_no_weights(desk, box, tiny_gguf):
    assert adopt(box, desk.layout.root) == 0
    library = Library(box / "models")
    data = library.read_manifest(ModelName.parse("llama3.2:3b"))
    index = desk.layout.read(desk.layout.releases()["acme/llama3.2:1.0.0"], 1 << 20)
    release = Release.parse(index)
    assert release.variants[0].digest == Digest.of(data)  # what boxes locked
    assert release.variants[0].requires.ram_mib > 90
    assert release.licenses == "LicenseRef-Llama-3.2"
    blobs = list((desk.layout.root / "blobs" / "sha256").iterdir())
    assert sum(path.stat().st_size for path in blobs) < 10_000 < tiny_gguf.stat().st_size
    assert not {digest.hex for digest in Manifest.parse(data).digests} & {p.name for p in blobs}
    desk.sign("acme/llama3.2:1.0.0", "latest")
    findings = verify_layout(desk.layout, desk.root)
    assert findings
    assert not any(finding.is_fatal for finding in findings)
    assert "registry.ollama.ai/library/llama3.2:3b" in findings[0].text


def test_adopting_with_blobs_gives_a_whole_release(desk, box):
    assert adopt(box, desk.layout.root, "--with-blobs") == 0
    desk.sign("acme/llama3.2:1.0.0")
    assert verify_layout(desk.layout, desk.root) == []


def test_a_model_that_is_not_what_was_locked(desk, box, capsys):
    name = ModelName.parse("llama3.2:3b")
    Locks(box / "lock.json").put(name, Lock(f"sha256:{'0' * 64}", "registry.ollama.ai", 1))
    assert adopt(box, desk.layout.root) == 1
    assert "locked" in capsys.readouterr().err
    assert desk.layout.releases() == {}


def test_a_model_that_is_not_there(desk, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert adopt(tmp_path / "empty", desk.layout.root) == 1
    assert "is not in" in capsys.readouterr().err
