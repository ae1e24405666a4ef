"""The box's certificate authority: what it signs, for how long, under which clock. Files in tmp."""

import datetime

import pytest
from cryptography import x509

from appliance.access.authority import (
    DAY_S,
    LEAF_DAYS,
    Authority,
    AuthorityError,
    Clock,
    Wanted,
    is_due,
    signable,
)

NOW_S = int(datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC).timestamp())
NAMES = ("hearth-a1b2c3.local", "localhost")
ADDRESSES = ("127.0.0.1", "192.168.1.5")


def wanted(names=NAMES, addresses=ADDRESSES, now_s=NOW_S, clock=Clock.RIGHT):
    return Wanted(names, addresses, now_s, clock)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "tls", "Hearth a1b2c3", signable("hearth-a1b2c3", "box.site"))


def shown(authority):
    """The certificate as it lies on the disk."""
    return x509.load_pem_x509_certificate(authority.server_pem.read_bytes())


def test_names_are_those_that_the_box_may_have():
    names = signable("hearth-a1b2c3", "Kitchen.example")
    assert names[:3] == ["localhost", "hearth-a1b2c3.local", "hearth-a1b2c3-2.local"]
    assert {"hearth-a1b2c3-9.local", "kitchen.local", "kitchen"} <= set(names)
    assert "kitchen.example" not in names


def test_the_certificate_says_what_is_wanted_and_allowed(authority):
    names = (*NAMES, "example.com")
    leaf = authority.ensure(wanted(names, (*ADDRESSES, "8.8.8.8", "2001:db8::1", "fd00::1")))
    assert leaf.names == [*NAMES, *ADDRESSES, "fd00::1"]
    kind = shown(authority).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert kind.value.get_values_for_type(x509.DNSName) == list(NAMES)


@pytest.mark.parametrize("clock", Clock)
def test_it_is_valid_now_and_no_longer_than_browsers_accept(authority, clock):
    leaf = authority.ensure(wanted(clock=clock))
    made = shown(authority)
    assert leaf.not_before < NOW_S < leaf.not_after
    assert made.not_valid_before_utc.timestamp() == leaf.not_before
    assert made.not_valid_after_utc - made.not_valid_before_utc == datetime.timedelta(LEAF_DAYS)


def test_it_stays_while_nothing_changes(authority):
    leaf = authority.ensure(wanted())
    assert authority.ensure(wanted(now_s=NOW_S + 300 * DAY_S)) == leaf


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": ("127.0.0.1", "192.168.1.6")},
        {"names": ("hearth-a1b2c3-2.local", "localhost")},
        {"now_s": NOW_S + 366 * DAY_S},
        {"now_s": NOW_S - 30 * DAY_S},
    ],
    ids=["address", "renamed", "nearly-over", "clock-set-back"],
)
def test_another_is_made_under_the_same_key(authority, change):
    first = authority.ensure(wanted())
    second = authority.ensure(wanted(**change))
    assert second != first
    assert (second.key_sha256, second.ca_sha256) == (first.key_sha256, first.ca_sha256)
    now_s = change.get("now_s", NOW_S)
    assert second.not_before < now_s < second.not_after


def test_a_clock_that_is_set_later_gets_another_certificate(authority):
    """A board without RTC starts at its software's date, and hears the time in a year."""
    authority.ensure(wanted(clock=Clock.WRONG))
    right = wanted(now_s=NOW_S + 365 * DAY_S)
    leaf = authority.ensure(right)
    assert leaf.not_before < right.now_s < leaf.not_after


def test_a_wrong_clock_ends_no_good_certificate(authority):
    leaf = authority.ensure(wanted(now_s=NOW_S + 200 * DAY_S))
    assert not is_due(leaf, leaf.names, wanted(clock=Clock.WRONG))
    moved = authority.ensure(wanted(addresses=("127.0.0.1",), clock=Clock.WRONG))
    assert moved.not_before == leaf.not_before  # clients' clocks are right


def test_a_power_cut_between_key_and_certificate_is_gone_on_from(authority):
    leaf = authority.ensure(wanted())
    for name in ("ca.crt", "server.pem", "server.json"):
        (authority.folder / name).unlink()
    again = authority.ensure(wanted())
    assert again.ca_sha256 != leaf.ca_sha256  # another certificate, of the same key
    assert authority.certificate().startswith(b"-----BEGIN CERTIFICATE")


def test_a_certificate_of_another_authority_is_refused(authority, tmp_path):
    authority.ensure(wanted())
    other = Authority(tmp_path / "other", "Hearth", NAMES)
    other.ensure(wanted())
    (authority.folder / "ca.crt").write_bytes(other.certificate())
    (authority.folder / "server.json").unlink()
    with pytest.raises(AuthorityError, match="does not belong to"):
        authority.ensure(wanted())


def test_replacing_makes_all_new(authority):
    first = authority.ensure(wanted())
    second = authority.replace(wanted())
    assert first.ca_sha256 != second.ca_sha256
    assert first.key_sha256 != second.key_sha256
