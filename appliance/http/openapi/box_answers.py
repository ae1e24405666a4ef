"""What our own routes about the box answer, field by field (the table of them: box.py)."""

from typing import Literal, NotRequired, TypedDict

_Scope = Literal["chat", "manage", "admin"]


class Health(TypedDict):
    status: Literal["ok"]


class Readiness(TypedDict):
    status: Literal["ready", "starting", "draining"]


class Memory(TypedDict):
    """Bytes."""

    total: int
    available: int


class Running(TypedDict):
    """A model in memory."""

    name: str
    engine: str
    slots: int
    running: int
    waiting: int
    context_length: int
    size: int
    expires_at: str


class Access(TypedDict):
    claimed: bool
    lan: Literal["open", "keys", "off"]


class TrustedRepository(TypedDict):
    name: str
    freshness: str


class Trust(TypedDict):
    mode: str
    repositories: list[TrustedRepository]


class Discovery(TypedDict):
    """What of this box is announced."""

    state: str
    problem: str | None
    name: str | None
    host: str | None
    addresses: list[str]
    interfaces: list[str]


class Condition(TypedDict):
    """Something that is wrong; `text` and `cure` are for who may manage."""

    code: str
    severity: str
    title: str
    text: NotRequired[str]
    cure: NotRequired[str]


class ChannelBundle(TypedDict):
    bundle: str
    version: str
    state: str
    reason: str | None


class Channel(TypedDict):
    """A channel that is followed."""

    channel: str
    generation: int | None
    paused: bool
    held: bool
    window: str | None
    down_kbps: int
    checked_at: str | None
    next_at: str | None
    failures: int
    trouble: str | None
    bundles: list[ChannelBundle]


class SelfTest(TypedDict):
    """The last one; `at` in seconds since 1970."""

    version: str
    at: int
    passed: bool


class SelfTestCheck(TypedDict):
    name: str
    outcome: Literal["passed", "failed", "skipped"]
    text: str
    cure: str


class SelfTestReport(SelfTest):
    checks: list[SelfTestCheck]


Update = TypedDict(
    "Update",
    {
        "at": str,
        "from": str | None,
        "to": str,
        "result": Literal["serves", "returned", "failed", "refused"],
        "reason": str | None,
    },
)


class Status(TypedDict):
    """Bytes and seconds."""

    version: str
    uptime_s: float
    state: Literal["ready", "starting", "draining"]
    engine: str
    models: list[Running]
    memory: Memory
    access: Access
    trust: Trust
    discovery: Discovery
    channels: list[Channel]
    self_test: SelfTest | None
    update: Update | None
    problems: list[str]
    conditions: list[Condition]


class Doctor(TypedDict):
    healthy: bool
    conditions: list[Condition]


class Need(TypedDict):
    """Bytes."""

    weights: int
    kv_cache: int
    compute: int
    process: int
    total: int
    of_main_memory: int


class PlannedMemory(Memory):
    kept_free: int


class Plan(TypedDict):
    """Which engine would run a model, why, and whether it fits."""

    model: str
    engine: str
    reasons: list[str]
    context_length: int
    need: Need
    memory: PlannedMemory
    loaded: bool
    fits: bool
    refusal: str | None
    unloads: list[str]


class Neighbour(TypedDict):
    """Every text comes from the neighbour itself."""

    name: str
    kind: str
    id: str | None
    host: str
    addresses: list[str]
    port: int
    url: str | None
    version: str | None
    caps: list[str]
    auth: str | None
    state: str | None
    is_alive: bool | None
    seen_at: str


class Neighbours(TypedDict):
    discovery: Discovery
    neighbours: list[Neighbour]


class Board(TypedDict):
    model: str | None
    page_bytes: int
    governor: str | None
    watchdog: str | None


class Temperature(TypedDict):
    zone: str
    celsius: float
    slows_at: float | None


class Rail(TypedDict):
    name: str
    watts: float


class Disk(TypedDict):
    mount: str
    device: str | None
    kind: str
    free_bytes: int
    total_bytes: int
    life_used: float | None
    written_bytes: int | None
    read_only: bool
    errors: int | None
    failing: bool


class Clock(TypedDict):
    synced: bool | None
    state: str


class Swap(TypedDict):
    total: int
    used: int
    pages_per_s: float | None


class Stall(TypedDict):
    """Percent of the time in which something waited."""

    some_avg10: float
    some_avg60: float
    full_avg10: float


class Device(TypedDict):
    """Degrees Celsius, watts, bytes, shares from 0 to 1."""

    board: Board
    temperatures: list[Temperature]
    throttled: list[str]
    throttled_since_boot: list[str]
    power_watts: float | None
    rails: list[Rail]
    disks: list[Disk]
    clock: Clock
    memory: Memory
    swap: Swap | None
    pressure: dict[str, Stall]
    oom_kills: int | None


class Identified(TypedDict):
    """The LED that flickers, as /sys/class/leds names it, and for how long."""

    led: str
    seconds: float


class Told(TypedDict):
    """`used` is false where the box knows the time by itself."""

    used: bool


class KeyName(TypedDict):
    id: str
    name: str


class Me(TypedDict):
    """What the box makes of the caller."""

    ring: str
    scopes: list[_Scope]
    key: KeyName | None
    claimed: bool
    access_lan: Literal["open", "keys", "off"]


class Key(TypedDict):
    """A key, without its secret. Times are RFC 3339."""

    id: str
    name: str
    scopes: list[_Scope]
    models: list[str] | None
    rate_per_minute: int | None
    tokens_per_day: int | None
    tokens_today: int
    created_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class MadeKey(TypedDict):
    """The secret is told once."""

    key: Key
    secret: str


class Guest(TypedDict):
    """A client without a key; counts are today's."""

    address: str
    requests: int
    tokens: int
    last_seen_at: str | None


class Keys(TypedDict):
    keys: list[Key]
    guests: list[Guest]


class Pairing(TypedDict):
    claimed: bool
    code: str | None
    urls: list[str]
    claim_url: str | None


class AuditEntry(TypedDict):
    at: str | None
    who: str
    action: str
    target: str
    outcome: str


class Audit(TypedDict):
    entries: list[AuditEntry]


class Problem(TypedDict):
    error: str
    hint: str


class Tls(TypedDict):
    """Fingerprints are SHA-256 in base64url; times RFC 3339."""

    on: bool
    port: int | None
    names: list[str]
    not_before: str | None
    not_after: str | None
    fingerprint: str | None
    ca_fingerprint: str | None
    certificate: str | None
    problem: Problem | None
    steps: dict[str, list[str]]


class Nothing(TypedDict):
    """An empty object: it was done."""
