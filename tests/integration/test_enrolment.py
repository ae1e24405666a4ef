"""A site's enrolment file on the boot partition: a new box becomes the site's own, and says so."""

import datetime
import hashlib
import json
import sqlite3
from contextlib import closing

import msgspec
import pytest

from appliance.firstboot.apply import Machine, first_boot
from appliance.trust.enrolment import FILE, AdminKey, Enrolment, Paper
from appliance.trust.repositories import Repository, read_root
from tests.fakes.tuf_repository import TufRepository
from tests.integration.raw_http import send
from tests.integration.test_access_service import OUTSIDE, bearer, make_key
from tools.bundles.enrolment import add_signature
from tools.bundles.main import main as bundle

SITE = Repository("home", ("home/*",), is_site=True)
LATER = datetime.datetime(2036, 1, 1, tzinfo=datetime.UTC)
PAST = datetime.datetime(2026, 10, 1, tzinfo=datetime.UTC)  # after this release, before now


class Site:
    """A site's root, and enrolment files that it signs, or not."""

    def __init__(self):
        self.tuf = TufRepository()
        self.root = json.loads(self.tuf.files["1.root.json"])
        self.fingerprint = read_root(self.tuf.files["1.root.json"]).fingerprint

    def paper(self, repository=SITE, expires=LATER, admin_key=None):
        said = msgspec.to_builtins(Enrolment(repository, expires, admin_key))
        return self.sign(Paper(self.root, said))

    def sign(self, paper):
        for signer in self.tuf.signers["root"]:
            paper = add_signature(paper, signer)
        return paper


@pytest.fixture
def places(tmp_path):
    """A root, a boot partition and a state folder."""
    found = [tmp_path / name for name in ("root", "boot", "state")]
    for folder in found:
        (folder / "etc").mkdir(parents=True)
    return found


def switch_on(places, start_service):
    """What the first boot says, and the service that it leads to."""
    root, boot, state = places
    machine = Machine(root)
    first_boot(machine, boot, state)
    return machine.said, start_service(state)


def condition(service, code):
    found = service.call("GET", "/hearth/v1/doctor")[1]["conditions"]
    return next((each for each in found if each["code"] == code), None)


def audit(service):
    entries = service.call("GET", "/hearth/v1/audit?limit=20")[1]["entries"]
    return [(e["who"], e["target"], e["outcome"]) for e in entries if e["action"] == "enrol"]


def is_owned(service):
    return service.call("GET", "/hearth/v1/pair")[1]["claimed"]


def make_site(folder, monkeypatch):
    """As tools/bundles/README.md says: keys, a repository, and the file, by the tool."""
    monkeypatch.setenv("BUNDLE_PASSPHRASE", "correct horse battery")
    monkeypatch.setenv("BUNDLE_REPO", str(folder / "tuf/home"))
    monkeypatch.chdir(folder)
    steps = """keys new --officer ann --folder keys
        keys new --officer bob --folder keys
        keys new --online --folder keys
        repo init --root-threshold 2 --officer keys/ann.pub --officer keys/bob.pub
          --online keys/online.pub
        repo sign --yes tuf/home/draft/1.root.json keys/ann.key
        repo sign --yes tuf/home/draft/1.root.json keys/bob.key
        repo sign --yes tuf/home/draft/1.targets.json keys/ann.key
        repo sign --yes tuf/home/draft/1.targets.json keys/bob.key
        repo publish keys/online.key
        enrolment new site-root.json --name home --names home/* --admin-key admin.key
        enrolment sign --yes site-root.json keys/ann.key
        enrolment sign --yes site-root.json keys/bob.key"""
    for line in steps.replace("\n          ", " ").splitlines():
        assert bundle(line.split()) == 0, line
    return folder / FILE, (folder / "admin.key").read_text().strip()


def test_a_new_box_becomes_the_sites_own_and_says_so(
    places, start_service, tmp_path, monkeypatch, capfd
):
    (tmp_path / "office").mkdir()
    paper, token = make_site(tmp_path / "office", monkeypatch)
    told = capfd.readouterr().out
    assert "signed by enough" in told
    assert "is not signed by 2 of the keys" in told  # after the first of two officers
    assert token not in told
    boot, state = places[1:]
    (boot / FILE).write_bytes(paper.read_bytes())
    said, service = switch_on(places, start_service)
    assert said == [f"{FILE} was read; `hearth doctor` says what became of it"]
    assert not (boot / FILE).exists()
    assert b"signatures" not in (boot / f"{FILE}.read").read_bytes()
    assert not (state / FILE).exists()

    found = condition(service, "site_enrolled")
    assert found["severity"] == "note"
    assert "made this box one of home" in found["text"]
    assert is_owned(service)
    assert service.call("GET", "/hearth/v1/pair")[1]["code"] is None
    headers = [OUTSIDE, bearer(token)]
    assert send(service, "GET", "/hearth/v1/keys", headers=headers).status == 200
    trust = service.call("GET", "/hearth/v1/status")[1]["trust"]
    assert (trust["mode"], trust["repositories"][0]["name"]) == ("signed", "home")
    [(who, target, outcome)] = audit(service)
    assert (who, target) == ("the boot partition", "home")
    assert outcome.removeprefix("root ") in found["cure"]
    assert service.stop() == 0

    (boot / FILE).write_bytes(paper.read_bytes())  # once more, as after a change of mind
    _, again = switch_on(places, start_service)
    assert condition(again, "site_enrolled") == found
    assert send(again, "GET", "/hearth/v1/keys", headers=headers).status == 200
    assert condition(again, "enrolment_refused") is None


