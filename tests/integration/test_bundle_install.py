"""Signed releases come to a box, from the web and from a registry, and become what it serves."""

import json

import pytest

from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.publisher import web_root
from tests.integration.bundle_box import WEIGHTS, Box, enrol, says
from tests.integration.raw_http import send


def test_it_installs_proves_and_serves(box):
    index = box.publish("1.0.0", "Be kind.", smoke=says("Be kind."), card="About it.")
    statuses = box.install()
    assert statuses[0] == "pulling manifest"
    assert statuses[-4:] == [
        "verifying sha256 digest", "running smoke tests", "writing manifest", "success",
    ]  # fmt: skip
    assert "Be kind." in box.ask()
    shown = box.show()
    assert (shown["state"], shown["version"], shown["variant"]) == ("active", "1.0.0", "f32")
    assert shown["active_release"]["index"] == str(index)
    assert shown["active_release"]["tokens_per_s"] > 0
    assert box.why()["reasons"] == ["f32: chosen, rank 0"]
    listed = box.service.call("GET", "/hearth/v1/bundles")[1]["bundles"]
    assert box.name() in [entry["model"] for entry in listed]


def test_every_blob_is_told_with_its_bytes(box):
    box.publish("1.0.0", "Be exact.")
    lines = box.pull()
    whole = [line for line in lines if line.get("total") == len(WEIGHTS)]
    assert whole[-1]["completed"] == len(WEIGHTS)
    assert whole[-1]["status"] == f"pulling {whole[-1]['digest'][7:19]}"


def test_what_is_active_moves_no_bytes_again(box):
    box.publish("1.0.0", "Be calm.")
    box.install()
    before, state = box.web.content_bytes, box.state_file().read_bytes()
    statuses = box.install()
    assert statuses == ["pulling manifest", "release 1.0.0 is active", "success"]
    assert box.web.content_bytes == before
    assert box.state_file().read_bytes() == state


def test_a_template_only_update_moves_less_than_a_hundredth(box):
    weights = tiny_llama_bytes(vocab=4000)
    box.publish("1.0.0", "Be old.", weights=weights, smoke=says("Be old."))
    box.install()
    size, before = len(weights), sum(box.web.sent.values())
    box.publish("1.1.0", "Be new.", weights=weights, smoke=says("Be new."))
    box.install()
    moved = sum(box.web.sent.values()) - before  # metadata counted too
    assert 0 < moved < size / 100
    assert "Be new." in box.ask()
    assert (box.show()["version"], box.show()["previous"]) == ("1.1.0", "1.0.0")


def test_a_version_is_a_name_of_its_own(box):
    box.publish("1.0.0", "Be one.")
    box.publish("2.0.0", "Be two.")
    box.install("1.0.0")
    box.install()
    assert "Be one." in box.ask(tag="1.0.0")
    assert "Be two." in box.ask()


def test_from_a_registry(publisher, web, docker_registry, tmp_path, start_service):
    state = tmp_path / "box"
    enrol(state, publisher, web.url, content=(f"registry+http://{docker_registry.address}",))
    box = Box(start_service(state), publisher, web, "acme/held")
    box.publish("1.0.0", "Be held.", smoke=says("Be held."), card="About it.")
    publisher.push(docker_registry.address, box.model)
    before = web.content_bytes
    box.install()
    assert "Be held." in box.ask()
    assert web.content_bytes == before  # the web root gave metadata alone


def test_the_next_source_is_asked_when_one_is_wrong_or_gone(
    publisher, web, docker_registry, tmp_path, start_service
):
    state = tmp_path / "box"
    addresses = ("http://127.0.0.1:1", f"registry+http://{docker_registry.address}", web.url)
    enrol(state, publisher, web.url, content=addresses)
    box = Box(start_service(state), publisher, web, "acme/elsewhere")
    box.publish("1.0.0", "Be found.")  # nobody pushed it to the registry
    box.install()
    assert "Be found." in box.ask()


