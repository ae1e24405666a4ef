"""Building a release: the bytes are those of `create`, the same on every machine, pinned."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.bundles.layout import Layout
from appliance.bundles.release import SBOM_TYPE, SMOKE_TYPE, Extras, Release
from appliance.errors import ApplianceError, BadRequestError, LibraryError, RegistryError
from appliance.library.chunks import ChunkMap
from appliance.library.library import Library
from appliance.library.manifest import Digest, Manifest
from appliance.library.names import ModelName
from tests.fakes.libraries import add_model
from tests.fakes.release_desk import SMOKE, Desk
from tools.bundles.bases import Bases, LockFile
from tools.bundles.build import build, created_from
from tools.bundles.bundlefile import (
    BundleTable,
    VariantTable,
    check_request,
    parse_reference,
    read_bundle_file,
)
from tools.bundles.extras import chunk_maps
from tools.bundles.main import main

ROOT = Path(__file__).parents[2]
QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
STOPS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def index_of(layout, reference="acme/assistant:1.2.0"):
    return Release.parse(layout.read(layout.releases()[reference], 1 << 20))


def manifest_of(layout, variant):
    return layout.read(variant.digest, 1 << 20)


def extra_of(layout, release, media_type):
    extras = Extras.parse(layout.read(release.extras.digest, 1 << 20))
    return json.loads(layout.read(extras.of_type(media_type).digest, 1 << 20))


def ask(folder, variants, **table):
    asked = {"name": "acme/assistant", "version": "1.2.0", **table}
    return check_request(BundleTable(variants=variants, **asked), folder)


def test_the_manifest_is_the_one_that_create_makes(desk, tiny_gguf, tmp_path):
    desk.build(tiny_gguf, system="Be brief.")
    release = index_of(desk.layout)
    folder = tmp_path / "box"
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(tiny_gguf.read_bytes())
    library = Library(folder)
    add_model(library, folder, "same", system="Be brief.", license=["Apache-2.0"])
    assert manifest_of(desk.layout, release.variants[0]) == library.read_manifest(
        ModelName.parse("same")
    )
    assert release.variants[0].digest.hex == library.get(ModelName.parse("same")).digest


def test_public_digests_of_ollama(desk, tiny_gguf, tmp_path):
    """bundles.md E15: params of Llama 3.2, system of Qwen 2.5, the plain template."""
    stops = "".join(f'PARAMETER stop "{stop}"\n' for stop in STOPS)
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f'FROM {tiny_gguf}\nTEMPLATE "{{{{ .Prompt }}}}"\nSYSTEM {QWEN}\n{stops}')
    request = ask(tmp_path, {"small": VariantTable("Modelfile")})
    build(request, desk.layout, Bases(LockFile(tmp_path / "bundle.lock")))
    manifest = Manifest.parse(manifest_of(desk.layout, index_of(desk.layout).variants[0]))
    digests = {layer.media_type.rpartition(".")[2]: layer.digest.hex for layer in manifest.layers}
    assert digests["params"].startswith("56bb8bd4")
    assert digests["system"].startswith("66b9ea09bd5b")
    assert digests["template"].startswith("b507b9c2")


def test_variants_facts_and_extras(desk, tiny_gguf, tmp_path):
    for name in ("Modelfile", "Modelfile.gpu"):
        (tmp_path / name).write_text(f"FROM {tiny_gguf}\nPARAMETER num_ctx 128\n")
    (tmp_path / "bundle.toml").write_text(
        """
        name = "acme/assistant"
        version = "1.2.0"
        licenses = "Apache-2.0"
        notes = "Answers shorter."
        min-hearth = "0.1"
        card = "CARD.md"
        min-tokens-per-s = 1.5
        [[smoke-tests]]
        name = "speaks"
        messages = [{role = "user", content = "Hi"}]
        [variants.small]
        modelfile = "Modelfile"
        rank = 10
        [variants.gpu]
        modelfile = "Modelfile.gpu"
        rank = 20
        context = 256
        engine = "paged"
        requires.accel = "cuda>=8.7"
        requires.ram-mib = 700
        """
    )
    (tmp_path / "CARD.md").write_text("# Assistant")
    request = check_request(read_bundle_file(tmp_path / "bundle.toml"), tmp_path)
    outcome = build(request, desk.layout, Bases(LockFile(tmp_path / "bundle.lock")))
    release = index_of(desk.layout)
    assert release == outcome.release or release.encode() == outcome.release.encode()
    small, gpu = release.variants
    size = tiny_gguf.stat().st_size
    assert (small.context, small.rank, small.engine) == (128, 10, "")
    assert small.requires.ram_mib >= 96 + size // 2**20  # the process and the weights at least
    assert small.requires.disk_mib == -(-(size + 4096) // 2**20)
    assert (gpu.context, gpu.engine, gpu.requires.ram_mib) == (256, "paged", 700)
    assert (gpu.requires.accelerator, gpu.requires.vram_mib > 0) == ("cuda>=8.7", True)
    assert (release.notes, release.min_hearth) == ("Answers shorter.", "0.1")
    smoke = extra_of(desk.layout, release, SMOKE_TYPE)
    assert (smoke["min_tokens_per_s"], smoke["tests"][0]["name"]) == (1.5, "speaks")
    assert release.modelfile == Digest.of((tmp_path / "Modelfile").read_bytes())


def test_the_bill_of_materials_names_every_blob(desk, tiny_gguf):
    desk.build(tiny_gguf)
    release = index_of(desk.layout)
    bom = extra_of(desk.layout, release, SBOM_TYPE)
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    manifest = Manifest.parse(manifest_of(desk.layout, release.variants[0]))
    named = {part["hashes"][0]["content"] for part in bom["components"]}
    assert named == {digest.hex for digest in manifest.digests} | {release.variants[0].digest.hex}
    refs = [bom["metadata"]["component"]["bom-ref"], *(c["bom-ref"] for c in bom["components"])]
    assert len(refs) == len(set(refs))
    assert {ref for d in bom["dependencies"] for ref in (d["ref"], *d["dependsOn"])} <= set(refs)
    assert bom["metadata"]["component"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert "timestamp" not in bom["metadata"]


_BUILD = """
import sys
from tools.bundles.extras import chunk_maps
from tools.bundles.main import main
sys.exit(main(sys.argv[1:]))
"""


def build_elsewhere(folder, gguf, **environ):
    """Build in a process with another folder, clock zone, language, home and mask."""
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(gguf.read_bytes())
    (folder / "Modelfile").write_text(
        'FROM ./model.gguf\nSYSTEM """Zwei\r\nZeilen äöü"""\nPARAMETER temperature 0.3\n'
    )
    (folder / "smoke.json").write_text(json.dumps({"tests": SMOKE}, indent=4))
    command = [sys.executable, "-c", _BUILD, "build", "-f", "Modelfile", "--json"]
    command += ["--name", "acme/assistant", "--version", "1.2.0", "--smoke", "smoke.json"]
    done = subprocess.run(
        [*command, "-o", "out"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), **environ},
        capture_output=True,
        check=True,
        text=True,
    )
    files = {path.name for path in (folder / "out" / "blobs" / "sha256").iterdir()}
    return json.loads(done.stdout)["digest"], files


def test_the_same_digests_on_another_machine(tiny_gguf, tmp_path):
    first = build_elsewhere(tmp_path / "a", tiny_gguf, TZ="UTC", LANG="C", PYTHONHASHSEED="1")
    second = build_elsewhere(
        tmp_path / "b" / "deep",
        tiny_gguf,
        TZ="Asia/Tokyo",
        LANG="de_DE.UTF-8",
        LC_ALL="C.UTF-8",
        PYTHONHASHSEED="2",
        USER="somebody",
        HEARTH_CONTEXT_LENGTH="16384",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert first == second


def test_time_is_only_what_was_given(desk, tiny_gguf):
    assert created_from({}) == ""
    assert created_from({"SOURCE_DATE_EPOCH": "1700000000"}) == "2023-11-14T22:13:20Z"
    with pytest.raises(BadRequestError, match="SOURCE_DATE_EPOCH"):
        created_from({"SOURCE_DATE_EPOCH": "yesterday"})
    desk.build(tiny_gguf)
    assert index_of(desk.layout).created == ""


def test_chunk_maps_of_large_files(tiny_gguf, tmp_path):
    """Cut as boxes cut them, so that either side can judge the other's bytes."""
    data = tiny_gguf.read_bytes()
    digest = Digest.of(data)
    assert chunk_maps({digest: tiny_gguf}) == b""
    found = ChunkMap.parse(chunk_maps({digest: tiny_gguf}, large_bytes=1000), digest)
    hashed = [Digest.of(data[first:end]).hex for first, end in found.spans(len(data))]
    assert list(found.hashes) == hashed
    assert 0 < found.first < len(data)


