"""What a boot partition may ask for, and what becomes of it and of its secrets."""

import json

import pytest

from appliance.firstboot.apply import Machine, first_boot, wipe
from appliance.firstboot.wishes import (
    Wifi,
    keyfile,
    merge,
    parse_imager,
    parse_network_config,
    parse_own,
    parse_user_data,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFo me@laptop"
OWN = f"""
name = "Kitchen"
scrub_days = 14

[system]
hostname = "Kitchen-Box"
user = "ann"
ssh_keys = ["{KEY}"]
timezone = "Europe/Berlin"

[system.wifi]
ssid = "Home"
password = "correct horse"
country = "DE"
"""
IMAGER = f"""
config_version = 1
[system]
hostname = "pi"
[user]
name = "bob"
password = "$5$salt$hash"
password_encrypted = true
[ssh]
enabled = true
authorized_keys = ["{KEY}"]
[wlan]
ssid = "Home"
password = "{"ab" * 32}"
password_encrypted = true
hidden = true
country = "GB"
[locale]
keymap = "gb"
timezone = "Europe/London"
"""

# What Raspberry Pi Imager 2 writes for Raspberry Pi OS 13.
USER_DATA = f"""#cloud-config
hostname: Pi
manage_etc_hosts: true
packages:
- avahi-daemon
apt:
  conf: |
    Acquire {{
      Check-Date "false";
    }};
timezone: Europe/London
keyboard:
  model: pc105
  layout: "gb"
enable_ssh: true
users:
- name: bob
  groups: users,adm,sudo
  shell: /bin/bash
  lock_passwd: false
  passwd: $5$salt$hash
  ssh_authorized_keys:
    - {KEY}
  sudo: ALL=(ALL) NOPASSWD:ALL
"""
NETWORK_CONFIG = f"""network:
  version: 2
  wifis:
    wlan0:
      dhcp4: true
      regulatory-domain: "GB"
      access-points:
        "Home":
          hidden: true
          password: "{"ab" * 32}"
      optional: true
"""


@pytest.fixture
def places(tmp_path):
    """A root, a boot partition, a state folder; the box has the id that ends in 56789a."""
    root, boot, state = (tmp_path / name for name in ("root", "boot", "state"))
    for folder in (root / "etc", boot, state):
        folder.mkdir(parents=True)
    (state / "box.json").write_text(json.dumps({"id": "01234f56789a"}))
    return root, boot, state


def start(places):
    root, boot, state = places
    machine = Machine(root)
    first_boot(machine, boot, state)
    return machine.said


def test_our_own_file_has_the_systems_wishes_and_the_services_settings():
    wishes = parse_own(OWN.encode())
    assert wishes.problems == []
    assert (wishes.hostname, wishes.user, wishes.timezone) == (
        "kitchen-box",
        "ann",
        "Europe/Berlin",
    )
    assert wishes.ssh_keys == [KEY]
    assert wishes.wifi == Wifi("Home", "correct horse", country="DE")
    assert wishes.settings == {"name": "Kitchen", "scrub_days": 14}


def test_a_file_of_windows_with_a_mark_and_its_line_ends_is_read():
    assert parse_own(b"\xef\xbb\xbf" + OWN.replace("\n", "\r\n").encode()) == parse_own(
        OWN.encode()
    )


def test_imagers_file_is_read_but_for_passwords_to_log_in_with():
    wishes = parse_imager(IMAGER.encode())
    assert wishes.problems == []
    assert (wishes.hostname, wishes.user, wishes.timezone) == ("pi", "bob", "Europe/London")
    assert wishes.wifi == Wifi("Home", "ab" * 32, hidden=True, country="GB")
    assert "salt" not in repr(wishes)
    assert "ab" * 32 not in repr(wishes)


def test_ssh_without_a_key_stays_off_and_says_so():
    wishes = parse_imager(b"config_version = 1\n[ssh]\nenabled = true\nauthorized_keys = []")
    assert wishes.ssh_keys == []
    assert wishes.problems == ["custom.toml: SSH stays off, since no public key is given"]


def test_imagers_files_for_cloud_init_say_the_same_as_its_own():
    both = merge(parse_user_data(USER_DATA.encode()), parse_network_config(NETWORK_CONFIG.encode()))
    assert both == parse_imager(IMAGER.encode())
    assert "salt" not in repr(both)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hostname: 'a b'", "cannot be a hostname"),
        ("hostname: [a", "cannot be read"),
        ("just words", "is not a table"),
        ("users: [{name: 'root:x'}]", "cannot be a name"),
        ("users: [{name: a}, {name: b}]", "of 2 users the first alone"),
        ("enable_ssh: true", "SSH stays off"),
        ("ssh_authorized_keys: [nonsense]", "1 of 1 lines are no SSH public keys"),
        ("runcmd: [[rm, -rf, /]]\nwrite_files: []", "runcmd, write_files is not done"),
        ("a: &a [x]\nb: *a", "has aliases"),
        ("[" * 30_000, "is nested deeper than 32"),
        ("- " * 30_000, "is nested deeper than 32"),
        ("---\n" * 40, "cannot be read"),
        ("timezone: 2026-13-45", "cannot be read"),
        ("#" * 65_537, "65536 are allowed"),
    ],
)
def test_wrong_user_data_is_one_sentence(text, problem):
    wishes = parse_user_data(text.encode())
    assert len(wishes.problems) == 1
    assert problem in wishes.problems[0]
    assert (wishes.hostname, wishes.ssh_keys) == ("", [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ethernets: {eth0: {addresses: [10.0.0.2/24]}}", "ethernets is not used"),
        ("network: [1]", "network is not a table"),
        ("wifis: {wlan0: {access-points: {a: {password: short}}}}", "8 to 63 characters"),
        ("wifis: {wlan0: {access-points: [a]}}", "access-points is not a table"),
        ("wifis: {wlan0: {regulatory-domain: Germany, access-points: {a: }}}", "is no country"),
    ],
)
def test_wrong_network_config_is_one_sentence(text, problem):
    wishes = parse_network_config(text.encode())
    assert len(wishes.problems) == 1
    assert problem in wishes.problems[0]
    assert wishes.wifi is None


