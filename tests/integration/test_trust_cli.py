"""`hearth trust`: enrol with a compared fingerprint, look, and forget; without a service."""

import json

import pytest

from appliance.trust.errors import CURES
from appliance.trust.repositories import read_root
from tests.fakes.tuf_repository import TufRepository, serving
from tests.integration.cli_process import Command


@pytest.fixture
def hearth(tmp_path):
    command = Command("http://127.0.0.1:1")
    return lambda *arguments, fails=None, **how: (
        command(*arguments, HEARTH_STATE=str(tmp_path / "state"), **how)
        if fails is None
        else command.run(*arguments, HEARTH_STATE=str(tmp_path / "state"), **how)
    )


@pytest.fixture
def stick(tmp_path):
    return TufRepository().write_to(tmp_path / "stick")


def fingerprint_of(folder):
    return read_root((folder / "1.root.json").read_bytes()).fingerprint


def names_listed(hearth):
    body = json.loads(hearth("trust", "list", "--json").stdout)
    return [row["name"] for row in body["repositories"]]


def test_a_person_types_what_the_publisher_printed(hearth, stick):
    fingerprint = fingerprint_of(stick)
    add = ("trust", "add", "acme", stick, "--names", "acme/*")
    for typed in ("", "\n", "y\n", "00000\n", fingerprint[:5] + "\n"):
        done = hearth(*add, stdin=typed, fails=True)
        assert done.returncode == 1
        assert fingerprint not in done.stderr  # the last group is the publisher's to give
        assert names_listed(hearth) == []
    done = hearth(*add, stdin=fingerprint[-5:] + "\n")
    assert "acme may now sign acme/*" in done.stdout
    assert names_listed(hearth) == ["acme"]


def test_show_tells_fingerprint_versions_and_clock(hearth, stick):
    fingerprint = fingerprint_of(stick)
    hearth("trust", "add", "acme", stick, "--names", "acme/*", "--fingerprint", fingerprint)
    text = hearth("trust", "show", "acme").stdout
    assert fingerprint in text
    assert "by removable media" in text
    assert "clock" in text
    body = json.loads(hearth("trust", "show", "acme", "--json").stdout)
    assert (body["names"], body["freshness_days"], body["site"]) == (["acme/*"], 14, False)
    assert hearth("trust", "show", "other", fails=True).returncode == 1


def test_a_wrong_fingerprint_is_refused_and_removal_asks(hearth, stick):
    other = read_root(TufRepository().files["1.root.json"]).fingerprint
    add = ("trust", "add", "acme", stick, "--names", "acme/*", "--fingerprint")
    assert "fingerprint is" in hearth(*add, other, fails=True).stderr
    hearth(*add, fingerprint_of(stick))
    assert hearth("trust", "remove", "acme", stdin="n\n", fails=True).returncode == 1
    assert names_listed(hearth) == ["acme"]
    hearth("trust", "remove", "acme", "--yes")
    assert names_listed(hearth) == []


def test_a_repository_at_an_address_is_remembered_with_it(hearth):
    repo = TufRepository()
    fingerprint = read_root(repo.files["1.root.json"]).fingerprint
    with serving(repo) as server:
        url = f"{server.url}metadata"
        hearth(
            "trust",
            "add",
            "site",
            url,
            "--names",
            "site/*",
            "--site",
            f"--fingerprint={fingerprint}",
        )
        body = json.loads(hearth("trust", "show", "site", "--json").stdout)
        assert (body["metadata_url"], body["site"]) == (url, True)
    add = ("trust", "add", "more", url, "--names", "more/*")
    assert hearth(*add, fails=True).returncode == 1


def test_codes_lists_all_twelve_with_their_cures(hearth):
    text = hearth("trust", "codes").stdout
    assert all(code in text and cure in text for code, cure in CURES.items())
