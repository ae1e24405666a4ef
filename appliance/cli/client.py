"""The command's HTTP client: one synchronous request at a time to a running service.

Knows JSON, NDJSON and what a dead service looks like; knows nothing of verbs or the terminal. It
stands on http.client alone, because every import is paid for by every `hearth list`.
"""

import json
import ssl
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

from appliance.cli.address import Address, Trusted
from appliance.errors import ApplianceError

Json = dict[str, Any]

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0  # for answers that need no model
CHUNK_BYTES = 1024 * 1024
_UNIT_FILES = (
    Path("/etc/systemd/system/hearth.service"),
    Path("/usr/lib/systemd/system/hearth.service"),
    Path("/lib/systemd/system/hearth.service"),
)


class ClientError(ApplianceError):
    """The service refused or broke off; `status` is the HTTP status, 0 if there was none."""

    code = "request_failed"

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class ServiceDownError(ClientError):
    """Nothing answers at the address; the message says how to start it."""

    code = "service_down"


class Client:
    """Requests to one address. Every method raises ClientError."""

    def __init__(self, address: Address, key: str = "", trusted: Trusted | None = None) -> None:
        """key  to send, if any; trusted  what an https address must show, else what this system
        believes"""
        self.address = address
        self._trusted = trusted or Trusted()
        self._authorization = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str) -> Json:
        """The JSON object at `path`."""
        return self._whole("GET", path, None, READ_TIMEOUT_S)

    def post(self, path: str, body: Json, *, patient: bool = False) -> Json:
        """Send `body`, return the answering object. `patient` waits for as long as a model needs
        to load or to answer."""
        return self._whole("POST", path, body, None if patient else READ_TIMEOUT_S)

    def delete(self, path: str, body: Json | None = None) -> None:
        """Send a DELETE; the Ollama API wants a JSON body with it."""
        self._whole("DELETE", path, body, READ_TIMEOUT_S)

    def exists(self, path: str) -> bool:
        """Whether HEAD finds `path`."""
        with self._open("HEAD", path, timeout_s=READ_TIMEOUT_S) as response:
            if response.status == 404:
                return False
            _raise_for_status(response)
            return True

    def upload(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        """POST exactly `size` bytes from `chunks`, which is read as the network takes it."""
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        with self._open("POST", path, body=chunks, headers=headers) as response:
            _raise_for_status(response)

    def download(self, path: str) -> bytes:
        """The body at `path`, whatever it is."""
        with self._open("GET", path, timeout_s=READ_TIMEOUT_S) as response:
            _raise_for_status(response)
            return response.read()

    def stream(self, path: str, body: Json) -> Generator[Json, None, None]:
        """POST `body` and yield the objects of the NDJSON answer as they arrive.

        Leaving the iteration closes the connection, which cancels the request in the service. A
        line with `error` is raised.
        """
        with self._open("POST", path, body=_encode(body), headers=_JSON_TYPE) as response:
            _raise_for_status(response)
            for line in _lines(response):
                message = _decode(line)
                if "error" in message:
                    text = _error_text(message) or "the service failed"
                    raise ClientError(text, hint=_hint(message))
                yield message

    def _whole(self, method: str, path: str, body: Json | None, timeout_s: float | None) -> Json:
        data = None if body is None else _encode(body)
        headers = {} if body is None else _JSON_TYPE
        with self._open(method, path, data, headers, timeout_s) as response:
            _raise_for_status(response)
            content = response.read()
        return _decode(content) if content.strip() else {}

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[HTTPResponse]:
        """One request on a connection of its own, which ends with the block. Never sent twice."""
        connection = self._connect(timeout_s)
        try:
            # The service may refuse an upload halfway and close; its answer says why.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(
                    method,
                    self.address.path + path,
                    body,
                    {**(headers or {}), **self._authorization},
                )
            yield connection.getresponse()
        except TimeoutError as error:
            raise ClientError(f"no answer from {self.address} within {timeout_s:.0f} s") from error
        except (HTTPException, OSError) as error:
            raise ClientError(
                f"the connection to {self.address} broke before the answer was complete"
            ) from error
        finally:
            connection.close()

    def _connect(self, timeout_s: float | None) -> HTTPConnection:
        connection: HTTPConnection
        place = self.address.host, self.address.port
        if self.address.scheme == "https":
            context = _context(self._trusted)
            connection = HTTPSConnection(*place, timeout=CONNECT_TIMEOUT_S, context=context)
        else:
            connection = HTTPConnection(*place, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            raise ClientError(
                f"no trusted connection to {self.address}: {reason}", hint=_UNTRUSTED_HINT
            ) from error
        except (OSError, HTTPException, UnicodeError) as error:
            raise self._service_down() from error
        if isinstance(connection.sock, ssl.SSLSocket) and self._trusted.fingerprint:
            self._check_key(connection.sock)
        connection.sock.settimeout(timeout_s)
        return connection

    def _check_key(self, connection: ssl.SSLSocket) -> None:
        """Raise ClientError unless the server shows the key that the fingerprint is of."""
        from appliance.cli.pin import key_fingerprint

        shown = key_fingerprint(connection.getpeercert(binary_form=True) or b"")
        if shown != self._trusted.fingerprint:
            connection.close()
            raise ClientError(
                f"{self.address} shows the key {shown}, not that of HEARTH_FINGERPRINT",
                hint="somebody may be between you and the box; `hearth tls` on the box prints"
                " its own",
            )

    def _service_down(self) -> ServiceDownError:
        if not self.address.is_loopback:
            return ServiceDownError(
                f"nothing answers at {self.address}; check the address and that the box is on"
            )
        is_installed = any(path.exists() for path in _UNIT_FILES)
        start = "sudo systemctl start hearth" if is_installed else "hearth serve"
        return ServiceDownError(f"hearth is not running at {self.address}; start it with `{start}`")


_UNTRUSTED_HINT = (
    "get the box's certificate from /hearth/v1/ca.crt, compare its fingerprint with that of"
    " `hearth tls` on the box, and name it with --ca FILE or HEARTH_CA"
)


def _context(trusted: Trusted) -> ssl.SSLContext:
    """What the server must prove. Raises ClientError for a file that is no certificate."""
    context = ssl.create_default_context()
    if trusted.fingerprint:  # the key itself is looked at, so nobody need sign for it
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif trusted.ca_file:
        try:
            context = ssl.create_default_context(cafile=trusted.ca_file)
        except OSError as error:
            reason = error.strerror or "it is not a PEM certificate"
            raise ClientError(f"cannot use {trusted.ca_file} as authority: {reason}") from error
    return context


_JSON_TYPE = {"Content-Type": "application/json"}


def _encode(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def _decode(content: bytes) -> Json:
    try:
        message = json.loads(content)
    except ValueError as error:
        raise ClientError(f"the answer is not JSON but {content[:80]!r}") from error
    if not isinstance(message, dict):
        raise ClientError(f"the answer is not a JSON object but {content[:80]!r}")
    return message


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    pending = b""
    # read1 returns what has arrived; read would wait until a whole block is there.
    while chunk := response.read1(CHUNK_BYTES):
        *whole, pending = (pending + chunk).split(b"\n")
        yield from filter(bytes.strip, whole)
    if pending.strip():
        yield pending


def _raise_for_status(response: HTTPResponse) -> None:
    if response.status < 300:
        return
    content = response.read(CHUNK_BYTES)
    hint = ""
    try:
        message = json.loads(content)
        text, hint = _error_text(message), _hint(message)
    except ValueError:
        text = content.decode(errors="replace").strip()
    reason = f"HTTP {response.status} {response.reason or ''}".strip()
    raise ClientError(text or reason, status=response.status, hint=hint)


def _hint(message: object) -> str:
    """What to do about it, which our own answers say beside the error."""
    return str(message.get("hint", "")) if isinstance(message, dict) else ""


def _error_text(message: object) -> str:
    """The text of `{"error": "text"}` (Ollama) or `{"error": {"message": "text"}}` (our own)."""
    error = message.get("error") if isinstance(message, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return str(error or "")
