"""Releases that must not become active: wrong bytes, bad tests, crashes, slowness, no room. Each
time what was active before serves on, and its state is as it was.
"""

import json

import pytest

from appliance.bundles.release import CARD_TYPE, INDEX_TYPE, Extras, Release
from appliance.library.manifest import OCI_MANIFEST_TYPE, Digest, Layer
from tests.fakes.publisher import CONFIG
from tests.integration.bundle_box import SMOKE, WEIGHTS, says

OLD = "Be trusted."


@pytest.fixture
def served(box):
    """A box whose model serves release 1.0.0, and will be asked to take another."""
    box.publish("1.0.0", OLD)
    box.install()
    return box


def unchanged(box):
    """Whether release 1.0.0 still answers."""
    shown = box.show()
    return shown["version"] == "1.0.0" and shown["previous"] is None and OLD in box.ask()


# -- bytes that are not those that were signed


def wrong(data):
    return data[:-1] + bytes([data[-1] ^ 1])


PARTS = {
    "index": lambda publisher, index, variant, layers: index,
    "manifest": lambda publisher, index, variant, layers: variant.digest,
    "layer": lambda publisher, index, variant, layers: layers["system"],
    "extras": lambda publisher, index, variant, layers: layers["extras"],
    "smoke": lambda publisher, index, variant, layers: layers["smoke"],
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", ["flipped", "longer", "missing"])
def test_other_bytes_than_the_signed_ones_are_refused(served, publisher, web, part, how):
    system = f"Be other: {part} {how}."
    variant = publisher.variant(WEIGHTS, system)
    index = publisher.release("2.0.0", variant, smoke=says(system))
    publisher.list(index, "2.0.0", "latest", model=served.model)
    body = json.loads(publisher.blobs[str(index)])
    extras = next(m["digest"] for m in body["manifests"] if "artifactType" in m)
    layers = {
        "system": json.loads(publisher.blobs[str(variant.digest)])["layers"][1]["digest"],
        "extras": extras,
        "smoke": json.loads(publisher.blobs[extras])["layers"][0]["digest"],
    }
    digest = str(PARTS[part](publisher, index, variant, layers))
    path, good = f"blobs/sha256/{digest.removeprefix('sha256:')}", publisher.blobs[digest]
    web.wrong[path] = {"flipped": wrong(good), "longer": good + b" " * 5_000_000, "missing": None}[
        how
    ]
    code, _ = served.refused()
    expected = {
        "flipped": {"digest"},
        "longer": {"digest", "registry_error"},
        "missing": {"registry_not_found"},
    }
    assert code in expected[how]
    assert unchanged(served)
    web.wrong.clear()
    served.install()
    assert system in served.ask()


def test_a_config_of_wrong_bytes(served, publisher, web):
    """The config is shared by all releases, so it is taken away here first."""
    config = CONFIG.replace(b"130K", b"131K")
    layer = publisher.put(config)
    variant = publisher.variant(WEIGHTS, "Be configured.", config=config)
    index = publisher.release("2.0.0", variant)
    publisher.list(index, "2.0.0", "latest", model=served.model)
    web.wrong[f"blobs/sha256/{layer.digest.hex}"] = wrong(config)
    assert served.refused()[0] == "digest"
    assert unchanged(served)


# -- what was signed, but cannot be used


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"not JSON", "malformed"),
        (b'{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}', "malformed"),
        (b"{}" + b" " * (1 << 20), "registry_error"),
    ],
)
def test_a_signed_file_that_is_no_release(served, publisher, data, code):
    publisher.list(publisher.put(data).digest, "latest", model=served.model)
    assert served.refused()[0] == code
    assert unchanged(served)


def test_a_manifest_that_is_none(served, publisher):
    variant = publisher.variant(WEIGHTS, "Be replaced.")
    layer = publisher.put(b'{"schemaVersion":2}')
    broken = type(variant)("f32", layer.digest, layer.size)
    publisher.list(publisher.release("2.0.0", broken), "latest", model=served.model)
    assert served.refused()[0] == "malformed"
    assert unchanged(served)


def test_a_part_beside_the_model_that_is_larger_than_any_may_be(served, publisher):
    card = Layer(CARD_TYPE, Digest.of(b"card"), 1 << 50)
    extras = publisher.put(Extras((card,)).encode(), OCI_MANIFEST_TYPE)
    release = Release("2.0.0", (publisher.variant(WEIGHTS, "Be small."),), extras=extras)
    index = publisher.put(release.encode(), INDEX_TYPE)
    publisher.list(index.digest, "latest", model=served.model)
    code, error = served.refused()
    assert code == "malformed"
    assert "are allowed" in error
    assert unchanged(served)


@pytest.mark.parametrize("wish", [{"variant": "q4"}, {"retry": True}])
def test_what_only_a_signed_model_can_grant_is_not_ignored(trusting_service, wish):
    body = {"model": "127.0.0.1:1/free/model", "insecure": True, **wish}
    status, answer = trusting_service.call("POST", "/api/pull", body)
    assert status == 400
    assert next(iter(wish)) in answer["error"]


def test_weights_that_are_no_gguf_never_reach_an_engine(served, publisher):
    served.publish("2.0.0", "Be loaded.", weights=b"GGUF" + bytes(1000))
    code, error = served.refused()
    assert code == "registry_error"
    assert "no usable GGUF" in error
    assert unchanged(served)
    assert served.refused()[0] == "activation_failed"  # it is known to be bad
    assert served.show()["bad"][0]["version"] == "2.0.0"
    assert "(trial)" not in served.service.log.split(served.name())[-1]


