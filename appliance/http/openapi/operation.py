"""What the document says of one route, and the parts that many routes share.

A request body is the type that the handler itself parses; an answer is a TypedDict, which nothing
but the document and the tests read. Statuses of errors are named by the classes that are raised,
so that both come from the one table in `http/errors.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance import errors
from appliance.http.errors import BodyTimeoutError, NoCloudError, NotYetError, OptionError
from appliance.trust.errors import PolicyRefusedError, TrustError
from engine import errors as engine_errors

JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
BYTES = "application/octet-stream"

Errors = tuple[type[BaseException], ...]
Json = Mapping[str, Any]

# What any route may answer: the guard, keys, limits and the drain come before every handler.
ANY: Errors = (
    errors.BadRequestError,
    errors.UnauthorizedError,
    errors.ForbiddenError,
    errors.RateLimitedError,
    errors.ApplianceError,
    errors.OverloadedError,
)
WITH_BODY: Errors = (BodyTimeoutError, errors.RequestTooLargeError)
MISSING: Errors = (errors.NotFoundError,)
# What reading and running a model may end in.
RUNS: Errors = (
    errors.ModelNotFoundError,
    OptionError,
    errors.MemoryFitError,
    engine_errors.ContextLengthError,
    engine_errors.EngineBusyError,
    engine_errors.DeviceMemoryError,
    engine_errors.EngineError,
)
CHANGES: Errors = (errors.ConflictError, errors.DiskFullError)
# What comes from a registry or a repository, over a network that may not be there.
FETCHES: Errors = (
    *CHANGES,
    errors.JobCancelledError,
    errors.ActivationError,
    errors.RegistryError,
    errors.NotFoundError,
    TrustError,
    PolicyRefusedError,
)
LATER: Errors = (NotYetError,)
CLOUD: Errors = (NoCloudError,)


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter behind the question mark, or a header."""

    name: str
    description: str
    schema: Json = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    place: str = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route.

    body      the type that the body is parsed as; None: there is none
    required  fields without which the body is refused although the type has a default for them
    example   a body that this box answers with success
    media     of the body
    answer    type of the whole answer, or types; None: it has no body. A mapping is a schema itself
    answers   media type of the answer
    stream    type of one line or event of an answer in pieces
    streams   media type of such an answer
    status    of success; `also` are further ones, without a body
    errors    what may be raised beyond `ANY`, and with a body `WITH_BODY`
    """

    summary: str
    description: str = ""
    body: Any = None
    required: str = ""
    example: Json | None = None
    media: str = JSON
    query: tuple[Query, ...] = ()
    answer: Any = None
    answers: str = JSON
    stream: Any = None
    streams: str = NDJSON
    status: int = 200
    also: tuple[int, ...] = ()
    errors: Errors = ()


Table = Mapping[tuple[str, str], Operation]
