"""A booted Debian with wheelhouses on it, and what tests of the installer do with it."""

import hashlib
import json
import re
import shutil

from tests.system.release_stand import BROKEN, GOOD, NEXT
from tools.release import seal

URL = "http://127.0.0.1:11434"
W = "/srv/release"  # where wheelhouses lie in the container
# What the system keeps of any account or unit that ever was
SYSTEMS_OWN = re.compile(
    r"/(etc/(passwd|group|shadow|gshadow|subuid|subgid)-?|etc/\.pwd\.lock|var/log/.*|var/cache/.*"
    r"|var/lib/systemd/.*|var/tmp/.*|srv/.*|root/.*)"
)


def with_releases(box, stand):
    """The container, with the wheelhouses in it as a stick would bring them."""
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


def enabled(box):
    """The units of Hearth that start by themselves."""
    links = box.path("/etc/systemd/system").glob("*.wants/hearth*")
    return {link.name for link in links if link.is_symlink()}


def attempts(box):
    """Packets that had no way out: what programs tried to send beyond this machine."""
    text = box.run("cat", "/proc/net/snmp", "/proc/net/snmp6").stdout
    names, values = (line.split() for line in text.splitlines() if line.startswith("Ip:"))
    four = int(dict(zip(names, values, strict=True))["OutNoRoutes"])
    return four + int(re.search(r"Ip6OutNoRoutes\s+(\d+)", text)[1])
