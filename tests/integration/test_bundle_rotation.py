"""Keys come and go; boxes follow, whatever state they stopped at, and one signature is not two."""

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from appliance.errors import ConfigError, NotFoundError
from tests.integration.publisher import DAY, NAME, Client, Shop, a_key, founded
from tools.bundles import changes
from tools.bundles.errors import RepositoryRefusedError
from tools.bundles.roles import stamp_issued, utc_now


@pytest.fixture
def shop(tmp_path):
    return founded(tmp_path / "site")


@pytest.fixture
def box(tmp_path, shop):
    """One that has seen the first state."""
    client = Client(tmp_path / "box", shop.metadata)
    client.refresh(NAME)
    return client


def new_box(tmp_path, shop):
    return Client(tmp_path / "new", shop.metadata)


def replace_carol(shop):
    keys = {"root": shop.add_key("dave"), "targets": shop.add_key("dave-targets")}
    changes.rotate_officers(shop.folder, "carol", keys, {})


def test_an_officer_is_replaced_and_boxes_follow(shop, box, tmp_path):
    replace_carol(shop)
    shop.sign("root", "alice", "bob")
    shop.sign("targets", "alice-targets", "bob-targets")
    shop.publish()
    for client in (box, new_box(tmp_path, shop)):
        assert client.refresh(NAME).versions["root"] == 2
    changes.renew(shop.folder, "root")
    shop.sign("root", "dave", "alice")
    shop.publish()
    assert box.refresh(NAME).versions["root"] == 3


def test_an_officer_who_left_signs_nothing_more(shop, box):
    replace_carol(shop)
    shop.sign("root", "alice", "bob")
    shop.sign("targets", "alice-targets", "bob-targets")
    shop.publish()
    changes.renew(shop.folder, "root")
    with pytest.raises(RepositoryRefusedError, match="may sign root"):
        shop.sign("root", "carol")


@pytest.mark.parametrize("signers", [("alice",), ("dave",), ("alice", "dave"), ("carol", "dave")])
def test_a_root_needs_enough_of_the_old_and_of_the_new_officers(shop, box, signers):
    """Dave is new: he counts for the new root only, and Carol for the old one only."""
    replace_carol(shop)
    shop.sign("root", *signers)
    plan = shop.publish()
    assert plan.taken == ()
    assert box.refresh(NAME).versions["root"] == 1


def test_a_root_that_unseats_the_signers_of_targets_waits_for_a_new_targets(shop, box):
    replace_carol(shop)  # targets 1 is signed by Bob and Carol
    shop.sign("root", "alice", "bob")
    with pytest.raises(RepositoryRefusedError, match="targets is not signed"):
        shop.publish()
    shop.sign("targets", "alice-targets", "dave-targets")
    shop.publish()
    assert box.refresh(NAME).versions == {
        "root": 2,
        "timestamp": 2,
        "snapshot": 2,
        "targets": 2,
        "acme": 1,
    }


def test_an_officer_leaves_without_another_and_a_fourth_comes(shop, box):
    changes.rotate_officers(shop.folder, "carol", {}, {})
    shop.sign("root", "alice", "bob")
    shop.sign("targets", "alice-targets", "bob-targets")
    shop.publish()
    assert len(shop.folder.root().roles["root"].keyids) == 2
    keys = {"root": shop.add_key("dave")}
    changes.rotate_officers(shop.folder, None, keys, {"root": 3})
    shop.sign("root", "alice", "bob", "dave")
    shop.publish()
    assert shop.folder.root().roles["root"].threshold == 3
    assert box.refresh(NAME).versions["root"] == 3


def test_officers_who_could_not_reach_the_threshold_are_refused(shop):
    with pytest.raises(NotFoundError, match="no officer is called 'mallory'"):
        changes.rotate_officers(shop.folder, "mallory", {}, {})
    changes.rotate_officers(shop.folder, "carol", {}, {})
    with pytest.raises(ConfigError, match="root would need 2 signatures, and has 1"):
        changes.rotate_officers(shop.folder, "bob", {}, {})


