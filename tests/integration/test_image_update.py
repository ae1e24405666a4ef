"""The update file of an image: what `hearth-os update` takes, and all that it refuses."""

import io
import os
import subprocess
import tarfile

import pytest

from images.maker import update
from tests.fakes.hearth_os import load

RELEASE = {"IMAGE_ID": "hearth-minipc", "IMAGE_VERSION": "0.9.0"}
FACTS = {"board": "minipc", "version": "0.10.0"}
SYSTEM = os.urandom(3 << 20) + bytes(1 << 20)


@pytest.fixture(scope="module")
def hearth_os():
    """The program of the image, as a module."""
    return load()


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return _new_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def trusted(key):
    return key.with_suffix(".pub").read_bytes()


@pytest.fixture
def made(tmp_path, key):
    """Make an update file; its path."""

    def make(sign=key, system=SYSTEM, **facts):
        root, kernel = tmp_path / "root.ext4", tmp_path / "hearth.efi"
        root.write_bytes(system)
        kernel.write_bytes(b"kernel" * 1000)
        target = tmp_path / "new.update"
        files = {"boot/hearth.efi": kernel}
        update.write(target, {**FACTS, **facts}, {"root": root}, files, 1, sign)
        return target

    return make


def test_a_signed_update_is_written_as_it_was_signed(hearth_os, made, trusted, tmp_path):
    place = tmp_path / "place"
    place.write_bytes(b"\xff" * (5 << 20))
    with hearth_os.UpdateFile(made(), trusted) as file:
        hearth_os.check(file.manifest, RELEASE)
        file.check_all()
        _need_root()
        hearth_os.write_part(file, "root.ext4.zst", file.manifest["root"], place)
        assert b"".join(file.chunks("boot/hearth.efi")) == b"kernel" * 1000
    assert place.read_bytes() == SYSTEM + b"\xff" * (1 << 20)


def test_the_same_key_and_content_give_the_same_file(made):
    assert made().read_bytes() == made().read_bytes()


def test_it_is_signed_by_a_key_among_several(hearth_os, made, trusted, tmp_path):
    other = _new_key(tmp_path).with_suffix(".pub").read_bytes()
    hearth_os.UpdateFile(made(), other + trusted).__exit__()
    with pytest.raises(hearth_os.RefusedError, match="not signed by a key that this box trusts"):
        hearth_os.UpdateFile(made(), other)


def test_an_unsigned_update_is_refused(hearth_os, made, trusted):
    with pytest.raises(hearth_os.RefusedError, match="the update is not signed: take one"):
        hearth_os.UpdateFile(made(sign=None), trusted)


def test_a_box_without_a_key_refuses_everything(hearth_os, made):
    with pytest.raises(hearth_os.RefusedError, match="not signed by a key that this box trusts"):
        hearth_os.UpdateFile(made(), b"")


def test_another_kind_of_key_is_no_key(hearth_os, made, tmp_path):
    key = _new_key(tmp_path, "rsa")
    with pytest.raises(hearth_os.RefusedError, match="not signed by a key that this box trusts"):
        hearth_os.UpdateFile(made(sign=key), key.with_suffix(".pub").read_bytes())


@pytest.mark.parametrize("name", ["SHA256SUMS", "SHA256SUMS.sig"])
def test_changed_sums_or_signature_are_refused(hearth_os, made, trusted, name):
    with pytest.raises(hearth_os.RefusedError, match="not signed by a key that this box trusts"):
        hearth_os.UpdateFile(_changed(made(), name), trusted)


def test_a_changed_manifest_is_refused(hearth_os, made, trusted):
    with pytest.raises(hearth_os.RefusedError, match=r"manifest\.json .* not what was signed"):
        hearth_os.UpdateFile(_changed(made(), "manifest.json"), trusted)


@pytest.mark.parametrize("name", ["boot/hearth.efi", "root.ext4.zst"])
def test_a_changed_part_is_refused_before_anything_is_written(hearth_os, made, trusted, name):
    with (
        hearth_os.UpdateFile(_changed(made(), name), trusted) as file,
        pytest.raises(hearth_os.RefusedError, match=f"{name} .* not what was signed"),
    ):
        file.check_all()


@pytest.mark.parametrize("name", ["SHA256SUMS", "manifest.json", "boot/hearth.efi"])
def test_an_incomplete_update_is_refused(hearth_os, made, trusted, name):
    def open_and_check(path):
        with hearth_os.UpdateFile(path, trusted) as file:
            file.check_all()

    with pytest.raises(hearth_os.RefusedError, match=f"the update has no {name}"):
        open_and_check(_without(made(), name))


