"""Update files for the tests of an image: newer systems made from the one that was built, each with
one change inside, signed by a key of the tests."""

import subprocess
import tarfile
from pathlib import Path

from images.maker import stage, uki, update
from tests.system import image_disk

_SECTIONS = ("osrel", "cmdline", "initrd", "linux")
_STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")


class Updates:
    """Makes update files from the one at `good`, in `folder`."""

    def __init__(self, good, folder):
        self._folder = folder
        with tarfile.open(good) as archive:
            archive.extractall(folder, filter="data")
        _run("zstd", "-q", "-d", "--rm", folder / "root.ext4.zst")
        for name in _SECTIONS:
            _run("objcopy", "-O", "binary", f"--dump-section=.{name}={folder / name}",
                 folder / "boot/hearth.efi", "/dev/null")  # fmt: skip
        self.version = _words((folder / "osrel").read_text())["IMAGE_VERSION"]
        self.key, self.public = folder / "release.key", folder / "release.pub"
        _run("openssl", "genpkey", "-algorithm", "ed25519", "-out", self.key)
        _run("openssl", "pkey", "-in", self.key, "-pubout", "-out", self.public)

    def system(self, version, *, words="", removed=()):
        """(root, kernel) of a system like the built one, as `version`: `words` before those of its
        kernel, files taken out."""
        work = self._folder / version
        work.mkdir()
        root, kernel, osrel, cmdline = (
            work / name for name in ("root.ext4", "hearth.efi", "osrel", "cmdline")
        )
        old, uuid = (stage.root_uuid("minipc", each) for each in (self.version, version))
        osrel.write_text((self._folder / "osrel").read_text().replace(self.version, version))
        line = f"{words} {(self._folder / 'cmdline').read_text()}".strip()
        cmdline.write_text(line.replace(str(old), str(uuid)))
        _run("cp", "--sparse=always", self._folder / "root.ext4", root)
        changes = ["cd /usr/lib", "rm os-release", f"write {osrel} os-release"]
        changes += [f"rm {name}" for name in removed]
        _run("debugfs", "-w", "-f", "-", root, text="\n".join(changes))
        _run("e2fsck", "-fy", root, allowed=(0, 1))
        _run("tune2fs", "-U", uuid, root)
        parts = {f".{name}": self._folder / name for name in _SECTIONS}
        uki.make(kernel, _STUB, {**parts, ".osrel": osrel, ".cmdline": cmdline})
        return root, kernel

    def offer(self, target, version):
        """An update file of the system as `version`."""
        facts = {"board": "minipc", "version": version}
        self._write(target, facts, *self.system(version), self.key)

    def lay(self, disk, version, **change):
        """Put a system onto `disk` as `hearth-os update` does, but from outside: an emulated box
        takes minutes for it."""
        root, kernel = self.system(version, **change)
        image_disk.lay(root, disk, "minipc", "hearth-root-b")
        boot = f"{disk}@@{image_disk.offset_mib('minipc', 'hearth-esp')}M"
        _run("mcopy", "-i", boot, kernel, f"::EFI/Linux/hearth_{version}+2.efi")

    def husk(self, target, *, version="9.0.0", name="minipc", signed=True, damaged=False):
        """A small file like an update, for refusals: it could never start."""
        root, kernel = self._folder / "husk.ext4", self._folder / "husk.efi"
        root.write_bytes(b"no file system" * 1000)
        kernel.write_bytes(b"no kernel")
        facts = {"board": name, "version": version}
        self._write(target, facts, root, kernel, self.key if signed else None)
        if damaged:
            with tarfile.open(target) as archive:
                member = archive.getmember("husk.ext4.zst")
            with target.open("r+b") as file:
                file.seek(member.offset_data + member.size - 1)
                file.write(b"?")

    def _write(self, target, facts, root, kernel, key):
        update.write(target, facts, {"root": root}, {"boot/hearth.efi": kernel}, 1, key)


def _words(text):
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _run(*command, text=None, allowed=(0,)):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True,
                          input=text)  # fmt: skip
    assert done.returncode in allowed, f"{command[0]}: {done.stderr}{done.stdout}"
