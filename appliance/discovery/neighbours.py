"""What the links say of boxes and other model servers: a table that stays small. Pure.

Everything in it is unauthenticated, so that it gives addresses and never trust. Whatever anybody
announces, there are at most `MAX_ENTRIES` services of `MAX_ADDRESSES` addresses each.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from appliance.discovery.heard import Heard, Kind, clean, parse_text
from appliance.discovery.records import HEARTH, OLLAMA, OPENAI

BROWSED = {HEARTH: "hearth", OLLAMA: "ollama", OPENAI: "openai"}  # in the order of preference
MAX_ENTRIES = 128
MAX_ADDRESSES = 8
MAX_TTL_S = 4500  # what RFC 6762 gives pointers; a liar's day is no longer
MAX_CAPS = 16


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A model server that announced itself. Texts are single printable lines of bounded length."""

    name: str
    kind: str  # hearth | ollama | openai
    host: str  # without a final dot
    port: int
    addresses: tuple[str, ...]  # on-link ones, IPv4 first
    seen_at: float  # seconds since 1970
    id: str = ""
    version: str = ""
    caps: tuple[str, ...] = ()
    auth: str = ""
    state: str = ""  # new | owned, of Hearth boxes
    is_alive: bool | None = None  # None: not asked yet

    @property
    def key(self) -> tuple[str, int]:
        """What it is known by: host and port, whatever types it announces."""
        return self.host.lower(), self.port

    @property
    def is_reachable(self) -> bool:
        """Whether its first address says where to go; a link-local IPv6 one also needs a zone."""
        if not self.addresses:
            return False
        address = ip_address(self.addresses[0])
        return address.version == 4 or not address.is_link_local

    @property
    def url(self) -> str:
        """The base address, by its first address; empty without one."""
        if not self.addresses:
            return ""
        host = self.addresses[0]
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@dataclass(slots=True)
class _Entry:
    """One instance of one type on one link."""

    lan: str
    instance: str
    kind: str
    expires_at: float
    seen_at: float
    host: str = ""  # without a final dot
    port: int = 0
    text: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, float] = field(default_factory=dict)  # address -> expires_at

    @property
    def key(self) -> tuple[str, int]:
        return self.host.lower(), self.port


