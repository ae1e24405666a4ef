"""Attacks on metadata, from a stick and over the network: each is refused, and changes nothing.

Over the network the TUF workflow keeps what was verified before the refusal (a newer, true
timestamp, say): `kept` names those roles, and nothing else may have changed.
"""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Snapshot

from tests.fakes.tuf_repository import TufRepository, days
from tests.integration.trust_box import NAME, Box, opened, published

ATTACKS = {}


def attack(code, kept="", hashes=True):
    def register(function):
        ATTACKS[function.__name__] = (function, code, kept.split(), hashes)
        return function

    return register


@pytest.fixture(params=["stick", "network"])
def form(request):
    return request.param


@attack("rollback")
def timestamp_rollback(repo):
    repo.files["timestamp.json"] = repo.old["timestamp.json"]


@attack("rollback")
def whole_repository_rollback(repo):
    repo.files = repo.old


@attack("rollback")
def snapshot_rollback(repo):
    repo.snapshot.version -= 1
    repo.put_snapshot()
    repo.bump_timestamp()


@attack("rollback", "timestamp")
def targets_rollback(repo):
    version = repo.targets.version - 1
    repo.snapshot.meta["targets.json"] = repo.meta(version, repo.files[f"{version}.targets.json"])
    repo.publish("snapshot")


@attack("rollback", "timestamp")
def publisher_rollback(repo):
    data = repo.files[f"{repo.old_acme}.acme.json"]
    repo.snapshot.meta["acme.json"] = repo.meta(repo.old_acme, data)
    repo.publish("snapshot")


@attack("rollback")
def root_rollback(repo):
    repo.files["2.root.json"] = repo.files["1.root.json"]


@attack("rollback")
def root_gap(repo):
    repo.root.version = 3
    repo.publish_root(name="2")


@attack("expired", "root")
def expired_root(repo):
    repo.root.expires = days(-1)
    repo.next_root()


@attack("expired")
def expired_timestamp(repo):
    repo.timestamp.expires = days(-1)
    repo.publish("acme")


@attack("expired", "timestamp")
def expired_snapshot(repo):
    repo.snapshot.expires = days(-1)
    repo.publish("acme")


@attack("expired", "timestamp snapshot")
def expired_targets(repo):
    repo.targets.expires = days(-1)
    repo.publish("targets")


@attack("expired", "timestamp snapshot")
def expired_publisher(repo):
    repo.roles["acme"].expires = days(-1)
    repo.publish("acme")


@attack("mix", "timestamp snapshot")
def targets_of_another_release(repo):
    repo.publish("targets")
    newest = repo.targets.version
    repo.files[f"{newest}.targets.json"] = repo.files[f"{newest - 1}.targets.json"]


@attack("mix", "timestamp snapshot", hashes=False)
def targets_of_another_release_without_hashes(repo):
    repo.publish("targets")
    newest = repo.targets.version
    repo.files[f"{newest}.targets.json"] = repo.files[f"{newest - 1}.targets.json"]


@attack("mix", "timestamp", hashes=False)
def snapshot_of_another_release(repo):
    repo.publish("targets")
    newest = repo.snapshot.version
    repo.files[f"{newest}.snapshot.json"] = repo.files[f"{newest - 1}.snapshot.json"]


@attack("mix", "timestamp")
def publisher_dropped_from_the_snapshot(repo):
    del repo.snapshot.meta["acme.json"]
    repo.publish("snapshot")


@attack("mix")
def timestamp_is_a_snapshot(repo):
    repo.files["timestamp.json"] = repo.sign("timestamp", Snapshot(expires=days(9)))


@attack("incomplete", "timestamp")
def snapshot_missing(repo):
    repo.publish("acme")
    del repo.files[f"{repo.snapshot.version}.snapshot.json"]


@attack("incomplete", "timestamp snapshot")
def publisher_missing(repo):
    repo.publish("acme")
    del repo.files[f"{repo.roles['acme'].version}.acme.json"]


@attack("incomplete")
def timestamp_missing(repo):
    del repo.files["timestamp.json"]


@attack("too_large")
def endless_timestamp(repo):
    repo.files["timestamp.json"] = b" " * 50_000_000


@attack("too_large")
def endless_root(repo):
    repo.files["2.root.json"] = b" " * 1_000_000


@attack("too_large", "timestamp")
def snapshot_longer_than_announced(repo):
    repo.publish("acme")
    repo.files[f"{repo.snapshot.version}.snapshot.json"] += b" "


@attack("mix", "timestamp snapshot")
def targets_shorter_than_announced(repo):
    repo.publish("targets")
    name = f"{repo.targets.version}.targets.json"
    repo.files[name] = repo.files[name][:-1]


@attack("malformed")
def truncated_timestamp(repo):
    repo.files["timestamp.json"] = repo.files["timestamp.json"][:-20]


@attack("malformed")
def empty_timestamp(repo):
    repo.files["timestamp.json"] = b""


@attack("malformed")
def deep_json(repo):
    repo.files["timestamp.json"] = b"[" * 16_000


