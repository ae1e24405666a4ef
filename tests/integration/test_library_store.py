"""The library as a whole: find, list, copy, delete, prune, and adopt what Ollama made."""

import json
import os
import threading
from datetime import timedelta

import pytest

from appliance.errors import LibraryError, ModelNotFoundError
from appliance.library.library import Library
from appliance.library.manifest import Digest, Layer, Manifest
from appliance.library.names import ModelName
from engine.errors import ModelFormatError
from tests.fakes.libraries import add_model, run_create

NAME = ModelName.parse


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path / "models")
    library.prune()
    return library


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


def blob_count(library):
    return len(list(library.blobs.stored()))


def manifest_file(models, name):
    return models / "manifests" / NAME(name).path


def test_an_empty_library(library):
    assert library.list() == []
    assert library.problems() == []
    with pytest.raises(ModelNotFoundError, match=r"^model 'x:latest' not found$"):
        library.get(NAME("x"))


def test_a_folder_that_does_not_exist_yet(tmp_path):
    library = Library(tmp_path / "new" / "models")
    assert library.list() == []
    assert library.prune() == 0


def test_a_model_as_its_users_see_it(library, tmp_path, models):
    add_model(
        library,
        tmp_path,
        "Me/Tiny:small",
        system="be kind",
        template="{{ .System }} {{ .Prompt }}",
        parameters={"temperature": 0.5, "stop": ["a", "b"]},
        license=["MIT", "BSD"],
        messages=[{"role": "user", "content": "hi"}],
        renderer="qwen3.5",
        requires="0.1.0",
    )
    stored = library.get(NAME("me/tiny:SMALL"))
    manifest = manifest_file(models, "Me/Tiny:small").read_bytes()
    assert stored.name.short == "Me/Tiny:small"
    assert stored.digest == Digest.of(manifest).hex
    assert stored.size == sum(path.stat().st_size for path in (models / "blobs").iterdir())
    assert stored.modified_at.utcoffset() is not None
    assert stored.system == "be kind"
    assert stored.template == "{{ .System }} {{ .Prompt }}"
    assert stored.parameters == {"temperature": 0.5, "stop": ["a", "b"]}
    assert stored.licenses == ["MIT", "BSD"]
    assert stored.messages == [("user", "hi")]
    assert (stored.renderer, stored.parser, stored.requires) == ("qwen3.5", "", "0.1.0")
    assert stored.model_path.read_bytes()[:4] == b"GGUF"
    assert stored.adapter_paths == stored.projector_paths == ()
    assert stored.capabilities() == ["completion", "tools", "thinking"]  # the RENDERER's
    assert stored.details == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "115K",
        "quantization_level": "F32",
    }


def test_the_newest_is_first(library, tmp_path, models):
    for age, name in enumerate(("young", "older", "oldest")):
        add_model(library, tmp_path, name)
        path = manifest_file(models, name)
        then = path.stat().st_mtime - 60 * age
        os.utime(path, (then, then))
    listed = library.list()
    assert [str(model.name) for model in listed] == [
        "young:latest",
        "older:latest",
        "oldest:latest",
    ]
    assert listed[0].modified_at - listed[2].modified_at > timedelta(seconds=100)


def test_names_keep_the_case_of_their_first_writing(library, tmp_path):
    add_model(library, tmp_path, "Me/Model:Tag")
    add_model(library, tmp_path, "me/model:tag", system="again")
    add_model(library, tmp_path, "ME/Other")
    assert sorted(str(model.name) for model in library.list()) == [
        "Me/Model:Tag",
        "Me/Other:latest",
    ]
    assert library.get(NAME("ME/MODEL:TAG")).system == "again"
    assert library.has(NAME("mE/mOdEl:TaG"))


def test_a_copy_is_the_same_model_under_another_name(library, tmp_path, models):
    add_model(library, tmp_path)
    library.copy(NAME("TINY"), NAME("user/copy:v1"))
    one, two = (manifest_file(models, n).read_bytes() for n in ("tiny", "user/copy:v1"))
    assert one == two
    with pytest.raises(ModelNotFoundError):
        library.copy(NAME("nothing"), NAME("other"))


