"""What a publisher publishes, the box's own trust store accepts; all else is never published."""

import pytest
from tuf.api.metadata import Metadata

from appliance.errors import ConfigError, NotFoundError
from tests.integration.publisher import DAY, NAME, Client, Shop, founded, tampered
from tools.bundles import changes
from tools.bundles.errors import BrokenRepositoryError, RepositoryRefusedError
from tools.bundles.roles import utc_now

FIRST_STATE = ("1.root.json", "1.targets.json", "1.acme.json", "1.snapshot.json", "timestamp.json")


@pytest.fixture
def shop(tmp_path):
    return founded(tmp_path / "site")


@pytest.fixture
def box(tmp_path, shop):
    return Client(tmp_path / "box", shop.metadata)


def drafted(tmp_path):
    """A shop whose officers have signed nothing yet."""
    shop = Shop(tmp_path / "site")
    changes.initialise(
        shop.folder, shop.public("alice", "bob", "carol"), 2, shop.keys["online"].public_key
    )
    return shop


def test_a_box_finds_what_was_published(shop, box):
    trusted = box.refresh(NAME)
    assert trusted.targets[NAME].length == len(b"one")
    assert trusted.issued_s is not None
    assert trusted.versions == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1, "acme": 1}
    assert shop.folder.check() == []


def test_lifetimes_are_three_years_for_root_and_one_for_the_rest(shop, box):
    expires_s = box.refresh(NAME).expires_s
    now_s = utc_now().timestamp()
    years = {role: round((when - now_s) / (365 * 86_400), 2) for role, when in expires_s.items()}
    assert years == {"root": 3, "targets": 1, "acme": 1, "snapshot": 1, "timestamp": 1}


def test_a_moved_pointer_a_removed_name_and_a_revoked_release_arrive(shop, box):
    shop.release("acme/assistant/latest", b"one")
    shop.release("acme/assistant/latest", b"second")
    assert box.refresh("acme/assistant/latest").targets["acme/assistant/latest"].length == 6
    shop.folder.revoke("acme", "acme/assistant/latest", [shop.keys["acme"]])
    shop.folder.remove_target("acme", NAME, [shop.keys["acme"]])
    shop.publish()
    assert box.refused(NAME) == "not_listed"
    acme = Metadata.from_file(str(shop.metadata / "4.acme.json")).signed
    assert acme.targets["acme/assistant/latest"].custom == {"revoked": True}
    assert acme.targets["acme/assistant/latest"].length == 6


def test_several_releases_become_one_version(shop, box):
    for number in range(3):
        shop.folder.add_target("acme", f"acme/m/{number}", b"x", [shop.keys["acme"]])
    assert shop.publish().order == ("2.acme.json", "2.snapshot.json", "timestamp.json")
    assert len(box.refresh(*(f"acme/m/{number}" for number in range(3))).targets) == 3


def test_a_refresh_says_only_that_this_is_still_the_newest(shop, box):
    before = box.refresh(NAME)
    shop.folder.add_target("acme", "acme/m/unready", b"x", [shop.keys["acme"]])
    plan = shop.folder.refresh(shop.keys["online"], utc_now() + DAY / 2)
    assert plan.order == ("timestamp.json",)
    after = box.refresh(NAME)
    assert 43_200 <= after.issued_s - before.issued_s < 43_260
    assert after.versions == {**before.versions, "timestamp": 2}
    assert box.refused("acme/m/unready") == "not_listed"
    assert list(shop.folder.drafts()) == ["acme"]


def test_a_snapshot_is_renewed_by_refreshes_before_it_expires(shop):
    orders = [
        shop.folder.refresh(shop.keys["online"], utc_now() + days * DAY).order
        for days in (150, 190, 200)
    ]
    assert [len(order) for order in orders] == [1, 2, 1]


def test_a_clock_that_went_back_is_refused(shop):
    with pytest.raises(RepositoryRefusedError, match="clock"):
        shop.folder.refresh(shop.keys["online"], utc_now() - DAY)


def test_nothing_is_published_before_enough_officers_have_signed(tmp_path):
    shop = drafted(tmp_path)
    for role, signers in (("root", "alice"), ("root", "bob"), ("targets", "alice")):
        with pytest.raises(RepositoryRefusedError, match="not signed by enough officers"):
            shop.publish()
        shop.sign(role, signers)
    with pytest.raises(RepositoryRefusedError, match="targets is not signed"):
        shop.publish()
    assert shop.folder.files() == {}
    shop.sign("targets", "carol")
    shop.publish()
    assert Client(tmp_path / "box", shop.metadata).refresh().versions["root"] == 1


