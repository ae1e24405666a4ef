"""Fields that more than one dialect has, from JSON to domain values.

keep_alive, constraints, options, token ids and who is calling. Raises BadRequestError with the
texts that Ollama's clients know (api/types.go, Duration; server/routes.go).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from appliance.errors import BadRequestError, RequestTooLargeError
from appliance.http.errors import FieldError, OptionError
from appliance.library.parameters import PARAMETERS, Kind, parse_options
from appliance.values import parse_duration
from engine.api import Constraint

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_TOP_LOGPROBS = 20
MAX_TOKEN_ID = 2**31 - 1

_JSON_TYPES: Mapping[Kind, dict[str, Any]] = {
    Kind.INTEGER: {"type": ["number", "null"]},
    Kind.FLOAT: {"type": ["number", "null"]},
    Kind.BOOLEAN: {"type": ["boolean", "null"]},
    Kind.STRINGS: {"type": ["array", "null"], "items": {"type": "string"}},
}

# Types of fields that are read by the functions below; what they say is for the OpenAPI document.
KeepAlive = Annotated[
    Any,
    msgspec.Meta(
        description="How long the model stays loaded: seconds, or text like 5m; below 0: for ever",
        extra_json_schema={"type": ["string", "number"]},
    ),
]
Format = Annotated[
    Any,
    msgspec.Meta(
        description='"json", or a JSON schema that the answer must fit',
        extra_json_schema={"anyOf": [{"enum": ["", "json"]}, {"type": "object"}]},
    ),
]
Options = Annotated[
    dict[str, Any],
    msgspec.Meta(
        description="Generation parameters; unknown ones are passed over",
        extra_json_schema={
            "properties": {each.name: _JSON_TYPES[each.kind] for each in PARAMETERS.values()}
        },
    ),
]

_FOREVER_S = 100 * 365 * 86_400  # what is longer is meant to be for ever


def keep_alive_of(value: Any) -> float | None:
    """Seconds, inf for ever, None where the field is absent (Ollama API, keep_alive)."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise BadRequestError(f'time: invalid duration "{value[:100]}"; use {error}') from error
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = math.inf if value < 0 else float(value)
    else:
        raise BadRequestError(f"Unsupported type: '{type(value).__name__}'")
    return math.inf if seconds > _FOREVER_S else seconds


def constraint_of(value: Any) -> Constraint | None:
    """Ollama's `format`: absent or "", "json", or a JSON Schema object."""
    if value is None or value == "":
        return None
    if value == "json":
        return Constraint(kind="json")
    if isinstance(value, dict):
        return schema_constraint(value)
    seen = msgspec.json.encode(value).decode()[:100]
    raise OptionError(f'invalid format: {seen}; expected "json" or a valid JSON Schema object')


def schema_constraint(schema: Mapping[str, Any]) -> Constraint:
    """A constraint to a JSON Schema, which must be of sane size."""
    source = msgspec.json.encode(schema)
    if len(source) > MAX_SCHEMA_BYTES:
        raise RequestTooLargeError(
            f"the JSON schema has {len(source)} bytes, {MAX_SCHEMA_BYTES} are allowed"
        )
    if depth_of(schema) > MAX_SCHEMA_DEPTH:
        raise RequestTooLargeError(
            f"the JSON schema is nested deeper than the {MAX_SCHEMA_DEPTH} levels allowed"
        )
    return Constraint(kind="schema", source=source.decode())


def options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama's `options`, typed; unknown names are passed over, as many clients send old ones."""
    try:
        values, _unknown = parse_options(options)
    except BadRequestError as error:
        raise OptionError(str(error), hint=error.hint) from error
    return dict(values)


def budget_of(field: str, tokens: int | None) -> int | None:
    """Most tokens of thinking, if there is a limit of its own."""
    if tokens is not None and tokens < 1:
        raise FieldError(field, f"{field} must be 1 or more tokens, not {tokens}")
    return tokens


def token_ids_of(field: str, ids: Sequence[int]) -> tuple[int, ...]:
    """Token ids that at least could be some vocabulary's."""
    if any(not 0 <= token_id <= MAX_TOKEN_ID for token_id in ids):
        raise FieldError(field, f"a token id in '{field}' is negative or beyond 2^31")
    return tuple(ids)


def check_count(field: str, count: int, limit: int) -> None:
    """Refuse lists that are longer than `limit`."""
    if count > limit:
        raise RequestTooLargeError(f"'{field}' has {count} entries, {limit} are allowed")


def depth_of(value: Any) -> int:
    """Levels of nesting; the value itself is bounded by the body's own limit."""
    depth, level = 0, [value]
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        depth, level = depth + 1, below
    return depth
