"""``dmr show --remote hf.co/…``: what a pull from the Hub would choose, and nothing pulled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.e2e.conftest import Daemon
from tests.stand_ins.hugging_face_hub import EmulatedHub, emulated_hub


@pytest.fixture
async def hub() -> AsyncIterator[EmulatedHub]:
    async with emulated_hub() as running:
        yield running


async def test_what_a_pull_from_the_hub_would_choose_is_told(daemon: Daemon, hub: EmulatedHub) -> None:
    daemon.environment["HF_ENDPOINT"] = hub.url
    hub.add("Org/Demo-GGUF", {"demo-Q4_K_M.gguf": b"GGUF" * 90, "demo-Q8_0.gguf": b"GGUF" * 250, "README.md": b"x"})
    await asyncio.to_thread(daemon.start)

    async def dmr(*arguments: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(lambda: daemon.cli(*arguments, check=False))
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    code, shown, _ = await dmr("show", "--remote", "hf.co/Org/Demo-GGUF:q8_0")
    assert code == 0
    assert "Download:    1.00kB\n" in shown
    assert "Quantization: Q8_0\n" in shown
    document = json.loads((await dmr("inspect", "--remote", "hf.co/Org/Demo-GGUF"))[1])
    assert [layer["path"] for layer in document["layers"]] == ["demo-Q4_K_M.gguf"]
    assert document["source"].startswith("hf.co/Org/Demo-GGUF@")
    assert shown.splitlines()[0].split()[0] == "Model:"

    code, _, said = await dmr("show", "--remote", "hf.co/Org/Demo-GGUF:Q3_K_S")
    assert code == 3
    assert "Q4_K_M" in said
    code, _, said = await dmr("show", "--remote", "hf.co/Org/Nothing")
    assert code != 0
    assert "Org/Nothing" in said
    assert hub.paths(storage=True) == []
    assert await dmr("list", "--json") == (0, "[]\n", "")