def test_a_file_that_changes_while_it_is_written_is_noticed(hearth_os, made, trusted, tmp_path):
    _need_root()
    path, place = made(), tmp_path / "place"
    place.write_bytes(bytes(len(SYSTEM)))
    with hearth_os.UpdateFile(path, trusted) as file:
        file.check_all()
        _changed(path, "root.ext4.zst", end=True)
        with pytest.raises(hearth_os.RefusedError, match=r"root\.ext4\.zst .* not what was signed"):
            hearth_os.write_part(file, "root.ext4.zst", file.manifest["root"], place)


def test_a_system_that_is_larger_than_its_place_is_refused(hearth_os, made, trusted, tmp_path):
    place = tmp_path / "place"
    place.write_bytes(bytes(1000))
    with (
        hearth_os.UpdateFile(made(), trusted) as file,
        pytest.raises(hearth_os.RefusedError, match=r"needs 4194304 bytes, .* has 1000"),
    ):
        hearth_os.check_room(file.manifest["root"], place)


def test_more_than_was_signed_is_not_written(hearth_os, made, trusted, tmp_path):
    place = tmp_path / "place"
    place.write_bytes(b"")
    with pytest.raises(hearth_os.RefusedError, match="longer than the signed 5 bytes"):
        hearth_os.copied(io.BytesIO(b"123456789"), place, 5)
    assert place.read_bytes() == b""


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"board": "rpi"}, "the update is for rpi, this is hearth-minipc"),
        ({"version": "0.8.1"}, "the update is 0.8.1, 0.9.0 runs: .* only a newer one"),
        ({"version": "0.9.0"}, "the update is 0.9.0, 0.9.0 runs: .* only a newer one"),
    ],
)
def test_what_is_not_for_this_box_or_not_newer_is_refused(hearth_os, made, trusted, facts, why):
    with (
        hearth_os.UpdateFile(made(**facts), trusted) as file,
        pytest.raises(hearth_os.RefusedError, match=why),
    ):
        hearth_os.check(file.manifest, RELEASE)


@pytest.mark.parametrize("version", ["1/../x", "1+9", ""])
def test_a_version_that_is_no_file_name_is_refused(hearth_os, made, trusted, version):
    with pytest.raises(hearth_os.RefusedError, match=r"manifest\.json in the update is not under"):
        hearth_os.UpdateFile(made(version=version), trusted)


def test_a_file_that_is_too_long_is_refused_unread(hearth_os, trusted, tmp_path):
    path = tmp_path / "long.update"
    with path.open("wb") as file:
        file.truncate((2 << 30) + 1)
    with pytest.raises(hearth_os.RefusedError, match="has 2147483649 bytes, an update has"):
        hearth_os.UpdateFile(path, trusted)


def test_what_is_no_update_is_refused(hearth_os, trusted, tmp_path):
    noise, link, folder = tmp_path / "noise", tmp_path / "link", tmp_path / "folder"
    noise.write_bytes(os.urandom(100_000))
    link.symlink_to(noise)
    folder.mkdir()
    with pytest.raises(hearth_os.RefusedError, match="no update or is damaged"):
        hearth_os.UpdateFile(noise, trusted)
    with pytest.raises(hearth_os.RefusedError, match="neither a file nor a disk"):
        hearth_os.UpdateFile(folder, trusted)
    with pytest.raises(OSError, match="symbolic links"):
        hearth_os.UpdateFile(link, trusted)


def _need_root():
    if os.geteuid() != 0:
        pytest.skip("the system is unpacked by another user than root")


def _new_key(folder, kind="ed25519"):
    key = folder / f"{kind}.key"
    for words in (["genpkey", "-algorithm", kind, "-out", key],
                  ["pkey", "-in", key, "-pubout", "-out", key.with_suffix(".pub")]):  # fmt: skip
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    return key


def _changed(path, name, *, end=False):
    """Flip one bit of the part `name`."""
    with tarfile.open(path) as archive:
        member = archive.getmember(name)
    with path.open("r+b") as file:
        file.seek(member.offset_data + (member.size - 1 if end else 10))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    return path


def _without(path, name):
    target = path.with_suffix(".less")
    with tarfile.open(path) as old, tarfile.open(target, "w") as new:
        for member in old:
            if member.name != name:
                new.addfile(member, old.extractfile(member))
    return target