def test_the_variant_that_fits_is_taken_or_the_one_that_is_asked_for(box):
    publisher = box.publisher
    small = publisher.variant(WEIGHTS, "Be small.", name="q4", rank=10)
    large = publisher.variant(WEIGHTS, "Be large.", name="q8", rank=20)
    giant = publisher.variant(WEIGHTS, "Be huge.", name="f16", rank=30, ram_mib=99_000_000)
    index = publisher.release("1.0.0", small, large, giant)
    publisher.list(index, "1.0.0", "latest", model=box.model)
    box.install()
    assert "Be large." in box.ask()
    reasons = box.why()["reasons"]
    assert [reason.split(":")[0] for reason in reasons] == ["q4", "q8", "f16"]
    assert "chosen, rank 20" in reasons[1]
    assert "needs 99000000 MiB of memory" in reasons[2]
    box.install(variant="q4")
    assert "Be small." in box.ask()
    assert box.install()[1] == "release 1.0.0 is active"  # a wish is not forgotten


def test_a_running_answer_ends_on_the_release_that_it_began_with(box):
    other = tiny_llama_bytes(seed=7)
    box.publish("1.0.0", "Be first.")
    box.install()
    body = {
        "model": box.name(),
        "messages": [{"role": "user", "content": "[[slow 100]] " + "word " * 30}],
    }
    stream = _stream(box, body)
    next(stream)
    box.publish("2.0.0", "Be second.", weights=other)
    box.install()
    lines = [json.loads(line) for line in stream]
    text = "".join(line["message"]["content"] for line in lines)
    assert lines[-1]["done_reason"] == "stop"
    assert text.count("word") == 30
    assert "Be second." in box.ask()


def _stream(box, body):
    import urllib.request

    request = urllib.request.Request(
        f"{box.service.url}/api/chat", data=json.dumps(body).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        yield from answer


def test_a_release_heals_what_a_scrub_set_aside(box):
    box.publish("1.0.0", "Be whole.")
    box.install()
    config = next(digest for digest in box.state()["active"]["blobs"])
    path = box.service.state / "models/blobs" / config.replace(":", "-")
    path.unlink()
    assert "running smoke tests" not in box.install()
    assert path.exists()
    assert "Be whole." in box.ask()


def test_rm_forgets_the_release_and_its_blobs(box):
    box.publish("1.0.0", "Be gone.", card="Nobody else has this card.")
    box.install()
    kept = box.state()["active"]["blobs"]
    reply = send(box.service, "DELETE", "/api/delete", body={"model": box.name()})
    assert reply.status == 200
    assert not box.state_file().exists()
    left = {path.name for path in (box.service.state / "models/blobs").iterdir()}
    # weights and config may be those of another test's model
    assert sum(digest.replace(":", "-") in left for digest in kept) <= 2
    assert box.act("rollback")[0] == 404


@pytest.mark.parametrize("path", ["show", "why"])
def test_what_is_not_signed_is_not_shown(box, path):
    status, body = box.service.call("GET", f"/hearth/v1/bundles/{path}?model=nobody")
    assert (status, body["code"]) == (404, "not_found")
    assert box.service.call("GET", f"/hearth/v1/bundles/{path}")[0] == 400


def test_a_lying_mirror_and_an_empty_one_are_both_told(publisher, web, tmp_path, start_service):
    """Who reads only the last answer would look for a release that was never published."""
    (tmp_path / "empty").mkdir()
    with web_root(publisher.folder) as mirror, web_root(tmp_path / "empty") as empty:
        enrol(tmp_path / "box", publisher, web.url, content=(mirror.url, empty.url))
        box = Box(start_service(tmp_path / "box"), publisher, web, "acme/mirrored")
        box.publish("1.0.0", "Be old.")
        box.install()
        index = box.publish("2.0.0", "Be new.")
        mirror.wrong[f"blobs/sha256/{index.hex}"] = b"{}"
        code, error = box.refused()
        assert code == "digest"
        assert mirror.url in error
        assert f"as {index}" in error
        assert "; also: file does not exist" in error
        assert "Be old." in box.ask()