def test_the_same_officer_twice_is_one_officer(tmp_path):
    shop = drafted(tmp_path)
    shop.sign("root", "alice", "alice")
    with pytest.raises(RepositoryRefusedError, match="not signed by enough officers"):
        shop.publish()


def test_one_key_twice_cannot_make_a_threshold(tmp_path):
    shop = Shop(tmp_path)
    with pytest.raises(ConfigError, match="root would need 2 signatures, and has 1"):
        changes.initialise(
            shop.folder, shop.public("alice", "alice"), 2, shop.keys["online"].public_key
        )


def test_only_the_online_key_publishes(shop, box):
    before = shop.folder.files()
    shop.folder.add_target("acme", "acme/m/1", b"x", [shop.keys["acme"]])
    for name in ("alice", "acme"):
        with pytest.raises(RepositoryRefusedError, match="may not sign snapshot and timestamp"):
            shop.publish(name)
    assert shop.folder.files() == before


def test_a_publisher_lists_its_own_names_with_its_own_key_only(shop):
    for name in ("lab/assistant/1", "acme/assistant", "acme/assistant/1/2", "assistant"):
        with pytest.raises(ConfigError, match="not one of the names of acme"):
            shop.folder.add_target("acme", name, b"x", [shop.keys["acme"]])
    with pytest.raises(RepositoryRefusedError, match="may sign acme"):
        shop.folder.add_target("acme", "acme/m/1", b"x", [shop.keys["online"]])
    with pytest.raises(NotFoundError, match="not a publisher"):
        shop.folder.add_target("lab", "lab/m/1", b"x", [shop.keys["acme"]])
    for change in (shop.folder.remove_target, shop.folder.revoke):
        with pytest.raises(NotFoundError, match="does not list"):
            change("acme", "acme/m/none", [shop.keys["acme"]])
    assert shop.folder.drafts() == {}


def test_a_publisher_who_signs_a_foreign_name_is_not_published(shop):
    """Written by another tool: clients would not see the name, so it must be a mistake or worse."""
    acme = shop.folder.next_targets("acme")
    acme.targets["lab/assistant/1"] = acme.targets[NAME]
    shop.folder.put_draft("acme", acme, [shop.keys["acme"]])
    with pytest.raises(RepositoryRefusedError, match="acme lists 'lab/assistant/1', not its own"):
        shop.publish()


def test_a_new_publisher_must_sign_before_its_names_are_given_out(shop, box):
    changes.add_publisher(shop.folder, "lab", ["lab/*/*"], [shop.add_key("lab")])
    shop.sign("targets", "alice-targets", "bob-targets")
    with pytest.raises(RepositoryRefusedError, match="lab may list names, but has never signed"):
        shop.publish()
    shop.sign("lab", "lab")
    shop.publish()
    shop.release("lab/m/1", b"x", "lab")
    assert set(box.refresh("lab/m/1", NAME).targets) == {"lab/m/1", NAME}


@pytest.mark.parametrize("pattern", ["acme/*/*", "acme/assistant/*", "acm*/*/*"])
def test_names_have_one_publisher(shop, pattern):
    with pytest.raises(ConfigError, match=r"overlaps with acme/\*/\* of acme"):
        changes.add_publisher(shop.folder, "lab", [pattern], shop.public("acme"))


@pytest.mark.parametrize("pattern", ["*/*/*", "*", "lab", "lab//x", "Lab/*/*", "lab/[a]/*", "../*"])
def test_what_is_no_pattern_is_refused(shop, pattern):
    with pytest.raises(ConfigError, match="not a pattern"):
        changes.add_publisher(shop.folder, "lab", [pattern], shop.public("acme"))


@pytest.mark.parametrize("name", ["root", "timestamp", "../up", "Lab", "", "a" * 41])
def test_what_is_no_publisher_is_refused(shop, name):
    with pytest.raises(ConfigError, match="cannot be a publisher"):
        changes.add_publisher(shop.folder, name, ["lab/*/*"], shop.public("acme"))


def test_a_second_init_is_refused(shop):
    with pytest.raises(RepositoryRefusedError, match="there is a repository already"):
        changes.initialise(shop.folder, shop.public("alice"), 1, shop.keys["online"].public_key)


