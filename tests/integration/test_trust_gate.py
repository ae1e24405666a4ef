"""The gate on real files: modes from enrolment, hosts of the settings, locks, labels, damage."""

import pytest
from yarl import URL

from appliance.config import load_settings
from appliance.errors import LibraryError
from appliance.library import builtin
from appliance.library.library import Library
from appliance.library.manifest import Digest
from appliance.library.names import ModelName
from appliance.trust.errors import PolicyRefusedError
from appliance.trust.gate import LOCK_FILE, Gate, Signed
from appliance.trust.policy import Mode, Verdict
from appliance.trust.repositories import Repositories, Repository, read_root
from tests.fakes.tuf_repository import TufRepository

OLLAMA = URL("https://registry.ollama.ai")
ONE, TWO = Digest("1" * 64), Digest("2" * 64)
LLAMA = ModelName.parse("llama3")


@pytest.fixture
def make_gate(tmp_path):
    def make(**settings):
        flags = {"state": str(tmp_path), **settings}
        return Gate(load_settings(flags, {}, None), Repositories(tmp_path / "trust"), lambda: 7)

    return make


@pytest.fixture
def shipped(tmp_path):
    """The library of a box that just started for the first time, and its model."""
    library = Library(tmp_path / "models")
    builtin.install_once(library, tmp_path)
    return library, library.get(builtin.NAME)


def enrol(tmp_path, **fields):
    root = TufRepository().files["1.root.json"]
    repository = Repository("acme", ("acme/*",), **fields)
    Repositories(tmp_path / "trust").enrol(repository, root, read_root(root).fingerprint)


def test_auto_is_open_until_a_site_root_is_enrolled(make_gate, tmp_path):
    gate = make_gate()
    assert gate.mode() is Mode.OPEN
    enrol(tmp_path, is_site=True)
    assert gate.mode() is Mode.SIGNED
    assert make_gate(trust_mode="warn").mode() is Mode.WARN


def test_a_repository_of_others_leaves_the_mode(make_gate, tmp_path):
    enrol(tmp_path)
    assert make_gate().mode() is Mode.OPEN


@pytest.mark.parametrize(
    ("url", "settings", "rule"),
    [
        ("https://registry.ollama.ai", {}, "unsigned_allowed"),
        ("https://hf.co", {}, "unsigned_allowed"),
        ("http://localhost:5000", {}, "unsigned_allowed"),
        ("https://evil.example", {}, "host"),
        ("http://hf.co", {}, "tls"),
        ("https://lan.example", {"trust_hosts": "LAN.example"}, "unsigned_allowed"),
        ("http://lan.example", {"trust_hosts": "lan.example"}, "tls"),
        ("http://lan.example:5000", {"registry": "http://lan.example:5000"}, "unsigned_allowed"),
        ("http://m", {"registry_mirrors": "hf.co=http://m"}, "unsigned_allowed"),
        ("http://m:81", {"registry_mirrors": "hf.co=http://m"}, "tls"),
    ],
)
def test_which_registries_may_be_asked(make_gate, url, settings, rule):
    assert make_gate(**settings).decide_pull(LLAMA, URL(url)).rule == rule


def test_the_first_pull_is_locked_and_a_change_needs_a_person(make_gate):
    gate = make_gate()
    gate.require_pull(LLAMA, OLLAMA, ONE, confirmed=False)
    gate.lock(LLAMA, OLLAMA, ONE)
    again = make_gate()
    again.require_pull(LLAMA, OLLAMA, ONE, confirmed=False)
    with pytest.raises(PolicyRefusedError, match="nobody signed the change"):
        again.require_pull(LLAMA, OLLAMA, TWO, confirmed=False)
    again.require_pull(LLAMA, OLLAMA, TWO, confirmed=True)
    again.lock(LLAMA, OLLAMA, TWO)
    again.require_pull(LLAMA, OLLAMA, TWO, confirmed=False)
    again.unlock(LLAMA)
    again.require_pull(LLAMA, OLLAMA, ONE, confirmed=False)