def test_of_two_networks_the_first_is_used():
    wishes = parse_network_config(b"wifis: {wlan0: {access-points: {a: {}, b: {}}}}")
    assert wishes.wifi == Wifi("a")
    assert "of 2 networks" in wishes.problems[0]


def test_ours_counts_where_both_ask():
    both = merge(parse_imager(IMAGER.encode()), parse_own(OWN.encode()))
    assert both.hostname == "kitchen-box"
    assert both.wifi.ssid == "Home"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[system\n", "cannot be read"),
        ("[system]\nhostname = 'a b'", "cannot be a hostname"),
        ("[system]\nhostname = '../x'", "cannot be a hostname"),
        ("[system]\nuser = 'root:x'", "cannot be a user"),
        ("[system]\ntimezone = '../../etc/shadow'", "cannot be a timezone"),
        ('[system]\nssh_keys = ["ssh-ed25519 AAAA\\nssh-rsa B"]', "no SSH public keys"),
        ("[system.wifi]\nssid = ''\npassword = '12345678'", "1 to 32 bytes"),
        ('[system.wifi]\nssid = "a\\n[x]"', "can be printed"),
        ("[system.wifi]\nssid = 'a'\npassword = 'short'", "8 to 63 characters"),
        ("[system.wifi]\nssid = 'a'\ncountry = 'Germany'", "is no country"),
        ("[system]\nhostnme = 'a'", "has no 'hostnme'"),
        ("system = 3", "is not a table"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_the_rest_counts(text, problem):
    wishes = parse_own(text.encode())
    assert len(wishes.problems) == 1
    assert problem in wishes.problems[0]
    assert (wishes.hostname, wishes.user, wishes.wifi, wishes.ssh_keys) == ("", "", None, [])


def test_a_file_too_large_or_of_no_text_is_not_used():
    assert "65536 are allowed" in parse_own(b"#" * 65_537).problems[0]
    assert "cannot be read" in parse_own(b"\xff\xfe").problems[0]


def test_a_wifi_name_with_odd_characters_survives_its_file():
    text = keyfile(Wifi(" a;b\\c", "correct horse"))
    assert "ssid=\\sa\\;b\\\\c\n" in text
    assert "psk=correct horse\n" in text


def test_a_first_start_sets_the_system_up_and_leaves_no_secret(places):
    root, boot, _ = places
    (root / "etc/NetworkManager/system-connections").mkdir(parents=True)
    (root / "usr/share/zoneinfo/Europe").mkdir(parents=True)
    (root / "usr/share/zoneinfo/Europe/Berlin").touch()
    (boot / "hearth.toml").write_text(OWN)
    assert start(places) == []
    assert (root / "etc/hostname").read_text() == "kitchen-box\n"
    assert "127.0.1.1 kitchen-box" in (root / "etc/hosts").read_text()
    assert (root / "home/ann/.ssh/authorized_keys").read_text() == f"{KEY}\n"
    wifi = root / "etc/NetworkManager/system-connections/hearth-wifi.nmconnection"
    assert "psk=correct horse" in wifi.read_text()
    assert wifi.stat().st_mode & 0o777 == 0o600
    assert (root / "etc/hearth/hearth.toml").read_text() == 'name = "Kitchen"\nscrub_days = 14\n'
    assert sorted(path.name for path in boot.iterdir()) == ["hearth.toml.read"]
    assert "correct" not in (boot / "hearth.toml.read").read_text()
    assert start(places) == []
    assert (root / "etc/hostname").read_text() == "kitchen-box\n"


def test_imagers_files_are_done_and_wiped(places):
    root, boot, _ = places
    (root / "etc/NetworkManager/system-connections").mkdir(parents=True)
    (root / "usr/share/zoneinfo/Europe").mkdir(parents=True)
    (root / "usr/share/zoneinfo/Europe/London").touch()
    (boot / "user-data").write_text(USER_DATA)
    (boot / "network-config").write_text(NETWORK_CONFIG)
    assert start(places) == []
    assert (root / "etc/hostname").read_text() == "pi\n"
    assert (root / "home/bob/.ssh/authorized_keys").read_text() == f"{KEY}\n"
    assert (root / "etc/NetworkManager/system-connections/hearth-wifi.nmconnection").exists()
    assert sorted(path.name for path in boot.iterdir()) == [
        "network-config.read", "user-data.read",
    ]  # fmt: skip
    for file in boot.iterdir():
        assert "abab" not in file.read_text()
        assert "salt" not in file.read_text()


def test_without_any_file_the_host_name_is_made_of_the_id(places):
    assert start(places) == []
    assert (places[0] / "etc/hostname").read_text() == "hearth-56789a\n"


def test_settings_that_the_service_would_refuse_leave_the_old_ones_in_force(places):
    root, boot, _ = places
    (root / "etc/hearth").mkdir()
    (root / "etc/hearth/hearth.toml").write_text('name = "Old"\n')
    (boot / "hearth.toml").write_text('max_queue = "many"\n[system]\nhostname = "new"')
    said = start(places)
    assert len(said) == 1
    assert "hearth.toml was not taken" in said[0]
    assert (root / "etc/hearth/hearth.toml").read_text() == 'name = "Old"\n'
    assert sorted(path.name for path in (root / "etc/hearth").iterdir()) == ["hearth.toml"]
    assert (root / "etc/hostname").read_text() == "new\n"


def test_the_file_that_takes_all_keys_back_counts_once(places):
    _, boot, state = places
    (boot / "hearth-reset-keys").touch()
    assert start(places) == []
    assert (state / "reset-claim").exists()
    assert list(boot.iterdir()) == []


def test_an_enrolment_file_is_handed_over_unread(places):
    _, boot, state = places
    (boot / "site-root.json").write_text("whatever")
    assert "`hearth doctor` says" in start(places)[0]
    assert (state / "site-root.json").read_text() == "whatever"
    assert (state / "site-root.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in boot.iterdir()] == ["site-root.json.read"]


def test_an_enrolment_file_that_cannot_be_handed_over_waits_where_it_is(places):
    _, boot, state = places
    (boot / "site-root.json").write_text("whatever")
    (state / "site-root.json").mkdir()
    assert "site-root.json could not be written" in start(places)[0]
    assert (boot / "site-root.json").read_text() == "whatever"


def test_a_wiped_file_is_overwritten_where_it_lies(tmp_path):
    path = tmp_path / "hearth.toml"
    path.write_text("secret" * 100)
    same = path.open("rb")
    wipe(path)
    with same:
        assert b"secret" not in same.read()
