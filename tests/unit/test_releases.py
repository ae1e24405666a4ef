"""A release of Hearth itself: what is believed of it, and what is refused, from every source."""

import functools
import hashlib
import http.server
import os
import tarfile
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.releases import ReleaseError, is_newer, open_source, read_release

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def folder(tmp_path):
    """A signed release of two files beside its facts."""
    folder = tmp_path / "hearth-0.2.0-amd64"
    (folder / "wheels").mkdir(parents=True)
    (folder / "RELEASE").write_text("version=0.2.0\narch=amd64\n")
    (folder / "install.sh").write_text("exit 0\n")
    (folder / "wheels/hearth-0.2.0-py3-none-any.whl").write_bytes(b"w" * 3_000_000)
    sign(folder)
    return folder


def sign(folder, key=KEY, extra=""):
    names = [p for p in sorted(folder.rglob("*")) if p.is_file() and "SHA256SUMS" not in p.name]
    sums = "".join(
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}\n" for p in names
    )
    (folder / "SHA256SUMS").write_text(sums + extra)
    (folder / "SHA256SUMS.sig").write_bytes(key.sign((sums + extra).encode()))


def take(place, target, keys=None):
    with open_source(str(place)) as source:
        release = read_release(source, keys or pem(KEY))
        target.mkdir()
        release.copy_to(target)
    return release


def whole(target):
    return {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}


FILES = {"RELEASE", "install.sh", "wheels/hearth-0.2.0-py3-none-any.whl", "SHA256SUMS"}


def test_a_folder_a_tar_and_a_web_folder_give_the_same(folder, tmp_path):
    packed = tmp_path / "release.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(folder, folder.name)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/{folder.name}/"
        try:
            for number, place in enumerate((folder, packed, url)):
                target = tmp_path / f"taken-{number}"
                assert take(place, target).version == "0.2.0"
                assert whole(target) == FILES
        finally:
            server.shutdown()
            thread.join()


def test_one_of_several_pinned_keys_is_enough(folder, tmp_path):
    assert take(folder, tmp_path / "taken", pem(OTHER) + pem(KEY)).facts["arch"] == "amd64"


@pytest.mark.parametrize("keys", [pem(OTHER), b"", b"no key at all"])
def test_a_strangers_signature_is_refused(folder, tmp_path, keys):
    with open_source(str(folder)) as source, pytest.raises(ReleaseError, match="not signed by the"):
        read_release(source, keys)


def test_what_was_changed_after_signing_is_refused(folder, tmp_path):
    (folder / "install.sh").write_text("rm -rf /\n")
    with pytest.raises(ReleaseError, match=r"install.sh is not what was signed"):
        take(folder, tmp_path / "taken")
    (folder / "RELEASE").write_text("version=9\n")
    with open_source(str(folder)) as source, pytest.raises(ReleaseError, match="RELEASE is not"):
        read_release(source, pem(KEY))
    (folder / "SHA256SUMS").write_text("")
    with open_source(str(folder)) as source, pytest.raises(ReleaseError, match="not signed by the"):
        read_release(source, pem(KEY))


def test_what_is_not_listed_is_never_copied(folder, tmp_path):
    (folder / "more.sh").write_text("")
    take(folder, tmp_path / "taken")
    assert whole(tmp_path / "taken") == FILES


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", ".hidden", "a//b", "a b"])
def test_a_signed_name_that_leaves_the_folder_is_refused(folder, name):
    sign(folder, extra=f"{'0' * 64}  {name}\n")
    with open_source(str(folder)) as source, pytest.raises(ReleaseError, match="no hash and name"):
        read_release(source, pem(KEY))


def test_links_pipes_and_missing_files_are_refused(folder, tmp_path):
    script = folder / "install.sh"
    script.rename(tmp_path / "elsewhere")
    script.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match=r"has no .*install\.sh"):
        take(folder, tmp_path / "one")
    script.unlink()
    with pytest.raises(ReleaseError, match=r"has no .*install\.sh"):
        take(folder, tmp_path / "two")
    os.mkfifo(script)  # opening it would wait for a writer for ever
    with pytest.raises(ReleaseError, match="not a file"):
        take(folder, tmp_path / "three")


def test_a_file_that_is_no_tar_or_a_torn_one_is_refused(folder, tmp_path):
    torn = tmp_path / "torn.tar"
    torn.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ReleaseError, match="no release"):
        take(torn, tmp_path / "one")
    with tarfile.open(torn, "w") as archive:
        archive.add(folder, folder.name)
    torn.write_bytes(torn.read_bytes()[:2_000_000])
    with pytest.raises(ReleaseError, match=r"damaged|not what was signed|has no"):
        take(torn, tmp_path / "two")
    with pytest.raises(ReleaseError, match="has no"):
        take(tmp_path / "nothing.tar", tmp_path / "three")


def test_versions_compare_by_their_numbers():
    assert is_newer("0.10.0", "0.9.1")
    assert is_newer("1.0", "0.99")
    assert not is_newer("0.9.1", "0.9.1")
    assert not is_newer("0.9", "0.9.1")
