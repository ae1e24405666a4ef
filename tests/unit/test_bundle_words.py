"""What an officer reads before signing: the change, then everything that holds afterwards."""

import datetime

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile

from tools.bundles.keys import fingerprint, named
from tools.bundles.roles import delegate, drop_delegation, new_root, new_targets, renewed
from tools.bundles.words import describe, describe_signatures

NOW = datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC)


def a_key(owner):
    signer = CryptoSigner.generate_ed25519()
    signer.public_key.unrecognized_fields["x-owner"] = owner
    return signer


ALICE, BOB, CAROL, ONLINE, ACME = map(a_key, ("alice", "bob", "carol", "online", "acme"))


def a_root(*officers, threshold=2):
    keys = [officer.public_key for officer in officers]
    return new_root(NOW, keys, threshold, keys, threshold, ONLINE.public_key)


def changes_of(lines):
    return [line.strip() for line in lines[1 : lines.index("  afterwards:")]]


def test_a_new_officer_is_told_by_name_and_number():
    after = renewed("root", a_root(ALICE, CAROL), NOW, 2)
    lines = describe("root", after, a_root(ALICE, BOB), NOW)
    assert lines[0] == "root version 2, good until 2029-11-26 (1095 days)"
    carol, bob = named(CAROL.public_key), named(BOB.public_key)
    assert f"adds {carol} to role root" in changes_of(lines)
    assert f"removes {bob} from role targets" in changes_of(lines)
    assert carol.startswith(f"key {fingerprint(CAROL.public_key)[:11]}")
    assert not any("alice" in change for change in changes_of(lines))


def test_what_holds_afterwards_is_told_even_if_nothing_changes():
    root = a_root(ALICE, BOB, CAROL)
    lines = describe("root", root, a_root(ALICE, BOB, CAROL), NOW)
    assert changes_of(lines) == ["changes nothing but the version and the expiry"]
    assert "    root: threshold 2 of 3" in lines
    assert f"      {fingerprint(BOB.public_key)}  bob" in lines


def test_a_lower_threshold_is_told():
    lines = describe("root", a_root(ALICE, BOB, threshold=1), a_root(ALICE, BOB), NOW)
    assert changes_of(lines)[0] == "changes the threshold of root from 2 to 1"


def test_publishers_and_their_keys_are_told():
    before, after = new_targets("targets", NOW), new_targets("targets", NOW)
    delegate(after, "acme", ["acme/*/*"], [ACME.public_key])
    lines = describe("targets", after, before, NOW)
    assert changes_of(lines) == ["lets publisher acme list acme/*/*"]
    assert f"      {fingerprint(ACME.public_key)}  acme" in lines
    gone = new_targets("targets", NOW)
    assert changes_of(describe("targets", gone, after, NOW)) == [
        "takes all names from publisher acme"
    ]

    other = new_targets("targets", NOW)
    delegate(other, "acme", ["acme/*/*", "more/*/*"], [BOB.public_key, CAROL.public_key], 2)
    assert changes_of(describe("targets", other, after, NOW)) == [
        "lets publisher acme list acme/*/* more/*/* instead",
        f"adds {named(BOB.public_key)} to publisher acme",
        f"adds {named(CAROL.public_key)} to publisher acme",
        f"removes {named(ACME.public_key)} from publisher acme",
        "changes the threshold of publisher acme from 1 to 2",
    ]
    drop_delegation(other, "acme")
    assert other.delegations.keys == {}


def test_releases_are_told():
    before, after = new_targets("acme", NOW), new_targets("acme", NOW)
    for number, data in ((1, b"one"), (2, b"two"), (3, b"three")):
        before.targets[f"acme/m/{number}"] = TargetFile.from_data(f"acme/m/{number}", data)
    after.targets = {
        "acme/m/1": TargetFile.from_data("acme/m/1", b"other"),
        "acme/m/2": TargetFile.from_data("acme/m/2", b"two"),
        "acme/m/4": TargetFile.from_data("acme/m/4", b"four"),
    }
    after.targets["acme/m/2"].unrecognized_fields["custom"] = {"revoked": True}
    lines = describe("acme", after, before, NOW)
    assert [change.partition(",")[0].partition(" from")[0] for change in changes_of(lines)] == [
        "lists acme/m/4",
        "lists acme/m/3 no longer",
        "moves acme/m/1",
        "revokes acme/m/2",
    ]
    assert lines[-1].strip() == "3 names listed, 1 of them revoked"


def test_a_strangers_text_stays_on_its_line_and_short():
    evil = a_key("eve\n  removes key of bob\x1b[2J" + "x" * 500)
    lines = describe("root", a_root(ALICE, evil), a_root(ALICE, BOB), NOW)
    assert all(line.isprintable() and len(line) < 200 for line in lines)


def test_a_strangers_name_of_a_release_cannot_forge_lines():
    after = new_targets("acme", NOW)
    for name in ("acme/m/1\n  revokes acme/m/2", "acme/m/" + "x" * 500):
        after.targets[name] = TargetFile.from_data(name, b"one")
    lines = describe("acme", after, None, NOW)
    assert all(line.isprintable() and len(line) < 210 for line in lines)


def test_missing_signatures_are_counted_for_each_who_has_a_say():
    before, after = a_root(ALICE, BOB), renewed("root", a_root(ALICE, CAROL), NOW, 2)
    metadata = Metadata(after)
    metadata.sign(ALICE)
    authorities = {"root 1": before, "root 2": after}
    assert describe_signatures("root", metadata, authorities) == [
        "by root 1: signed by alice; 1 more of: bob",
        "by root 2: signed by alice; 1 more of: carol",
    ]
    for signer in (BOB, CAROL):
        metadata.sign(signer, append=True)
    lines = describe_signatures("root", metadata, authorities)
    assert [line.endswith("; enough") for line in lines] == [True, True]
    metadata.signatures[ALICE.public_key.keyid].signature = "00" * 64
    assert "signed by bob; 1 more" in describe_signatures("root", metadata, authorities)[0]
