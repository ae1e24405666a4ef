"""Bodies of our own routes about HTTPS. Pure: from a certificate's facts to dictionaries."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from appliance.access.authority import Leaf
from appliance.errors import ApplianceError

CERTIFICATE_PATH = "/hearth/v1/ca.crt"

# For the page and for people who read; each list is to be followed in order.
STEPS = {
    "Android": [
        "Download the certificate with the browser",
        "Settings > Security > More > Encryption & credentials > Install a certificate",
        "CA certificate > Install anyway, and choose the file",
    ],
    "iPhone and iPad": [
        "Download the certificate with Safari and allow the profile",
        "Settings > General > VPN & Device Management: install it",
        "Settings > General > About > Certificate Trust Settings: switch it on",
    ],
    "macOS": [
        "Download the certificate and open it: Keychain Access adds it to `login`",
        "Open it there, Trust: When using this certificate, Always Trust",
    ],
    "Windows": [
        "Download the certificate and open it: Install Certificate, Current User",
        "Place it in `Trusted Root Certification Authorities`",
    ],
    "Linux": [
        "sudo cp hearth-ca.crt /usr/local/share/ca-certificates/ && sudo update-ca-certificates",
        "Chromium: certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n hearth -i hearth-ca.crt",
    ],
    "Firefox": [
        "Settings > Privacy & Security > View Certificates > Authorities > Import",
        "Trust it to identify websites",
    ],
}


class RenewBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/tls/renew; `authority`: a new one too, which devices import again."""

    authority: bool = False


def tls_answer(
    leaf: Leaf | None, *, is_on: bool, port: int | None, problem: ApplianceError | None
) -> dict[str, Any]:
    """GET /hearth/v1/tls. Fingerprints are SHA-256 in base64url; times RFC 3339."""
    return {
        "on": is_on,
        "port": port,
        "names": leaf.names if leaf else [],
        "not_before": _time(leaf.not_before) if leaf else None,
        "not_after": _time(leaf.not_after) if leaf else None,
        "fingerprint": leaf.key_sha256 if leaf else None,
        "ca_fingerprint": leaf.ca_sha256 if leaf else None,
        "certificate": CERTIFICATE_PATH if leaf else None,
        "problem": {"error": str(problem), "hint": problem.hint} if problem else None,
        "steps": STEPS,
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