def test_deleting_keeps_what_others_use(library, tmp_path, models):
    add_model(library, tmp_path, "one", system="only mine")
    add_model(library, tmp_path, "two")
    weights = library.get(NAME("two")).model_digest
    library.delete(NAME("ONE"))
    assert library.blobs.has(weights)
    assert not library.blobs.has(Digest.of(b"only mine"))
    library.delete(NAME("two"))
    assert blob_count(library) == 0
    assert list((models / "manifests").iterdir()) == []
    with pytest.raises(ModelNotFoundError, match=r"^model 'two:latest' not found$"):
        library.delete(NAME("two"))


def test_replacing_a_model_removes_what_only_its_past_used(library, tmp_path):
    add_model(library, tmp_path, system="first")
    add_model(library, tmp_path, system="second")
    assert not library.blobs.has(Digest.of(b"first"))
    assert library.blobs.has(Digest.of(b"second"))


def test_a_manifest_with_missing_blobs_is_not_written(library, tmp_path):
    ghost = Layer("application/vnd.ollama.image.model", Digest("0" * 64), 1)
    with pytest.raises(LibraryError, match="is missing"):
        library.write_manifest(NAME("ghost"), Manifest(ghost, (ghost,)))
    assert library.list() == []


DAMAGED = {
    "empty": b"",
    "cut": b'{"schemaVersion":2,',
    "null layers": b'{"schemaVersion":2,"config":null,"layers":null}',
    "traversal": b'{"schemaVersion":2,"layers":[],"config":{"digest":"sha256:../../x","size":1}}',
    "no config blob": json.dumps(
        {
            "schemaVersion": 2,
            "layers": [],
            "config": {"digest": "sha256:" + "1" * 64, "size": 1},
        }
    ).encode(),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_manifest_hides_only_itself(library, tmp_path, models, data):
    add_model(library, tmp_path, "good")
    bad = manifest_file(models, "bad")
    bad.parent.mkdir(parents=True)
    bad.write_bytes(data)
    assert [str(model.name) for model in library.list()] == ["good:latest"]
    [problem] = library.problems()
    assert str(problem.path) == "registry.ollama.ai/library/bad/latest"
    assert problem.reason
    with pytest.raises(LibraryError):
        library.get(NAME("bad"))
    library.delete(NAME("bad"))
    assert library.problems() == []


def test_nothing_is_pruned_while_a_manifest_is_unreadable(library, tmp_path, models):
    orphan, _ = library.blobs.put_bytes(b"nobody names me")
    bad = manifest_file(models, "bad")
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"{")
    assert library.prune(older_than_s=-1) == 0
    add_model(library, tmp_path, "good", system="x")
    library.delete(NAME("good"))
    assert library.blobs.has(Digest.of(b"x"))
    bad.unlink()
    assert library.prune(older_than_s=-1) > 0
    assert not library.blobs.has(orphan)


def test_pruning_takes_only_what_is_old_and_unnamed(library, tmp_path, models):
    add_model(library, tmp_path)
    young, _ = library.blobs.put_bytes(b"just uploaded")
    (models / "manifests" / "host" / "empty").mkdir(parents=True)
    (models / "manifests" / "registry.ollama.ai" / ".hearth-dead").write_bytes(b"")
    assert library.prune() == 0
    assert library.blobs.has(young)
    assert not (models / "manifests" / "host").exists()
    assert not (models / "manifests" / "registry.ollama.ai" / ".hearth-dead").exists()
    assert library.prune(older_than_s=-1) == 1
    assert library.get(NAME("tiny")).header()


def test_what_is_held_is_not_pruned(library):
    digest, _ = library.blobs.put_bytes(b"in the making")
    with library.hold([digest]), library.hold([digest]):
        assert library.prune(older_than_s=-1) == 0
    assert library.prune(older_than_s=-1) == 1


