"""What is wrong with the box, as data: conditions with a cure, drawn from facts by pure rules.

A check is one function from facts to conditions; adding one is writing it and naming it in
`CHECKS`; those of the board and of the running process stand in checks/. Facts are gathered in
health_facts.py. `hearth doctor` prints, monitors read the codes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.checks.device import DEVICE_CHECKS
from appliance.checks.running import RUN_CHECKS, RunFacts
from appliance.conditions import Condition, Severity
from appliance.device.reading import DeviceReading
from appliance.discovery.discovery import DiscoveryStatus, Word
from appliance.hardware import Memory
from appliance.library.library import Problem
from appliance.trust.clock import DAY_S, ClockState, TrustedTime

GIB = 1 << 30
MIB = 1 << 20
LOW_SHARE = 20  # less than a twentieth of a disk free is little, though not if it is
ENOUGH_BYTES = 8 * GIB  # so much
STUCK_S = DAY_S  # a partial download that nobody went on with for so long
SILENT_S = 30 * DAY_S  # a repository that signed nothing new for so long may be withheld from us
SOON_S = 14 * DAY_S


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as the service sees it. Bytes of the file system that it lies on."""

    path: Path
    exists: bool
    is_writable: bool
    is_private: bool  # nobody else may write there
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class PartialBlob:
    """A download that began and did not end; nobody writes it now."""

    name: str
    taken_bytes: int
    age_s: float  # since something last came


