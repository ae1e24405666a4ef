"""Roots of trust: enrolled with a compared fingerprint, several side by side, never in silence."""

import re
import subprocess
import sys

import pytest

from appliance.errors import ConfigError, LibraryError, NotFoundError
from appliance.trust.errors import TrustError
from appliance.trust.fetch import from_folder
from appliance.trust.repositories import MAX_ROOT_BYTES, Repositories, Repository, read_root
from tests.fakes.tuf_repository import TufRepository, days, tree

NAME = "acme/assistant/1.2.0"


@pytest.fixture
def repositories(tmp_path):
    return Repositories(tmp_path / "trust")


def root_of(repo):
    return repo.files["1.root.json"]


def enrolled(repositories, name="acme", names=("acme/*",), **fields):
    repo = TufRepository()
    repository = Repository(name, names, **fields)
    repositories.enrol(repository, root_of(repo), read_root(root_of(repo)).fingerprint)
    return repo


def test_a_fingerprint_is_eight_groups_of_five_digits_and_names_the_keys():
    repo = TufRepository()
    candidate = read_root(root_of(repo))
    assert re.fullmatch(r"(\d{5} ){7}\d{5}", candidate.fingerprint)
    assert (candidate.version, candidate.keys, candidate.threshold) == (1, 1, 1)
    assert candidate.fingerprint != read_root(root_of(TufRepository())).fingerprint


def test_a_fingerprint_does_not_depend_on_who_signed_in_which_order():
    repo = TufRepository()
    repo.set_keys("root", 3, 2)
    a, b, c = repo.signers["root"]
    roots = [repo.sign("root", repo.root, signers) for signers in ([a, b], [c, a], [a, b, c])]
    assert len({read_root(root).fingerprint for root in roots}) == 1


def test_enrolment_needs_the_fingerprint_that_a_person_compared(repositories, tmp_path):
    root = root_of(TufRepository())
    other = read_root(root_of(TufRepository())).fingerprint
    for confirmed in ("", "0", other, read_root(root).fingerprint[:-1]):
        with pytest.raises(TrustError, match="fingerprint is") as caught:
            repositories.enrol(Repository("acme", ("acme/*",)), root, confirmed)
        assert caught.value.code == "signature"
    assert tree(tmp_path) == {}
    unspaced = read_root(root).fingerprint.replace(" ", "")
    repositories.enrol(Repository("acme", ("acme/*",)), root, unspaced)
    assert [repository.name for repository in repositories.all()] == ["acme"]


def test_a_root_that_nobody_confirmed_is_never_used(repositories):
    with pytest.raises(NotFoundError):
        repositories.store("acme")


@pytest.mark.parametrize("cut", [b"", b"{}", b"[1]", b"not json", b"[" * 90_000])
def test_what_is_no_root_is_malformed(cut):
    with pytest.raises(TrustError) as caught:
        read_root(cut)
    assert caught.value.code == "malformed"


def test_other_roles_and_unsigned_or_huge_roots_are_refused():
    repo = TufRepository()
    unsigned = repo.sign("root", repo.root, TufRepository().signers["root"])
    cases = [(repo.files["timestamp.json"], "malformed"), (unsigned, "signature")]
    for data, code in [*cases, (b" " * (MAX_ROOT_BYTES + 1), "too_large")]:
        with pytest.raises(TrustError) as caught:
            read_root(data)
        assert caught.value.code == code


def test_several_repositories_each_speak_for_their_own_names(repositories, tmp_path):
    acme = enrolled(repositories)
    site = enrolled(repositories, "site", ("site/*",), is_site=True)
    for repo, name in ((acme, NAME), (site, "site/helper/1")):
        repo.add(name, b"one")
        repo.publish("targets")
        stick = from_folder(repo.write_to(tmp_path / name.partition("/")[0]))
        store = repositories.store(name.partition("/")[0])
        assert store.refresh(stick, [name]).targets[name].length == 3
    assert repositories.has_site_root()
    (tmp_path / "trust" / "lock.json").write_text("{}")  # a file of ours, not a repository
    assert list(repositories.owned()) == ["acme", "site"]
    with pytest.raises(TrustError) as caught:  # the other's stick is foreign
        repositories.store("acme").refresh(from_folder(tmp_path / "site"))
    assert caught.value.code in {"signature", "rollback"}


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        (Repository("other", ("acme/*",)), "overlap"),
        (Repository("other", ("ac*/x",)), "overlap"),
        (Repository("acme", ("new/*",)), "already"),
        (Repository("../evil", ("new/*",)), "not a repository name"),
        (Repository("", ("new/*",)), "not a repository name"),
        (Repository("other", ()), "owns no names"),
        (Repository("other", ("a",)), "name pattern"),
        (Repository("other", ("new/*",), metadata_url="file:///etc"), "http"),
        (Repository("other", ("new/*",), freshness_s=-1), "freshness"),
    ],
)
def test_enrolments_that_cannot_be(repositories, tmp_path, repository, message):
    enrolled(repositories)
    before = tree(tmp_path)
    root = root_of(TufRepository())
    with pytest.raises(ConfigError, match=message):
        repositories.enrol(repository, root, read_root(root).fingerprint)
    assert tree(tmp_path) == before


def test_removal_forgets_and_frees_the_names(repositories, tmp_path):
    enrolled(repositories)
    repositories.remove("acme")
    assert repositories.all() == []
    assert tree(tmp_path) == {}
    enrolled(repositories, "other", ("acme/*",))
    with pytest.raises(NotFoundError):
        repositories.remove("acme")


@pytest.mark.parametrize("name", ["repository.json", "root.pin.json"])
def test_a_damaged_enrolment_is_said_and_can_be_removed(repositories, tmp_path, name):
    enrolled(repositories)
    path = tmp_path / "trust" / "acme" / name
    path.write_bytes(b"" if name == "repository.json" else root_of(TufRepository()))
    with pytest.raises(LibraryError, match="damaged"):
        repositories.store("acme")
    repositories.remove("acme")
    assert repositories.all() == []


def test_an_expired_pinned_root_is_the_start_of_a_longer_chain(repositories, tmp_path):
    repo = TufRepository()
    repo.root.expires = days(-400)
    repo.publish_root()
    pinned = root_of(repo)
    repositories.enrol(Repository("acme", ("acme/*",)), pinned, read_root(pinned).fingerprint)
    repo.root.expires = days(400)
    repo.next_root("root")
    trusted = repositories.store("acme").refresh(from_folder(repo.write_to(tmp_path / "stick")))
    assert trusted.versions["root"] == 2


def test_the_rules_and_the_enrolments_do_not_import_python_tuf():
    """Idle memory: 23 MiB more, and a third of a second at the start."""
    code = (
        "import sys, appliance.service, appliance.trust.policy, appliance.trust.repositories\n"
        "print(sorted({'tuf', 'securesystemslib', 'cryptography'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[]", run.stderr
