"""From types to JSON Schema, as OpenAPI 3.1 wants it: msgspec does it, this adds what it cannot
know of how `http/body.py` reads a body."""

from collections.abc import Iterable
from typing import Any, is_typeddict

import msgspec

Json = dict[str, Any]
_PLACE = "#/components/schemas/"


class Schemas:
    """The schemas of one surface; their names begin with `prefix`.

    closed   answers may have no field beyond those that are known: for tests. Clients are told
             that there may be more, so that a later release can add some.
    """

    def __init__(self, prefix: str, *, closed: bool) -> None:
        self._prefix = prefix
        self._closed = closed
        self._types: list[Any] = []
        self.components: dict[str, Json] = {}

    def add(self, types: Iterable[Any]) -> None:
        """Make schemas of types, among them those that other answers refer to."""
        self._types = [each for each in types if each is not None and not isinstance(each, dict)]
        _, found = msgspec.json.schema_components(self._types, ref_template=self._template)
        for name, schema in found.items():
            schema.pop("title", None)
            self.components[f"{self._prefix}.{name}"] = schema
        if self._closed:
            for name in self._answers(found):
                self.components[f"{self._prefix}.{name}"]["additionalProperties"] = False

    def of(self, type_: Any) -> Json:
        """The schema of a type that was added, or of a schema as it is."""
        if isinstance(type_, dict):
            return type_
        (schema,), _ = msgspec.json.schema_components([type_], ref_template=self._template)
        return schema

    def body(self, type_: Any, required: Iterable[str]) -> Json:
        """The schema of a request body: its fields may be null, which counts as absent."""
        schema = self.of(type_)
        if "$ref" not in schema:
            return schema
        found = self.components[schema["$ref"].removeprefix(_PLACE)]
        required = sorted({*found.get("required", ()), *required})
        optional = set(found["properties"]) - set(required)
        for name in optional:
            found["properties"][name] = _or_null(found["properties"][name])
        found["required"] = required
        if found.get("additionalProperties") is False:
            found["additionalProperties"] = {"type": "null"}
        return schema if required else _or_null(schema)  # null is read as an empty object

    @property
    def _template(self) -> str:
        return f"{_PLACE}{self._prefix}.{{name}}"

    def _answers(self, found: Json) -> set[str]:
        """Names of the schemas that answers are made of: those of TypedDicts."""
        return {name for name in found if name in {t.__name__ for t in _dicts(self._types)}}


def _dicts(types: Iterable[Any]) -> set[Any]:
    """All TypedDicts among types and below them."""
    seen: set[Any] = set()
    level = list(types)
    while level:
        one = level.pop()
        if is_typeddict(one) and one not in seen:
            seen.add(one)
            level += one.__annotations__.values()
        level += getattr(one, "__args__", ())
    return seen


def _or_null(schema: Json) -> Json:
    kind = schema.get("type")
    if isinstance(kind, str):
        return schema | {"type": [kind, "null"]}
    outer: Json = {key: schema[key] for key in ("description", "default") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in outer}
    if not inner or {"type": "null"} in inner.get("anyOf", ()):
        return schema
    return {"anyOf": [inner, {"type": "null"}], **outer}
