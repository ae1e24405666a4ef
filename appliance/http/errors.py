"""From an error to an answer: one table of statuses, and the body's shape in each dialect.

The only place that knows which class of error has which status. Handlers raise; the middleware and
the stream writer, our two boundaries, come here.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
from aiohttp import web

from appliance import errors
from appliance.errors import ApplianceError, BadRequestError, UnsupportedError
from appliance.trust.errors import PolicyRefusedError, TrustError
from engine import errors as engine_errors
from engine.errors import EngineError

ANTHROPIC_VERSION = "anthropic-version"  # a header of every request of Anthropic's clients
# What vLLM's server has beside /v1, in OpenAI's dialect.
VLLM_PATHS = frozenset({"/rerank", "/v2/rerank", "/score", "/tokenize", "/detokenize"})


class FieldError(BadRequestError):
    """A field of the request is missing, malformed or out of its range; names it."""

    code = "bad_field"

    def __init__(self, field_name: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field_name = field_name


class RefusedFieldError(FieldError):
    """A field that the dialect has and this release does not honour."""

    code = "unsupported"


class OptionError(BadRequestError):
    """A value of a wrong type or form where Ollama, unlike others, answers 500."""

    code = "bad_option"


class NotYetError(UnsupportedError):
    """A route of the dialect that a later release brings."""

    code = "not_implemented"


class NoCloudError(UnsupportedError):
    """A route of Ollama's that asks ollama.com, which this box does not."""

    code = "no_cloud"


class BodyTimeoutError(BadRequestError):
    """The request's body did not come in time."""

    code = "body_timeout"


class MalformedError(BadRequestError):
    """The bytes are not a request of HTTP/1.1, or one that two readers could read differently."""

    code = "malformed_http"


class HeadTimeoutError(BadRequestError):
    """The head of a request did not come to its end in time."""

    code = "head_timeout"


class HeadTooLargeError(errors.RequestTooLargeError):
    """The request line or the header fields are over a limit."""

    code = "head_too_large"


class ExpectationError(BadRequestError):
    """An Expect header that asks for something other than 100-continue."""

    code = "bad_expectation"


class Dialect(Enum):
    """Whose shape an error takes."""

    OLLAMA = "ollama"  # also our own paths
    OPENAI = "openai"
    ANTHROPIC = "anthropic"

    @classmethod
    def of(cls, path: str, headers: Container[str] = ()) -> "Dialect":
        """By the path; the list of models has one in two dialects, told apart by a header."""
        if path in VLLM_PATHS:
            return cls.OPENAI
        if not (path == "/v1" or path.startswith("/v1/")):
            return cls.OLLAMA
        first = path.split("/")[2:3]
        if first == ["messages"] or (first == ["models"] and ANTHROPIC_VERSION in headers):
            return cls.ANTHROPIC
        return cls.OPENAI


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    type: str  # OpenAI's and Anthropic's `error.type`
    ollama_status: int = 0  # where Ollama's differs


_TABLE: dict[type[BaseException], _Row] = {
    BadRequestError: _Row(400, "invalid_request_error"),
    OptionError: _Row(400, "invalid_request_error", ollama_status=500),
    BodyTimeoutError: _Row(408, "invalid_request_error"),
    HeadTimeoutError: _Row(408, "invalid_request_error"),
    HeadTooLargeError: _Row(431, "invalid_request_error"),
    ExpectationError: _Row(417, "invalid_request_error"),
    errors.RequestTooLargeError: _Row(413, "invalid_request_error"),
    NotYetError: _Row(501, "invalid_request_error"),
    NoCloudError: _Row(501, "invalid_request_error"),
    errors.UnauthorizedError: _Row(401, "authentication_error"),
    errors.ForbiddenError: _Row(403, "permission_error"),
    errors.RateLimitedError: _Row(429, "rate_limit_error"),
    errors.ConflictError: _Row(409, "invalid_request_error"),
    errors.ModelNotFoundError: _Row(404, "not_found_error"),
    errors.NotFoundError: _Row(404, "not_found_error"),
    errors.OverloadedError: _Row(503, "overloaded_error"),
    errors.JobCancelledError: _Row(409, "api_error"),
    errors.ActivationError: _Row(409, "api_error"),
    errors.MemoryFitError: _Row(503, "api_error"),
    errors.DiskFullError: _Row(507, "api_error"),
    errors.ReadOnlyError: _Row(507, "api_error"),
    errors.RegistryError: _Row(502, "api_error"),
    errors.RegistryNotFoundError: _Row(404, "not_found_error"),
    TrustError: _Row(502, "api_error"),  # the source's fault, or somebody's on the way
    PolicyRefusedError: _Row(403, "permission_error"),
    ApplianceError: _Row(500, "api_error"),
    engine_errors.ContextLengthError: _Row(400, "invalid_request_error"),
    engine_errors.EngineRequestError: _Row(400, "invalid_request_error"),
    engine_errors.EngineBusyError: _Row(503, "overloaded_error"),
    engine_errors.EngineStoppedError: _Row(503, "overloaded_error"),
    engine_errors.DeviceMemoryError: _Row(503, "api_error"),
    EngineError: _Row(500, "api_error"),
    Exception: _Row(500, "api_error"),
}
_ANTHROPIC_OVERLOADED = 529  # (Anthropic API, errors)
_RETRY_AFTER_S = 1  # where the error itself makes no guess
_JSON = "application/json; charset=utf-8"  # Ollama's own answers
_PLAIN_JSON = "application/json"  # OpenAI's, exactly so in Ollama too


