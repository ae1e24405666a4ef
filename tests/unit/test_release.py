"""The index of a release: written canonically, read strictly."""

import json
from dataclasses import replace

import pytest

from appliance.bundles.release import (
    EXTRAS_TYPE,
    INDEX_TYPE,
    MAX_INDEX_BYTES,
    MAX_VARIANTS,
    SMOKE_TYPE,
    Extras,
    Release,
    Requires,
    Variant,
)
from appliance.errors import LibraryError
from appliance.library.manifest import Digest, Layer

SMALL = Variant(
    name="q4_0",
    digest=Digest.of(b"small"),
    size=700,
    requires=Requires(ram_mib=3500, disk_mib=2100),
    context=8192,
    quant="Q4_0",
    rank=10,
)
LARGE = Variant(
    name="q8_0",
    digest=Digest.of(b"large"),
    size=701,
    requires=Requires("arm64", "cuda>=8.7", 9000, 6000, 4100),
    engine="paged",
    rank=20,
)
RELEASE = Release(
    version="1.2.0",
    variants=(SMALL, LARGE),
    extras=Layer("application/vnd.oci.image.manifest.v1+json", Digest.of(b"extras"), 300),
    created="2026-11-01T00:00:00Z",
    licenses="Apache-2.0",
    notes="Grüße",
    modelfile=Digest.of(b"FROM x"),
    min_hearth="0.1.0",
    min_ollama="0.5",
)


def index(**changes):
    body = json.loads(RELEASE.encode())
    body.update(changes)
    return json.dumps(body).encode()


def test_what_is_written_reads_back_and_is_the_same_again():
    data = RELEASE.encode()
    assert Release.parse(data) == RELEASE
    assert Release.parse(data).encode() == data


def test_equal_content_gives_equal_bytes_whatever_the_order_of_notes():
    one = replace(RELEASE, more={"a": "1", "b": "2"})
    two = replace(RELEASE, more={"b": "2", "a": "1"})
    assert one.encode() == two.encode()
    assert one.encode().isascii()
    assert b": " not in one.encode()
    assert not one.encode().endswith(b"\n")


def test_an_unknown_annotation_is_kept():
    body = json.loads(RELEASE.encode())
    body["annotations"]["com.example.ticket"] = "42"
    release = Release.parse(json.dumps(body).encode())
    assert release.more == {"com.example.ticket": "42"}
    assert Release.parse(release.encode()) == release


def with_variant(**facts):
    body = json.loads(RELEASE.encode())
    body["manifests"][0]["annotations"].update(facts)
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (MAX_INDEX_BYTES + 1), "bytes"),
        (index(mediaType="application/json"), "its type"),
        (index(artifactType="something"), "its type"),
        (index(manifests=[]), "manifests"),
        (index(manifests="x"), "manifests"),
        (index(manifests=[{"digest": "sha256:00"}] * (MAX_VARIANTS + 2)), "manifests"),
        (index(annotations={"a": 1}), "annotations"),
        (index(annotations={"a": "x" * 5000}), "longer"),
        (index(annotations={}), "version"),
        (with_variant(variant="../up"), "a variant is called"),
        (with_variant(variant="q8_0"), "several variants"),
        (with_variant(engine="\ud800"), "engine"),
        (with_variant(engine="\x1b]0;\x07"), "engine"),
        (with_variant(quant="Q4 K"), "quantization"),
        (with_variant(**{"requires.arch": "vax"}), "requires.arch"),
        (with_variant(**{"requires.accel": "cuda>=x"}), "requires.accel"),
        (with_variant(**{"requires.ram-mib": "-1"}), "requires.ram-mib"),
        (with_variant(**{"requires.ram-mib": "1e9"}), "requires.ram-mib"),
        (with_variant(rank="9" * 10), "rank"),
    ],
)
def test_what_is_no_release_is_refused_with_the_reason(data, why):
    with pytest.raises(LibraryError, match=why) as refused:
        Release.parse(data)
    assert "RecursionError" not in str(refused.value)


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "sha512:" + "0" * 64, 7, None])
def test_a_digest_that_could_be_a_path_is_refused(digest):
    body = json.loads(RELEASE.encode())
    body["manifests"][0]["digest"] = digest
    with pytest.raises(LibraryError, match="no digest"):
        Release.parse(json.dumps(body).encode())


@pytest.mark.parametrize("size", [-1, True, 1.5, "7"])
def test_a_size_that_is_none_is_refused(size):
    body = json.loads(RELEASE.encode())
    body["manifests"][0]["size"] = size
    with pytest.raises(LibraryError, match="size"):
        Release.parse(json.dumps(body).encode())


def test_two_artifacts_of_extras_are_refused():
    body = json.loads(RELEASE.encode())
    body["manifests"].append(body["manifests"][-1])
    with pytest.raises(LibraryError, match="more than one"):
        Release.parse(json.dumps(body).encode())


def test_extras_read_back_and_find_their_parts():
    extras = Extras((Layer(SMOKE_TYPE, Digest.of(b"{}"), 2),))
    again = Extras.parse(extras.encode())
    assert again == extras
    assert again.of_type(SMOKE_TYPE) == extras.layers[0]
    assert again.of_type("application/other") is None


def test_extras_with_the_same_part_twice_are_refused_when_it_is_wanted():
    layer = Layer(SMOKE_TYPE, Digest.of(b"{}"), 2)
    with pytest.raises(LibraryError, match="2 layers"):
        Extras((layer, layer)).of_type(SMOKE_TYPE)


def test_a_variant_s_manifest_is_not_taken_for_extras():
    with pytest.raises(LibraryError, match=EXTRAS_TYPE):
        Extras.parse(json.dumps({"mediaType": INDEX_TYPE, "layers": []}).encode())
