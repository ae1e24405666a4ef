"""GGUF files: what their header says, and whether llama.cpp may be trusted with them.

Standard library only, so that the control plane reads headers without loading an engine.
`read_header` parses under limits; `validate` also checks what would abort or mislead llama.cpp.
"""

from engine.gguf.header import ArrayInfo, Header, TensorInfo, Value
from engine.gguf.reader import LIMITS, Limits, read_header, shortest_float32
from engine.gguf.types import GGMLType, ValueType
from engine.gguf.validate import validate

__all__ = [
    "LIMITS",
    "ArrayInfo",
    "GGMLType",
    "Header",
    "Limits",
    "TensorInfo",
    "Value",
    "ValueType",
    "read_header",
    "shortest_float32",
    "validate",
]
