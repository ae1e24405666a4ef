"""The installer in a booted Debian without a network: install, update, go back, leave nothing."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.fakes.waiting import wait_for
from tests.system import own_python
from tests.system.distributions import DEBIAN_12
from tests.system.release_stand import BROKEN, GOOD, NEXT, build_stand
from tools.release import seal, wheels

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

INSTALL_LIMIT_S = 60
URL = "http://127.0.0.1:11434"
W = "/srv/release"  # where wheelhouses lie in the container
PRESET = {
    "hearth.socket", "hearth.service", "hearth-health.timer", "hearth-scrub.timer",
    "hearth-settle.service", "hearth-update.path", "hearth-update.timer",
}  # fmt: skip
# What the system keeps of any account or unit that ever was
SYSTEMS_OWN = re.compile(
    r"/(etc/(passwd|group|shadow|gshadow|subuid|subgid)-?|etc/\.pwd\.lock|var/log/.*|var/cache/.*"
    r"|var/lib/systemd/.*|var/tmp/.*|srv/.*|root/.*)"
)


@pytest.fixture(scope="module")
def stand():
    return build_stand()


@pytest.fixture
def box(booted, stand):
    """A machine with the wheelhouses on it, as a stick would bring them."""
    box = booted()
    for version in (GOOD, NEXT, BROKEN):
        box.copy(stand.wheelhouse(version), f"{W}/{version}")
    return box


def install(box, version, *options, check=True):
    return box.run(f"{W}/{version}/install.sh", *options, check=check, timeout=300)


def refusal(done, *words):
    """One sentence on stderr, with these words in it."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("hearth: ")
    for word in words:
        assert word in lines[0]
    print(lines[0])


def version_of(box):
    status, body = box.get(f"{URL}/api/version")
    return json.loads(body)["hearth"] if status == 200 else None


def chats(box):
    body = {"model": "hearth", "messages": [{"role": "user", "content": "What is Hearth?"}]}
    options = ("-d", json.dumps(body | {"stream": False}))
    status, answer = box.get(f"{URL}/api/chat", *options)
    assert status == 200, answer
    return json.loads(answer)["message"]["content"]


def condition(box, code):
    """What `hearth doctor` says of it; None: nothing."""
    found = json.loads(box.run("hearth", "doctor", "--json", check=False).stdout)["conditions"]
    return next((each for each in found if each["code"] == code), None)


def links(box):
    """The releases that `current` and `previous` name."""
    return [box.run("readlink", "-f", f"/opt/hearth/{name}").stdout.strip().rpartition("/")[2]
            for name in ("current", "previous")]  # fmt: skip


def enabled(box):
    """The units of Hearth that start by themselves."""
    links = box.path("/etc/systemd/system").glob("*.wants/hearth*")
    return {link.name for link in links if link.is_symlink()}


def tree(box):
    """Every file of the system with what is in it, those apart that are the system's own."""
    found = {}
    for folder in ("etc", "opt", "usr", "var", "srv", "root"):
        for path in sorted(box.path(folder).rglob("*")):
            name = f"/{path.relative_to(box.root)}"
            if SYSTEMS_OWN.fullmatch(name) or path.is_dir():
                continue
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def attempts(box):
    """Packets that had no way out: what programs tried to send beyond this machine."""
    text = box.run("cat", "/proc/net/snmp", "/proc/net/snmp6").stdout
    names, values = (line.split() for line in text.splitlines() if line.startswith("Ip:"))
    four = int(dict(zip(names, values, strict=True))["OutNoRoutes"])
    return four + int(re.search(r"Ip6OutNoRoutes\s+(\d+)", text)[1])


