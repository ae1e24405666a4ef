"""The box's own certificate authority and the certificate that HTTPS shows: files in `tls/`.

The authority may sign for this box's names and for private addresses, and for nothing else, so that
importing it gives no power over other sites. It lasts 20 years; the certificate at most 397 days,
under one key, so that who pinned it stays connected. `ca.key ca.crt server.pem`, and `server.json`
with what `server.pem` says, which spares an idle service the memory of `cryptography`. Blocking.
"""

import base64
import contextlib
import datetime
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from appliance.errors import ApplianceError
from appliance.library.blobs import atomic_write, make_folders, sweep_temps

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DAY_S = 86_400
AUTHORITY_DAYS = 20 * 365
LEAF_DAYS = 397  # what browsers accept
RENEW_DAYS = 30  # before the end
MARGIN_DAYS = 2  # clients whose clocks are late
DOUBT_DAYS = 180  # the same where nobody vouches for our own clock
LAST_NUMBER = 9  # hearth-a1b2c3-2 … -9: what the box may be called where names collide
PERMITTED = tuple(
    ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)
_PRIVATE = 0o600


class AuthorityError(ApplianceError):
    """A key or certificate file cannot be used; HTTPS rests and HTTP goes on."""

    code = "tls_unusable"


class Clock(Enum):
    """How far the time is to be believed."""

    RIGHT = "right"  # somebody vouches for it
    LIKELY = "likely"  # nothing speaks against it
    WRONG = "wrong"  # before this software or years ahead; `now_s` is the best guess


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the certificate says. Times in seconds since 1970."""

    names: list[str]  # DNS names, then IP addresses
    not_before: int
    not_after: int
    key_sha256: str  # of the public key (SubjectPublicKeyInfo), base64url
    ca_sha256: str  # of the authority's certificate, base64url
    pem_hash: str  # of server.pem as it was written
    key_hash: str  # of ca.key, so that damage is seen before the key is needed


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the certificate should say now."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    now_s: int
    clock: Clock


class Authority:
    """The files below `folder`. One process has them at a time."""

    def __init__(self, folder: Path, title: str, names: Iterable[str]) -> None:
        """title  what people see when they import it; names  all that it may ever sign for"""
        self.folder = folder
        self._title = title
        self._names = tuple(dict.fromkeys(names))

    @property
    def server_pem(self) -> Path:
        """Key and certificates for `SSLContext.load_cert_chain`."""
        return self.folder / "server.pem"

    def certificate(self) -> bytes:
        """The authority's own certificate, PEM: what people import. Raises AuthorityError."""
        try:
            return (self.folder / "ca.crt").read_bytes()
        except OSError as error:
            raise _unusable("ca.crt", error.strerror or "") from error

    def ensure(self, wanted: Wanted, *, anew: bool = False) -> Leaf:
        """Have a certificate that serves `wanted`; `anew` makes one in any case.

        Raises AuthorityError, and LibraryError when nothing can be written.
        """
        allowed = self._allowed(wanted)
        current = self._current()
        if current and not anew and not is_due(current, allowed, wanted):
            return current
        make_folders(self.folder)
        self.folder.chmod(0o700)
        sweep_temps(self.folder)
        return self._issue(allowed, wanted, current)

    def replace(self, wanted: Wanted) -> Leaf:
        """A new authority and a certificate of it: devices must import it again."""
        for name in ("server.json", "server.pem", "ca.crt", "ca.key"):
            (self.folder / name).unlink(missing_ok=True)
        return self.ensure(wanted)

    def _allowed(self, wanted: Wanted) -> list[str]:
        """The wanted names that the authority may sign for, in order."""
        addresses = [
            text
            for text in wanted.addresses
            if any(ip_address(text) in network for network in PERMITTED)
        ]
        return [*(name for name in wanted.names if name in self._names), *addresses]

    def _current(self) -> Leaf | None:
        """What the certificate says; None without one, or when its files are not as written.

        Raises AuthorityError when the authority itself is damaged.
        """
        try:
            leaf = msgspec.json.decode((self.folder / "server.json").read_bytes(), type=Leaf)
        except (OSError, msgspec.MsgspecError):
            return None  # made again from the authority, which is looked at then
        if _hash_of(self.folder / "ca.key") != leaf.key_hash:
            raise _unusable("ca.key", "it is missing or not what this box wrote")
        return leaf if _hash_of(self.server_pem) == leaf.pem_hash else None

    def _issue(self, names: list[str], wanted: Wanted, current: Leaf | None) -> Leaf:
        from cryptography.hazmat.primitives import hashes

        key, authority = self._open_authority(wanted)
        leaf_key = self._leaf_key()
        start, end = _leaf_times(wanted, current)
        certificate = _leaf_builder(names, leaf_key, authority, start, end)
        signed = certificate.sign(key, hashes.SHA256())
        pem = _private_pem(leaf_key) + _pem(signed) + _pem(authority)
        leaf = Leaf(
            names=names,
            not_before=start,
            not_after=end,
            key_sha256=_key_fingerprint(leaf_key),
            ca_sha256=_fingerprint(_der(authority)),
            pem_hash=hashlib.sha256(pem).hexdigest(),
            key_hash=_hash_of(self.folder / "ca.key"),
        )
        atomic_write(self.server_pem, pem, mode=_PRIVATE)
        atomic_write(self.folder / "server.json", msgspec.json.encode(leaf))
        return leaf

    def _open_authority(self, wanted: Wanted) -> "tuple[EllipticCurvePrivateKey, x509.Certificate]":
        """Key and certificate; made when there are none. Raises AuthorityError."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key_path, path = self.folder / "ca.key", self.folder / "ca.crt"
        if key_path.exists() or path.exists():
            key = _read_key(key_path)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            atomic_write(key_path, _private_pem(key), mode=_PRIVATE)
        if not path.exists():  # new, or a power cut came between the two: nobody has seen it yet
            made = _authority_builder(self._title, self._names, key, wanted.now_s)
            atomic_write(path, _pem(made.sign(key, hashes.SHA256())))
        try:
            authority = x509.load_pem_x509_certificate(self.certificate())
        except ValueError as error:
            raise _unusable("ca.crt", str(error)) from error
        if authority.public_key() != key.public_key():
            raise _unusable("ca.crt", "it does not belong to ca.key")
        return key, authority

    def _leaf_key(self) -> "EllipticCurvePrivateKey":
        """The certificate's key: the one it had, or a new one."""
        from cryptography.hazmat.primitives.asymmetric import ec

        with contextlib.suppress(AuthorityError):
            if self.server_pem.exists():
                return _read_key(self.server_pem)
        return ec.generate_private_key(ec.SECP256R1())


