"""Every store of answers keeps the promises of the port; the file also survives restarts, damage and company."""

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dmr_adapters.response_store.database import ResponseDatabase
from dmr_adapters.response_store.sqlite import SqliteResponseStore
from dmr_core.errors import StorageFullError, StoreUnwritableError
from dmr_core.ports.response_store import KeptResponse, ResponseStore
from dmr_core.testing.contracts.response_store import ResponseStoreContract
from dmr_core.testing.fakes.clock import FakeClock
from dmr_core.testing.fakes.response_store import InMemoryResponseStore

A = KeptResponse(id="a", document=b"{}", input=b"secret words")


def opened(path: Path, clock: FakeClock, max_bytes: int = 1000) -> SqliteResponseStore:
    return SqliteResponseStore(path, clock=clock, lifetime=100.0, max_bytes=max_bytes)


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


class TestInMemory(ResponseStoreContract):
    @pytest.fixture
    def store(self, clock: FakeClock) -> ResponseStore:
        return InMemoryResponseStore(clock, lifetime=self.LIFETIME, max_bytes=self.MAX_BYTES)


class TestSqlite(ResponseStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[ResponseStore]:
        made = opened(tmp_path / "new" / "responses.db", clock)
        yield made
        await made.aclose()

    async def test_what_was_kept_outlives_the_service(self, tmp_path: Path, clock: FakeClock) -> None:
        for name in "ab":
            store = opened(tmp_path / "responses.db", clock)
            await store.keep(KeptResponse(id=name, document=b"{}"))
            await store.aclose()
        store = opened(tmp_path / "responses.db", clock)
        assert [name for name in "abc" if await store.find(name)] == ["a", "b"]
        await store.aclose()

    async def test_only_its_user_may_read_it(self, tmp_path: Path, clock: FakeClock) -> None:
        store = opened(tmp_path / "responses.db", clock)
        await store.keep(A)
        modes = {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)}
        await store.aclose()
        assert modes == {0o600}

    async def test_nothing_of_what_was_removed_stays_on_the_disk(self, tmp_path: Path, clock: FakeClock) -> None:
        store = opened(tmp_path / "responses.db", clock)
        for response in (KeptResponse(id="1", document=b"{}"), A, KeptResponse(id="2", document=b"{}")):
            await store.keep(response)
        await store.remove("a")
        await store.aclose()
        assert all(b"secret" not in path.read_bytes() for path in files(tmp_path))

    async def test_the_file_does_not_grow_beyond_its_bound(self, tmp_path: Path, clock: FakeClock) -> None:
        store = opened(tmp_path / "responses.db", clock, max_bytes=100_000)
        for number in range(100):
            await store.keep(KeptResponse(id=str(number), document=b"x" * 20_000))
        await store.aclose()
        assert sum(path.stat().st_size for path in files(tmp_path)) < 200_000

    async def test_two_services_share_it(self, tmp_path: Path, clock: FakeClock) -> None:
        stores = [opened(tmp_path / "responses.db", clock, 10**6) for _ in range(2)]
        await asyncio.gather(
            *(
                store.keep(KeptResponse(id=f"{which}-{number}", document=b"{}"))
                for which, store in enumerate(stores)
                for number in range(20)
            )
        )
        assert await stores[0].find("1-19") is not None
        assert await stores[1].find("0-0") is not None
        for store in stores:
            await store.aclose()

    @pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\0" + b"\xff" * 4096])
    async def test_a_file_that_is_broken_is_kept_aside(
        self, tmp_path: Path, clock: FakeClock, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "responses.db"
        path.write_bytes(content)
        store = opened(path, clock)
        assert await store.find("a") is None
        await store.keep(A)
        assert await store.find("a") is not None
        await store.aclose()
        assert "is kept as responses.broken" in caplog.text
        assert (tmp_path / "responses.broken").read_bytes() == content

    async def test_what_is_too_old_goes_although_nobody_asks(self, tmp_path: Path, clock: FakeClock) -> None:
        path = tmp_path / "responses.db"
        store = opened(path, clock)
        await store.keep(A)
        await store.aclose()
        later = opened(path, clock)
        later.start()
        await asyncio.sleep(0)
        await clock.advance(4000)
        with sqlite3.connect(path) as connection:
            async with asyncio.timeout(5):
                while connection.execute("SELECT count(*) FROM responses").fetchone() != (0,):
                    await asyncio.sleep(0.01)
        connection.close()
        await later.aclose()

    async def test_what_fails_halfway_has_not_happened(
        self, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = opened(tmp_path / "responses.db", clock)

        def fail(*_arguments: object) -> None:
            raise sqlite3.OperationalError("planted")

        with monkeypatch.context() as patched:
            patched.setattr(ResponseDatabase, "_make_room", fail)
            with pytest.raises(StoreUnwritableError, match="planted"):
                await store.keep(A)
        assert await store.find("a") is None
        await store.keep(A)
        assert await store.find("a") == A
        await store.aclose()

    async def test_a_disk_that_refuses_is_told(self, tmp_path: Path, clock: FakeClock) -> None:
        (tmp_path / "file").write_text("")
        store = opened(tmp_path / "file" / "responses.db", clock)
        with pytest.raises(StoreUnwritableError):
            await store.keep(A)
        await store.aclose()

    async def test_a_full_disk_is_told(self, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        store = opened(tmp_path / "responses.db", clock, 10**7)
        await store.keep(A)
        database = store._opened()

        def limit() -> None:
            assert database._connection is not None
            database._connection.execute("PRAGMA max_page_count = 10").fetchall()

        await store._do(lambda _database: limit())
        with pytest.raises(StorageFullError):
            await store.keep(KeptResponse(id="b", document=b"x" * 10**6))
        assert await store.find("a") == A
        await store.aclose()
