"""hearth.db on a real disk: schema, damage, a disk without room, a file that cannot be written."""

import asyncio
import sqlite3
from contextlib import asynccontextmanager

import pytest

from appliance.db import FILE, MIGRATIONS, Database
from appliance.errors import DiskFullError, LibraryError
from tests.fakes.loop_disk import fill, small_disk

FIRST = (("first", ("CREATE TABLE things (name TEXT NOT NULL) STRICT",)),)
SECOND = (*FIRST, ("second", ("ALTER TABLE things ADD COLUMN size INTEGER",)))


@asynccontextmanager
async def opened(state, migrations=SECOND):
    database = Database(state, migrations)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def add(name):
    return lambda connection: connection.execute("INSERT INTO things (name) VALUES (?)", (name,))


def names(connection):
    return [row["name"] for row in connection.execute("SELECT name FROM things ORDER BY rowid")]


async def test_what_was_written_is_there_at_the_next_start(tmp_path):
    async with opened(tmp_path) as database:
        await database.write(add("a"))
        assert database.problems == []
    async with opened(tmp_path) as database:
        assert await database.read(names) == ["a"]
    mode = (tmp_path / FILE).stat().st_mode & 0o777
    assert mode == 0o600


async def test_a_new_release_brings_its_columns_and_an_old_one_still_opens_the_file(tmp_path):
    async with opened(tmp_path, FIRST) as database:
        await database.write(add("old"))
    async with opened(tmp_path, SECOND) as database:
        await database.write(lambda c: c.execute("UPDATE things SET size = 3"))
    async with opened(tmp_path, FIRST) as database:  # rolled back
        assert await database.read(names) == ["old"]
        await database.write(add("older"))


async def test_a_migration_counts_whole_or_not_at_all(tmp_path):
    bad = (*FIRST, ("bad", ("CREATE TABLE half (x INTEGER)", "NONSENSE")))
    database = Database(tmp_path, bad)
    with pytest.raises(sqlite3.OperationalError, match="NONSENSE"):
        await database.open()
    await database.close()
    async with opened(tmp_path, FIRST) as database:
        tables = await database.read(
            lambda c: [row["name"] for row in c.execute("SELECT name FROM sqlite_schema")]
        )
        assert "half" not in tables


async def test_a_failed_transaction_leaves_nothing(tmp_path):
    def work(connection):
        add("half")(connection)
        raise ZeroDivisionError

    async with opened(tmp_path) as database:
        with pytest.raises(ZeroDivisionError):
            await database.write(work)
        await database.write(add("whole"))
        assert await database.read(names) == ["whole"]


@pytest.mark.parametrize("damage", ["text", "middle", "truncated"])
async def test_a_damaged_file_is_set_aside_and_said(tmp_path, damage, caplog):
    async with opened(tmp_path) as database:
        await database.write(
            lambda c: c.executemany(
                "INSERT INTO things (name) VALUES (?)", [("y" * 200,) for _ in range(2000)]
            )
        )
    path = tmp_path / FILE
    content = bytearray(path.read_bytes())
    if damage == "text":
        content = b"this was never a database\n" * 1000
    elif damage == "middle":
        content[4096 * 3 : 4096 * 6] = b"\xff" * (4096 * 3)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    async with opened(tmp_path) as database:
        assert database.is_durable
        assert "hearth.db.damaged" in database.problems[0]
        assert await database.read(names) == []
        await database.write(add("new"))
    assert (tmp_path / "hearth.db.damaged").read_bytes() == bytes(content)
    assert "was damaged" in caplog.text
    async with opened(tmp_path) as database:
        assert database.problems == []
        assert await database.read(names) == ["new"]


async def test_damage_that_is_found_later_is_one_clear_error(tmp_path):
    async with opened(tmp_path) as database:
        await database.write(
            lambda c: c.executemany(
                "INSERT INTO things (name) VALUES (?)", [("y" * 200,) for _ in range(5000)]
            )
        )
        await database.read(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        await database.read(lambda c: c.execute("PRAGMA cache_size = 1"))
        with (tmp_path / FILE).open("r+b") as file:
            file.seek(4096 * 2)
            file.write(b"\xff" * 4096 * 200)
        with pytest.raises(LibraryError, match=r"hearth\.db") as caught:
            await database.read(names)
        assert "set" in caught.value.hint


async def test_a_file_that_cannot_be_written_still_answers(tmp_path):
    """As on a disk that the kernel made read-only; root may write everywhere, so it is a folder."""
    async with opened(tmp_path) as database:
        await database.write(add("kept"))
    (tmp_path / f"{FILE}-wal").mkdir()
    (tmp_path / f"{FILE}-wal" / "x").touch()
    async with opened(tmp_path) as database:
        assert not database.is_durable
        assert "cannot be written" in database.problems[0]
        assert await database.read(names) == ["kept"]
        with pytest.raises(LibraryError, match="nothing was changed"):
            await database.write(add("lost"))


async def test_a_full_disk_is_said_and_harms_nothing(tmp_path):
    with small_disk(tmp_path, 4) as disk:
        async with opened(disk) as database:
            await database.write(add("before"))
            filler = disk / "filler"
            await asyncio.to_thread(fill, filler)
            with pytest.raises(DiskFullError, match="no space left") as caught:
                await database.write(add("x" * 1_000_000))
            assert "hearth rm" in caught.value.hint
            assert await database.read(names) == ["before"]
            filler.unlink()
            await database.write(add("after"))
            assert await database.read(names) == ["before", "after"]


async def test_a_start_with_a_full_disk_serves_what_was_stored(tmp_path):
    with small_disk(tmp_path, 4) as disk:
        async with opened(disk) as database:
            await database.write(add("before"))
        await asyncio.to_thread(fill, disk / "filler")
        async with opened(disk) as database:
            assert await database.read(names) == ["before"]
            if not database.is_durable:
                assert "make room" in database.problems[0]


async def test_many_at_once_take_turns(tmp_path):
    async with opened(tmp_path) as database:
        await asyncio.gather(*(database.write(add(str(n))) for n in range(100)))
        assert len(await database.read(names)) == 100


def test_the_schema_is_strict_sql():
    connection = sqlite3.connect(":memory:")
    for _, statements in MIGRATIONS:
        for statement in statements:
            connection.execute(statement)
    connection.close()
