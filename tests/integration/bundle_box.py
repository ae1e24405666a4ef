"""What the tests of signed models share: a publisher with a web root, and a box that trusts it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.trust.repositories import Repositories, Repository, read_root
from tests.integration.raw_http import send

NAME = "acme/assistant:latest"
OTHER = "acme/assistant:1.0.0"


@dataclass
class Box:
    """A running service that trusts the publisher."""

    service: Any
    publisher: Any
    web: Any

    def pull(self, name=NAME, **fields):
        """The lines of /api/pull."""
        reply = send(self.service, "POST", "/api/pull", body={"model": name, **fields})
        assert reply.status == 200, reply.content
        return reply.lines

    def install(self, name=NAME, **fields):
        """Pull, which must succeed; its statuses."""
        lines = self.pull(name, **fields)
        assert lines[-1] == {"status": "success"}, lines[-1]
        return [line["status"] for line in lines]

    def refused(self, name=NAME, **fields):
        """Pull, which must fail: the last line."""
        last = self.pull(name, **fields)[-1]
        assert "error" in last, last
        return last

    def ask(self, prompt="hi", name=NAME):
        """What the model answers; with the echo engine that is its prompt, system text included."""
        body = {"model": name, "messages": [{"role": "user", "content": prompt}], "stream": False}
        reply = send(self.service, "POST", "/api/chat", body=body)
        return reply.json["message"]["content"] if reply.status == 200 else reply.json

    def show(self, name=NAME):
        return self.service.call("GET", f"/hearth/v1/bundles/show?model={name}")[1]

    def why(self, name=NAME):
        return self.service.call("GET", f"/hearth/v1/bundles/why?model={name}")[1]

    def act(self, verb, name=NAME, **fields):
        """(status, body) of rollback, pin, unpin or check."""
        return self.service.call("POST", f"/hearth/v1/bundles/{verb}", {"model": name, **fields})

    def version(self, name=NAME):
        return self.show(name)["version"]

    def blobs(self):
        folder = self.service.state / "models/blobs"
        return {path.name for path in folder.iterdir() if path.name.startswith("sha256-")}


def enrol(state, publisher, url, **fields):
    """Let the box with this state folder trust the publisher's repository at `url`."""
    repository = Repository(
        publisher.name,
        ("acme/*",),
        metadata_url=f"{url}/tuf/{publisher.name}/metadata/",
        **fields,
    )
    root = read_root(publisher.root)
    Repositories(Path(state) / "trust").enrol(repository, publisher.root, root.fingerprint)


def says(*texts, **fields):
    """Smoke tests that the echo engine passes if its prompt has these texts."""
    test = {"name": "says", "messages": [{"role": "user", "content": "one two"}]}
    return {"tests": [test | {"contains": list(texts)}], **fields}


def state_file(state, name=NAME):
    model, _, tag = name.rpartition(":")
    return Path(state) / "bundles/registry.ollama.ai" / model / f"{tag}.json"


def read_state(state, name=NAME):
    """The state on disk, as JSON."""
    return json.loads(state_file(state, name).read_bytes())["state"]
