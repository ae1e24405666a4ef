"""A publisher's keys as files: `<name>.key` (secret, encrypted) and `<name>.pub` (to hand around).

What a key is for and whose it is travels in the public half, and later in the metadata that it
signs, so that officers can read names and not only numbers.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Key

from appliance.trust.repositories import fingerprint_of
from tools.bundles import pkcs8
from tools.bundles.errors import KeyFileError
from tools.bundles.passphrase import Passphrases
from tools.bundles.roles import check_publisher

OWNER_FIELD = "x-owner"
USE_FIELD = "x-use"

_SECRET_MODE = 0o600
_MAX_PUBLIC_BYTES = 4096


class Use(StrEnum):
    """What a key is for: another use is refused, so that a mix-up does not become metadata."""

    OFFICER = "officer"
    ONLINE = "online"
    PUBLISHER = "publisher"


@dataclass(frozen=True, slots=True)
class Label:
    """Whose key it is and for what; `name` is that of its files, one owner may have several."""

    owner: str
    use: Use
    name: str

    def check(self) -> None:
        """Raise ConfigError for what could not be a file's name or a publisher's."""
        check_publisher(self.owner)
        check_publisher(self.name)


def create(folder: Path, label: Label, secret: Ed25519PrivateKey, passphrase: str) -> Key:
    """Write both files of a key, durably; raises KeyFileError rather than replace one."""
    label.check()
    public = SSlibKey.from_crypto(secret.public_key())
    public.unrecognized_fields |= {OWNER_FIELD: label.owner, USE_FIELD: label.use.value}
    folder.mkdir(parents=True, exist_ok=True)
    body = {"keyid": public.keyid, **public.to_dict()}
    _write_new(folder / f"{label.name}.key", pkcs8.encode(secret, passphrase), _SECRET_MODE)
    _write_new(folder / f"{label.name}.pub", msgspec.json.format(msgspec.json.encode(body)) + b"\n")
    return public


def load_public(path: Path, use: Use | None = None) -> Key:
    """The key in a `.pub` file; raises KeyFileError for a damaged one or one of another use."""
    data = path.read_bytes()[: _MAX_PUBLIC_BYTES + 1]
    try:
        body: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        keyid = body.pop("keyid")
        key = SSlibKey.from_dict(keyid, body)
        is_whole = key.keyval == {"public": str(key.keyval["public"])} and (
            keyid == SSlibKey.from_crypto(_crypto(key)).keyid
        )
    except (msgspec.DecodeError, ValueError, TypeError, LookupError) as error:
        raise KeyFileError(f"{path.name} is not a public key of ours") from error
    if not is_whole:
        raise KeyFileError(
            f"{path.name} is damaged: its number does not belong to its key",
            hint="ask its owner for the file again",
        )
    if use is not None and use_of(key) != use:
        raise KeyFileError(
            f"{path.name} is a key for the use {use_of(key) or 'unknown'!r}, not {use.value!r}",
            hint=f"make one with `bundle keys new --{use.value}`",
        )
    return key


def load_signer(path: Path, passphrases: Passphrases) -> CryptoSigner:
    """A secret key that can sign; raises KeyFileError. Asks for its passphrase."""
    secret = load_secret(path, passphrases)
    public = SSlibKey.from_crypto(secret.public_key())
    return CryptoSigner(secret, public)


def load_secret(path: Path, passphrases: Passphrases) -> Ed25519PrivateKey:
    """The secret half itself, for a backup; raises KeyFileError."""
    if path.suffix == ".pub":
        raise KeyFileError(f"{path.name} is the public half", hint="give the .key file")
    try:
        return pkcs8.decode(path.read_bytes(), passphrases.existing(path.stem))
    except KeyFileError as error:
        raise KeyFileError(f"{path.name}: {error.message}", hint=error.hint) from error


def owner_of(key: Key) -> str:
    """The name that the key's maker gave it, safe to print."""
    text = str(key.unrecognized_fields.get(OWNER_FIELD, "an unnamed owner"))[:60]
    return "".join(character if character.isprintable() else "?" for character in text)


def use_of(key: Key) -> str:
    return str(key.unrecognized_fields.get(USE_FIELD, ""))[:20]


def fingerprint(key: Key) -> str:
    """In the same form as the box prints the root's: 8 groups of 5 digits."""
    return fingerprint_of(bytes.fromhex(key.keyid))


def named(key: Key) -> str:
    """A key in a sentence: enough digits to tell keys apart, and whose it is."""
    return f"key {fingerprint(key)[:11]}… of {owner_of(key)}"


def _crypto(key: SSlibKey) -> Ed25519PublicKey:
    if (key.keytype, key.scheme) != ("ed25519", "ed25519"):
        raise ValueError(f"{key.keytype} keys are not used here")
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))


def _write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise KeyFileError(
            f"{path} is there already", hint="keys are never replaced; choose another name"
        ) from error
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