def _tampered(site):
    paper = site.paper()
    paper.signed["repository"]["names"] = ["*/*"]
    return paper


def _with_another_key(site):
    paper = site.paper(admin_key=AdminKey("abc", "0" * 64))
    paper.signed["admin_key"]["secret_sha256"] = "1" * 64
    return paper


def _foreign(site):
    stranger = Site()
    paper = stranger.paper()
    paper.root = site.root
    return paper


def _unsigned(site):
    paper = site.paper()
    paper.signatures = []
    return paper


BAD = {
    "tampered": (_tampered, "is not signed by 1 of the keys", "compare it"),
    "another key": (_with_another_key, "is not signed by 1 of the keys", "compare it"),
    "foreign": (_foreign, "is not signed by 1 of the keys", "compare it"),
    "unsigned": (_unsigned, "is not signed by 1 of the keys", "bundle enrolment sign"),
    "expired": (lambda site: site.paper(expires=PAST), "was good until 2026-10-01", "the clock"),
    "not the site's": (
        lambda site: site.paper(Repository("home", ("home/*",))), "must say is_site", "new one",
    ),
    "a root alone": (lambda site: site.root, "is not an enrolment file", "bundle enrolment new"),
    "no name": (
        lambda site: site.paper(Repository("../x", ("home/*",), is_site=True)),
        "is not a repository name", "lower-case letters",
    ),
    "deep": (lambda _: b"[" * 100_000, "is not an enrolment file", "bundle enrolment new"),
    "huge": (lambda _: b" " * 600_000, "more than 577536 bytes", "bundle enrolment new"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_wrong_changes_nothing_and_is_one_clear_condition(
    case, places, start_service
):
    make, problem, cure = BAD[case]
    made = make(Site())
    boot, state = places[1:]
    (boot / FILE).write_bytes(made if isinstance(made, bytes) else msgspec.json.encode(made))
    (boot / "hearth.toml").write_text('name = "Kitchen"\n')
    _, service = switch_on(places, start_service)
    found = condition(service, "enrolment_refused")
    assert problem in found["text"]
    assert cure in found["cure"]
    assert (places[0] / "etc/hearth/hearth.toml").read_text() == 'name = "Kitchen"\n'
    assert not is_owned(service)
    assert service.call("GET", "/hearth/v1/pair")[1]["code"]
    assert service.call("GET", "/hearth/v1/status")[1]["trust"]["mode"] == "open"
    assert [target for _, target, _ in audit(service)] == [FILE]
    assert list(boot.glob("site-root*")) == [boot / f"{FILE}.read"]
    assert not (state / FILE).exists()


def test_what_was_refused_is_told_until_the_box_has_an_owner(places, start_service):
    (places[1] / FILE).write_text("{}")
    _, service = switch_on(places, start_service)
    service.stop()
    again = start_service(places[2])
    assert condition(again, "enrolment_refused")
    make_key(again, "admin")
    again.stop()
    assert condition(start_service(places[2]), "enrolment_refused") is None


def test_a_box_with_an_owner_stays_the_owners(places, start_service):
    first = start_service(places[2])
    token, _ = make_key(first, "admin")
    first.stop()
    (places[1] / FILE).write_bytes(msgspec.json.encode(Site().paper()))
    _, service = switch_on(places, start_service)
    found = condition(service, "enrolment_refused")
    assert "has an owner already" in found["text"]
    assert "hearth-reset-keys" in found["cure"]
    assert service.call("GET", "/hearth/v1/status")[1]["trust"]["repositories"] == []
    headers = [OUTSIDE, bearer(token)]
    assert send(service, "GET", "/hearth/v1/keys", headers=headers).status == 200


def test_with_the_physical_act_beside_it_the_same_file_counts_again(places, start_service):
    site = Site()
    token = f"hearth_abc_{'s' * 52}"
    digest = hashlib.sha256(b"s" * 52).hexdigest()
    data = msgspec.json.encode(site.paper(admin_key=AdminKey("abc", digest)))
    headers = [OUTSIDE, bearer(token)]
    for acts in (0, 1):
        (places[1] / FILE).write_bytes(data)
        if acts:
            (places[1] / "hearth-reset-keys").touch()
        _, service = switch_on(places, start_service)
        assert condition(service, "site_enrolled"), acts
        assert send(service, "GET", "/hearth/v1/keys", headers=headers).status == 200
        service.stop()


def test_a_power_cut_between_the_steps_is_made_good_at_the_next_start(places, start_service):
    """The repository was enrolled, the owner not yet written, the file still there."""
    state, data = places[2], msgspec.json.encode(Site().paper())
    (places[1] / FILE).write_bytes(data)
    _, service = switch_on(places, start_service)
    found = condition(service, "site_enrolled")
    service.stop()
    with closing(sqlite3.connect(state / "hearth.db")) as database:
        database.execute("UPDATE claim SET claimed_at = NULL, code = 'abcdefgh'")
        database.commit()
    (state / "enrolment.json").unlink()
    (state / FILE).write_bytes(data)
    again = start_service(state)
    assert is_owned(again)
    assert condition(again, "site_enrolled") == found