@dataclass(frozen=True, slots=True)
class RepositoryState:
    """An enrolled repository by its own signed dates, in seconds since 1970."""

    name: str
    expires_s: int  # when the first of its roles does
    issued_s: int | None
    problem: str = ""  # why its metadata cannot be read


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks may look at."""

    state: Folder
    models: Folder
    problems: Sequence[Problem] = ()
    set_aside: Sequence[str] = ()  # damaged blobs that wait for good bytes
    partials: Sequence[PartialBlob] = ()
    memory: Memory | None = None
    reserve_bytes: int = 0
    clock: TrustedTime | None = None
    repositories: Sequence[RepositoryState] = ()
    has_database: bool = False
    discovery: DiscoveryStatus | None = None  # of a running service
    device: DeviceReading | None = None
    run: RunFacts = field(default_factory=RunFacts)


def examine(facts: Facts) -> list[Condition]:
    """Everything that there is to say, the worst first."""
    order = list(reversed(Severity))
    found = [condition for check in CHECKS for condition in check(facts)]
    found += [condition for check in RUN_CHECKS for condition in check(facts.run)]
    if facts.device is not None:
        found += [condition for check in DEVICE_CHECKS for condition in check(facts.device)]
    return sorted(found, key=lambda condition: order.index(condition.severity))


def is_well(conditions: Iterable[Condition]) -> bool:
    return all(condition.severity is Severity.NOTE for condition in conditions)


# -- the checks ------------------------------------------------------------------------------


def folders(facts: Facts) -> Iterator[Condition]:
    for word, folder in {"state": facts.state, "models": facts.models}.items():
        if not folder.exists:
            yield Condition(
                f"{word}_absent",
                f"no {word} folder",
                f"{folder.path} does not exist",
                Severity.WARNING,
                "it is made when the service starts: see `hearth config` for where it should be",
            )
        elif not folder.is_writable:
            yield Condition(
                f"{word}_read_only",
                f"{word} folder cannot be written",
                f"{folder.path} is on a read-only disk or belongs to somebody else",
                Severity.ERROR,
                "what is installed goes on working; make the folder writable for the service's"
                " user, and check the disk if the kernel made it read-only (dmesg)",
            )


def privacy(facts: Facts) -> Iterator[Condition]:
    if facts.state.exists and not facts.state.is_private:
        yield Condition(
            "state_not_private",
            "others may change the state folder",
            f"{facts.state.path} can be written by other users of this machine",
            Severity.WARNING,
            f"run: chmod go-w {facts.state.path}",
        )


def space(facts: Facts) -> Iterator[Condition]:
    seen: set[tuple[int, int]] = set()
    for folder in (facts.models, facts.state):
        disk = (folder.total_bytes, folder.free_bytes)
        if disk in seen or not folder.exists:
            continue  # both on one disk
        seen.add(disk)
        text = f"{folder.path} has {_mib(folder.free_bytes)} free of {_mib(folder.total_bytes)}"
        cure = "remove models with `hearth rm`, or add storage"
        if folder.free_bytes < 64 * MIB:
            yield Condition("disk_full", "disk full", text, Severity.ERROR, cure)
        elif folder.free_bytes < min(ENOUGH_BYTES, folder.total_bytes // LOW_SHARE):
            yield Condition("disk_low", "little disk space", text, Severity.WARNING, cure)


def library(facts: Facts) -> Iterator[Condition]:
    for problem in facts.problems:
        code, title = "manifest_unreadable", "a model cannot be read"
        cure = f"get it again, or remove models/manifests/{problem.path}"
        if problem.is_missing:
            code, title = "blob_missing", "a model lacks a part"
            cure = "run `hearth scrub --repair`, or get the model again"
        yield Condition(code, title, f"{problem.path}: {problem.reason}", Severity.ERROR, cure)


def damage(facts: Facts) -> Iterator[Condition]:
    if facts.set_aside:
        yield Condition(
            "blobs_damaged",
            "damaged parts of models",
            f"{len(facts.set_aside)} set aside: {', '.join(facts.set_aside[:3])}",
            Severity.ERROR,
            "run `hearth scrub --repair`, or get these models again; if it comes back, the disk or"
            " the memory is failing",
        )


def partials(facts: Facts) -> Iterator[Condition]:
    stuck = [partial for partial in facts.partials if partial.age_s > STUCK_S]
    if stuck:
        taken = sum(partial.taken_bytes for partial in stuck)
        yield Condition(
            "downloads_stuck",
            "downloads that nobody went on with",
            f"{len(stuck)} unfinished, {_mib(taken)} on the disk",
            Severity.WARNING,
            "pull the model again, which goes on where it was; after a month they are removed",
        )


def memory(facts: Facts) -> Iterator[Condition]:
    if facts.memory is None:
        return
    if facts.reserve_bytes * 2 > facts.memory.total:
        yield Condition(
            "reserve_too_large",
            "most memory is reserved",
            f"{_mib(facts.reserve_bytes)} of {_mib(facts.memory.total)} are kept from models",
            Severity.WARNING,
            "lower memory_reserve_mib",
        )
    elif facts.memory.available < facts.reserve_bytes:
        yield Condition(
            "memory_low",
            "little memory",
            f"{_mib(facts.memory.available)} available, {_mib(facts.reserve_bytes)} are to stay"
            " free: no further model is loaded",
            Severity.WARNING,
            "unload a model with `hearth stop`, or end another program",
        )


def clock(facts: Facts) -> Iterator[Condition]:
    if facts.clock is not None and facts.clock.state in {ClockState.BEHIND, ClockState.SUSPECT}:
        state = facts.clock.state
        text = f"the clock is {state}"
        yield Condition(f"clock_{state}", "wrong time", text, Severity.WARNING, facts.clock.cure)


def repositories(facts: Facts) -> Iterator[Condition]:
    now_s = facts.clock.now_s if facts.clock else 0
    refresh = "connect it to the network or bring a fresh stick; what is installed goes on working"
    for repository in facts.repositories:
        name = repository.name
        if repository.problem:
            yield Condition(
                "repository_unreadable",
                "a repository's metadata is damaged",
                f"{name}: {repository.problem}",
                Severity.ERROR,
                f"fetch it again, or enrol {name} anew with `hearth trust`",
            )
        elif repository.expires_s <= now_s:
            days = (now_s - repository.expires_s) // DAY_S
            text = f"{name} expired {days} days ago"
            code = "repository_expired"
            yield Condition(code, "signatures have expired", text, Severity.WARNING, refresh)
        elif repository.issued_s is not None and now_s - repository.issued_s > SILENT_S:
            days = (now_s - repository.issued_s) // DAY_S
            text = f"{name} was last signed {days} days ago"
            code = "repository_silent"
            yield Condition(code, "no news from a publisher", text, Severity.WARNING, refresh)
        elif repository.expires_s - now_s < SOON_S:
            days = (repository.expires_s - now_s) // DAY_S
            text = f"{name} expires in {days} days"
            code = "repository_expires_soon"
            yield Condition(code, "signatures expire soon", text, Severity.NOTE, refresh)


def database(facts: Facts) -> Iterator[Condition]:
    if not facts.has_database:
        text = f"{facts.state.path / 'hearth.db'} does not exist; models do not need it"
        yield Condition("database_absent", "no database", text, Severity.NOTE)


def discovery(facts: Facts) -> Iterator[Condition]:
    found = facts.discovery
    if found is None or not found.problem:
        return
    if found.word is Word.BLOCKED:
        yield Condition(
            "discovery_blocked",
            "not found by name on the network",
            found.problem,
            Severity.WARNING,
            "let other programs share the port: in avahi-daemon.conf set disallow-other-stacks=no,"
            " or set discovery to off",
        )
    else:
        yield Condition(
            "discovery_no_network",
            "on no network",
            found.problem,
            Severity.WARNING,
            "plug in a cable or join a Wi-Fi; if this interface is meant, name it in"
            " discovery_interfaces",
        )


Check = Callable[[Facts], Iterable[Condition]]
CHECKS: tuple[Check, ...] = (
    folders,
    privacy,
    space,
    library,
    damage,
    partials,
    memory,
    clock,
    repositories,
    database,
    discovery,
)


def _mib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count // MIB} MiB"
