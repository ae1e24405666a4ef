"""A publisher's machine dies after any rename: boxes still accept what lies there."""

import itertools
import shutil

import pytest

from appliance.trust.errors import TrustError
from tests.integration.publisher import NAME, Client, DyingDisk, PowerCut, founded
from tools.bundles import changes
from tools.bundles.repository import RepositoryFolder


def release(shop):
    shop.folder.add_target("acme", "acme/m/1", b"x", [shop.keys["acme"]])
    return ["online"]


def new_publisher(shop):
    changes.add_publisher(shop.folder, "lab", ["lab/*/*"], [shop.add_key("lab")])
    shop.sign("targets", "alice-targets", "bob-targets")
    shop.sign("lab", "lab")
    return ["online"]


def other_officer(shop):
    keys = {"root": shop.add_key("dave"), "targets": shop.add_key("dave-targets")}
    changes.rotate_officers(shop.folder, "carol", keys, {})
    shop.sign("root", "alice", "bob")
    shop.sign("targets", "alice-targets", "bob-targets")
    return ["online"]


def other_online_key(shop):
    changes.rotate_online(shop.folder, shop.add_key("online-2"))
    shop.sign("root", "alice", "bob")
    return ["online-2", "online"]


def dead_after(shop, renames, folder, signers):
    """A copy of the shop whose publisher dies after so many renames; whether it did."""
    shutil.copytree(shop.metadata.parent, folder)
    dying = RepositoryFolder(folder / "metadata", disk=DyingDisk(renames))
    try:
        dying.publish(signers[0], former=signers[1:])
    except PowerCut:
        return True
    return False


def boxes(shop, folder, tmp_path, number):
    """One that has seen the old state, and one that comes new."""
    old = Client(tmp_path / f"old{number}", shop.metadata)
    old.refresh(NAME)
    old.metadata = folder / "metadata"
    return [old, Client(tmp_path / f"new{number}", folder / "metadata")]


@pytest.mark.parametrize("change", [release, new_publisher, other_officer, other_online_key])
def test_boxes_accept_what_a_publisher_left_who_died(tmp_path, change):
    shop = founded(tmp_path / "site")
    signers = [shop.keys[name] for name in change(shop)]
    seen = set()
    for number in itertools.count():
        folder = tmp_path / f"dead{number}"
        died = dead_after(shop, number, folder, signers)
        for box in boxes(shop, folder, tmp_path, number):
            seen.add(tuple(sorted(box.refresh(NAME).versions.items())))
        if not died:
            break
        again = RepositoryFolder(folder / "metadata")
        again.publish(signers[0], former=signers[1:])
        for box in boxes(shop, folder, tmp_path, f"{number}-again"):
            assert box.refresh(NAME).targets[NAME].length == 3
        assert again.check() == []
        assert not list(folder.rglob(".*"))
        assert not list((folder / "draft").iterdir())
    assert number >= 3
    assert len(seen) >= 2


def test_a_lost_online_key_leaves_one_moment_and_the_next_try_mends_it(tmp_path):
    """No file can be signed by a key that is lost, so a box may meet the root without the rest.

    It keeps what it has, and is told to try again.
    """
    shop = founded(tmp_path / "site")
    new, _lost = [shop.keys[name] for name in other_online_key(shop)]
    codes = []
    for number in itertools.count():
        folder = tmp_path / f"dead{number}"
        died = dead_after(shop, number, folder, [new])
        box = boxes(shop, folder, tmp_path, number)[0]
        try:
            box.refresh(NAME)
        except TrustError as error:
            codes.append(error.code)
        RepositoryFolder(folder / "metadata").publish(new)
        assert box.refresh(NAME).versions["root"] == 2
        if not died:
            break
    assert set(codes) == {"signature"}


def test_a_copy_that_breaks_off_is_accepted_too(tmp_path):
    shop = founded(tmp_path / "site")
    first = RepositoryFolder(shop.metadata)
    for number in itertools.count():
        copy = tmp_path / f"web{number}"
        first.copy_to(copy)
        shop.release("acme/m/1", str(number).encode())
        dying = RepositoryFolder(shop.metadata, disk=DyingDisk(number))
        box = Client(tmp_path / f"box{number}", copy)
        box.refresh(NAME)
        try:
            dying.copy_to(copy)
        except PowerCut:
            box.refresh(NAME)
            continue
        break
    assert number == 3
