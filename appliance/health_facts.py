"""The facts that health.py judges, read from this machine; nothing is changed."""

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.config import MIB, Settings
from appliance.discovery.discovery import DiscoveryStatus
from appliance.errors import ApplianceError
from appliance.hardware import read_memory
from appliance.health import Facts, Folder, PartialBlob, RepositoryState
from appliance.library.library import Library
from appliance.trust.clock import RELEASED_S, judge_clock, read_clock
from appliance.trust.repositories import Repositories

DATABASE = "hearth.db"


def read_facts(
    settings: Settings,
    library: Library,
    trust: Repositories,
    discovery: DiscoveryStatus | None = None,
) -> Facts:
    """Blocking. `discovery` is the running service's."""
    blobs = library.blobs.root
    repositories = list(_repositories(trust))
    floor_s = max(RELEASED_S, *(r.issued_s or 0 for r in repositories), 0)
    return Facts(
        state=_folder(settings.state),
        models=_folder(settings.models_dir),
        problems=library.problems(),
        set_aside=sorted(p.name.removeprefix("damaged-") for p in _files(blobs, "damaged-*")),
        partials=list(_partials(blobs)),
        memory=read_memory(),
        reserve_bytes=settings.memory_reserve_mib * MIB,
        clock=judge_clock(read_clock(), floor_s),
        repositories=repositories,
        discovery=discovery,
        has_database=(settings.state / DATABASE).is_file(),
    )


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
