"""What the tests of signed models share: a publisher with a web root, and a box that trusts it.

The engine is the echo unless a test says otherwise: it says the prompt back, so an answer shows
which release's system text it was given; a system text with a directive makes a release that is
slow or that crashes.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.trust.repositories import Repositories, Repository, read_root
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.integration.raw_http import send

WEIGHTS = tiny_llama_bytes()
SMOKE = {"tests": [{"name": "says", "messages": [{"role": "user", "content": "one two"}]}]}


@dataclass
class Box:
    """A running service that trusts the publisher, and the model of one test on it."""

    service: Any
    publisher: Any
    web: Any
    model: str = "acme/assistant"
    settings: dict = field(default_factory=dict)

    # -- the publisher's side

    def publish(self, version, system, *tags, weights=WEIGHTS, facts=None, **fields):
        """Sign a release with one variant as its version, as `latest` and the tags; its index."""
        variant = self.publisher.variant(weights, system, **(facts or {}))
        index = self.publisher.release(version, variant, **fields)
        self.publisher.list(index, version, "latest", *tags, model=self.model)
        return index

    # -- the box

    def name(self, tag="latest"):
        return f"{self.model}:{tag}"

    def pull(self, tag="latest", **fields):
        """The lines of /api/pull."""
        body = {"model": self.name(tag), **fields}
        reply = send(self.service, "POST", "/api/pull", body=body)
        assert reply.status == 200, reply.content
        return reply.lines

    def install(self, tag="latest", **fields):
        """Pull, which must succeed; its statuses."""
        lines = self.pull(tag, **fields)
        assert lines[-1] == {"status": "success"}, lines[-1]
        return [line["status"] for line in lines]

    def refused(self, tag="latest", **fields):
        """Pull, which must fail: (code, error)."""
        last = self.pull(tag, **fields)[-1]
        assert "error" in last, last
        assert last["hint"]
        return last["code"], last["error"]

    def ask(self, prompt="hi", tag="latest"):
        """What the model answers, or the error."""
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.name(tag), "messages": messages, "stream": False}
        body["options"] = {"temperature": 0}  # the same question has the same answer
        reply = send(self.service, "POST", "/api/chat", body=body)
        return reply.json["message"]["content"] if reply.status == 200 else reply.json["error"]

    def show(self, tag="latest"):
        status, body = self.service.call("GET", f"/hearth/v1/bundles/show?model={self.name(tag)}")
        assert status == 200, body
        return body

    def why(self, tag="latest"):
        return self.service.call("GET", f"/hearth/v1/bundles/why?model={self.name(tag)}")[1]

    def act(self, verb, tag="latest", **fields):
        """(status, body) of rollback, pin, unpin or check."""
        body = {"model": self.name(tag), **fields}
        return self.service.call("POST", f"/hearth/v1/bundles/{verb}", body)

    def state_file(self, tag="latest"):
        return self.service.state / "bundles/registry.ollama.ai" / self.model / f"{tag}.json"

    def state(self, tag="latest"):
        """The state on disk, as JSON."""
        return json.loads(self.state_file(tag).read_bytes())["state"]

    def manifest_file(self, tag="latest"):
        return self.service.state / "models/manifests/registry.ollama.ai" / self.model / tag

    def has_blob(self, digest):
        return (self.service.state / "models/blobs" / digest.filename).exists()


def enrol(state, publisher, url, names=("acme/*",), **fields):
    """Let the box with this state folder trust the publisher's repository at `url`."""
    address = f"{url}/tuf/{publisher.name}/metadata/" if url else ""
    repository = Repository(publisher.name, names, metadata_url=address, **fields)
    root = read_root(publisher.root)
    Repositories(Path(state) / "trust").enrol(repository, publisher.root, root.fingerprint)


def says(*texts, **fields):
    """Smoke tests that the echo engine passes if its prompt has these texts."""
    test = SMOKE["tests"][0] | {"contains": list(texts)}
    return {"tests": [test], **fields}