def test_a_folder_of_ollamas_is_adopted_as_it_is(tmp_path, library, models):
    add_model(library, tmp_path, "llama3:8b", system="be kind")
    manifest = manifest_file(models, "llama3:8b")
    # as a registry may send it: other order, spaces, unknown fields, no final newline
    body = json.loads(manifest.read_bytes()) | {"annotations": {"a": "<b>"}}
    received = json.dumps(dict(reversed(body.items())), indent=3).encode()
    manifest.write_bytes(received)
    for blob in list((models / "blobs").iterdir()):
        blob.rename(blob.with_name(blob.name.replace("-", ":", 1)))
    partial = models / "blobs" / ("sha256-" + "5" * 64 + "-partial-0")
    partial.write_bytes(b"{}")

    adopted = Library(models)
    assert adopted.prune() == 0
    stored = adopted.get(NAME("llama3:8b"))
    assert stored.digest == Digest.of(received).hex
    assert stored.system == "be kind"
    assert stored.header().architecture == "llama"
    adopted.copy(NAME("llama3:8b"), NAME("mine"))
    assert manifest.read_bytes() == manifest_file(models, "mine").read_bytes() == received
    assert partial.exists()
    run_create(adopted, "derived", from_="mine", system="be brief")
    adopted.delete(NAME("mine"))
    assert adopted.get(NAME("derived")).header().block_count == 2


def test_headers_are_checked_and_remembered(library, tmp_path):
    add_model(library, tmp_path)
    stored = library.get(NAME("tiny"))
    assert stored.header() is stored.header()
    assert len(stored.complete_header().metadata["tokenizer.ggml.tokens"]) == 320
    rotten = library.blobs.put_bytes(b"GGUF and nothing more")[0]
    with pytest.raises(ModelFormatError):
        library.header(rotten)
    with pytest.raises(LibraryError, match="is missing"):
        library.header(Digest("0" * 64))


def test_a_model_whose_layers_were_taken_away(library, tmp_path):
    add_model(library, tmp_path, system="x")
    stored = library.get(NAME("tiny"))
    library.blobs.remove(Digest.of(b"x"))
    library.blobs.remove(stored.model_digest)
    with pytest.raises(LibraryError, match="is missing"):
        _ = stored.system
    with pytest.raises(LibraryError, match="is missing"):
        library.get(NAME("tiny")).header()


def test_changes_from_many_threads_leave_a_whole_library(library, tmp_path):
    add_model(library, tmp_path, "base")
    errors = []

    def churn(thread):
        try:
            for turn in range(5):
                run_create(library, f"m{thread}", from_="base", system=f"{thread} {turn % 2}")
                library.copy(NAME(f"m{thread}"), NAME(f"copy{thread}"))
                library.delete(NAME(f"m{thread}"))
                library.list()
        except Exception as error:  # the main thread reports it
            errors.append(error)

    threads = [threading.Thread(target=churn, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert library.problems() == []
    for model in library.list():
        assert model.header()
        assert model.name.short == "base:latest" or model.system
    assert len(library.list()) == 5


def test_roots_keep_what_no_manifest_names(library):
    kept, _ = library.blobs.put_bytes(b"a release's index")
    other, _ = library.blobs.put_bytes(b"nobody's")
    roots = {kept}
    library.add_roots(lambda: roots)
    assert library.prune(older_than_s=-1) == 1
    assert library.blobs.has(kept)
    assert not library.blobs.has(other)
    roots.clear()
    assert library.prune(older_than_s=-1) == 1


def test_what_was_replaced_stays_while_a_root_keeps_it(library, tmp_path):
    add_model(library, tmp_path, "x", system="first")
    before = library.get(NAME("x")).manifest.digests
    library.add_roots(lambda: before)
    add_model(library, tmp_path, "x", system="second")
    library.delete(NAME("x"))
    assert set(library.blobs.stored()) == before


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), LibraryError("no state")])
def test_nothing_is_removed_when_roots_cannot_be_told(library, error, caplog):
    library.blobs.put_bytes(b"nobody's")

    def fails():
        raise error

    library.add_roots(fails)
    assert library.prune(older_than_s=-1) == 0
    assert blob_count(library) == 1
    assert "nothing is removed" in caplog.text