def test_a_key_that_signs_both_roles_is_given_up_in_both(tmp_path):
    shop = Shop(tmp_path / "site")
    officers = shop.public("alice", "bob", "carol")
    changes.initialise(shop.folder, officers, 2, shop.keys["online"].public_key)
    key = shop.add_key("dave")
    with pytest.raises(ConfigError, match="the key that carol gives up signs targets as well"):
        changes.rotate_officers(shop.folder, "carol", {"root": key}, {})
    changes.rotate_officers(shop.folder, "carol", {"root": key, "targets": key}, {})
    assert shop.public("carol")[0].keyid not in shop.folder.root().keys


def test_a_publisher_gets_another_key(shop, box, tmp_path):
    old = shop.keys["acme"]
    changes.rotate_publisher(shop.folder, "acme", [shop.add_key("acme")])
    shop.sign("targets", "alice-targets", "bob-targets")
    with pytest.raises(RepositoryRefusedError, match=r"acme is not signed by its present keys"):
        shop.publish()
    with pytest.raises(RepositoryRefusedError, match="may sign acme"):
        shop.folder.add_target("acme", "acme/m/1", b"x", [a_key("thief")])
    shop.sign("acme", "acme")
    shop.publish()
    for client in (box, new_box(tmp_path, shop)):
        assert client.refresh(NAME).versions["acme"] == 2
    with pytest.raises(RepositoryRefusedError, match="may sign acme"):
        shop.folder.add_target("acme", "acme/m/1", b"x", [old])


def test_offboarding_takes_the_names_and_breaks_no_client(shop, box, tmp_path):
    changes.add_publisher(shop.folder, "lab", ["lab/*/*"], [shop.add_key("lab")])
    shop.sign("targets", "alice-targets", "bob-targets")
    shop.sign("lab", "lab")
    shop.publish()
    shop.release("lab/m/1", b"x", "lab")
    box.refresh("lab/m/1", NAME)
    changes.offboard(shop.folder, "lab")
    shop.sign("targets", "alice-targets", "bob-targets")
    shop.publish()
    for client in (box, new_box(tmp_path, shop)):
        assert set(client.refresh(NAME).targets) == {NAME}
        assert client.refused("lab/m/1") == "not_listed"
    assert shop.folder.published().versions["lab"] == 2
    with pytest.raises(NotFoundError, match="'lab' is not a publisher"):
        shop.folder.add_target("lab", "lab/m/2", b"x", [shop.keys["lab"]])


def test_a_publisher_who_comes_back_goes_on_counting_and_lists_nothing_old(shop, box):
    """Its old list would speak again, with whatever made the officers drop it."""
    changes.offboard(shop.folder, "acme")
    shop.sign("targets", "alice-targets", "bob-targets")
    shop.publish()
    changes.add_publisher(shop.folder, "acme", ["acme/*/*"], [shop.add_key("acme")])
    shop.sign("targets", "alice-targets", "bob-targets")
    shop.sign("acme", "acme")
    shop.publish()
    assert box.refused(NAME) == "not_listed"
    shop.release("acme/m/1")
    assert box.refresh("acme/m/1").versions["acme"] == 3


def test_an_unknown_publisher_cannot_be_offboarded_or_renewed(shop):
    for change in (changes.offboard, changes.renew):
        with pytest.raises((NotFoundError, ConfigError), match="not a publisher"):
            change(shop.folder, "lab")


# the online key


def rotate_online(shop):
    changes.rotate_online(shop.folder, shop.add_key("online-2"))
    shop.sign("root", "alice", "carol")


