"""What is wrong with how the service runs: rules over `RunFacts`, without IO."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from appliance.conditions import Condition, Severity
from appliance.incidents import Incident, Kind
from appliance.last_update import LastUpdate, Result

DAY_S = 86_400
NEWS_S = 7 * DAY_S  # a good update is told of for so long
USUAL_PORT = 11434
FEW_FILES = 1024  # each stream is one, each worker and download a few
LATE_PERIODS = 2  # a blob that was not read for so many periods of scrub_days


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The process, its settings and its past. The defaults are those of a service that is well."""

    port: int = USUAL_PORT
    port_holder: str = ""  # why the port cannot be had, where no service of ours answers there
    open_files: int = 65_536  # that this process may have
    is_unit: bool = False  # started by systemd
    has_watchdog: bool = False  # systemd restarts it when its event loop hangs
    has_engine: bool = True  # a library that runs models is installed
    gpu: str = ""  # that no engine here can use: its name
    setting_warnings: Sequence[str] = ()
    broken_file: str = ""  # what is wrong with the settings file, which is not in force
    scrub_days: int = 30
    unread_s: float = 0.0  # since the blob that waits longest was read
    failed_updates: Sequence[str] = ()  # a sentence each
    own_update: LastUpdate | None = None  # of Hearth itself
    own_update_age_s: float = 0.0
    reserve_bytes: int = 0
    reserved_free_bytes: int | None = None  # on the disk of the models; None: not known
    ended_badly: bool = False  # the run before this one
    has_landlock: bool = True  # the kernel can close the state folder to a model's worker
    safe_mode: str = ""  # why no model is loaded
    incidents: Sequence[Incident] = ()  # of the last day
    lowered_slots: int | None = None  # requests at once that a hot board still takes
    failed_systems: Sequence[str] = ()  # of an image: what became of a new one, a sentence each


def port_taken(facts: RunFacts) -> Iterator[Condition]:
    if facts.port_holder:
        text = f"port {facts.port} is not free: {facts.port_holder}"
        cure = "stop the other program (Ollama?), or choose another port with the setting host"
        yield Condition("port_taken", "port taken", text, Severity.ERROR, cure)


def port_unusual(facts: RunFacts) -> Iterator[Condition]:
    if facts.port != USUAL_PORT:
        text = f"the service listens on port {facts.port}; apps look at {USUAL_PORT} by themselves"
        cure = f"set host to 0.0.0.0:{USUAL_PORT}, or type the port in every app"
        yield Condition("port_unusual", "unusual port", text, Severity.NOTE, cure)


def open_files(facts: RunFacts) -> Iterator[Condition]:
    if facts.open_files < FEW_FILES:
        text = f"the service may open {facts.open_files} files; many streams at once will fail"
        cure = "set LimitNOFILE=65536 in its unit, or `ulimit -n 65536` before starting it"
        yield Condition("open_files_low", "few open files allowed", text, Severity.WARNING, cure)


def service_watchdog(facts: RunFacts) -> Iterator[Condition]:
    if facts.is_unit and not facts.has_watchdog:
        text = "systemd would not notice if the service hung"
        cure = "set Type=notify and WatchdogSec=30s in its unit"
        yield Condition("service_unwatched", "nobody watches it", text, Severity.NOTE, cure)


def engine(facts: RunFacts) -> Iterator[Condition]:
    if not facts.has_engine:
        text = "no library that runs models is installed"
        cure = "pip install 'hearth[llama]', or 'hearth[gpu]' where there is a GPU"
        yield Condition("engine_absent", "no engine", text, Severity.ERROR, cure)


def gpu(facts: RunFacts) -> Iterator[Condition]:
    if facts.gpu:
        text = f"the {facts.gpu} is not used, as the libraries of the GPU engine are missing"
        yield Condition(
            "gpu_unused", "GPU unused", text, Severity.NOTE, "pip install 'hearth[gpu]'"
        )


def settings(facts: RunFacts) -> Iterator[Condition]:
    for warning in facts.setting_warnings:
        cure = "`hearth config` lists all settings; remove or correct this one"
        yield Condition("setting_unknown", "unknown setting", warning, Severity.WARNING, cure)


def broken_settings(facts: RunFacts) -> Iterator[Condition]:
    if facts.broken_file:
        text = f"the settings of the last good start are in force, as {facts.broken_file}"
        cure = "correct the file, look with `hearth config`, then `systemctl restart hearth`"
        yield Condition("settings_broken", "broken settings", text, Severity.ERROR, cure)


