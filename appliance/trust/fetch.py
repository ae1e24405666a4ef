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

CHUNK_BYTES = 64 * 1024
NOT_FOUND = 404

_FOLDER_URL = "folder:/"
_MAX_REDIRECTS = 3

T = TypeVar("T")


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


def from_folder(folder: Path) -> Source:
    return Source(FolderReader(folder), _FOLDER_URL, is_removable=True)


def from_url(
    url: str,
    session: aiohttp.ClientSession,
    loop: asyncio.AbstractEventLoop,
    limits: Limits = Limits(),
) -> Source:
    """For one refresh that runs in another thread than `loop`; the total deadline starts now."""
    return Source(HttpReader(session, loop, limits), url, is_removable=False)


class FolderReader:
    """Regular files directly in one folder; follows no links and opens no devices."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise DownloadError(f"{self._folder} cannot be opened: {error.strerror}") from error
        try:
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
                raise DownloadHTTPError(f"{name[:100]} is missing", NOT_FOUND) from error
            raise DownloadError(f"{name[:100]} cannot be read: {error.strerror}") from error
        finally:
            os.close(folder)

    def _read(self, file: int, name: str) -> bytes:
        try:
            return os.read(file, CHUNK_BYTES)
        except OSError as error:  # pulled out while we read
            raise DownloadError(f"{name[:100]} cannot be read: {error.strerror}") from error


class HttpReader:
    """Reads through the service's own aiohttp session; runs in another thread than its loop."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._loop = loop
        self._limits = limits
        self._monotonic = monotonic
        self._deadline = monotonic() + limits.total_s

    def chunks(self, url: str) -> Generator[bytes, None, None]:
        answer = self._wait(self._get(url), url)
        try:
            if answer.status != 200:
                raise DownloadHTTPError(f"{url} answers {answer.status}", answer.status)
            while chunk := self._wait(answer.content.read(CHUNK_BYTES), url):
                yield chunk
        finally:
            self._loop.call_soon_threadsafe(answer.close)

    async def _get(self, url: str) -> aiohttp.ClientResponse:
        # identity: a limit on bytes must be one on the bytes that were sent
        return await self._session.get(
            url,
            headers={"Accept-Encoding": "identity"},
            max_redirects=_MAX_REDIRECTS,
            timeout=aiohttp.ClientTimeout(),
        )

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
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DownloadError(f"{url} cannot be read: {error}") from error