def test_the_online_key_is_replaced(shop, box, tmp_path):
    rotate_online(shop)
    with pytest.raises(RepositoryRefusedError, match="names another online key"):
        shop.publish("online")
    with pytest.raises(RepositoryRefusedError, match="may not sign"):
        shop.publish("online-2", former=["alice"])
    plan = shop.publish("online-2", former=["online"])
    assert plan.order[-2:] == ("timestamp.json", "2.root.json")
    for client in (box, new_box(tmp_path, shop)):
        assert client.refresh(NAME).versions["root"] == 2
    with pytest.raises(RepositoryRefusedError, match="names another online key"):
        shop.folder.refresh(shop.keys["online"])
    shop.folder.refresh(shop.keys["online-2"])
    assert box.refresh(NAME).versions["timestamp"] == 3


def test_a_lost_online_key_is_replaced_without_it(shop, box, tmp_path):
    rotate_online(shop)
    assert shop.publish("online-2").order[0] == "2.root.json"
    for client in (box, new_box(tmp_path, shop)):
        assert client.refresh(NAME).versions["root"] == 2


def write_as_thief(folder, thief, ahead=10**6):
    """With the stolen online key: numbers far ahead, and a publisher's list that nobody has."""

    def signed(payload):
        payload.expires = utc_now() + 300 * DAY
        metadata = Metadata(payload)
        metadata.sign(thief)
        return metadata.to_bytes()

    meta = dict(folder.published().snapshot.signed.meta)
    meta["acme.json"] = MetaFile(ahead)
    snapshot = signed(Snapshot(version=ahead, meta=meta))
    timestamp = Timestamp(version=ahead, snapshot_meta=MetaFile(ahead))
    stamp_issued(timestamp, utc_now())
    (folder.metadata / f"{ahead}.snapshot.json").write_bytes(snapshot)
    (folder.metadata / "timestamp.json").write_bytes(signed(timestamp))


def thief_publishes(shop, ahead=10**6):
    write_as_thief(shop.folder, shop.keys["online"], ahead)


def test_after_the_online_key_was_stolen_boxes_recover(shop, box, tmp_path):
    shop.release("acme/m/1")
    thief_publishes(shop)
    box.refresh()
    assert box.versions()["timestamp"] == 10**6
    assert box.refused(NAME) in {"incomplete", "mix"}
    rotate_online(shop)
    plan = shop.publish("online-2", recover=True)
    assert plan.order == ("2.root.json", "3.snapshot.json", "timestamp.json")
    for client in (box, new_box(tmp_path, shop)):
        trusted = client.refresh(NAME, "acme/m/1")
        assert trusted.versions == {
            "root": 2,
            "timestamp": 1,
            "snapshot": 3,
            "targets": 1,
            "acme": 2,
        }
    shop.keys["online"] = shop.keys["online-2"]
    shop.release("acme/m/2")
    assert box.refresh("acme/m/2").versions["acme"] == 3


def test_a_thief_who_broke_the_folder_does_not_stop_the_recovery(shop, box):
    thief_publishes(shop)
    (shop.metadata / "timestamp.json").write_bytes(b"gone")
    rotate_online(shop)
    shop.publish("online-2", recover=True)
    assert box.refresh(NAME).versions["acme"] == 1
    assert shop.folder.check() == []


def test_recovery_with_the_stolen_key_still_in_the_root_recovers_nothing(shop, box):
    """Boxes forget the thief's numbers only when the root names other online keys."""
    thief_publishes(shop)
    box.refresh()
    with pytest.raises(RepositoryRefusedError, match="nothing to recover from"):
        shop.publish("online", recover=True)


def test_a_thief_of_the_online_key_alone_lists_nothing(shop, box):
    acme = Metadata.from_file(str(shop.metadata / "1.acme.json"))
    acme.signed.version = 2
    acme.signed.targets["acme/m/evil"] = acme.signed.targets[NAME]
    acme.sign(shop.keys["online"])
    acme.to_file(str(shop.metadata / "2.acme.json"))
    thief_publishes(shop, ahead=2)
    assert box.refused("acme/m/evil") == "signature"
    rotate_online(shop)
    shop.publish("online-2", recover=True)
    assert box.refused("acme/m/evil") == "not_listed"