def test_a_release_for_a_newer_hearth(served):
    before = served.web.content_bytes
    served.publish("2.0.0", "Be modern.", min_hearth="99.1")
    code, error = served.refused()
    assert code == "unsupported"
    assert "needs Hearth 99.1" in error
    assert served.web.content_bytes - before < 2000  # the index alone
    assert unchanged(served)


def test_no_variant_fits(served):
    before = served.web.content_bytes
    served.publish("2.0.0", "Be huge.", facts={"ram_mib": 99_000_000, "arch": "any"})
    code, error = served.refused()
    assert code == "does_not_fit"
    assert "f32: needs 99000000 MiB of memory" in error
    assert served.web.content_bytes - before < 2000
    assert unchanged(served)
    assert served.refused(variant="q9")[0] == "does_not_fit"


# -- what fails its smoke tests

BAD = {
    "content": ("Be wrong.", says("Be right."), "lacks 'Be right.'"),
    "pattern": (
        "Be wrong.",
        {"tests": [{**SMOKE["tests"][0], "matches": r"^\d+$"}]},
        "does not match",
    ),
    "hopeless pattern": (
        "Be " + "a" * 40 + "!",
        {"tests": [{**SMOKE["tests"][0], "matches": "(a+)+$", "timeout_s": 60}]},
        "does not match",
    ),
    "late": (
        "[[slow 300]]",
        {"tests": [{**SMOKE["tests"][0], "timeout_s": 0.5}]},
        "no answer within 0.5 s",
    ),
    "slow": ("[[slow 50]]", says(min_tokens_per_s=100.0), "too slow"),
    "crash": ("[[crash]]", SMOKE, "the engine failed"),
    "not JSON": ("Be untested.", b"[", "smoke tests cannot be used"),
    "unknown field": ("Be unsure.", {**SMOKE, "threshold": 1}, "smoke tests cannot be used"),
    "bad pattern": (
        "Be odd.",
        {"tests": [{**SMOKE["tests"][0], "matches": "("}]},
        "smoke tests cannot be used",
    ),
    "broken template": ("Be brief.", SMOKE, "template: :1: unexpected EOF"),
    "hungry template": ("Be brief.", SMOKE, "more than 1000000 steps"),
}


TEMPLATES = {
    "broken template": "{{ if .System }}{{ .Prompt }}",
    "hungry template": "{{ range 9999999 }}x{{ end }}{{ .Prompt }}",
}


@pytest.mark.parametrize("case", BAD)
def test_what_fails_its_tests_does_not_serve(served, publisher, case):
    system, smoke, reason = BAD[case]
    variant = publisher.variant(WEIGHTS, system, TEMPLATES.get(case, ""))
    index = publisher.release("2.0.0", variant, smoke=smoke)
    publisher.list(index, "2.0.0", "latest", model=served.model)
    code, error = served.refused()
    assert code == "activation_failed"
    assert reason in error
    assert unchanged(served)
    failure = served.why()["failure"]
    assert reason in failure["reason"]
    assert failure["version"] == "2.0.0"
    before = served.web.content_bytes
    again = served.refused()  # not tried again
    assert again == (code, error)
    assert served.web.content_bytes - before < 2000  # the index, to see which variant it is


def test_why_tells_the_prompt_the_speed_and_the_workers_last_words(served):
    served.publish("2.0.0", "[[slow 20]]", smoke=says(min_tokens_per_s=900.0))
    served.refused()
    failure = served.why()["failure"]
    assert 0 < failure["tokens_per_s"] < 900
    served.publish("2.0.1", "[[crash]]", smoke=SMOKE)
    served.refused()
    failure = served.why()["failure"]
    assert failure["prompt"] == "one two"
    assert "killed" in failure["reason"] or "signal" in failure["reason"]


def test_it_is_tried_again_when_somebody_insists_or_a_new_release_comes(served):
    served.publish("2.0.0", "[[slow 30]] Be quick.", smoke=says(min_tokens_per_s=200.0))
    served.refused()
    assert served.refused(retry=True)[0] == "activation_failed"
    assert len(served.show()["bad"]) == 1
    served.publish("2.0.1", "Be quick.", smoke=says("Be quick."))
    served.install()
    shown = served.show()
    assert (shown["version"], shown["previous"], shown["state"]) == ("2.0.1", "1.0.0", "active")
    assert [failure["version"] for failure in shown["bad"]] == ["2.0.0"]


# -- what the repository says


def test_nobody_lists_the_name(box):
    code, error = box.refused()
    assert code == "not_listed"
    assert box.model in error
    assert not box.state_file().exists()


def test_a_release_with_a_go_template_is_proved_and_serves(served, publisher):
    template = "{{ if .System }}<{{ .System }}> {{ end }}{{ .Prompt }}"
    variant = publisher.variant(WEIGHTS, "Be a gopher.", template)
    index = publisher.release("2.0.0", variant, smoke=says("<Be a gopher.> one two"))
    publisher.list(index, "2.0.0", "latest", model=served.model)
    served.install()
    assert served.show()["version"] == "2.0.0"
    assert "<Be a gopher.>" in served.ask()