def scrub_late(facts: RunFacts) -> Iterator[Condition]:
    if facts.scrub_days and facts.unread_s > LATE_PERIODS * facts.scrub_days * DAY_S:
        days = int(facts.unread_s // DAY_S)
        text = f"a stored model was not read again for {days} days, so damage would not be noticed"
        cure = "leave the box on and idle at times, or run `hearth scrub`"
        yield Condition("scrub_late", "checks are late", text, Severity.WARNING, cure)


def updates(facts: RunFacts) -> Iterator[Condition]:
    for text in facts.failed_updates:
        cure = "what was active serves on; see `hearth bundle why NAME` and `hearth channel list`"
        yield Condition("update_failed", "an update failed", text, Severity.WARNING, cure)


def own_update(facts: RunFacts) -> Iterator[Condition]:
    done = facts.own_update
    if done is None:
        return
    when = f"{datetime.fromtimestamp(done.at_s, UTC):%Y-%m-%d %H:%M} UTC"
    why = f" ({done.reason})" if done.reason else ""
    again = "`hearth update`; journalctl -u hearth has what it said"
    match done.result:
        case Result.SERVES:
            if facts.own_update_age_s < NEWS_S:
                text = f"Hearth {done.new} serves since {when}"
                text += f", before it was {done.old}" if done.old else ""
                cure = "`hearth update --rollback` goes back" if done.old else ""
                yield Condition("hearth_updated", "Hearth is new", text, Severity.NOTE, cure)
        case Result.RETURNED:
            text = f"Hearth {done.new} did not prove itself on {when}{why}: {done.old} is back"
            cure = f"{done.old} serves as before; bring a release that works with {again}"
            yield Condition("hearth_returned", "an update came back", text, Severity.WARNING, cure)
        case Result.FAILED:
            text = f"Hearth {done.new} did not answer on {when}{why}, nor one before it"
            cure = f"now it answers; look whether all works, then bring a good release with {again}"
            yield Condition("hearth_update_failed", "an update failed", text, Severity.WARNING,
                            cure)  # fmt: skip
        case Result.REFUSED:
            text = f"the release {done.new} was brought on {when} and refused{why}"
            cure = f"nothing of it ran; bring a whole one that this box trusts with {again}"
            yield Condition("hearth_refused", "an update was refused", text, Severity.WARNING, cure)


def reserve(facts: RunFacts) -> Iterator[Condition]:
    free = facts.reserved_free_bytes
    if free is not None and free < facts.reserve_bytes:
        yield Condition(
            "disk_reserve",
            "the disk is at its reserve",
            f"{free} bytes are free and {facts.reserve_bytes} are to stay so: pulls and creates are"
            " refused",
            Severity.WARNING,
            "remove models with `hearth rm`, add storage, or lower disk_reserve_mib",
        )


def unclean_stop(facts: RunFacts) -> Iterator[Condition]:
    if facts.ended_badly:
        text = "the service did not stop well last time: a crash, a kill or a power cut"
        cure = "what came in shortly before is checked now; if it comes again, look at the supply"
        yield Condition("unclean_stop", "stopped badly", text, Severity.NOTE, cure)


def safe_mode(facts: RunFacts) -> Iterator[Condition]:
    if facts.safe_mode:
        text = f"no model is loaded, as {facts.safe_mode}"
        cure = (
            "remove the model or the setting that does it; models are loaded again in half an hour,"
            " or at once after `systemctl restart hearth`"
        )
        yield Condition("safe_mode", "safe mode", text, Severity.ERROR, cure)


def confinement(facts: RunFacts) -> Iterator[Condition]:
    if not facts.has_landlock:
        text = "this kernel has no Landlock: a model's worker has no network, but could read keys"
        cure = "use Linux 5.13 or newer with landlock among the kernel's lsm= list"
        yield Condition("workers_see_files", "workers less confined", text, Severity.NOTE, cure)


def killed_workers(facts: RunFacts) -> Iterator[Condition]:
    killed = [each for each in facts.incidents if each.kind is Kind.WORKER_OOM]
    if killed:
        how_often = _times(len(killed))
        text = f"for lack of memory the kernel ended a model {how_often}, last {killed[-1].text}"
        cure = "use a smaller model or context_length, or raise memory_reserve_mib"
        yield Condition("worker_oom", "memory ran out", text, Severity.WARNING, cure)


def crashed_workers(facts: RunFacts) -> Iterator[Condition]:
    crashed = [each for each in facts.incidents if each.kind is Kind.WORKER_CRASHED]
    if crashed:
        text = f"it crashed {_times(len(crashed))} within a day, last {crashed[-1].text}"
        cure = "it starts again with the next request; if it goes on, get the model again"
        yield Condition("worker_crashed", "a model's worker crashed", text, Severity.WARNING, cure)


def unloaded(facts: RunFacts) -> Iterator[Condition]:
    found = [each for each in facts.incidents if each.kind is Kind.UNLOADED]
    if found:
        text = f"idle models were unloaded as memory was short: {found[-1].text}"
        cure = "nothing is lost; a smaller model or fewer of them would stay loaded"
        yield Condition("unloaded_for_memory", "memory was short", text, Severity.NOTE, cure)


def dropped(facts: RunFacts) -> Iterator[Condition]:
    found = [each for each in facts.incidents if each.kind is Kind.DROPPED]
    if found:
        text = f"a release made room on the disk: {found[-1].text}"
        cure = "add storage, so that there is always a release to go back to"
        yield Condition("release_dropped", "the disk was short", text, Severity.NOTE, cure)


def slowed(facts: RunFacts) -> Iterator[Condition]:
    if facts.lowered_slots is not None:
        text = f"models take {facts.lowered_slots} requests at once until the board is cooler"
        cure = "give it air: add a fan or a heat sink"
        yield Condition("concurrency_lowered", "fewer at once", text, Severity.WARNING, cure)


def new_system(facts: RunFacts) -> Iterator[Condition]:
    if facts.failed_systems:
        text = "; ".join(facts.failed_systems)
        cure = "the system before it serves on; take another with `sudo hearth-os update FILE`"
        yield Condition("system_failed", "a new system failed", text, Severity.WARNING, cure)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


Check = Callable[[RunFacts], Iterable[Condition]]
RUN_CHECKS: tuple[Check, ...] = (
    port_taken,
    port_unusual,
    open_files,
    service_watchdog,
    engine,
    gpu,
    settings,
    broken_settings,
    scrub_late,
    updates,
    own_update,
    reserve,
    unclean_stop,
    safe_mode,
    confinement,
    killed_workers,
    crashed_workers,
    unloaded,
    dropped,
    slowed,
    new_system,
)
