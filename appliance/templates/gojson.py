"""JSON exactly as Go's encoding/json writes it, so that our blobs have Ollama's digests."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

_HTML = re.compile("[<>&\u2028\u2029]")
_EXPONENT_ZERO = re.compile(r"e([+-])0(\d)$")


def go_json(value: Json, *, sort_keys: bool) -> bytes:
    """Compact UTF-8 without a final newline (Go's Encoder adds one, Marshal does not).

    sort_keys  True for a Go map, at every depth; False keeps the order, as a Go struct has
    """
    return _encode(value, sort_keys).encode()


def _encode(value: Json, sort_keys: bool) -> str:
    if isinstance(value, str):
        return go_string(value)
    if isinstance(value, float):
        return go_float(value)
    if isinstance(value, Mapping):
        items = sorted(value.items()) if sort_keys else value.items()
        return "{" + ",".join(f"{go_string(k)}:{_encode(v, sort_keys)}" for k, v in items) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_encode(item, sort_keys) for item in value) + "]"
    return json.dumps(value)


def go_string(text: str) -> str:
    encoded = json.dumps(text, ensure_ascii=False)
    # a lone surrogate is no character; Go reads and writes it as U+FFFD
    encoded = encoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _HTML.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded)


def go_float(number: float) -> str:
    """Shortest form; the exponent only below 1e-6 and from 1e21 (encoding/json, floatEncoder)."""
    if not math.isfinite(number):
        raise ValueError(f"{number} has no JSON form")
    if number == 0:
        return "-0" if math.copysign(1, number) < 0 else "0"
    if 1e-6 <= abs(number) < 1e21:
        return format(Decimal(repr(number)), "f").removesuffix(".0")
    return _EXPONENT_ZERO.sub(r"e\1\2", repr(number))
