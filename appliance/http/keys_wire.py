"""Bodies of our own routes about keys, claiming and the audit log."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from appliance.access.audit import Entry
from appliance.access.caller import Caller, KeyFacts, Scope
from appliance.access.keys import Key
from appliance.access.usage import Guest
from appliance.errors import BadRequestError, ModelNameError
from appliance.http.errors import FieldError
from appliance.library.names import ModelName

MAX_NAME = 64  # characters
MAX_MODELS = 100
_Count = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
_Model = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class ClaimBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/claim."""

    code: Annotated[str, msgspec.Meta(max_length=64)] = ""
    name: str = ""


class KeyBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /hearth/v1/keys."""

    name: str = ""
    scopes: list[str] = []
    models: Annotated[list[_Model], msgspec.Meta(min_length=1, max_length=MAX_MODELS)] | None = None
    rate_per_minute: _Count | None = None
    tokens_per_day: _Count | None = None

    def facts(self) -> KeyFacts:
        """The key that is wanted. Raises BadRequestError."""
        scopes = scopes_of(self.scopes)
        if self.models is not None and scopes != {Scope.CHAT}:
            raise FieldError(
                "models", "models can be chosen for keys with the scope chat alone; others see all"
            )
        return KeyFacts(
            id="",
            name=name_of(self.name),
            scopes=scopes,
            models=None if self.models is None else tuple(map(_model, self.models)),
            rate_per_minute=self.rate_per_minute,
            tokens_per_day=self.tokens_per_day,
        )


def name_of(text: str) -> str:
    """A key's name as people give it: one short printable line."""
    name = text.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise FieldError(
            "name", f"a key needs a name of 1 to {MAX_NAME} printable characters, like Anna's phone"
        )
    return name


def scopes_of(words: list[str]) -> frozenset[Scope]:
    known = [str(scope) for scope in Scope]
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        seen = f", not {unknown[0][:40]!r}" if unknown else ""
        raise FieldError("scopes", f"scopes are one or more of {', '.join(known)}{seen}")
    return frozenset(map(Scope, words))


def me_answer(caller: Caller, *, is_claimed: bool, lan: str) -> dict[str, Any]:
    """GET /hearth/v1/me."""
    key = caller.key
    return {
        "ring": str(caller.ring),
        "scopes": _ordered(caller.scopes),
        "key": {"id": key.id, "name": key.name} if key else None,
        "claimed": is_claimed,
        "access_lan": lan,
    }


def key_answer(key: Key, tokens_today: int = 0) -> dict[str, Any]:
    """One key, without anything secret."""
    facts = key.facts
    return {
        "id": facts.id,
        "name": facts.name,
        "scopes": _ordered(facts.scopes),
        "models": None if facts.models is None else list(facts.models),
        "rate_per_minute": facts.rate_per_minute,
        "tokens_per_day": facts.tokens_per_day,
        "tokens_today": tokens_today,
        "created_at": _moment(key.created_at),
        "last_used_at": _moment(key.last_used_at),
        "revoked_at": _moment(key.revoked_at),
    }


def guest_answer(guest: Guest) -> dict[str, Any]:
    """One client without a key; counts are today's."""
    return {
        "address": guest.address,
        "requests": guest.requests,
        "tokens": guest.tokens,
        "last_seen_at": _moment(guest.seen_at),
    }


def entry_answer(entry: Entry) -> dict[str, Any]:
    """One line of the audit log."""
    return {
        "at": _moment(entry.at),
        "who": entry.who,
        "action": entry.action,
        "target": entry.target,
        "outcome": entry.outcome,
    }


def limit_of(text: str, default: int, largest: int) -> int:
    """`?limit=`: how many entries are wanted."""
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= largest:
        raise BadRequestError(f"limit is a number from 1 to {largest}, not {text[:40]!r}")
    return int(text)


def _model(text: str) -> str:
    try:
        return ModelName.parse(text).short
    except ModelNameError as error:
        raise FieldError("models", f"{text[:100]!r} is no model name", hint=error.hint) from error


def _ordered(scopes: frozenset[Scope]) -> list[str]:
    return [str(scope) for scope in Scope if scope in scopes]


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
