"""What is answered to bytes that are not a request: one clear error in JSON, one line in the log.

aiohttp's parser finds most of it (llhttp, strict). The rest, which the parser lets pass and a proxy
in front of us might read differently, is refused by `require_plain_request`.
"""

from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong

from appliance.errors import ApplianceError
from appliance.http.errors import (
    Dialect,
    HeadTooLargeError,
    MalformedError,
    Problem,
    problem_of,
)
from appliance.http.logline import write_line

MAX_FIELDS = 128  # header fields of one request
MAX_REASON = 120  # characters of the parser's reason
HEADERS = {"Server": "hearth", "X-Content-Type-Options": "nosniff", "Connection": "close"}
_CLIENT_HELLO = "HTTPS traffic"  # in aiohttp's own words


def answer_malformed(error: BaseException | None, address: str) -> web.Response:
    """The answer to what the parser refused with `error`; the connection closes after it."""
    problem = problem_of(_told(error), Dialect.OLLAMA)
    note(problem, address)
    response = problem.response(Dialect.OLLAMA)
    response.headers.update(HEADERS)
    response.force_close()
    return response


def note(problem: Problem, address: str) -> None:
    """The log line of a request that never became one."""
    write_line("-", "-", problem.status, {"error": problem.code, "from": address}, 0.0)


def raw_answer(problem: Problem) -> bytes:
    """A whole answer as bytes, for connections on which no request was read."""
    body = problem.body(Dialect.OLLAMA)
    fields = {
        **HEADERS,
        **problem.headers,
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    word = HTTPStatus(problem.status).phrase
    return f"HTTP/1.1 {problem.status} {word}\r\n{head}\r\n".encode() + body


def require_plain_request(request: web.BaseRequest) -> None:
    """Refuse requests that a proxy and we might understand differently. Raises BadRequestError.

    RFC 9112: the host of an absolute target goes before the Host header (3.2.2), so they must
    agree; CONNECT is for proxies (3.2.3); a transfer coding that we do not undo would hide the
    body's end (6.1), and HTTP/1.0 has none.
    """
    target = request.raw_path
    if request.method == "CONNECT":
        raise MalformedError("CONNECT is for proxies, which this is not")
    if not target.startswith("/") and target != "*":
        authority = target.partition("://")[2].partition("/")[0].partition("?")[0]
        if authority.lower() != request.headers.get("Host", "").strip().lower():
            raise MalformedError(
                f"the target names the host {authority[:100]!r} and the Host header another",
                hint="send the path alone, or the same host in both",
            )
    coding = request.headers.get("Transfer-Encoding")
    if coding is not None and (
        coding.strip().lower() != "chunked" or request.version != HttpVersion11
    ):
        raise MalformedError(
            f"Transfer-Encoding {coding[:40]!r} of HTTP/{request.version.major}."
            f"{request.version.minor} is not understood; chunked of HTTP/1.1 is"
        )


def too_large(limit: str) -> HeadTooLargeError:
    """The error for a head over `limit`."""
    return HeadTooLargeError(
        f"the request's head is over the limit of {limit}",
        hint="send fewer or shorter header fields",
    )


def _told(error: BaseException | None) -> ApplianceError:
    """aiohttp's error in our words; its message quotes what the client sent, so it is cut."""
    if isinstance(error, LineTooLong):
        return too_large(f"{error.args[1]} bytes a line")
    lines = [line.strip() for line in str(getattr(error, "message", "")).splitlines()]
    reason = next((line for line in lines if line and line != "Bad status line:"), "").rstrip(":")
    if reason.startswith("Too many headers"):
        return too_large(f"{MAX_FIELDS} fields")
    if isinstance(error, BadHttpMethod) and _CLIENT_HELLO in reason:
        return MalformedError(
            "this port speaks plain HTTP and was spoken to in TLS",
            hint="use http:// here; https:// has a port of its own when tls is on",
        )
    return MalformedError(
        f"this is not a request of HTTP/1.1: {reason[:MAX_REASON] or 'it cannot be read'}"
    )
