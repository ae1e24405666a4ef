"""Ed25519 private keys in encrypted PKCS#8 PEM, as `openssl pkey` reads them.

`cryptography` writes such files too, but with 2,048 rounds of PBKDF2: a thief of the file would try
a thousand passphrases a second on every core. It cannot be told otherwise, so the few bytes of DER
around the cipher are written here (RFC 8018, PBES2).
"""

import base64
import secrets
import textwrap

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tools.bundles.errors import KeyFileError

ROUNDS = 600_000  # OWASP's figure for PBKDF2 with SHA-256; a tenth of a second

_PEM = "ENCRYPTED PRIVATE KEY"
_MAX_BYTES = 4096  # of a key file
_KEY_BYTES, _BLOCK_BYTES, _SALT_BYTES = 32, 16, 16

_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d02090500")  # with its NULL parameter
_AES256_CBC = bytes.fromhex("060960864801650304012a")
_SEQUENCE, _INTEGER, _OCTETS = 0x30, 0x02, 0x04


def encode(key: Ed25519PrivateKey, passphrase: str) -> bytes:
    """The PEM file of a key."""
    salt, start = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_BLOCK_BYTES)
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    padder = padding.PKCS7(8 * _BLOCK_BYTES).padder()
    kdf = PBKDF2HMAC(hashes.SHA256(), _KEY_BYTES, salt, ROUNDS)
    cipher = Cipher(algorithms.AES(kdf.derive(passphrase.encode())), modes.CBC(start)).encryptor()
    secret = cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()

    rounds = ROUNDS.to_bytes((ROUNDS.bit_length() + 8) // 8)
    derivation = _sequence(
        _PBKDF2,
        _sequence(_der(_OCTETS, salt), _der(_INTEGER, rounds), _der(_SEQUENCE, _HMAC_SHA256)),
    )
    scheme = _sequence(derivation, _sequence(_AES256_CBC, _der(_OCTETS, start)))
    data = _sequence(_sequence(_PBES2, scheme), _der(_OCTETS, secret))
    lines = textwrap.wrap(base64.b64encode(data).decode(), 64)
    return "\n".join([f"-----BEGIN {_PEM}-----", *lines, f"-----END {_PEM}-----", ""]).encode()


def decode(data: bytes, passphrase: str) -> Ed25519PrivateKey:
    """The key in a PEM file; raises KeyFileError for a wrong passphrase or another kind of file."""
    if len(data) > _MAX_BYTES or _PEM.encode() not in data:
        raise KeyFileError("not an encrypted private key in PEM form")
    try:
        key = load_pem_private_key(data, passphrase.encode())
    except (ValueError, TypeError) as error:
        raise KeyFileError(
            "the passphrase is wrong, or the file is damaged",
            hint="try again; if it is lost, restore the key from its paper backup",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError("the key is not an ed25519 key")
    return key


def _sequence(*parts: bytes) -> bytes:
    return _der(_SEQUENCE, b"".join(parts))


def _der(tag: int, content: bytes) -> bytes:
    """Tag, length, value; up to 255 bytes, more than anything here has."""
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x81, size])
    return bytes([tag]) + length + content