def test_a_changed_draft_loses_its_signatures(shop):
    changes.add_publisher(shop.folder, "lab", ["lab/*/*"], [shop.add_key("lab")])
    shop.sign("targets", "alice-targets", "bob-targets")
    changes.add_publisher(shop.folder, "kit", ["kit/*/*"], [shop.add_key("kit")])
    assert shop.folder.drafts()["targets"].metadata.signatures == {}


@pytest.mark.parametrize("name", FIRST_STATE)
def test_tampered_and_missing_files_are_found(shop, name):
    path, role = shop.metadata / name, name.split(".")[-2]
    whole = path.read_bytes()
    damages = [
        lambda: tampered(path, lambda signed: setattr(signed, "expires", signed.expires + DAY)),
        lambda: path.write_bytes(b"{}"),
        lambda: path.write_bytes(whole[:-20]),
        lambda: path.write_bytes(b""),
    ]
    for damage in damages if name == "timestamp.json" else [*damages, path.unlink]:
        damage()
        findings = [finding for finding in shop.folder.check() if finding.is_fatal]
        assert role in findings[0].text
        path.write_bytes(whole)
    assert shop.folder.check() == []


def test_a_damaged_set_is_not_published_over(shop):
    (shop.metadata / "1.targets.json").write_bytes(b"{}")
    with pytest.raises(BrokenRepositoryError, match=r"1\.targets\.json"):
        shop.release("acme/m/1")


def test_expiry_is_told_thirty_days_before_and_stops_publishing_after(shop):
    year = 365 * DAY
    now = utc_now()
    early = shop.folder.check(now + year - 31 * DAY)
    assert early == []
    texts = [finding.text for finding in shop.folder.check(now + year - 29 * DAY)]
    assert [text.split()[0] for text in texts] == ["targets", "snapshot", "timestamp", "acme"]
    assert all("in 2" in text for text in texts)
    fatal = [finding for finding in shop.folder.check(now + year + DAY) if finding.is_fatal]
    assert [finding.text.split()[0] for finding in fatal] == ["targets", "snapshot", "timestamp"]
    assert "bundle repo renew targets" in fatal[0].cure
    with pytest.raises(RepositoryRefusedError, match="targets expired"):
        shop.folder.refresh(shop.keys["online"], now + year + DAY)


def test_a_renewal_needs_the_officers_and_nothing_else_changes(shop, box):
    box.refresh(NAME)
    for role, signers in (
        ("root", ("bob", "carol")),
        ("targets", ("alice-targets", "bob-targets")),
        ("acme", ("acme",)),
    ):
        changes.renew(shop.folder, role)
        shop.sign(role, *signers)
    shop.publish()
    assert box.refresh(NAME).versions == {
        "root": 2,
        "timestamp": 2,
        "snapshot": 2,
        "targets": 2,
        "acme": 2,
    }


def test_the_last_five_states_are_replayed_and_refreshes_are_not_states(shop):
    for number in range(6):
        shop.release(f"acme/m/{number}")
        shop.folder.refresh(shop.keys["online"])
    assert [state.version for state in shop.folder.past_states()] == [5, 7, 9, 11, 13]


def test_a_set_that_an_old_client_could_not_follow_is_refused(shop):
    """A role that left the snapshot: new boxes do not miss it, those of the last states do."""
    from tools.bundles.check import check_step
    from tools.bundles.plan import Planner

    changes.offboard(shop.folder, "acme")
    shop.sign("targets", "alice-targets", "bob-targets")
    planner = Planner(shop.folder.files(), shop.folder.drafts(), utc_now())
    planner._before.snapshot.signed.meta.pop("acme.json")  # noqa: SLF001 - the mistake of trap H4
    plan = planner.plan([shop.keys["online"]])
    findings = check_step(plan.files, shop.folder.past_states(), utc_now())
    assert [finding.is_fatal for finding in findings] == [True]
    assert "a box of timestamp 1 refuses (mix)" in findings[0].text
    assert check_step(plan.files, [], utc_now()) == []


def test_two_writers_do_not_meet(shop):
    with shop.folder.locked(), pytest.raises(RepositoryRefusedError, match="another command"):
        shop.release("acme/m/1")


def test_a_copy_is_brought_up_to_date(shop, tmp_path):
    copy = tmp_path / "web/metadata"
    assert shop.folder.copy_to(copy)[-1] == "timestamp.json"
    box = Client(tmp_path / "box", copy)
    box.refresh(NAME)
    shop.release("acme/m/1")
    assert shop.folder.copy_to(copy) == ["2.acme.json", "2.snapshot.json", "timestamp.json"]
    assert shop.folder.copy_to(copy) == []
    box.refresh("acme/m/1")
