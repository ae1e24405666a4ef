"""The OpenAPI 3.1 document of everything that the service answers, put together from its parts.

Imported by the first who asks for it, and made once. What a route takes and answers is in the
tables beside this file, who may call it in `http/access.py`, statuses of errors
in `http/errors.py`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from appliance.access.caller import Scope
from appliance.http.access import NEEDS
from appliance.http.context import version
from appliance.http.errors import Dialect, status_of
from appliance.http.openapi import anthropic, box, content, ollama, openai
from appliance.http.openapi.operation import ANY, JSON, WITH_BODY, Errors, Operation, Table
from appliance.http.openapi.schemas import Schemas

Json = dict[str, Any]

_INTRODUCTION = """\
One box, several dialects: Ollama's under `/api`, OpenAI's and Anthropic's under `/v1`, the box's
own under `/hearth/v1`, a registry to read from under `/v2`. Each operation names the scope that a
key needs. The box itself (loopback) needs no key; guests on the local network need none for what
has the scope `chat`, unless the owner asks for keys. A body may hold fields that are not listed:
Ollama's, OpenAI's and Anthropic's routes pass over what they do not know. Where a GET is listed,
HEAD is answered too."""

_TABLES: Mapping[str, Table] = {
    "Ollama": ollama.OPERATIONS,
    "OpenAI": openai.OPERATIONS,
    "Anthropic": anthropic.OPERATIONS,
    "Box": box.OPERATIONS,
    "Models": content.OPERATIONS,
}
OPERATIONS: Table = {route: each for table in _TABLES.values() for route, each in table.items()}

_DIGEST = {"type": "string", "pattern": "^sha256[:-][0-9a-f]{64}$"}
_PATH_SCHEMAS: Mapping[str, Json] = {"digest": _DIGEST}
_STATUSES = {
    400: "The request is wrong; the text says what",
    401: "A key is needed, or this one is not valid",
    403: "The caller may not do this",
    404: "What was asked for is not here",
    408: "The body did not come in time",
    409: "It does not go together with what is there now",
    413: "The body or a part of it is too large",
    429: "Too many requests; Retry-After says when to ask again",
    500: "The box failed; its log says where",
    501: "This box does not do that, or not yet; the text says which",
    502: "What was fetched from elsewhere cannot be had or believed",
    503: "The box is busy, is stopping, or has too little memory",
    507: "The disk is full",
    529: "The box is busy; Retry-After says when to ask again",
}
_ERROR_SCHEMAS: Mapping[Dialect, Json] = {
    Dialect.OLLAMA: {
        "type": "object",
        "description": "`error` is for people, `code` for programs, `hint` says what to do.",
        "properties": {
            "error": {"type": "string"},
            "code": {"type": "string"},
            "hint": {"type": "string"},
        },
        "required": ["error", "code"],
    },
    Dialect.OPENAI: {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                },
                "required": ["message", "type", "param", "code"],
            }
        },
        "required": ["error"],
    },
    Dialect.ANTHROPIC: {
        "type": "object",
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
                "required": ["type", "message"],
            },
            "request_id": {"type": "string"},
        },
        "required": ["type", "error"],
    },
}


@cache
def document_bytes() -> bytes:
    """The document as it is served."""
    return msgspec.json.encode(build())


def build(*, closed: bool = False) -> Json:
    """The document; `closed`: with answers that may hold nothing that is not listed."""
    paths: dict[str, Json] = {}
    components = {_error_name(each): dict(_ERROR_SCHEMAS[each]) for each in Dialect}
    for tag, table in _TABLES.items():
        schemas = Schemas(tag, closed=closed)
        schemas.add(_types(table))
        for (method, path), operation in table.items():
            entry = _operation(tag, method, path, operation, schemas)
            paths.setdefault(path, {})[method.lower()] = entry
        components |= schemas.components
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hearth", "version": version(), "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in _TABLES],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _types(table: Table) -> Iterator[Any]:
    for each in table.values():
        yield from (each.body, each.stream, *_several(each.answer))


def _several(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def _operation(tag: str, method: str, path: str, operation: Operation, schemas: Schemas) -> Json:
    entry: Json = {
        "operationId": _id(method, path),
        "tags": [tag],
        "summary": operation.summary,
        "security": _security(NEEDS.get((method, path), Scope.ADMIN)),
        "responses": _responses(method, path, operation, schemas),
    }
    if operation.description:
        entry["description"] = operation.description
    if parameters := [*_path_parameters(path), *_query_parameters(operation)]:
        entry["parameters"] = parameters
    if operation.body is not None:
        entry["requestBody"] = _body(operation, schemas)
    return entry


def _body(operation: Operation, schemas: Schemas) -> Json:
    media: Json = {"schema": schemas.body(operation.body, operation.required.split())}
    if operation.example is not None:
        media["example"] = operation.example
    return {"required": True, "content": {operation.media: media}}


def _responses(method: str, path: str, operation: Operation, schemas: Schemas) -> Json:
    found: Json = {}
    if not any(status_of(each, Dialect.OLLAMA) == 501 for each in operation.errors):
        found[str(operation.status)] = _success(operation, schemas)
    for status in operation.also:
        found[str(status)] = {"description": "Done"}
    dialects = _dialects(path)
    for dialect in dialects:
        for status in _error_statuses(operation, dialect):
            kept = found.setdefault(str(status), {"description": _STATUSES[status]})
            if method != "HEAD":
                kept["content"] = {JSON: {"schema": _errors_of(dialects)}}
    if path == "/readyz":  # says in the same words that it is not ready
        found["503"]["content"] = found["200"]["content"]
    return dict(sorted(found.items()))


def _success(operation: Operation, schemas: Schemas) -> Json:
    content: Json = {}
    if operation.answer is not None:
        found = [schemas.of(each) for each in _several(operation.answer)]
        content[operation.answers] = {"schema": _any_of(found)}
    if operation.stream is not None:
        content[operation.streams] = {"schema": schemas.of(operation.stream)}
    return {"description": "Done"} | ({"content": content} if content else {})


def _error_statuses(operation: Operation, dialect: Dialect) -> list[int]:
    classes: Errors = ANY + operation.errors
    if operation.body is not None:
        classes += WITH_BODY
    return sorted({status_of(each, dialect) for each in classes})


def _dialects(path: str) -> Sequence[Dialect]:
    """Two where a header decides."""
    kinds = {Dialect.of(path), Dialect.of(path, {"anthropic-version"})}
    return sorted(kinds, key=lambda each: each.value)


def _errors_of(dialects: Sequence[Dialect]) -> Json:
    return _any_of([{"$ref": f"#/components/schemas/{_error_name(each)}"} for each in dialects])


def _any_of(schemas: Sequence[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def _error_name(dialect: Dialect) -> str:
    return {"OPENAI": "OpenAIError"}.get(dialect.name, f"{dialect.name.title()}Error")


def _security(need: Scope | None) -> list[Json]:
    """Nothing, or a key with the scope; who has the scope `chat` may be a guest, too."""
    if need is None:
        return []
    keys: list[Json] = [{"bearer": [str(need)]}, {"apiKey": [str(need)]}]
    return [*keys, {}] if need is Scope.CHAT else keys


def _path_parameters(path: str) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _PATH_SCHEMAS.get(name, {"type": "string"}),
        }
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameters(operation: Operation) -> list[Json]:
    return [
        {
            "name": each.name,
            "in": each.place,
            "required": each.required,
            "description": each.description,
            "schema": each.schema,
        }
        for each in operation.query
    ]


def _id(method: str, path: str) -> str:
    words = re.findall(r"\w+", path) or ["root"]
    return "_".join([method.lower(), *words])
