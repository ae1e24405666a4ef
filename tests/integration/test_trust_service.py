"""Trust policy in a running service: what comes in, what is loaded, what is handed on, by mode."""

import json
import shutil
from pathlib import Path

import ollama
import pytest

from appliance.trust.repositories import Repositories, Repository, read_root
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.publisher import Publisher, web_root
from tests.fakes.tuf_repository import TufRepository
from tests.integration import bundle_box
from tests.integration.cli_process import Command
from tests.integration.pulls import digest_of, names, transfer
from tests.integration.raw_http import send

ASK = {"model": "echo", "prompt": "one two", "stream": False}
SIGNED = "acme/assistant:latest"
NETWORK = [("X-Forwarded-For", "10.0.0.1")]

# Runs first in every Python process of a service: tells which files a GGUF parser was given.
WITNESS = """
import sys
sys.path.insert(0, {root!r})
import engine.gguf
def told(parse):
    def wrapper(path, *rest, **named):
        with open({log!r}, "a") as log:
            log.write(f"{{path}}\\n")
        return parse(path, *rest, **named)
    return wrapper
engine.gguf.validate = told(engine.gguf.validate)
engine.gguf.read_header = told(engine.gguf.read_header)
"""


def run_cli(service, *arguments):
    return Command(service.url).run(*arguments, HEARTH_STATE=str(service.state))


def enrol(service, **fields):
    root = TufRepository().files["1.root.json"]
    repositories = Repositories(service.state / "trust")
    repositories.enrol(Repository("acme", ("acme/*",), **fields), root, read_root(root).fingerprint)


def ways_in(name):
    return [
        ("/api/pull", {"model": name, "stream": False}),
        ("/api/create", {"model": name, "from": "echo", "stream": False}),
        ("/api/copy", {"source": "echo", "destination": name}),
    ]


@pytest.fixture
def box(start_service, tiny_gguf):
    service = start_service()
    service.create("echo", tiny_gguf)
    return service


@pytest.fixture(scope="module")
def origin(module_service, tiny_gguf):
    """A service that others use as their registry; its model's name is `tiny`."""
    running = module_service()
    running.create("tiny", tiny_gguf)
    return running


@pytest.fixture
def name(origin):
    return f"{origin.url.removeprefix('http://')}/library/tiny:latest"


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """The files that services started from now on give to a GGUF parser."""
    folder, log = tmp_path / "witness", tmp_path / "parsed"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITNESS.format(log=str(log), root=str(Path.cwd())))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return lambda: log.read_text().split() if log.exists() else []


def trust_of(service, name):
    models = service.call("GET", "/api/tags")[1]["models"]
    return next(model["trust"] for model in models if model["name"] == name)


def test_what_a_repository_owns_comes_signed_or_not_at_all(box):
    enrol(box)
    pull, *others = ways_in("acme/assistant")
    status, answer = box.call("POST", *pull)
    assert (status, answer["code"]) == (502, "unreachable")
    assert "has no address" in answer["error"]
    for path, body in others:
        status, answer = box.call("POST", path, body)
        assert (status, answer["code"]) == (403, "policy"), path
        assert "belongs to the repository acme" in answer["error"]
    assert box.call("POST", "/api/copy", {"source": "echo", "destination": "free"})[0] == 200


def test_a_site_of_its_own_takes_and_serves_nothing_unsigned_at_once(box):
    assert box.call("POST", "/api/generate", ASK)[0] == 200
    enrol(box, is_site=True)
    for path, body in [*ways_in("anything"), ("/api/generate", ASK), ("/api/show", ASK)]:
        status, answer = box.call("POST", path, body)
        assert (status, answer["code"]) == (403, "policy"), path
        assert "signed models only" in answer["error"]
    assert "echo:latest" in names(box)


def test_an_open_box_pulls_in_one_command_and_locks(start_service, name):
    service = start_service()
    assert transfer(service, "pull", name)[-1] == {"status": "success"}
    assert transfer(service, "pull", name)[-1] == {"status": "success"}
    assert trust_of(service, name) == "unsigned (locked)"
    locks = json.loads((service.state / "lock.json").read_bytes())
    (lock,) = locks.values()
    assert lock["host"] == "127.0.0.1"
    with ollama.Client(host=service.url) as client:
        assert client.show(name).details.format == "gguf"
        assert [model.model for model in client.list().models if "tiny" in model.model] == [name]