def test_a_life_without_a_network(box):
    before = tree(box)
    links_there = box.run("ip", "-o", "link").stdout.splitlines()
    assert len(links_there) == 1, links_there
    tried = attempts(box)
    started = time.monotonic()
    done = install(box, GOOD)
    took_s = time.monotonic() - started
    print(done.stdout)
    print(f"installed in {took_s:.1f} s; {attempts(box) - tried} packets tried to leave")
    assert attempts(box) == tried
    assert took_s <= INSTALL_LIMIT_S
    assert version_of(box) == GOOD
    print("chat:", chats(box))

    first, pid = tree(box), box.show("hearth.service", "MainPID")
    started = time.monotonic()
    install(box, GOOD)
    print(f"second run in {time.monotonic() - started:.1f} s")
    assert {k: v for k, v in tree(box).items() if "/var/lib/hearth" not in k} == {
        k: v for k, v in first.items() if "/var/lib/hearth" not in k
    }
    assert box.show("hearth.service", "MainPID") == pid

    started = time.monotonic()
    done = box.run("hearth", "update", f"{W}/{NEXT}", timeout=300)
    print(done.stdout, f"updated in {time.monotonic() - started:.1f} s")
    assert version_of(box) == NEXT
    assert links(box) == [NEXT, GOOD]

    started = time.monotonic()
    done = box.run("hearth", "update", f"{W}/{BROKEN}", check=False, timeout=300)
    print(done.stdout, f"back after {time.monotonic() - started:.1f} s")
    refusal(
        done, f"Hearth {BROKEN} did not prove itself", "this release is broken", f"{NEXT} is back"
    )
    assert version_of(box) == NEXT
    assert links(box) == [NEXT, GOOD]
    assert not box.path(f"/opt/hearth/releases/{BROKEN}").exists()
    assert chats(box)
    told = condition(box, "hearth_returned")
    assert f"Hearth {BROKEN} did not prove itself" in told["text"]
    assert "this release is broken" in told["text"]
    assert f"{NEXT} serves as before" in told["cure"]
    assert re.search(rf"update +{BROKEN} came back", box.run("hearth", "status").stdout)

    box.run("hearth", "update", "--rollback", timeout=300)
    assert version_of(box) == GOOD
    assert condition(box, "hearth_returned") is None
    assert f"Hearth {GOOD} serves since" in condition(box, "hearth_updated")["text"]
    assert links(box) == [GOOD, NEXT]
    listed = json.loads(box.run("hearth", "update", "--list", "--json").stdout)["releases"]
    assert {r["version"]: (r["current"], r["previous"]) for r in listed} == {
        GOOD: (True, False), NEXT: (False, True)
    }  # fmt: skip

    done = box.run("/opt/hearth/current/install.sh", "--uninstall")
    print(done.stdout)
    assert tree(box) == before
    assert "hearth" not in box.run("cat", "/etc/passwd", "/etc/group").stdout
    assert "hearth" not in box.run("systemctl", "list-unit-files", "--no-legend").stdout
    assert "hearth" not in box.run("systemctl", "list-units", "--no-legend").stdout
    assert box.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"


def cut_after(box, lines, version):
    """Run the installer, and cut the power when it has said so many lines. Whether it was cut."""
    command = box.enter(f"{W}/{version}/install.sh")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        said = []
        for line in running.stdout:
            said.append(line.strip())
            if len(said) == lines:
                box.cut_power()
                break
        is_cut = len(said) == lines
        running.send_signal(signal.SIGKILL)
    print(f"cut after: {said[-1]}" if is_cut else "it ended before")
    return is_cut


@pytest.mark.long
def test_a_power_cut_after_any_step_leaves_a_machine_that_serves(box):
    install(box, GOOD)
    seen = set()
    for lines in range(1, 40):
        box.run("rm", "-rf", f"/opt/hearth/releases/{NEXT}", "/opt/hearth/previous")
        if not cut_after(box, lines, NEXT):
            break
        box.boot()
        wait_for(lambda: version_of(box) in {GOOD, NEXT}, 60)
        wait_for(lambda: not box.path("/opt/hearth/trial").exists(), 60)
        seen.add(version_of(box))
        assert links(box)[0] == version_of(box)
        if version_of(box) == NEXT:
            install(box, GOOD)
            assert version_of(box) == GOOD
    assert version_of(box) == NEXT, "the run that was not cut"
    assert lines > 6
    assert seen == {GOOD, NEXT}


def test_an_update_that_was_cut_and_is_broken_goes_back_at_the_next_boot(box):
    install(box, GOOD)
    with subprocess.Popen(
        box.enter(f"{W}/{BROKEN}/install.sh"), stdout=subprocess.PIPE, text=True
    ) as running:
        for line in running.stdout:
            if "wait until" in line:
                box.cut_power()
                break
        running.kill()
    assert box.path("/opt/hearth/current").readlink().name == BROKEN
    box.boot()
    wait_for(lambda: version_of(box) == GOOD, 120)
    wait_for(lambda: not box.path("/opt/hearth/trial").exists(), 60)
    assert links(box)[0] == GOOD
    assert f"{GOOD} is back" in condition(box, "hearth_returned")["text"]