def signable(host_label: str, hostname: str) -> list[str]:
    """All names that a box of this mDNS label on a machine of this name may ever have.

    host_label  without number, `hearth-a1b2c3`; hostname  the system's own
    """
    label = hostname.lower().partition(".")[0]
    numbered = [f"{host_label}-{number}.local" for number in range(2, LAST_NUMBER + 1)]
    system = [f"{label}.local", label] if label else []
    return list(dict.fromkeys(["localhost", f"{host_label}.local", *numbered, *system]))


def is_due(leaf: Leaf, names: list[str], wanted: Wanted) -> bool:
    """Whether another certificate is needed: other names, or its time is nearly over.

    A clock that is known to be wrong ends no certificate that was made under a better one.
    """
    if set(leaf.names) != set(names):
        return True
    if wanted.clock is Clock.WRONG:
        return False
    return not leaf.not_before <= wanted.now_s < leaf.not_after - RENEW_DAYS * DAY_S


def _leaf_times(wanted: Wanted, current: Leaf | None) -> tuple[int, int]:
    """Valid from and until. Never longer than browsers accept, and never only from tomorrow on."""
    now_s, back_days = wanted.now_s, DOUBT_DAYS
    if wanted.clock is Clock.RIGHT:
        back_days = MARGIN_DAYS
    elif wanted.clock is Clock.WRONG and current is not None:
        now_s, back_days = current.not_before, 0  # made when more was known
    start = now_s - back_days * DAY_S
    return start, start + LEAF_DAYS * DAY_S


def _authority_builder(
    title: str, names: Iterable[str], key: "EllipticCurvePrivateKey", now_s: int
) -> "x509.CertificateBuilder":
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    permitted: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    permitted += [x509.IPAddress(network) for network in PERMITTED]
    usage = _usage(key_cert_sign=True, crl_sign=True)
    start = now_s - DOUBT_DAYS * DAY_S
    return (
        _builder(subject, subject, key.public_key(), start, start + AUTHORITY_DAYS * DAY_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _leaf_builder(
    names: list[str],
    key: "EllipticCurvePrivateKey",
    authority: "x509.Certificate",
    start: int,
    end: int,
) -> "x509.CertificateBuilder":
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives = [_general_name(name) for name in names]
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    own = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)
    return (
        _builder(subject, authority.subject, key.public_key(), start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(own, critical=False)
    )


def _builder(
    subject: "x509.Name", issuer: "x509.Name", public: object, start: int, end: int
) -> "x509.CertificateBuilder":
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(start))
        .not_valid_after(_moment(end))
    )


def _usage(**given: bool) -> "x509.KeyUsage":
    from cryptography import x509

    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: given.get(name, False) for name in every})


def _general_name(text: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _read_key(path: Path) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(path.name, str(error)) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise _unusable(path.name, "it is not a key of the kind that this box makes")
    return key


def _private_pem(key: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def _key_fingerprint(key: "EllipticCurvePrivateKey") -> str:
    from cryptography.hazmat.primitives import serialization as form

    return _fingerprint(
        key.public_key().public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)
    )


def _pem(certificate: "x509.Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _der(certificate: "x509.Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _fingerprint(data: bytes) -> str:
    """SHA-256 in base64url without padding, 43 characters."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _hash_of(path: Path) -> str:
    """Hex, or empty where nothing can be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _moment(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _unusable(name: str, why: str) -> AuthorityError:
    return AuthorityError(
        f"the file tls/{name} in the state folder cannot be used: {why}",
        hint="put it back from a backup, or run `hearth tls renew --authority`, after which each"
        " device imports the new certificate",
    )
