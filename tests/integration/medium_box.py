"""What the tests of media share: a publisher's stick, and a box that has nothing but the stick."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundles.layout import Layout
from appliance.library.manifest import CONFIG_TYPE, MANIFEST_TYPE, MODEL_TYPE, Digest, Manifest
from appliance.trust.repositories import Repositories, Repository, read_root
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.publisher import CONFIG, MODEL
from tests.fakes.tuf_repository import tree
from tests.integration.cli_process import Command
from tests.integration.raw_http import send

WEIGHTS = tiny_llama_bytes()
NAME = f"{MODEL}:latest"


def enrol_offline(state, publisher, names=("acme/*",), **fields):
    """Let the box with this state folder trust the publisher, by media alone."""
    repository = Repository(publisher.name, names, **fields)
    root = read_root(publisher.root)
    Repositories(Path(state) / "trust").enrol(repository, publisher.root, root.fingerprint)


def publish(publisher, version, system, *tags, model=MODEL, weights=WEIGHTS, **fields):
    """A release with one variant under its version and the tags; the layout's index names them."""
    index = publisher.release(version, publisher.variant(weights, system), **fields)
    publisher.list(index, version, *tags, model=model)
    name_all(publisher, index, [f"{model}:{tag}" for tag in (version, *tags)])
    return index


def publish_heavy(publisher, version, ballast, *tags):
    """A release that has besides the model a part of no meaning, so that it takes a while."""
    layers = (publisher.put(WEIGHTS, MODEL_TYPE), publisher.put(ballast, "application/x-ballast"))
    manifest = Manifest(publisher.put(CONFIG, CONFIG_TYPE), layers).encode()
    described = publisher.put(manifest, MANIFEST_TYPE)
    variant = publisher.variant(WEIGHTS)
    heavy = type(variant)("f32", described.digest, described.size)
    index = publisher.release(version, heavy)
    publisher.list(index, version, *tags)
    name_all(publisher, index, [f"{MODEL}:{tag}" for tag in (version, *tags)])
    return Digest.of(ballast)


def name_all(publisher, index, refs):
    path = publisher.folder / "index.json"
    if not path.exists():
        path.write_text('{"schemaVersion":2,"manifests":[]}')
    for ref in refs:
        Layout(publisher.folder).set_release(ref, index, len(publisher.blobs[str(index)]))


def copied(publisher, medium):
    """What the publisher has now, on a new or older medium; the medium."""
    shutil.copytree(publisher.folder, medium / "hearth", dirs_exist_ok=True)
    return medium


@dataclass
class OfflineBox:
    """A running service that gets everything by medium."""

    service: Any

    @property
    def hearth(self):
        return Command(self.service.url)

    def bring(self, path, *models, **fields):
        """The lines of /hearth/v1/import."""
        body = {"path": str(path), "models": list(models), **fields}
        reply = send(self.service, "POST", "/hearth/v1/import", body=body)
        return reply.lines if reply.status == 200 else [reply.json]

    def imported(self, path, *models, **fields):
        """Import, which must succeed; its statuses."""
        lines = self.bring(path, *models, **fields)
        assert lines[-1] == {"status": "success"}, lines[-1]
        return [line["status"] for line in lines]

    def not_imported(self, path, *models, **fields):
        """Import, which must fail: the last line."""
        last = self.bring(path, *models, **fields)[-1]
        assert "error" in last, last
        return last

    def ask(self, prompt="hi", name=NAME):
        """What the model answers; with the echo engine that is its prompt, system text included."""
        body = {"model": name, "messages": [{"role": "user", "content": prompt}], "stream": False}
        reply = send(self.service, "POST", "/api/chat", body=body)
        return reply.json["message"]["content"] if reply.status == 200 else str(reply.json)

    def version(self, name=NAME):
        """The release that is active."""
        return self.service.call("GET", f"/hearth/v1/bundles/show?model={name}")[1]["version"]

    def signed(self):
        """The names of all signed models."""
        bundles = self.service.call("GET", "/hearth/v1/bundles")[1]["bundles"]
        return [bundle["model"] for bundle in bundles]

    def everything(self):
        """Every byte of trust, states, manifests and blobs, but for locks."""
        folders = ("trust", "bundles", "models")
        found = {
            f"{folder}/{name}": data
            for folder in folders
            for name, data in tree(self.service.state / folder).items()
        }
        return {name: data for name, data in found.items() if not name.endswith("/lock")}
