"""The written key ceremony is run as it stands, every command in order, and boxes follow it."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from appliance.cli.main import main as hearth
from tests.integration.publisher import Client
from tests.integration.test_bundle_rotation import write_as_thief
from tools.bundles.keys import load_signer
from tools.bundles.keys_commands import keys
from tools.bundles.main import main as bundle
from tools.bundles.passphrase import Passphrases
from tools.bundles.repo_commands import repo
from tools.bundles.repository import RepositoryFolder

FOLDER = Path(__file__).parents[2] / "tools/bundles"
EVIL = "acme/assistant/6.6.6"
GOOD = "acme/assistant/1.0"

OWNERS = ("alice", "bob", "carol", "dave", "me", "acme", "lab", "home", "channels", "online")


def sections(page="CEREMONY.md"):
    """Headings with the commands below them."""
    found = {}
    heading = ""
    is_code = False
    for line in (FOLDER / page).read_text().splitlines():
        if line.startswith("```"):
            is_code = line == "```sh"
        elif line.startswith("## "):
            heading = line.removeprefix("## ")
        elif is_code:
            found.setdefault(heading, []).append(line)
    return found


class Room:
    """Runs commands as the people of the shop would: the answers and the paper are typed in."""

    def __init__(self, monkeypatch, folder):
        self._patch = monkeypatch
        self.pages = {}
        self.printed = ""
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HEARTH_STATE", str(folder / "box"))
        monkeypatch.setenv("BUNDLE_REPO", "")
        # one passphrase per person, none of them in the command
        for owner in OWNERS:
            for number in ("", "_2", "_3", "_9"):
                for role in ("", "_TARGETS"):
                    name = f"{owner.upper()}{number}{role}"
                    monkeypatch.setenv(f"BUNDLE_PASSPHRASE_{name}", f"the passphrase of {owner}")

    def run(self, line):
        """The exit status must be 0; what was printed is kept, a page for the printer too."""
        words = shlex.split(line)
        program, arguments = words[0], words[1:]
        if program == "export":
            self._patch.setenv(*arguments[0].split("="))
        elif program in {"bundle", "hearth"}:
            is_printed = arguments[-2:] == ["|", "lp"]
            self._call({"bundle": bundle, "hearth": hearth}[program], arguments, is_printed)
        else:
            subprocess.run(words, check=True)

    def _call(self, main, arguments, is_printed):
        arguments = arguments[:-2] if is_printed else arguments
        self._patch.setattr(sys, "stdin", io.StringIO(self._typed(arguments)))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = main(arguments)
        self.printed = out.getvalue()
        assert status == 0, f"{arguments}: {self.printed}"
        if is_printed:
            self.pages[Path(arguments[-1]).stem] = self.printed

    def _typed(self, arguments):
        if arguments[:2] == ["keys", "restore"]:
            words = re.findall(r"\d+\. ([a-z]{5})", self.pages[arguments[3]])
            return "\n".join(words)
        if arguments[:2] == ["trust", "add"]:
            return self.fingerprint[-5:] + "\n"
        return "y\n"

    @property
    def fingerprint(self):
        """As the tool prints it, on another screen than the box's."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert bundle(["repo", "status"]) == 0
        return re.search(r"fingerprint of the root: ([0-9 ]+)", out.getvalue())[1]


def signer(path):
    return load_signer(Path(path), Passphrases())


def list_release(name, key):
    """What a publisher's CI does, or a thief with its key."""
    folder = RepositoryFolder(Path("site/tuf/shop/metadata"))
    folder.add_target("acme", name, b"index", [signer(key)])
    folder.publish(signer("host/online.key"))


def test_the_ceremony_is_run_as_it_is_written(tmp_path, monkeypatch, capsys):
    room = Room(monkeypatch, tmp_path)
    box = None
    for heading, lines in sections().items():
        if heading.startswith("9."):
            list_release(EVIL, "acme/acme.key")
            assert box.refresh(EVIL)
        elif heading.startswith("10."):
            thief = RepositoryFolder(Path("site/tuf/shop/metadata"))
            write_as_thief(thief, signer("host/online.key"))
            box.refresh()
            assert box.refused(GOOD)
        for line in lines:
            room.run(line)
        if heading.startswith("4."):
            list_release(GOOD, "acme/acme.key")
            box = Client(tmp_path / "follower", tmp_path / "site/tuf/shop/metadata")
        if box is not None:
            assert set(box.refresh(GOOD).targets) == {GOOD}, heading
            new = Client(tmp_path / f"new {heading[:2]}", box.metadata)
            assert set(new.refresh(GOOD).targets) == {GOOD}, heading
    assert box.versions()["root"] == 5
    assert hearth(["trust", "list"]) == 0
    out = capsys.readouterr().out
    assert room.fingerprint in out


def test_the_five_minute_start_is_run_as_it_is_written(tmp_path, monkeypatch):
    room = Room(monkeypatch, tmp_path)
    for line in sections("README.md")["Five minutes, alone"]:  # releases: see test_bundle_demo.py
        room.run(line)
    assert room.printed == "all is well\n"


def test_the_page_uses_every_command_there_is():
    commands = "\n".join(line for lines in sections().values() for line in lines)
    for name in keys.commands:
        assert f"bundle keys {name}" in commands
    for name, command in repo.commands.items():
        below = command.commands if isinstance(command, click.Group) else [""]
        for verb in below:
            assert f"bundle repo {name} {verb}".strip() in commands
    assert "passphrase" not in commands.lower()


@pytest.mark.parametrize("heading", ["8. An officer lost a key", "10. All online keys leaked"])
def test_each_emergency_has_commands(heading):
    assert len(sections()[heading]) >= 5