def test_a_changed_model_needs_a_word_and_the_old_one_stays(start_service, origin, tiny_gguf):
    service = start_service()
    origin.create("moving", tiny_gguf, system="Old.")
    name = f"{origin.url.removeprefix('http://')}/library/moving:latest"
    with ollama.Client(host=service.url) as client:
        assert client.pull(name).status == "success"
        origin.create("moving", tiny_gguf, system="New.")
        with pytest.raises(ollama.ResponseError, match="nobody signed the change") as caught:
            client.pull(name)
        assert caught.value.status_code == 403
        last = transfer(service, "pull", name)[-1]
        assert last["code"] == "confirmation_needed"
        assert f"`hearth pull --confirm {name}`" in last["hint"]
        assert client.show(name).modelfile.count("Old.") == 1
        assert transfer(service, "pull", name, confirm=True)[-1] == {"status": "success"}
        assert transfer(service, "pull", name)[-1] == {"status": "success"}
        assert client.show(name).modelfile.count("New.") == 1


def test_hosts_that_nobody_listed_are_not_asked(start_service):
    service = start_service(trust_hosts="listed.example")
    for fields in ({}, {"insecure": True}):
        body = {"model": "evil.example/a/b", "stream": True} | fields
        status, answer = service.call("POST", "/api/pull", body)
        assert (status, answer["code"]) == (403, "policy")
        assert 'trust_hosts = "evil.example"' in answer["hint"]
    insecure = {"model": "listed.example/a/b", "insecure": True}
    status, answer = service.call("POST", "/api/pull", insecure)
    assert (status, answer["code"]) == (403, "policy")
    assert "registry_mirrors: listed.example=http://listed.example" in answer["hint"]


def test_warn_asks_once_for_each_model(start_service, name):
    service = start_service(trust_mode="warn")
    done = run_cli(service, "pull", name)
    assert done.returncode == 1
    assert f"`hearth pull --confirm {name}`" in done.stderr
    assert name not in names(service)
    assert run_cli(service, "pull", "--confirm", name).returncode == 0
    assert run_cli(service, "pull", name).returncode == 0
    assert "unsigned (locked)" in run_cli(service, "list", "--trust").stdout
    assert "unsigned (locked)" in run_cli(service, "show", name).stdout
    assert run_cli(service, "rm", name).returncode == 0
    assert send(service, "POST", "/api/pull", body={"model": name}).status == 403


def test_damaged_locks_stop_pulls_with_one_clear_error(start_service, name):
    service = start_service()
    (service.state / "lock.json").write_bytes(b"{")
    status, answer = service.call("POST", "/api/pull", {"model": name})
    assert (status, answer["code"]) == (500, "library_error")
    assert "lock.json, which holds the digests of unsigned models, is damaged" in answer["error"]
    assert service.call("GET", "/api/tags")[0] == 200
    assert "lock.json" in service.call("GET", "/hearth/v1/status")[1]["problems"][0]


@pytest.mark.parametrize(("mode", "status"), [("open", 200), ("warn", 404), ("signed", 404)])
def test_the_network_gets_unsigned_models_only_from_an_open_box(
    start_service, tiny_gguf, mode, status
):
    first = start_service()
    first.create("echo", tiny_gguf)
    first.stop()
    service = start_service(first.state, trust_mode=mode, share_models="on")
    path = "/v2/library/echo/manifests/latest"
    body = {"name": "a neighbour", "scopes": ["chat"]}
    secret = service.call("POST", "/hearth/v1/keys", body)[1]["secret"]
    network = [*NETWORK, ("Authorization", f"Bearer {secret}")]
    assert send(service, "GET", path, headers=network).status == status
    assert send(service, "GET", path).status == 200
    built_in = "/v2/library/hearth/manifests/latest"
    assert send(service, "GET", built_in, headers=network).status == 200


