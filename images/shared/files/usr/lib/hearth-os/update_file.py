"""The update file of an image: what a trusted key has signed, and nothing else of it.

A tar of SHA256SUMS, SHA256SUMS.sig, manifest.json and the parts of the new system, as
images/maker/update.py writes it. The signature (Ed25519 over SHA256SUMS) and the key are those of
Hearth's releases (appliance/releases.py), checked by openssl and not by the release in /opt/hearth:
a new system must be able to replace a release that is broken. Whoever owns the file may change it
at any moment and gains nothing: every part is hashed again while it is used.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

from common import RefusedError

SUMS, SIGNATURE, MANIFEST = "SHA256SUMS", "SHA256SUMS.sig", "manifest.json"
MAX_FILE_BYTES = 2 << 30
MAX_SMALL_BYTES = 1 << 16  # of sums, signature and manifest
_MAX_MEMBERS = 64
_CHUNK = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+/-]*)")
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_VERSION = re.compile(r"[0-9][0-9a-z.~-]{0,30}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class UpdateFile:
    """An open update file whose sums one of `keys` (PEM blocks) has signed; a context.

    manifest: "board", "version", and "root" with "bytes" and "sha256" of the file system, unpacked.
    Raises RefusedError, and OSError.
    """

    def __init__(self, path, keys):
        self._file = _opened(path)
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._file)
            self._members = _members(self._file)
            sums = self._small(SUMS)
            _check_signature(sums, self._signature(), keys)
            self._digests = _parsed(sums)
            self.manifest = _manifest(b"".join(self.chunks(MANIFEST)))
            undo.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def check_all(self):
        """Read every part once: a damaged file is refused before anything is changed."""
        for name in self._digests:
            for _ in self.chunks(name):
                pass

    def chunks(self, name):
        """The bytes of a part; RefusedError at their end if they are not what was signed."""
        member, digest = self._member(name), hashlib.sha256()
        self._file.seek(member.offset_data)
        left = member.size
        while left and (chunk := self._file.read(min(left, _CHUNK))):
            left -= len(chunk)
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != self._digests.get(name):
            raise RefusedError(f"{name} in the update is not what was signed: copy the file again")

    def _signature(self):
        if SIGNATURE not in self._members:
            raise RefusedError("the update is not signed: take one from who made this box's Hearth")
        return self._small(SIGNATURE)

    def _small(self, name):
        member = self._member(name)
        if member.size > MAX_SMALL_BYTES:
            raise RefusedError(
                f"{name} in the update has {member.size} bytes, {MAX_SMALL_BYTES} at most are"
                " allowed: it is no update of this system"
            )
        self._file.seek(member.offset_data)
        return self._file.read(member.size)

    def _member(self, name):
        if name not in self._members:
            raise RefusedError(f"the update has no {name}: it is incomplete, copy the file again")
        return self._members[name]


def _opened(path):
    """Open a regular file that is no link: its folder may belong to somebody else. A disk is
    allowed, for a stick that holds nothing but the update."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, number)
        facts = os.fstat(number)
        if not stat.S_ISREG(facts.st_mode) and not stat.S_ISBLK(facts.st_mode):
            raise RefusedError(f"{path} is neither a file nor a disk: give the .update file")
        if facts.st_size > MAX_FILE_BYTES:
            raise RefusedError(
                f"{path} has {facts.st_size} bytes, an update has {MAX_FILE_BYTES} at most"
            )
        undo.pop_all()
    return os.fdopen(number, "rb")


def _members(file):
    found = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while len(found) < _MAX_MEMBERS and (member := archive.next()):
                if member.isreg():
                    found[member.name] = member
    except (tarfile.TarError, EOFError) as error:
        raise RefusedError(
            f"the file is no update or is damaged ({error}): copy it again"
        ) from error
    return found


def _check_signature(sums, signature, keys):
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, name) for name in ("sums", "signature", "key")}
        files["sums"].write_bytes(sums)
        files["signature"].write_bytes(signature)
        for block in _PEM.findall(keys):
            files["key"].write_bytes(block + b"\n")
            if _is_ed25519(files["key"]) and _openssl(
                "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", files["key"],
                "-sigfile", files["signature"], "-in", files["sums"],
            ) is not None:  # fmt: skip
                return
    raise RefusedError(
        "the update is not signed by a key that this box trusts: nothing of it was used"
    )


def _is_ed25519(key):
    return "ED25519" in (_openssl("pkey", "-pubin", "-in", key, "-noout", "-text") or "")


def _openssl(*arguments):
    """What it printed; None if it refused."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL)  # fmt: skip
    return done.stdout if done.returncode == 0 else None


def _parsed(sums):
    lines = [_LINE.fullmatch(line) for line in sums.decode("ascii", "replace").splitlines()]
    if None in lines:
        raise RefusedError(f"{SUMS} in the update has a line that is no hash and name")
    return {line[2]: line[1] for line in lines}


def _manifest(text):
    with contextlib.suppress(ValueError, KeyError, TypeError):
        manifest = json.loads(text)
        root = manifest["root"]
        if (
            isinstance(manifest["board"], str) and _VERSION.fullmatch(manifest["version"])
            and type(root["bytes"]) is int and _DIGEST.fullmatch(root["sha256"])
        ):  # fmt: skip
            return manifest
    raise RefusedError(f"{MANIFEST} in the update is not understood: it is for another system")