def test_a_folder_of_another_system_is_made_ready_and_serves_when_booted(booted, stand):
    box = booted(boots=False)
    (box.root / "boot/firmware").mkdir(parents=True)  # a Raspberry Pi's
    command = ["tools/install.sh", "--root", str(box.root), "--wheelhouse", stand.wheelhouse(GOOD)]
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for rules in ("70-hearth-import.rules", "71-hearth-leds.rules"):
        assert box.path(f"/etc/udev/rules.d/{rules}").is_file()
    assert box.path("/etc/systemd/system/hearth-import@.service").is_file()
    for drop_in in ("hearth.service.d/leds.conf", "hearth-health.service.d/vcio.conf"):
        assert box.path(f"/etc/systemd/system/{drop_in}").is_file()
    assert enabled(box) == PRESET
    assert box.boot() == "running", box.journal()
    wait_for(lambda: version_of(box) == GOOD, 60)
    assert chats(box)


def test_a_system_without_a_python_gets_the_one_that_the_wheelhouse_brings(booted, stand, tmp_path):
    box = booted(boots=False)
    own_python.take_away(box, "python3", "python3.11")
    made = shutil.copytree(stand.wheelhouse(GOOD), box.path(f"{W}/own"))
    archive = own_python.pack(DEBIAN_12.root(), "3.11", tmp_path)
    wheels.add_interpreter(archive, made)
    reseal(made, stand)
    box.boot()
    assert not box.path("/usr/bin/python3").exists()
    print(box.run(f"{W}/own/install.sh", timeout=300).stdout)
    assert version_of(box) == GOOD
    assert chats(box)
    python = box.run("readlink", "-f", "/opt/hearth/current/bin/python").stdout.strip()
    assert python == f"/opt/hearth/releases/{GOOD}/python/bin/python3.11"
    with next(made.glob("interpreter/*")).open("ab") as packed:
        packed.write(b"x")
    done = box.run(f"{W}/own/install.sh", check=False)
    refusal(done, f"interpreter/{archive.name}", "copy it again", "nothing was installed")


def test_what_is_put_into_the_updates_folder_is_verified_and_taken(box, stand, tmp_path):
    install(box, GOOD)
    inbox = "/var/lib/hearth/updates"
    forged = shutil.copytree(stand.wheelhouse(NEXT), tmp_path / f"hearth-{NEXT}-forged")
    with (forged / "install.sh").open("a") as script:
        script.write("touch /forged\n")
    box.run("install", "-d", "-o", "hearth", inbox)
    box.copy(seal.tar(forged, tmp_path / "forged.tar"), f"{inbox}/forged.tar")
    wait_for(lambda: box.path(f"{inbox}/forged.tar.refused").exists(), 60)
    assert "install.sh is not what was signed" in box.journal("-u", "hearth-update")
    assert version_of(box) == GOOD
    assert not box.path("/forged").exists()
    assert "install.sh is not what was signed" in condition(box, "hearth_refused")["text"]
    good = seal.tar(stand.wheelhouse(NEXT), tmp_path / "good.tar")
    shutil.copy2(good, box.path(f"{inbox}/.good"))
    box.run("mv", f"{inbox}/.good", f"{inbox}/good.tar")
    wait_for(lambda: version_of(box) == NEXT, 120)
    wait_for(lambda: not box.path(f"{inbox}/good.tar").exists(), 60)
    assert condition(box, "hearth_refused") is None


# -- what is refused ---------------------------------------------------------------------


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


def altered(box, stand, name, change):
    """A wheelhouse in the box whose facts say something else, with hashes that fit."""
    folder = shutil.copytree(stand.wheelhouse(GOOD), box.path(f"{W}/{name}"))
    facts = folder / "RELEASE"
    facts.write_text(change(facts.read_text()))
    reseal(folder, stand)
    return f"{W}/{name}"


def reseal(folder, stand):
    """Hashes and signature of what is there now."""
    for old in ("SHA256SUMS", "SHA256SUMS.sig"):
        (folder / old).unlink()
    seal.seal(folder, stand.key)