def test_in_signed_mode_no_unsigned_byte_reaches_a_parser(start_service, parsed, name, tmp_path):
    """An unsigned pull, an unsigned create and a hand-copied model (issue 4)."""
    service = start_service(trust_mode="signed")
    before = set(parsed())
    weights = tiny_llama_bytes()
    blob = digest_of(weights)

    status, answer = service.call("POST", "/api/pull", {"model": name, "confirm": True})
    assert (status, answer["code"]) == (403, "policy")
    assert f"tools/bundle adopt {name} --as site/tiny" in answer["hint"]

    upload = send(service, "POST", f"/api/blobs/{blob}", body=weights)
    assert (upload.status, upload.json["code"]) == (403, "policy")
    store = service.state / "models"
    (store / "blobs" / blob.replace(":", "-")).write_bytes(weights)
    made = {"model": "mine", "files": {"m.gguf": blob}, "stream": False}
    assert service.call("POST", "/api/create", made)[0] == 403
    from_base = {"model": "mine", "from": "hearth", "system": "x", "stream": False}
    assert service.call("POST", "/api/create", from_base)[0] == 403

    hand_copied(store, weights)
    assert trust_of(service, "copied:latest") == "unsigned"
    ask = {"model": "copied", "prompt": "one", "stream": False}
    for path, body in [
        ("/api/generate", ask),
        ("/api/chat", {"model": "copied", "messages": [{"role": "user", "content": "x"}]}),
        ("/api/embed", {"model": "copied", "input": "x"}),
        ("/api/show", {"model": "copied"}),
        ("/api/show", {"model": "copied", "verbose": True}),
        ("/v1/completions", {"model": "copied", "prompt": "x"}),
        ("/v1/embeddings", {"model": "copied", "input": "x"}),
        ("/api/create", {"model": "mine", "from": "copied"}),
    ]:
        status, answer = service.call("POST", path, body)
        assert status == 403, (path, answer)
    assert service.call("GET", "/hearth/v1/plan?model=copied")[0] == 403

    assert [path for path in parsed() if blob.removeprefix("sha256:") in path] == []
    assert service.call("POST", "/api/generate", ask | {"model": "hearth"})[0] == 200
    assert len(set(parsed()) | before) > 0  # the witness does see what is parsed


def hand_copied(store, weights):
    """Put a model into the store as somebody with a shell would."""
    config = b"{}"
    for data in (weights, config):
        (store / "blobs" / digest_of(data).replace(":", "-")).write_bytes(data)
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": digest_of(weights),
        "size": len(weights),
    }
    described = {"digest": digest_of(config), "size": len(config)}
    path = store / "manifests/registry.ollama.ai/library/copied/latest"
    path.parent.mkdir(parents=True)
    body = {"schemaVersion": 2, "config": described, "layers": [layer]}
    path.write_text(json.dumps(body))


@pytest.fixture
def signed_box(tmp_path, start_service):
    """A box in `signed` with one signed release that is active, and its publisher."""
    publisher = Publisher(tmp_path / "published")
    with web_root(publisher.folder) as web:
        state = tmp_path / "box"
        bundle_box.enrol(state, publisher, web.url, is_site=True)
        box = bundle_box.Box(start_service(state), publisher, web)
        box.publish("1.0.0", "Be kind.")
        box.install()
        yield box


def test_a_signed_release_serves_and_is_labelled(signed_box):
    assert "Be kind." in signed_box.ask()
    assert trust_of(signed_box.service, SIGNED) == "signed (acme)"
    shown = signed_box.service.call("POST", "/api/show", {"model": SIGNED})[1]
    assert shown["trust"] == "signed (acme)"
    status = signed_box.service.call("GET", "/hearth/v1/status")[1]
    assert status["trust"] == {
        "mode": "signed", "repositories": [{"name": "acme", "freshness": "fresh"}],
    }  # fmt: skip


def test_a_manifest_that_was_swapped_by_hand_is_not_served(signed_box):
    manifests = signed_box.service.state / "models/manifests/registry.ollama.ai"
    path = manifests / "acme/assistant/latest"
    good = path.read_bytes()
    path.write_bytes(good + b" ")
    assert "signed models only" in signed_box.ask()
    assert trust_of(signed_box.service, SIGNED) == "unsigned (changed)"
    other = manifests / "library/stolen/latest"
    other.parent.mkdir(parents=True)
    shutil.copy(path, other)
    other.write_bytes(good)  # signed bytes, but under a name that nobody signed them for
    ask = ASK | {"model": "stolen"}
    assert signed_box.service.call("POST", "/api/generate", ask)[1]["code"] == "policy"
    path.write_bytes(good)
    assert "Be kind." in signed_box.ask()


def test_a_repository_that_was_silent_for_long_installs_nothing_new(tmp_path, start_service):
    publisher = Publisher(tmp_path / "published")
    with web_root(publisher.folder) as web:
        state = tmp_path / "box"
        bundle_box.enrol(state, publisher, web.url, freshness_s=86_400)
        box = bundle_box.Box(start_service(state), publisher, web)
        box.publish("1.0.0", "Be kind.")
        publisher.silent_for(20)
        assert box.refused()[0] == "expired"
        assert box.service.call("GET", "/hearth/v1/status")[1]["trust"]["repositories"] == [
            {"name": "acme", "freshness": "stale"}
        ]
        assert "trust" in run_cli(box.service, "status").stdout
        assert "acme is stale" in run_cli(box.service, "status").stdout
        shown = run_cli(box.service, "trust", "show", "acme").stdout
        assert "no new installs until it speaks again" in shown
        assert Path(state / "bundles").exists() is False
