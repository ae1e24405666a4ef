"""The facts that health.py judges, read from this machine; nothing is changed."""

import contextlib
import errno
import fcntl
import importlib.util
import os
import resource
import shutil
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from appliance import last_update
from appliance.bundles.bundles import FOLDER as BUNDLES_FOLDER
from appliance.bundles.channel_state import ChannelFiles
from appliance.bundles.channels import FOLDER as CHANNELS_FOLDER
from appliance.bundles.state import States
from appliance.care import LEDGER, Ledger
from appliance.checks.running import DAY_S, USUAL_PORT, RunFacts
from appliance.config import MIB, Settings
from appliance.device.device import Device
from appliance.device.reading import DeviceReading
from appliance.discovery.discovery import DiscoveryStatus
from appliance.errors import ApplianceError
from appliance.hardware import read_memory
from appliance.health import Facts, Folder, PartialBlob, RepositoryState
from appliance.incidents import Incident, Incidents
from appliance.library.library import Library
from appliance.library.space import reserve_bytes
from appliance.models.choice import read_machine
from appliance.trust.clock import RELEASED_S, judge_clock
from appliance.trust.repositories import Repositories
from engine.process.confine import landlock_version

DATABASE = "hearth.db"
FAILED_SYSTEMS = Path("/var/lib/hearth-os/failed")  # images/shared/files/usr/lib/hearth-os
ENGINE_LIBRARIES = ("llama_cpp", "torch")


@dataclass(frozen=True, slots=True)
class Live:
    """What only a running service knows, as it is at one moment."""

    incidents: Sequence[Incident]  # of the last day
    ended_badly: bool
    lowered_slots: int | None
    safe_mode: str = ""

    @classmethod
    def of(cls, incidents: Incidents) -> "Live":
        """On the event loop's thread."""
        return cls(
            incidents.latest(DAY_S),
            incidents.ended_badly,
            incidents.lowered_slots,
            incidents.safe_mode,
        )


def read_facts(
    settings: Settings,
    library: Library,
    trust: Repositories,
    discovery: DiscoveryStatus | None = None,
    device: Device | None = None,
    live: Live | None = None,
) -> Facts:
    """Blocking. `live` None: the service does not run, this is another process."""
    blobs = library.blobs.root
    repositories = list(_repositories(trust))
    floor_s = max(RELEASED_S, *(r.issued_s or 0 for r in repositories), 0)
    reading = (device or Device(settings)).read()
    return Facts(
        state=_folder(settings.state),
        models=_folder(settings.models_dir),
        problems=library.problems(),
        set_aside=sorted(p.name.removeprefix("damaged-") for p in _files(blobs, "damaged-*")),
        partials=list(_partials(blobs)),
        memory=read_memory(),
        reserve_bytes=settings.memory_reserve_mib * MIB,
        clock=judge_clock(trust.read_clock(), floor_s),
        repositories=repositories,
        discovery=discovery,
        has_database=(settings.state / DATABASE).is_file(),
        device=reading,
        run=_run_facts(settings, library, reading, live),
    )


# -- the process and its past ----------------------------------------------------------------


