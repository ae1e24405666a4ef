"""Generation parameters: their names, types and defaults, in Modelfiles and in request options.

The table is Ollama's (api/types.go, Options and Runner). Ranges are the engine's business.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from appliance.errors import BadRequestError
from engine.gguf import shortest_float32

ParameterValue = bool | int | float | list[str]


class Kind(StrEnum):
    """A parameter's type, in the word that Ollama's error texts use."""

    INTEGER = "integer"
    FLOAT = "float32"
    BOOLEAN = "boolean"
    STRINGS = "array"


@dataclass(frozen=True, slots=True)
class Parameter:
    """`default` is None where the service decides from the machine or the model."""

    name: str
    kind: Kind
    default: ParameterValue | None


_TABLE = (
    Parameter("num_ctx", Kind.INTEGER, None),
    Parameter("num_batch", Kind.INTEGER, 512),
    Parameter("num_gpu", Kind.INTEGER, -1),
    Parameter("main_gpu", Kind.INTEGER, None),
    Parameter("use_mmap", Kind.BOOLEAN, None),
    Parameter("num_thread", Kind.INTEGER, 0),
    Parameter("draft_num_predict", Kind.INTEGER, 4),
    Parameter("num_keep", Kind.INTEGER, 4),
    Parameter("seed", Kind.INTEGER, -1),
    Parameter("num_predict", Kind.INTEGER, -1),
    Parameter("top_k", Kind.INTEGER, 40),
    Parameter("top_p", Kind.FLOAT, 0.9),
    Parameter("min_p", Kind.FLOAT, 0.0),
    Parameter("typical_p", Kind.FLOAT, 1.0),
    Parameter("repeat_last_n", Kind.INTEGER, 64),
    Parameter("temperature", Kind.FLOAT, 0.8),
    Parameter("repeat_penalty", Kind.FLOAT, 1.0),
    Parameter("presence_penalty", Kind.FLOAT, 0.0),
    Parameter("frequency_penalty", Kind.FLOAT, 0.0),
    Parameter("stop", Kind.STRINGS, []),
)
PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _TABLE}

# still written in Modelfiles; skipped there with a warning
RETIRED = frozenset(
    {
        "penalize_newline",
        "low_vram",
        "f16_kv",
        "logits_all",
        "vocab_only",
        "use_mlock",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
    }
)

_INTEGER = re.compile(r"[+-]?[0-9]{1,100}")
_INT64 = range(-(2**63), 2**63)  # what an integer is in Ollama, and what a worker can be sent
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def parse_parameter(key: str, texts: Sequence[str]) -> ParameterValue:
    """The value of a Modelfile's `PARAMETER key text`; several texts only for lists.

    Raises BadRequestError. A float is the shortest number that is the same float32, because that
    is what Ollama's client sends and what ends up in the digest.
    """
    parameter = PARAMETERS.get(key)
    if parameter is None:
        raise BadRequestError(f"unknown parameter '{key}'", hint=_known())
    if parameter.kind is Kind.STRINGS:
        return list(texts)
    text = texts[-1]
    if parameter.kind is Kind.INTEGER and _INTEGER.fullmatch(text):
        return _in_range(key, int(text))
    if parameter.kind is Kind.FLOAT and _FLOAT.fullmatch(text):
        try:
            return shortest_float32(float(text))
        except OverflowError as error:
            raise BadRequestError(f"the value {text} of '{key}' is too large") from error
    if parameter.kind is Kind.BOOLEAN and text in _TRUE | _FALSE:
        return text in _TRUE
    word = {Kind.INTEGER: "int", Kind.FLOAT: "float", Kind.BOOLEAN: "bool"}[parameter.kind]
    raise BadRequestError(f"invalid {word} value {[text]} for parameter '{key}'")


def parse_options(options: Mapping[str, Any]) -> tuple[dict[str, ParameterValue], list[str]]:
    """Typed values of a request's `options`, and the names that are unknown (never an error).

    Null is skipped; an integer may be written as a float. Raises BadRequestError with Ollama's
    text for a wrong type.
    """
    values: dict[str, ParameterValue] = {}
    unknown: list[str] = []
    for key, value in options.items():
        parameter = PARAMETERS.get(key)
        if parameter is None:
            unknown.append(key)
        elif value is not None:
            values[key] = _typed(parameter, value)
    return values, unknown


def _typed(parameter: Parameter, value: object) -> ParameterValue:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match parameter.kind:
        case Kind.BOOLEAN if isinstance(value, bool):
            return value
        case Kind.STRINGS if isinstance(value, list):
            if all(isinstance(item, str) for item in value):
                return list(value)
            raise BadRequestError(f'option "{parameter.name}" must be of an array of strings')
        case Kind.INTEGER if number and math.isfinite(value):  # type: ignore[arg-type]
            return _in_range(parameter.name, int(value))  # type: ignore[call-overload]
        case Kind.FLOAT if number and math.isfinite(value):  # type: ignore[arg-type]
            return float(value)  # type: ignore[arg-type]
    raise BadRequestError(f'option "{parameter.name}" must be of type {parameter.kind}')


def _in_range(name: str, value: int) -> int:
    if value not in _INT64:
        raise BadRequestError(f"the value of '{name}' has more than 64 bits")
    return value


def _known() -> str:
    return f"known: {', '.join(sorted(PARAMETERS))}"