@attack("malformed")
def deep_signed_json(repo):
    body = b'{"signatures": [], "signed": {"_type": "timestamp", "x": ' + b"[" * 900 + b"]" * 900
    repo.files["timestamp.json"] = body + repo.files["timestamp.json"][-400:]


@attack("malformed")
def huge_number(repo):
    data = repo.files["timestamp.json"]
    repo.files["timestamp.json"] = data.replace(b'"version":', b'"version": 1' + b"0" * 5000, 1)


@attack("malformed")
def version_beyond_reason(repo):
    repo.timestamp.version = 2**60
    repo.put_timestamp()


@attack("malformed")
def not_text(repo):
    repo.files["timestamp.json"] = bytes(range(256))


@attack("signature")
def duplicate_json_keys(repo):
    data = repo.sign("timestamp", repo.timestamp)
    version = str(repo.timestamp.version).encode()
    repo.files["timestamp.json"] = data.replace(
        b'"version": ' + version + b"\n", b'"version": ' + version + b', "version": 9999\n', 1
    ).replace(b'"version":' + version + b"}", b'"version":' + version + b',"version":9999}', 1)


@attack("malformed")
def duplicate_signatures(repo):
    repo.bump_timestamp()
    data = repo.files["timestamp.json"]
    start, end = data.index(b"{", data.index(b'"signatures"')), data.index(b"}") + 1
    repo.files["timestamp.json"] = data[:end] + b"," + data[start:end] + data[end:]


@attack("signature")
def foreign_timestamp(repo):
    repo.timestamp.version += 1
    repo.files["timestamp.json"] = TufRepository().sign("timestamp", repo.timestamp)


@attack("signature")
def foreign_root(repo):
    foreign = TufRepository()
    foreign.root.version = 2
    repo.files["2.root.json"] = foreign.publish_root()


@attack("signature")
def root_not_signed_by_the_old_keys(repo):
    repo.set_keys("root", 1, 1)
    repo.root.version = 2
    repo.publish_root()


@attack("signature")
def root_not_signed_by_the_new_keys(repo):
    old = repo.signers["root"]
    repo.next_root("root", signers=old)


@attack("malformed")
def duplicate_key_ids(repo):
    data = repo.next_root()
    key = repo.root.roles["timestamp"].keyids[0].encode()
    repo.files["2.root.json"] = data.replace(
        b'"' + key + b'"\n', b'"' + key + b'", "' + key + b'"\n'
    ).replace(b'["' + key + b'"]', b'["' + key + b'","' + key + b'"]')
    assert repo.files["2.root.json"] != data


@attack("signature")
def root_missing_in_the_chain(repo):
    repo.next_root("timestamp")
    repo.next_root("root")
    repo.publish("acme")
    del repo.files["2.root.json"]


@attack("incomplete")
def root_of_one_key_with_two_ids_and_no_timestamp(repo):
    """Not even the verified part may be kept: such a root proves nothing."""
    key = Ed25519PrivateKey.generate()
    old = list(repo.signers["root"])
    repo.set_keys("root", 0, 2)
    repo.signers["root"] = [CryptoSigner(key), CryptoSigner(key)]
    repo.signers["root"][1].public_key.keyid = "twin"
    for signer in repo.signers["root"]:
        repo.root.add_key(signer.public_key, "root")
    repo.root.version = 2
    repo.publish_root(old + repo.signers["root"])
    del repo.files["timestamp.json"]


@attack("signature", "root")
def too_few_signatures(repo):
    repo.set_keys("timestamp", 3, 2)
    repo.next_root()
    repo.signers["timestamp"] = repo.signers["timestamp"][:1]
    repo.publish("acme")


@attack("signature")
def threshold_reached_by_one_key_with_two_ids(repo):
    key = Ed25519PrivateKey.generate()
    repo.set_keys("timestamp", 0, 2)
    repo.signers["timestamp"] = [CryptoSigner(key), CryptoSigner(key)]
    repo.signers["timestamp"][1].public_key.keyid = "twin"
    for signer in repo.signers["timestamp"]:
        repo.root.add_key(signer.public_key, "timestamp")
    repo.next_root()
    repo.publish("acme")


@attack("signature", "timestamp snapshot")
def publisher_signed_by_a_rival(repo):
    repo.signers["acme"] = repo.signers["rival"]
    repo.publish("acme")


@attack("rollback")
def date_of_issue_goes_back(repo):
    repo.issue(days(-2))
    repo.publish("acme")


@pytest.mark.parametrize("attack_name", ATTACKS)
def test_attack_is_refused_and_changes_nothing(attack_name, form, tmp_path):
    function, code, kept, hashes = ATTACKS[attack_name]
    repo = published(hashes)
    repo.issue(days(-1))
    repo.publish("acme")
    with opened(form, repo) as server:
        box = Box(tmp_path, repo, server)
        trusted = box.refresh(NAME)
        state, current = box.state(), box.current()
        function(repo)
        assert box.refused(NAME) == code
        if kept and form == "network":
            now = box.current()
            changed = {name for name in now | current if now.get(name) != current.get(name)}
            assert changed - {"root_history/2.root.json"} == {f"{role}.json" for role in kept}
        else:
            assert box.state() == state
            assert box.store.read([NAME]).targets == trusted.targets
