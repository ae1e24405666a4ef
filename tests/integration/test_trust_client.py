"""`tools/tuf_client` as the tuf-conformance suite drives it: exit status, trusted files, requests.

The suite's own cases in small, against a repository on loopback: some through the executable, the
rest through the same `main`, because starting Python a hundred times is slow.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from securesystemslib.signer import CryptoSigner

from tests.fakes.tuf_repository import TufRepository, days, serving
from tools.tuf_conformance import main

TOOL = Path(__file__).resolve().parents[2] / "tools" / "tuf_client"


class Runner:
    """Calls the executable; `version` and `roles` read what it says it trusts."""

    def __init__(self, folder, server, is_executable=False):
        self.is_executable = is_executable
        self.metadata, self.targets = folder / "metadata", folder / "targets"
        self.metadata.mkdir()
        self.targets.mkdir()
        self.server = server
        self.root = folder / "initial_root.json"

    def init(self, root=None):
        self.root.write_bytes(root or self.server.repository.files["1.root.json"])
        return self.call("init", str(self.root))

    def refresh(self):
        return self.call("--metadata-url", f"{self.server.url}metadata", "refresh")

    def download(self, name):
        where = ("--target-base-url", f"{self.server.url}targets", "--target-dir", self.targets)
        url = ("--metadata-url", f"{self.server.url}metadata/")
        return self.call(*url, "--target-name", name, *where, "download")

    def version(self, role):
        path = self.metadata / f"{role}.json"
        return json.loads(path.read_bytes())["signed"]["version"] if path.exists() else None

    def versions(self):
        return [self.version(role) for role in ("root", "timestamp", "snapshot", "targets")]

    def downloads(self):
        return [path.read_bytes() for path in self.targets.rglob("*") if path.is_file()]

    def call(self, *arguments):
        arguments = ["--metadata-dir", str(self.metadata), *map(str, arguments)]
        if not self.is_executable:
            return main(arguments)
        environ = {**os.environ, "PYTHON": sys.executable}
        run = subprocess.run(
            [TOOL, *arguments], env=environ, capture_output=True, text=True, timeout=60
        )
        assert "Traceback" not in run.stderr, run.stderr
        return run.returncode


@pytest.fixture
def repo():
    return TufRepository()


@pytest.fixture
def client(tmp_path, repo):
    with serving(repo) as server:
        runner = Runner(tmp_path, server)
        assert runner.init() == 0
        yield runner


@pytest.fixture
def executable(client):
    client.is_executable = True
    return client


def test_basic_init_and_refresh(executable, repo):
    client = executable
    assert client.init() == 0
    assert client.server.requests == []
    assert client.versions() == [1, None, None, None]
    assert client.refresh() == 0
    assert client.server.requests == [
        "2.root.json",
        "timestamp.json",
        "1.snapshot.json",
        "1.targets.json",
    ]
    assert client.versions() == [1, 1, 1, 1]
    for role in ("timestamp", "snapshot", "targets"):
        name = "timestamp.json" if role == "timestamp" else f"1.{role}.json"
        assert (client.metadata / f"{role}.json").read_bytes() == repo.files[name]


def test_invalid_and_unsigned_initial_roots_make_no_request(tmp_path, repo):
    broken = json.loads(repo.files["1.root.json"])
    del broken["signed"]["version"]
    unsigned = repo.sign("root", repo.root, TufRepository().signers["root"])
    with serving(repo) as server:
        for index, root in enumerate((json.dumps(broken).encode(), unsigned)):
            folder = tmp_path / str(index)
            folder.mkdir()
            runner = Runner(folder, server)
            runner.init(root)
            assert runner.refresh() == 1
        assert server.requests == []


def test_download_once_and_again_only_when_it_changed(client, repo):
    name = "path/to/a/file.txt"
    repo.add(name, b"content one")
    repo.publish("targets")
    assert client.download("nonexistent") == 1
    assert client.versions() == [1, 2, 2, 2]
    assert client.download(name) == 0
    assert client.downloads() == [b"content one"]
    client.server.requests.clear()
    assert client.download(name) == 0
    assert not [request for request in client.server.requests if "file.txt" in request]
    repo.add(name, b"content two")
    repo.publish("targets")
    assert client.download(name) == 0
    assert client.downloads() == [b"content two"]


def test_a_substituted_target_is_refused(executable, repo):
    client = executable
    repo.add("file.txt", b"content one")
    repo.publish("targets")
    for bad in (b"content bad", b"content one and more", b"short"):
        repo.blobs = dict.fromkeys(repo.blobs, bad)
        assert client.download("file.txt") == 1
        assert client.downloads() == []


def test_root_expires_and_only_the_root_moves(client, repo):
    assert client.refresh() == 0
    repo.root.expires = days(-1)
    repo.next_root()
    repo.publish("targets")
    assert client.refresh() == 1
    assert client.versions() == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("role", "versions"), [("timestamp", [1, 1, 1, 1]), ("targets", [1, 2, 2, 1])]
)
def test_expired_roles_are_not_taken(client, repo, role, versions):
    assert client.refresh() == 0
    signed = repo.timestamp if role == "timestamp" else repo.targets
    signed.expires = days(-5)
    repo.publish("targets")
    assert client.refresh() == 1
    assert client.versions() == versions


def test_timestamp_of_equal_version_is_not_taken(client, repo):
    assert client.refresh() == 0
    repo.timestamp.snapshot_meta.version = 100
    repo.put_timestamp()
    assert client.refresh() == 0
    held = json.loads((client.metadata / "timestamp.json").read_bytes())
    assert held["signed"]["meta"]["snapshot.json"]["version"] == 1


def test_snapshot_rollback(client, repo):
    repo.publish("snapshot")
    assert client.refresh() == 0
    repo.snapshot.version = 1
    repo.put_snapshot()
    repo.bump_timestamp()
    assert client.refresh() == 1
    assert client.versions() == [1, 2, 2, 1]


def test_fast_forward_and_recovery(executable, repo):
    client = executable
    repo.timestamp.version = repo.snapshot.version = 99_999
    repo.publish("snapshot")
    assert client.refresh() == 0
    assert client.version("snapshot") == 99_999
    repo.next_root("timestamp", "snapshot")
    repo.timestamp.version = repo.snapshot.version = 1
    repo.put_snapshot()
    repo.put_timestamp()
    assert client.refresh() == 0
    assert client.versions() == [2, 1, 1, 1]


ROTATIONS = {
    "1 of 1": ([(["a"], 1, "a"), (["b"], 1, "ba")], True),
    "3 of 5, one rotated": ([("abcde", 3, "ace"), ("abdef", 3, "aeb")], True),
    "threshold raised": ([("abc", 1, "a"), ("abc", 2, "ab")], True),
    "threshold lowered": ([("abc", 2, "ab"), ("abc", 1, "ab"), ("abc", 1, "a")], True),
    "not signed by the old": ([("a", 1, "a"), ("b", 1, "bcd")], False),
    "not signed by the new": ([("a", 1, "a"), ("b", 1, "acd")], False),
    "new threshold not reached": ([("abc", 1, "a"), ("abc", 2, "b")], False),
    "old threshold not reached": ([("abc", 2, "ab"), ("abc", 1, "a")], False),
}


@pytest.mark.parametrize("case", ROTATIONS)
def test_root_rotation(client, repo, case):
    roots, accepted = ROTATIONS[case]
    keys = {letter: CryptoSigner.generate_ed25519() for letter in "abcdef"}
    for version, (listed, threshold, signing) in enumerate(roots, 1):
        repo.root.version = version
        repo.root.roles["root"].keyids.clear()
        repo.root.roles["root"].threshold = threshold
        for letter in listed:
            repo.root.add_key(keys[letter].public_key, "root")
        repo.publish_root([keys[letter] for letter in signing])
    assert client.init() == 0
    assert client.refresh() == (0 if accepted else 1)
    last = len(roots) if accepted else len(roots) - 1
    assert (client.metadata / "root.json").read_bytes() == repo.files[f"{last}.root.json"]


def test_keys_of_a_role_rotate_and_too_few_are_refused(client, repo):
    assert client.refresh() == 0
    repo.set_keys("snapshot", 3, 3)
    repo.next_root()
    repo.publish("snapshot")
    assert client.refresh() == 0
    repo.signers["snapshot"].pop()
    repo.publish("snapshot")
    assert client.refresh() == 1
    assert client.version("snapshot") == 2


def test_unknown_fields_are_part_of_what_is_signed(client, repo):
    repo.root.unrecognized_fields["custom-field"] = "value"
    repo.root.roles["root"].unrecognized_fields["another"] = {"a": [1]}
    repo.next_root()
    assert client.refresh() == 0
    assert client.version("root") == 2


@pytest.mark.parametrize("role", ["?", "#", "/delegatedrole", "../delegatedrole"])
def test_unusual_role_names_are_quoted(client, repo, role):
    repo.delegate(role, ["*"])
    repo.publish("targets", role)
    assert client.download("nonexistent") == 1
    assert f"1.{quote(role, '')}.json" in client.server.requests
    assert len(list(client.metadata.glob("*.json"))) == 5


def test_delegations_are_visited_in_order_and_end_at_a_terminating_one(client, repo):
    repo.delegate("first", ["*.txt"])
    repo.delegate("second", ["*.txt"], terminating=True)
    repo.delegate("third", ["*.txt"])
    repo.delegate("child", ["*.txt"], parent="first")
    repo.delegate("first", ["*.txt"], parent="child")  # a cycle
    repo.add("a.txt", b"from the third", "third")
    repo.publish("targets", "first", "second", "third", "child")
    assert client.download("a.txt") == 1
    asked = [name.split(".")[1] for name in client.server.requests[4:]]
    assert asked == ["first", "child", "second"]


def test_the_arguments_are_checked(executable):
    client = executable
    assert client.call("refresh") == 2
    assert client.call("--metadata-url", "http://127.0.0.1:1/", "download") == 2
    assert client.call("--metadata-url", "http://127.0.0.1:1/", "refresh") == 1
