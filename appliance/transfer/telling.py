"""What to say when several sources were asked in vain: all of it, under the gravest name.

A mirror that lies and an origin that has nothing are two facts; whoever reads only "not found"
looks in the wrong place.
"""

from collections.abc import Sequence

from appliance.errors import (
    DownloadCorruptError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnreachableError,
)

_FROM_GRAVEST = (
    DownloadCorruptError,
    RegistryError,
    RegistryUnreachableError,
    RegistryNotFoundError,
)
_MAX_TOLD = 4


def most_telling(errors: Sequence[RegistryError]) -> RegistryError:
    """One error for at least one: of the gravest kind (wrong bytes, a refusal, no answer, nothing
    there), with its cure, and the words of the others behind its own."""
    gravest = min(errors, key=_rank)
    others = [str(error) for error in errors if error is not gravest]
    told = list(dict.fromkeys([str(gravest), *others]))
    if len(told) == 1:
        return gravest
    return type(gravest)("; also: ".join(told[:_MAX_TOLD]), hint=gravest.hint)


def _rank(error: RegistryError) -> int:
    kind = type(error)
    return (
        _FROM_GRAVEST.index(kind) if kind in _FROM_GRAVEST else _FROM_GRAVEST.index(RegistryError)
    )
