"""`hearth.db` in the state folder: SQLite in WAL, one thread, a schema that grows by migrations.

Models on disk are the truth; what is in here can be made again. So a damaged file is set aside and
a new one begun, and one that cannot be written is served from memory, read only: never a crash.
Knows files, transactions and the list of migrations; the rooms that own tables hold the questions.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from appliance.errors import DiskFullError, LibraryError

log = logging.getLogger("hearth.db")

FILE = "hearth.db"
DAMAGED_SUFFIX = ".damaged"  # one such copy is kept, the latest
BUSY_TIMEOUT_S = 5.0  # a person may look into the file with another program

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

# In order, each applied once and in one transaction. Only ever add at the end, and only what an
# older release does not mind: after a rollback it opens the same file. Times: seconds since 1970.
MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "access",
        (
            """CREATE TABLE keys (
                id TEXT PRIMARY KEY, name TEXT NOT NULL, secret_hash BLOB NOT NULL,
                scopes TEXT NOT NULL, models TEXT, rate_per_minute INTEGER, tokens_per_day INTEGER,
                created_at REAL NOT NULL, last_used_at REAL, revoked_at REAL
            ) STRICT""",
            """CREATE TABLE claim (
                only INTEGER PRIMARY KEY CHECK (only = 1), code TEXT NOT NULL,
                tries INTEGER NOT NULL, locked_until REAL NOT NULL, claimed_at REAL
            ) STRICT""",
            """CREATE TABLE audit (
                number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL,
                action TEXT NOT NULL, target TEXT NOT NULL, outcome TEXT NOT NULL,
                is_refused INTEGER NOT NULL
            ) STRICT""",
            "CREATE INDEX audit_kind ON audit (is_refused, number)",
        ),
    ),
    (
        "usage",
        (
            """CREATE TABLE usage (
                who TEXT NOT NULL, day INTEGER NOT NULL, requests INTEGER NOT NULL,
                tokens INTEGER NOT NULL, seen_at REAL NOT NULL, PRIMARY KEY (who, day)
            ) STRICT""",
        ),
    ),
)

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Database:
    """One connection in one thread. `open` first, `close` last."""

    def __init__(
        self, state: Path, migrations: Sequence[tuple[str, tuple[str, ...]]] = MIGRATIONS
    ) -> None:
        self.path = state / FILE
        self.problems: list[str] = []  # what was wrong when it was opened, for people
        self.is_durable = True  # False: a copy in memory that only answers questions
        self._migrations = migrations
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hearth-db")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open or make the file, whatever state it is in."""
        self._connection = await self._in_thread(self._open)
        for problem in self.problems:
            log.warning("%s", problem)

    async def read(self, work: Work[T]) -> T:
        """What `work` finds. Raises LibraryError."""
        return await self._in_thread(self._run, work)

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction; when this returns, it is durable.

        Raises DiskFullError and LibraryError; then nothing was changed.
        """
        if not self.is_durable:
            raise LibraryError(
                f"{self.path} could not be opened for writing, so nothing was changed",
                hint="make room on the disk (`hearth doctor` says more), then restart the service",
            )
        return await self._in_thread(self._transact, work)

    async def close(self) -> None:
        """Write the log back into the file and let go of it."""
        if self._connection is not None:
            await self._in_thread(self._connection.close)
            self._connection = None
        self._thread.shutdown(wait=False)

    # -- in the thread ----------------------------------------------------------------------------

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _run(self, work: Work[T]) -> T:
        assert self._connection is not None, "open() comes first"
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error

    def _transact(self, work: Work[T]) -> T:
        return self._run(lambda connection: _in_transaction(connection, work))

    def _open(self) -> sqlite3.Connection:
        try:
            try:
                return self._open_file()
            except sqlite3.DatabaseError as error:
                if _code(error) not in _DAMAGE:
                    raise
                self._set_aside(str(error))
                return self._open_file()
        except (sqlite3.Error, OSError) as error:
            self.is_durable = False
            self.problems.append(
                f"{self.path} cannot be written ({error}): keys work as they were, nothing new is"
                " kept; make room or repair the disk, then restart the service"
            )
            return self._copy_in_memory()

    def _open_file(self) -> sqlite3.Connection:
        # SQLite gives its other files the mode of this one: keys' hashes are nobody else's business
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = _connect(str(self.path))
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            _require_whole(connection)
            _migrate(connection, self._migrations)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, reason: str) -> None:
        kept = self.path.with_name(FILE + DAMAGED_SUFFIX)
        self.path.replace(kept)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                self.path.with_name(FILE + suffix).unlink()
        self.problems.append(
            f"{self.path} was damaged ({reason}) and is now {kept.name}; keys and the audit log"
            " begin anew: claim the box again (`hearth pair`) and check the disk"
        )

    def _copy_in_memory(self) -> sqlite3.Connection:
        """What the file says, without its help: it may lie on a disk without a free byte."""
        connection = _connect(":memory:")
        with suppress(sqlite3.Error):
            source = sqlite3.connect(f"{self.path.absolute().as_uri()}?immutable=1", uri=True)
            with closing(source):
                source.backup(connection)
        try:
            _migrate(connection, self._migrations)
        except sqlite3.Error:  # half a schema is worse than none: begin with an empty one
            connection.close()
            connection = _connect(":memory:")
            _migrate(connection, self._migrations)
        return connection


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    return connection


def _in_transaction(connection: sqlite3.Connection, work: Work[T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise
    return result


def _migrate(
    connection: sqlite3.Connection, migrations: Sequence[tuple[str, tuple[str, ...]]]
) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY,"
        " applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) STRICT"
    )
    applied = {row["name"] for row in connection.execute("SELECT name FROM migrations")}
    for name, statements in migrations:
        if name in applied:
            continue

        def apply(
            open_connection: sqlite3.Connection,
            name: str = name,
            statements: tuple[str, ...] = statements,
        ) -> None:
            for statement in statements:
                open_connection.execute(statement)
            open_connection.execute("INSERT INTO migrations (name) VALUES (?)", (name,))

        _in_transaction(connection, apply)


def _require_whole(connection: sqlite3.Connection) -> None:
    """Raise as SQLite itself does where it stumbles over damage later."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _translated(error: sqlite3.Error, path: Path) -> LibraryError:
    if _code(error) == sqlite3.SQLITE_FULL:
        return DiskFullError(
            f"no space left for {path.name}; nothing was changed",
            hint="remove models with `hearth rm`, or add storage",
        )
    cure = "restart the service, which sets a damaged file aside; check the disk (dmesg)"
    return LibraryError(f"{path.name}: {error}", hint=cure)
