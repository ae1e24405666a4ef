"""What the installer refuses, each in one sentence with its cure, and a clock that is wrong."""

import re
import subprocess

import pytest

from tests.fakes import early_clock
from tests.fakes.waiting import wait_for
from tests.system.installing import (
    W,
    altered,
    chats,
    condition,
    install,
    refusal,
    tree,
    version_of,
    with_releases,
)
from tests.system.release_stand import BROKEN, GOOD, NEXT

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


@pytest.fixture
def box(booted, stand):
    return with_releases(booted(), stand)


def test_each_bad_input_is_one_sentence_with_the_cure(box, stand):
    good = f"{W}/{GOOD}"
    before = tree(box)

    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    refusal(box.run(*nobody, f"{good}/install.sh", check=False), "needs root", "sudo")

    box.write("/root/old/systemctl", "#!/bin/sh\necho 'systemd 245 (245)'\n", 0o755)
    old = ("env", "PATH=/root/old:/usr/sbin:/usr/bin:/sbin:/bin")
    refusal(box.run(*old, f"{good}/install.sh", check=False), "systemd is 245", "Debian 12")

    other = altered(box, stand, "arch", lambda text: re.sub("arch=.*", "arch=riscv64", text))
    refusal(box.run(f"{other}/install.sh", check=False), "the wheelhouse is for riscv64")

    older = altered(box, stand, "python", lambda text: re.sub("python=.*", "python=3.99", text))
    refusal(box.run(f"{older}/install.sh", check=False), "Python 3.99", "--interpreter")

    wheel = next(box.path(good).glob("wheels/aiohttp-*.whl"))
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refusal(install(box, GOOD, check=False), wheel.name, "copy it again", "nothing was installed")
    wheel.unlink()
    refusal(install(box, GOOD, check=False), "damaged", "copy it again")
    wheel.write_bytes(whole)
    box.write(f"{good}/wheels/more.whl", "")
    refusal(install(box, GOOD, check=False), "does not list")
    box.path(f"{good}/wheels/more.whl").unlink()

    box.run("mount", "-t", "tmpfs", "-o", "size=20M", "tmpfs", "/opt")
    refusal(install(box, GOOD, check=False), "20 MiB of disk left", "free some")
    box.run("umount", "/opt")
    box.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/opt")
    refusal(install(box, GOOD, check=False), "cannot be written", "remount,rw /opt")
    box.run("umount", "/opt")
    assert tree(box) == before


def test_a_port_that_ollama_holds_is_named(box):
    box.run("cp", "/usr/bin/python3", "/usr/local/bin/ollama")
    listen = "import socket,time\ns=socket.create_server(('0.0.0.0',11434))\ntime.sleep(999)"
    with subprocess.Popen(box.enter("/usr/local/bin/ollama", "-c", listen)) as holding:
        wait_for(lambda: "11434" in box.run("ss", "-ltn").stdout)
        done = install(box, GOOD, check=False)
        holding.kill()
    refusal(done, "port 11434 is taken by ollama (process", "systemctl disable --now ollama")
    assert not box.path("/opt/hearth/current").exists()


def test_a_state_folder_that_takes_nothing_is_named_before_anything_changes(box):
    before = tree(box)
    box.run("mkdir", "-p", "/var/lib/hearth")
    for options, words in {
        "ro": ("cannot be written", "mount -o remount,rw /var/lib/hearth"),
        "size=8M": ("/var/lib/hearth has 8 MiB", "needs 32 MiB", "hearth rm"),
    }.items():
        box.run("mount", "-t", "tmpfs", "-o", options, "tmpfs", "/var/lib/hearth")
        refusal(install(box, GOOD, check=False), *words)
        box.run("umount", "/var/lib/hearth")
    assert tree(box) == before


def test_a_service_that_cannot_start_says_why_with_the_cure(box):
    box.write("/etc/hearth/hearth.toml", 'engine = "steam"\n')
    done = install(box, GOOD, check=False)
    refusal(done, "hearth.toml", "engine", "steam", "no release before it")
    box.write("/etc/hearth/hearth.toml", 'engine = "auto"\n')
    install(box, GOOD)
    box.write("/etc/hearth/hearth.toml", 'engine = "steam"\n')
    box.run("hearth", "update", f"{W}/{NEXT}", timeout=300)
    assert version_of(box) == NEXT, "the settings of the last good start are in force"
    assert "steam" in condition(box, "settings_broken")["text"]


def test_a_first_release_that_does_not_start_says_why(box):
    done = install(box, BROKEN, check=False)
    refusal(done, "this release is broken", "no release before it", "journalctl -u hearth")
    install(box, GOOD)
    assert version_of(box) == GOOD


def test_a_dry_run_tells_and_changes_nothing(box):
    before = tree(box)
    said = install(box, GOOD, "--dry-run").stdout
    assert "would build release" in said
    assert tree(box) == before


def test_a_clock_in_1970_does_not_stop_an_installation(box, tmp_path):
    """A board without a battery for its clock, in a place without a network."""
    library = early_clock.compiled(tmp_path)
    box.copy(library, f"/root/{library.name}")
    early = early_clock.words(f"/root/{library.name}")
    assert box.run(*early, "date", "+%Y").stdout == "1970\n"
    print(box.run(*early, f"{W}/{GOOD}/install.sh", timeout=300).stdout)
    assert version_of(box) == GOOD
    assert chats(box)
    box.run(*early, "hearth", "update", f"{W}/{NEXT}", timeout=300)
    assert version_of(box) == NEXT