@dataclass(frozen=True, slots=True)
class Problem:
    """An error on its way out."""

    status: int
    type: str
    code: str
    message: str
    hint: str = ""
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def needs_traceback(self) -> bool:
        """Whether it is our own fault, so that the log should show where."""
        return self.status == 500 and self.type == "api_error"

    def body(self, dialect: Dialect, request_id: str = "") -> bytes:
        """The JSON object, also as the last event of a stream that had already started.

        `request_id` is Anthropic's, which other dialects have no place for.
        """
        text = f"{self.message} ({self.hint})" if self.hint else self.message
        if dialect is Dialect.ANTHROPIC:
            named = {"request_id": request_id} if request_id else {}
            kind = "request_too_large" if self.status == 413 else self.type
            error = {"type": kind, "message": text}
            return msgspec.json.encode({"type": "error", "error": error} | named)
        if dialect is Dialect.OPENAI:
            inner = {"message": text, "type": self.type, "param": self.param, "code": self.code}
            return msgspec.json.encode({"error": inner})
        outer = {"error": self.message, "code": self.code}
        return msgspec.json.encode(outer | ({"hint": self.hint} if self.hint else {}))

    def response(self, dialect: Dialect, request_id: str = "") -> web.Response:
        """The whole answer, when nothing was sent yet."""
        content_type = _JSON if dialect is Dialect.OLLAMA else _PLAIN_JSON
        headers = {**self.headers, "Content-Type": content_type}
        body = self.body(dialect, request_id)
        return web.Response(status=self.status, headers=headers, body=body)


def problem_of(error: BaseException, dialect: Dialect) -> Problem:
    """What to answer to `error`."""
    if isinstance(error, web.HTTPException):
        return _of_http(error)
    if not isinstance(error, ApplianceError | EngineError):
        kind = _row(Exception).type
        return Problem(500, kind, "internal_error", "internal error; the log has the details")
    row, status = _row(type(error)), status_of(type(error), dialect)
    headers: dict[str, Any] = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="hearth"'  # RFC 6750, 3
    if row.type in {"overloaded_error", "rate_limit_error"}:
        headers["Retry-After"] = str(getattr(error, "retry_after_s", _RETRY_AFTER_S))
    message = str(error)
    if dialect is Dialect.ANTHROPIC and isinstance(error, engine_errors.ContextLengthError):
        message = f"prompt is too long: {message}"  # at these words coding agents compact
    return Problem(
        status=status,
        type=row.type,
        code=error.code,
        message=message,
        hint=getattr(error, "hint", ""),
        param=getattr(error, "field_name", None),
        headers=headers,
    )


def status_of(kind: type[BaseException], dialect: Dialect) -> int:
    """The status of errors of this class."""
    row = _row(kind)
    if dialect is Dialect.OLLAMA and row.ollama_status:
        return row.ollama_status
    if dialect is Dialect.ANTHROPIC and row.type == "overloaded_error":
        return _ANTHROPIC_OVERLOADED
    return row.status


def _row(kind: type[BaseException]) -> _Row:
    """A class without a row takes that of its nearest parent."""
    return next(_TABLE[cls] for cls in kind.__mro__ if cls in _TABLE)


_HTTP_TEXTS = {
    404: ("not_found", "404 page not found"),
    405: ("method_not_allowed", "405 method not allowed"),
    417: ("bad_request", "this box knows no Expect header but 100-continue"),
    413: ("request_too_large", "the request body is too large"),
}


def _of_http(error: web.HTTPException) -> Problem:
    """aiohttp's own refusals: no such route, wrong method, body too large."""
    code, text = _HTTP_TEXTS.get(error.status, ("bad_request", error.reason))
    kind = "not_found_error" if error.status == 404 else "invalid_request_error"
    kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    return Problem(error.status, kind, code, text, headers=kept)