class Table:
    """Services by link, type and instance."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], _Entry] = {}  # (link, full name)
        self._checked: dict[tuple[str, int], tuple[bool, str]] = {}  # alive, version

    def hear(self, lan: str, heard: Iterable[Heard], now: float) -> bool:
        """Take in the records of one packet from a link; whether anything changed for readers.

        `now` counts seconds on a clock that nobody sets, as in `expire`.
        """
        records = list(heard)
        before = self._shape()
        for record in records:
            if record.kind is not Kind.ADDRESS:
                self._hear_service(lan, record, now)
        for record in records:  # last: they belong to hosts that the services name
            if record.kind is Kind.ADDRESS:
                self._hear_address(lan, record, now)
        return self._shape() != before

    def forget(self, lan: str) -> None:
        """The link is gone."""
        self._entries = {key: e for key, e in self._entries.items() if e.lan != lan}

    def expire(self, now: float) -> None:
        """Drop what was not said again in time."""
        self._entries = {key: e for key, e in self._entries.items() if e.expires_at > now}
        for entry in self._entries.values():
            entry.addresses = {a: at for a, at in entry.addresses.items() if at > now}
        hosts = {entry.key for entry in self._entries.values()}
        self._checked = {key: told for key, told in self._checked.items() if key in hosts}

    def check(self, key: tuple[str, int], is_alive: bool, version: str) -> None:
        """Keep what a live check found."""
        if any(entry.key == key for entry in self._entries.values()):
            self._checked[key] = is_alive, version

    def incomplete(self, lan: str) -> Iterator[tuple[str, Kind]]:
        """What is to be asked for on a link: services without host, hosts without address."""
        for entry in self._entries.values():
            if entry.lan == lan and not entry.host:
                yield f"{entry.instance}.{_type_of(entry.kind)}", Kind.SERVICE
            elif entry.lan == lan and not entry.addresses:
                yield f"{entry.host}.", Kind.ADDRESS

    def neighbours(self, clock_s: float = 0.0) -> list[Neighbour]:
        """Everything that can be connected to, one row for each host and port, by name.

        `clock_s` is what turns the times of `hear` into those of `seen_at`.
        """
        rows: dict[tuple[str, int], Neighbour] = {}
        rank = list(BROWSED.values())
        for entry in sorted(self._entries.values(), key=lambda e: rank.index(e.kind)):
            if entry.host and entry.addresses:
                row = self._row(entry, clock_s)
                first = rows.setdefault(row.key, row)
                if first is not row:
                    rows[row.key] = _merged(first, row)
        return sorted(rows.values(), key=lambda row: (row.name.casefold(), row.host, row.port))

    def _row(self, entry: _Entry, clock_s: float) -> Neighbour:
        text = entry.text
        is_alive, version = self._checked.get(entry.key, (None, ""))
        caps = [clean(part, 24) for part in text.get("caps", "").split(",")[:MAX_CAPS]]
        return Neighbour(
            name=clean(entry.instance, 63) or "?",
            kind=entry.kind,
            host=entry.host,
            port=entry.port,
            addresses=_sorted_addresses(entry.addresses),
            seen_at=entry.seen_at + clock_s,
            id=clean(text.get("id", ""), 32),
            version=clean(text.get("v", "") or version, 32),
            caps=tuple(filter(None, caps)),
            auth=clean(text.get("auth", ""), 16),
            state=clean(text.get("st", ""), 16),
            is_alive=is_alive,
        )

    def _hear_service(self, lan: str, record: Heard, now: float) -> None:
        name = record.target if record.kind is Kind.POINTER else record.name
        instance, kind = _split(name)
        if not kind or (record.kind is Kind.POINTER and _kind_of(record.name) != kind):
            return
        key = (lan, name.lower())
        if record.ttl_s == 0:
            if record.kind is not Kind.TEXT:
                self._entries.pop(key, None)
            return
        entry = self._entries.get(key)
        if entry is None:
            if not self._make_room():
                return
            entry = self._entries[key] = _Entry(lan, instance, kind, 0.0, now)
        entry.seen_at = now
        entry.expires_at = max(entry.expires_at, now + min(record.ttl_s, MAX_TTL_S))
        if record.kind is Kind.SERVICE:
            before = entry.key
            entry.host, entry.port = clean(record.target.rstrip("."), 253), record.port
            if entry.key != before:
                entry.addresses.clear()
        elif record.kind is Kind.TEXT:
            entry.text = parse_text(record.text)

    def _hear_address(self, lan: str, record: Heard, now: float) -> None:
        host = record.name.rstrip(".").lower()
        for entry in self._entries.values():
            if entry.lan != lan or entry.host.lower() != host:
                continue
            if record.ttl_s == 0:
                entry.addresses.pop(record.address, None)
            elif record.address in entry.addresses or len(entry.addresses) < MAX_ADDRESSES:
                entry.addresses[record.address] = now + min(record.ttl_s, MAX_TTL_S)

    def _make_room(self) -> bool:
        """Whether one more entry fits, after the oldest that never answered made way if need be."""
        if len(self._entries) < MAX_ENTRIES:
            return True
        silent = [
            (entry.seen_at, key)
            for key, entry in self._entries.items()
            if not self._checked.get(entry.key, (False, ""))[0]
        ]
        if not silent:
            return False
        del self._entries[min(silent)[1]]
        return True

    def _shape(self) -> object:
        """What readers can see, without the times."""
        return {
            key: (e.host, e.port, tuple(e.addresses), tuple(e.text.items()))
            for key, e in self._entries.items()
        }


def _merged(first: Neighbour, other: Neighbour) -> Neighbour:
    """One row for a server that announces itself under several types or on several links."""
    addresses = dict.fromkeys((*first.addresses, *other.addresses), 0.0)
    return Neighbour(
        name=first.name,
        kind=first.kind,
        host=first.host,
        port=first.port,
        addresses=_sorted_addresses(addresses)[:MAX_ADDRESSES],
        seen_at=max(first.seen_at, other.seen_at),
        id=first.id or other.id,
        version=first.version or other.version,
        caps=first.caps or other.caps,
        auth=first.auth or other.auth,
        state=first.state or other.state,
        is_alive=first.is_alive,
    )


def _sorted_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    def order(text: str) -> tuple[int, bool, int]:
        address = ip_address(text)
        return address.version, address.is_link_local, int(address)

    return tuple(sorted(addresses, key=order))


def _split(name: str) -> tuple[str, str]:
    """(instance, kind) of a full name of a browsed type, else two empty texts."""
    for type_, kind in BROWSED.items():
        if name.lower().endswith(f".{type_}"):
            return name[: -len(type_) - 1], kind
    return "", ""


def _kind_of(type_: str) -> str:
    return BROWSED.get(type_.lower(), "")


def _type_of(kind: str) -> str:
    return next(type_ for type_, known in BROWSED.items() if known == kind)