# -- what FROM means -------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path, tiny_gguf):
    """A box's models folder with a model to build on."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(tiny_gguf.read_bytes())
    add_model(Library(folder), folder, "base", system="Parent.")
    return folder


def build_on(tmp_path, models, text, layout):
    (tmp_path / "Modelfile").write_text(f"FROM {text}\nSYSTEM Child.\n")
    request = ask(tmp_path, {"small": VariantTable("Modelfile")})
    bases = Bases(LockFile(tmp_path / "bundle.lock"), models=models, cache=tmp_path / "cache")
    return build(request, layout, bases)


def test_a_bare_tag_is_recorded_and_must_not_move(desk, models, tmp_path):
    first = build_on(tmp_path, models, "base", desk.layout)
    pins = json.loads((tmp_path / "bundle.lock").read_text())
    library = Library(models)
    assert pins == {"base": str(Digest.of(library.read_manifest(ModelName.parse("base"))))}
    assert build_on(tmp_path, models, "base", desk.layout).digest == first.digest
    add_model(library, models, "base", system="Another parent.")
    with pytest.raises(BadRequestError, match="now means") as refusal:
        build_on(tmp_path, models, "base", desk.layout)
    assert pins["base"] in refusal.value.hint
    assert desk.layout.releases() == {"acme/assistant:1.2.0": first.digest}


def test_a_pinned_digest(desk, models, tmp_path):
    digest = Digest.of(Library(models).read_manifest(ModelName.parse("base")))
    build_on(tmp_path, models, f"base@{digest}", desk.layout)
    assert not (tmp_path / "bundle.lock").exists()
    with pytest.raises(BadRequestError, match="has the digest"):
        build_on(tmp_path, models, f"base@sha256:{'0' * 64}", desk.layout)


def test_a_parents_name_is_left_out(desk, models, tmp_path):
    build_on(tmp_path, models, "base", desk.layout)
    data = manifest_of(desk.layout, index_of(desk.layout).variants[0])
    assert b"from" not in data
    assert b"base" not in data


def test_a_damaged_lock_is_not_ignored(desk, models, tmp_path):
    (tmp_path / "bundle.lock").write_text('{"base": "latest"}')
    with pytest.raises(LibraryError, match="damaged"):
        build_on(tmp_path, models, "base", desk.layout)


def test_nobody_has_the_base(desk, models, tmp_path):
    with pytest.raises(RegistryError):
        build_on(tmp_path, models, "127.0.0.1:1/library/nothing", desk.layout)
    assert desk.layout.releases() == {}


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        {"name": "assistant"},
        {"name": "acme/../assistant"},
        {"name": "Acme/assistant"},
        {"name": "acme/assistant:1"},
        {"name": "acme/assi\nstant"},
        {"name": "/assistant"},
        {"version": "latest"},
        {"version": "../1"},
        {"version": "1.2.0+build"},
        {"version": ""},
        {"version": "1" * 65},
    ],
)
def test_names_that_cannot_be_released(table, tmp_path):
    with pytest.raises(BadRequestError):
        ask(tmp_path, {"small": VariantTable("Modelfile")}, **table)


@pytest.mark.parametrize("text", ["acme/assistant", "acme/a:..", "a/b/c:1", ":1", "acme/a:1 2", ""])
def test_references_that_name_no_release(text):
    with pytest.raises(BadRequestError):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nmae = 'x'", "unknown field `nmae`"),
        ("name = 1", "Expected `str`"),
        ("name = 'x", "Expected"),
        ("[variants.a]", "modelfile"),
        ("[variants.a]\nmodelfile='m'\nrequires.vram = 3", "vram"),
        ("x = " + "[" * 5000, "cannot be used"),
        ("\xff", "cannot be used"),
    ],
)
def test_bundle_files_that_cannot_be_read(text, told, tmp_path):
    path = tmp_path / "bundle.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadRequestError, match=told):
        read_bundle_file(path)


@pytest.mark.parametrize(
    "tests",
    [
        [],
        [{"name": "x", "messages": []}],
        [{"name": "x", "messages": [{"role": "root", "content": "Hi"}]}],
        [{**SMOKE[0], "matches": "("}],
        [{**SMOKE[0], "matchs": "x"}],
        [{**SMOKE[0], "max_tokens": -1}],
    ],
)
def test_smoke_tests_that_no_box_would_run(desk, tiny_gguf, tests, tmp_path):
    (tmp_path / "smoke.json").write_text(json.dumps({"tests": tests}))
    with pytest.raises(BadRequestError, match="smoke"):
        desk.build(tiny_gguf, smoke_tests=[], smoke="smoke.json")
    assert desk.layout.releases() == {}


def test_what_create_refuses_is_refused(desk, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(ApplianceError):
        desk.build(tmp_path / "bad.gguf")
    assert desk.layout.releases() == {}


def test_texts_that_boxes_would_refuse(desk, tiny_gguf):
    with pytest.raises(BadRequestError, match="longer"):
        desk.build(tiny_gguf, notes="x" * 5000)
    with pytest.raises(BadRequestError, match=r"requires\.hearth"):
        desk.build(tiny_gguf, min_hearth="newest")


def test_the_command_line(tiny_gguf, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("Modelfile").write_text(f"FROM {tiny_gguf}\n")
    command = ["build", "--name", "acme/assistant", "--version", "1.2.0", "-o", "out"]
    assert main([*command, "--variant", "again=Modelfile"]) == 0
    release = index_of(Layout(tmp_path / "out"))
    assert [(v.name, v.rank) for v in release.variants] == [("f32", 10), ("again", 20)]
    assert str(release.variants[0].digest)[:19] in capsys.readouterr().out
    assert main([*command, "--variant", "nonsense"]) == 1
    assert "NAME=MODELFILE" in capsys.readouterr().err
    assert main(["build", "-f", "missing", "-o", "out"]) == 2
