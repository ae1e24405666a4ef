"""Which of several sources' errors is told, and with what beside it."""

from appliance.errors import (
    DownloadCorruptError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnreachableError,
)
from appliance.transfer.telling import most_telling

LIE = DownloadCorruptError("a sent other bytes", hint="do not trust a")
REFUSAL = RegistryError("b refused")
SILENCE = RegistryUnreachableError("c is silent")
NOTHING = RegistryNotFoundError("d has nothing")


def test_one_error_is_itself():
    assert most_telling([NOTHING]) is NOTHING
    again = RegistryNotFoundError("d has nothing")
    assert most_telling([NOTHING, again]) is NOTHING  # twice the same is told once


def test_the_gravest_gives_its_name_and_cure_and_all_are_told():
    told = most_telling([NOTHING, SILENCE, LIE, REFUSAL])
    assert type(told) is DownloadCorruptError
    assert told.hint == "do not trust a"
    assert str(told) == (
        "a sent other bytes; also: d has nothing; also: c is silent; also: b refused"
    )
    assert type(most_telling([NOTHING, SILENCE])) is RegistryUnreachableError
    assert type(most_telling([SILENCE, REFUSAL])) is RegistryError


def test_a_hundred_mirrors_do_not_make_a_page():
    errors = [RegistryUnreachableError(f"mirror {number} is silent") for number in range(100)]
    assert str(most_telling(errors)).count("; also: ") == 3
