"""A condition: one named fact about the box that somebody should know, with its cure."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    NOTE = "note"  # worth knowing, nothing is wrong
    WARNING = "warning"  # something will be wrong, or is in part
    ERROR = "error"  # something does not work


@dataclass(frozen=True, slots=True)
class Condition:
    """`code` never changes; `text` is one sentence, `cure` one sentence or empty."""

    code: str
    title: str
    text: str
    severity: Severity
    cure: str = ""
