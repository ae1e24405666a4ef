"""The box's ed25519 key, which Ollama's registry knows its users by.

OpenSSH files `id_ed25519` and `id_ed25519.pub`, as Ollama keeps them, so a person can register the
public one or put an existing pair in place. Made when first asked for. Blocking: use a thread.
"""

import base64
import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import LibraryError
from appliance.library.blobs import atomic_write, disk_errors, fsync_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# sha256 of an empty body in hex, then base64 (ollama: server/auth.go)
_EMPTY_BODY = (
    "ZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NQ=="
)


class Identity:
    """A key pair at `path`. cryptography is imported when the key is needed, not before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key: Ed25519PrivateKey | None = None

    def authorization(self, url: str) -> str:
        """The Authorization header of a GET for a token at `url` (ollama: server/auth.go)."""
        key = self._load()
        signature = key.sign(f"GET,{url},{_EMPTY_BODY}".encode())
        return f"{self._public().split()[1]}:{base64.b64encode(signature).decode()}"

    def _public(self) -> str:
        from cryptography.hazmat.primitives import serialization as form

        encoding, public = form.Encoding.OpenSSH, form.PublicFormat.OpenSSH
        return self._load().public_key().public_bytes(encoding, public).decode()

    def _load(self) -> "Ed25519PrivateKey":
        if self._key is None:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
            from cryptography.hazmat.primitives.serialization import load_ssh_private_key

            if not self.path.exists():
                self._create()
            try:
                key = load_ssh_private_key(self.path.read_bytes(), password=None)
            except (OSError, ValueError, TypeError) as error:
                raise self._unusable(str(error)) from error
            if not isinstance(key, Ed25519PrivateKey):
                raise self._unusable("it is not an ed25519 key")
            self._key = key
        return self._key

    def _create(self) -> None:
        """Write a new pair; the private key is readable by its owner alone, also while it grows."""
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()
        )
        public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
        temp = self.path.with_name(f".hearth-{secrets.token_hex(8)}")
        with disk_errors(self.path.name):
            try:
                with os.fdopen(
                    os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
                ) as f:
                    f.write(private)
                    f.flush()
                    os.fsync(f.fileno())
                with contextlib.suppress(FileExistsError):  # another process was faster
                    os.link(temp, self.path)
                    atomic_write(self.path.with_suffix(".pub"), public + b"\n")
            finally:
                temp.unlink(missing_ok=True)
            fsync_folder(self.path.parent)

    def _unusable(self, why: str) -> LibraryError:
        return LibraryError(
            f"the key {self.path.name} cannot be used: {why}",
            hint="put an ed25519 key in OpenSSH form without passphrase there, or remove the file",
        )
