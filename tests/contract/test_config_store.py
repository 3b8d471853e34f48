"""Every store of settings keeps the promises of the port; the file also survives restarts, garbage and company."""

import asyncio
from pathlib import Path

import pytest

from dmr_adapters.config_store.file import FileConfigStore
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.errors import StoreUnwritableError
from dmr_core.ports.config_store import ConfigKey, ConfigStore
from dmr_core.testing.contracts.config_store import ConfigStoreContract
from dmr_core.testing.fakes.config_store import InMemoryConfigStore


def key(name: str) -> ConfigKey:
    return "llama.cpp", Digest.of(name.encode()), EngineMode.COMPLETION


class TestInMemory(ConfigStoreContract):
    @pytest.fixture
    def store(self) -> ConfigStore:
        return InMemoryConfigStore()


class TestFile(ConfigStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ConfigStore:
        return FileConfigStore(tmp_path / "new" / "config.json")

    async def test_two_services_do_not_undo_each_others_changes(self, tmp_path: Path) -> None:
        one, two = FileConfigStore(tmp_path / "config.json"), FileConfigStore(tmp_path / "config.json")
        changes = [(one, f"a{number}") for number in range(10)] + [(two, f"b{number}") for number in range(10)]
        await asyncio.gather(*(store.write(key(name), EngineConfig(context_size=5)) for store, name in changes))
        assert len(await one.load()) == 20

    @pytest.mark.parametrize("text", ["", "{}", "\x00", "[" * 100_000])
    async def test_a_file_that_cannot_be_read_is_kept_aside(
        self, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "config.json"
        path.write_text(text)
        store = FileConfigStore(path)
        assert await store.load() == {}
        assert "is kept as config.broken" in caplog.text
        assert (tmp_path / "config.broken").read_text() == text

        await store.write(key("a"), EngineConfig(context_size=5))
        assert len(await store.load()) == 1

    async def test_what_was_set_aside_before_stays(self, tmp_path: Path) -> None:
        for text in ("first", "second"):
            (tmp_path / "config.json").write_text(text)
            assert await FileConfigStore(tmp_path / "config.json").load() == {}
        assert (tmp_path / "config.broken").read_text() == "first"
        assert (tmp_path / "config.broken2").read_text() == "second"

    async def test_an_entry_that_cannot_be_read_costs_itself_alone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = FileConfigStore(tmp_path / "config.json")
        await store.write(key("a"), EngineConfig(context_size=5))
        text = (tmp_path / "config.json").read_text()
        (tmp_path / "config.json").write_text(text.replace("[", '[1, {"backend": "x"},', 1))
        assert await store.load() == {key("a"): EngineConfig(context_size=5)}
        assert caplog.text.count("cannot be read are ignored") == 2

    async def test_a_disk_that_refuses_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreUnwritableError):
            await FileConfigStore(tmp_path / "file" / "config.json").write(key("a"), EngineConfig())
