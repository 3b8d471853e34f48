"""Every footprint ledger keeps the promises of the port; the file also keeps them across restarts."""

import json
from pathlib import Path

import pytest

from dmr_adapters.memory.ledger import FileFootprintLedger
from dmr_core.domain.memory import Memory
from dmr_core.ports.memory import FootprintLedger
from dmr_core.testing.contracts.footprint_ledger import FootprintLedgerContract
from dmr_core.testing.fakes.memory import InMemoryFootprintLedger


class TestInMemory(FootprintLedgerContract):
    @pytest.fixture
    def ledger(self) -> FootprintLedger:
        return InMemoryFootprintLedger()


class TestFile(FootprintLedgerContract):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> FootprintLedger:
        return FileFootprintLedger(tmp_path / "new" / "footprints.json")

    async def test_it_is_read_again_after_a_restart(self, tmp_path: Path) -> None:
        path = tmp_path / "footprints.json"
        await FileFootprintLedger(path).record("a", Memory(100, 7))
        assert FileFootprintLedger(path).get("a") == Memory(100, 7)
        assert [path] == list(tmp_path.iterdir())  # noqa: ASYNC240 - a directory of one file

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"a": 1}', '{"a": [1]}', '{"a": [-1, 0]}', '{"a": [true, 0]}', "\x00", "[" * 100_000]
    )
    async def test_a_file_that_cannot_be_read_is_learnt_anew(
        self, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "footprints.json"
        path.write_text(text)
        ledger = FileFootprintLedger(path)
        assert ledger.get("a") is None
        assert "cannot be read" in caplog.text

        await ledger.record("a", Memory(5, 0))
        assert json.loads(path.read_text()) == {"a": [5, 0]}

    async def test_only_the_latest_thousand_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "footprints.json"
        path.write_text(json.dumps({str(number): [number, 0] for number in range(1500)}))
        ledger = FileFootprintLedger(path)
        await ledger.record("new", Memory(1, 0))
        assert ledger.get("500") is None
        assert ledger.get("501") is not None
        assert len(json.loads(path.read_text())) == 1000

    async def test_a_disk_that_refuses_costs_a_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("")
        ledger = FileFootprintLedger(tmp_path / "file" / "footprints.json")
        await ledger.record("a", Memory(5, 0))
        assert ledger.get("a") == Memory(5, 0)
        assert "could not be written" in caplog.text
