"""Where metadata bytes come from: a folder (a stick, a mirror on disk) or a web address.

A reader gives one file in chunks; the caller counts them and stops when it has enough. Nothing that
arrives here is believed. Importing this module imports python-tuf for its errors: do it late.
"""

import asyncio
import concurrent.futures
import errno
import os
import stat
import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError

from appliance.errors import ApplianceError

CHUNK_BYTES = 64 * 1024
NOT_FOUND = 404

_FOLDER_URL = "folder:/"

T = TypeVar("T")

# GETs an address on the event loop; any answer, after those redirects that may be followed. Raises
# aiohttp.ClientError, or ApplianceError for one that may not.
Open = Callable[[str], Coroutine[Any, Any, aiohttp.ClientResponse]]


class Reader(Protocol):
    """Something that has files at addresses."""

    def chunks(self, url: str) -> Generator[bytes, None, None]:
        """The file's bytes; raises python-tuf's DownloadError, DownloadHTTPError if missing."""


@dataclass(frozen=True, slots=True)
class Source:
    """A place to read a repository's metadata from.

    A removable source counts only when everything that was wanted is on it: a half-copied stick
    must not make the complete one of yesterday look like a rollback.
    """

    reader: Reader
    base_url: str
    is_removable: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the network may take, in seconds: without a byte, and for a whole refresh."""

    stall_s: float = 15.0
    total_s: float = 120.0


def from_folder(folder: Path, *below: str) -> Source:
    """For the files in `folder`, or in the folder that the steps `below` lead to without a link."""
    return Source(FolderReader(folder, *below), _FOLDER_URL, is_removable=True)


def from_url(
    url: str,
    open_url: Open,
    loop: asyncio.AbstractEventLoop,
    limits: Limits = Limits(),
) -> Source:
    """For one refresh that runs in another thread than `loop`; the total deadline starts now."""
    return Source(HttpReader(open_url, loop, limits), url, is_removable=False)


class FolderReader:
    """Regular files directly in one folder; opens no devices, and follows no links from the first
    folder on: what a stick holds leads nowhere else."""

    def __init__(self, folder: Path, *below: str) -> None:
        self._folder = folder
        self._below = below

    def chunks(self, url: str) -> Generator[bytes, None, None]:
        """The file of a `folder:/name` address; python-tuf has percent-encoded the name."""
        name = url.removeprefix(_FOLDER_URL)
        if "/" in name or name in {"", ".", ".."}:
            raise DownloadError(f"{name[:100]!r} is not a file name")
        file = self._open(name)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise DownloadError(f"{name[:100]} is not a regular file")
            while chunk := self._read(file, name):
                yield chunk
        finally:
            os.close(file)

    def _open(self, name: str) -> int:
        """Non-blocking, or a FIFO on the stick would stop us."""
        folder = self._enter()
        try:
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
                raise DownloadHTTPError(f"{name[:100]} is missing", NOT_FOUND) from error
            raise DownloadError(f"{name[:100]} cannot be read: {error.strerror}") from error
        finally:
            os.close(folder)

    def _enter(self) -> int:
        here, step = -1, str(self._folder)
        try:
            here = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            for step in self._below:
                above, flags = here, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                here = os.open(step, flags, dir_fd=above)
                os.close(above)
        except OSError as error:
            if here >= 0:
                os.close(here)
            raise DownloadError(f"{step} cannot be opened: {error.strerror}") from error
        return here

    def _read(self, file: int, name: str) -> bytes:
        try:
            return os.read(file, CHUNK_BYTES)
        except OSError as error:  # pulled out while we read
            raise DownloadError(f"{name[:100]} cannot be read: {error.strerror}") from error


class HttpReader:
    """Reads by way of the service's event loop; runs in another thread than that."""

    def __init__(
        self,
        open_url: Open,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = open_url
        self._loop = loop
        self._limits = limits
        self._monotonic = monotonic
        self._deadline = monotonic() + limits.total_s

    def chunks(self, url: str) -> Generator[bytes, None, None]:
        answer = self._wait(self._open(url), url)
        try:
            if answer.status != 200:
                raise DownloadHTTPError(f"{url} answers {answer.status}", answer.status)
            while chunk := self._wait(answer.content.read(CHUNK_BYTES), url):
                yield chunk
        finally:
            self._loop.call_soon_threadsafe(answer.close)

    def _wait(self, step: Coroutine[Any, Any, T], url: str) -> T:
        """Run one step on the loop, within both limits; raises DownloadError."""
        left_s = self._deadline - self._monotonic()
        future = asyncio.run_coroutine_threadsafe(step, self._loop)
        try:
            return future.result(timeout=max(0.0, min(self._limits.stall_s, left_s)))
        except (TimeoutError, concurrent.futures.TimeoutError) as error:
            future.cancel()
            raise SlowRetrievalError(
                f"{url} sent nothing for {self._limits.stall_s:g} s, or the whole took more than "
                f"{self._limits.total_s:g} s"
            ) from error
        except (aiohttp.ClientError, ApplianceError, OSError, ValueError) as error:
            raise DownloadError(f"{url} cannot be read: {error}") from error