def _run_facts(
    settings: Settings, library: Library, reading: DeviceReading, live: Live | None
) -> RunFacts:
    machine = read_machine()
    models_disk = reading.disks[0] if reading.disks else None
    updated = last_update.read(last_update.home_of_releases())
    facts = RunFacts(
        port=settings.address[1] or USUAL_PORT,  # 0: the kernel chooses, as in tests
        has_engine=any(importlib.util.find_spec(name) for name in ENGINE_LIBRARIES),
        gpu=machine.gpus[0].model if machine.gpus and machine.missing else "",
        setting_warnings=settings.warnings,
        broken_file=settings.broken_file,
        has_landlock=landlock_version() > 0,
        scrub_days=settings.scrub_days,
        unread_s=_unread_s(settings, library),
        failed_updates=list(_failed_updates(settings.state)),
        own_update=updated,
        own_update_age_s=time.time() - updated.at_s if updated else 0.0,
        reserve_bytes=reserve_bytes(models_disk.total_bytes, settings.disk_reserve_mib)
        if models_disk
        else 0,
        reserved_free_bytes=models_disk.free_bytes if models_disk else None,
        failed_systems=_failed_systems(),
    )
    if live is None:
        return replace(facts, port_holder=_port_holder(settings))
    return replace(
        facts,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        is_unit="INVOCATION_ID" in os.environ,  # systemd.exec(5)
        has_watchdog="WATCHDOG_USEC" in os.environ,  # sd_watchdog_enabled(3)
        ended_badly=live.ended_badly,
        safe_mode=live.safe_mode,
        incidents=live.incidents,
        lowered_slots=live.lowered_slots,
    )


def _unread_s(settings: Settings, library: Library) -> float:
    """Since the stored blob that waits longest was read; 0 without any."""
    ledger = Ledger(settings.state / LEDGER)
    ledger.load()
    now = time.time()
    try:
        read_at = [
            ledger.checked_at(digest) or library.blobs.stored_at(digest)
            for digest in library.needed()
        ]
    except (OSError, ApplianceError):  # a damaged library is another condition
        return 0.0
    return max((now - at for at in read_at if at), default=0.0)


def _failed_updates(state: Path) -> Iterator[str]:
    """Of signed models and of channels; files that cannot be read are told elsewhere."""
    states = States(state / BUNDLES_FOLDER)
    for name in list(states.names()):
        with contextlib.suppress(OSError, ApplianceError):
            failure = states.get(name).failure
            if failure is not None:
                yield f"release {failure.version} of {name.short} is not used: {failure.reason}"
    with contextlib.suppress(OSError, ApplianceError):
        for followed in ChannelFiles(state / CHANNELS_FOLDER).all()[0]:
            for bundle, outcome in followed.outcomes.items():
                if outcome.state == "failed":
                    what = f"{bundle} {outcome.version}"
                    yield f"{followed.key} could not bring {what}: {outcome.reason}"


def _failed_systems() -> Sequence[str]:
    """What hearth-os of an image wrote down; nothing elsewhere."""
    try:
        return FAILED_SYSTEMS.read_text(errors="replace").splitlines()
    except OSError:
        return ()


def _port_holder(settings: Settings) -> str:
    """Why the service could not listen, were it started now."""
    host, port = settings.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return "another program has it" if error.errno == errno.EADDRINUSE else ""
    return ""


# -- the folders -----------------------------------------------------------------------------


def _folder(path: Path) -> Folder:
    try:
        info, disk = path.stat(), shutil.disk_usage(path)
    except OSError:
        return Folder(path, False, False, True, 0, 0)
    is_writable = os.access(path, os.W_OK | os.X_OK)  # also says no on a read-only file system
    is_private = not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return Folder(path, True, is_writable, is_private, disk.free, disk.total)


def _files(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern)) if folder.is_dir() else []


def _partials(blobs: Path) -> Iterator[PartialBlob]:
    for path in _files(blobs, "sha256-*-part"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # fails while somebody fetches it
            info = os.fstat(file.fileno())
            yield PartialBlob(path.name, info.st_blocks * 512, time.time() - info.st_mtime)


def _repositories(trust: Repositories) -> Iterator[RepositoryState]:
    try:
        enrolled = trust.all()
    except (OSError, ApplianceError) as error:
        yield RepositoryState("trust", 0, None, str(error))
        return
    for repository in enrolled:
        try:
            known = trust.store(repository.name).read()
        except (OSError, ApplianceError) as error:
            yield RepositoryState(repository.name, 0, None, str(error))
        else:
            expires_s = min(known.expires_s.values(), default=0)
            yield RepositoryState(repository.name, expires_s, known.issued_s)