def test_an_owned_name_never_comes_by_an_unsigned_pull(make_gate, tmp_path):
    enrol(tmp_path)
    with pytest.raises(PolicyRefusedError, match="belongs to the repository acme"):
        make_gate().require_pull(ModelName.parse("acme/x"), OLLAMA, ONE, confirmed=True)


def test_damaged_locks_are_one_clear_error(make_gate, tmp_path):
    (tmp_path / LOCK_FILE).write_bytes(b"{")
    gate = make_gate()
    with pytest.raises(LibraryError, match=r"lock\.json.* is damaged"):
        gate.require_pull(LLAMA, OLLAMA, ONE, confirmed=True)
    (problem,) = gate.problems()
    assert "remove it" in problem


def test_the_model_of_the_package_is_the_vendors_under_its_own_name_alone(make_gate, shipped):
    library, model = shipped
    gate = make_gate(trust_mode="signed")
    gate.require_serve(model)
    assert gate.labels([model]) == ["built in"]
    library.copy(builtin.NAME, ModelName.parse("other"))
    with pytest.raises(PolicyRefusedError, match="other:latest lies on the disk"):
        gate.require_serve(library.get(ModelName.parse("other")))


def test_a_changed_built_in_model_is_nobodys(make_gate, shipped):
    library, model = shipped
    library.write_manifest(builtin.NAME, model.manifest.encode() + b" ")
    changed = library.get(builtin.NAME)
    gate = make_gate(trust_mode="signed")
    assert gate.labels([changed]) == ["unsigned"]
    with pytest.raises(PolicyRefusedError):
        gate.require_serve(changed)


def test_only_what_was_signed_is_served_and_shared(make_gate, shipped):
    library, model = shipped
    library.copy(builtin.NAME, LLAMA)
    stored = library.get(LLAMA)
    gate = make_gate(trust_mode="signed")
    gate.vouched_by(lambda name: Signed("acme", frozenset({Digest(model.digest)})))
    gate.require_serve(stored)
    assert gate.may_share(stored)
    assert gate.labels([stored]) == ["signed (acme)"]
    gate.vouched_by(lambda name: Signed("acme", frozenset({ONE})))
    assert gate.labels([stored]) == ["unsigned (changed)"]
    assert not gate.may_share(stored)
    with pytest.raises(PolicyRefusedError):
        gate.require_serve(stored)


@pytest.mark.parametrize(
    ("locked", "label"),
    [(None, "unsigned"), (ONE, "unsigned (changed)"), ("own", "unsigned (locked)")],
)
def test_labels_of_unsigned_models(make_gate, shipped, locked, label):
    library, model = shipped
    library.copy(builtin.NAME, LLAMA)
    gate = make_gate()
    if locked:
        gate.lock(LLAMA, OLLAMA, Digest(model.digest) if locked == "own" else locked)
    assert gate.labels([library.get(LLAMA)]) == [label]


def test_damage_lets_signed_models_serve_on_and_no_others(make_gate, shipped, tmp_path):
    library, model = shipped
    library.copy(builtin.NAME, LLAMA)
    enrol(tmp_path)
    (tmp_path / "trust/acme/repository.json").write_bytes(b"{")
    gate = make_gate()
    gate.require_serve(model)
    with pytest.raises(PolicyRefusedError, match="repository acme is damaged"):
        gate.require_serve(library.get(LLAMA))
    with pytest.raises(LibraryError, match="damaged"):
        gate.decide_pull(LLAMA, OLLAMA)
    assert len(gate.problems()) == 1


def test_a_damaged_state_vouches_for_nobody(make_gate, shipped):
    library, _ = shipped
    library.copy(builtin.NAME, LLAMA)

    def damaged(_name):
        raise LibraryError("the state is damaged", hint="make it anew")

    gate = make_gate(trust_mode="signed")
    gate.vouched_by(damaged)
    with pytest.raises(PolicyRefusedError, match="the state is damaged"):
        gate.require_serve(library.get(LLAMA))
    assert make_gate().decide_pull(LLAMA, OLLAMA).verdict is Verdict.ALLOW
