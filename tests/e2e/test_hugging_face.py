"""``dmr pull hf.co/…`` as its users have it, against an emulated Hub."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from tests.e2e.conftest import Daemon
from tests.e2e.test_main_job import QUESTIONS
from tests.e2e.test_readme import ROOT, blocks, matches
from tests.stand_ins.hugging_face_hub import EmulatedHub, emulated_hub

_DEMO: Final = Path(__file__).parents[2] / "dmr_cli" / "demo" / "model"
_GGUF: Final = (_DEMO / "demo.gguf").read_bytes()
_TOKEN: Final = "hf_of-a-reader"


@pytest.fixture
async def hub() -> AsyncIterator[EmulatedHub]:
    async with emulated_hub() as running:
        running.tokens = {_TOKEN}
        yield running


@pytest.fixture
async def served(daemon: Daemon, hub: EmulatedHub) -> Daemon:
    daemon.environment["HF_ENDPOINT"] = hub.url
    await asyncio.to_thread(daemon.start)
    return daemon


async def dmr(daemon: Daemon, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """The client, while the Hub goes on in this process."""
    return await asyncio.to_thread(lambda: daemon.cli(*arguments, check=check))


async def listed(daemon: Daemon) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads((await dmr(daemon, "list", "--json")).stdout)
    return models


async def test_a_model_of_the_hub_is_pulled_and_answers(served: Daemon, hub: EmulatedHub) -> None:
    hub.add("Org/Demo-GGUF", {"demo-Q4_K_M.gguf": _GGUF, "demo-Q8_0.gguf": b"GGUF" * 9, "LICENSE": b"free"})

    pulled = await dmr(served, "pull", "hf.co/Org/Demo-GGUF:q4_k_m")
    asked = QUESTIONS[0]
    answer = await dmr(served, "run", "--temperature", "0", "hf.co/Org/Demo-GGUF:q4_k_m", asked["question"])

    assert pulled.stdout == b"Model pulled successfully\n"
    assert asked["answer"] in answer.stdout.decode()
    assert [model["tags"] for model in await listed(served)] == [["huggingface.co/org/demo-gguf:q4_k_m"]]
    again = await dmr(served, "pull", "hf.co/org/demo-gguf:q4_k_m")
    assert again.stdout.startswith(b"Using cached model")
    removed = await dmr(served, "rm", "hf.co/org/demo-gguf:q4_k_m")
    assert b"Untagged" in removed.stdout
    assert await listed(served) == []


async def test_run_pulls_a_revision_that_is_not_here(served: Daemon, hub: EmulatedHub) -> None:
    repository = hub.add("Org/Demo", {"README.md": b"nothing yet"})
    repository.revisions["v1.0"] = {"demo.gguf": _GGUF}
    asked = QUESTIONS[0]

    answer = await dmr(served, "run", "--temperature", "0", "hf.co/Org/Demo@v1.0", asked["question"])

    assert asked["answer"] in answer.stdout.decode()
    assert [model["tags"] for model in await listed(served)] == [["huggingface.co/org/demo:latest_at_v1.0"]]


async def test_a_gated_model_needs_the_clients_token_which_goes_to_the_hub_alone(
    served: Daemon, hub: EmulatedHub
) -> None:
    hub.add("Org/Gated", {"m.gguf": _GGUF, "LICENSE": b"ask first"}, gated=True, readers={_TOKEN})

    refused = await dmr(served, "pull", "hf.co/Org/Gated", check=False)
    assert refused.returncode != 0
    assert f"gated: accept its terms at {hub.url}/Org/Gated" in refused.stderr.decode()
    served.environment["HF_TOKEN"] = _TOKEN
    await dmr(served, "pull", "hf.co/Org/Gated")

    storage = [request for request in hub.seen if request.storage]
    assert storage
    assert not any(_TOKEN in str(request) for request in storage)
    assert _TOKEN not in served.log.read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf.co/Org/Nothing", "no such repository, or it is private"),
        ("hf.co/Org/M:Q3_K_XL", "no quantization 'Q3_K_XL'; it has Q4_K_M, Q8_0"),
        ("hf.co/Org/M@v9", "no branch, tag or commit 'v9'"),
        ("hf.co/Org/M/m-Q4_K_M.gguf", "is named hf.co/ORG/REPO"),
        ("hf.co/Org/M@a b", "is no revision"),
    ],
)
async def test_what_is_not_there_is_said(served: Daemon, hub: EmulatedHub, name: str, words: str) -> None:
    hub.add("Org/M", {"m-Q4_K_M.gguf": _GGUF, "m-Q8_0.gguf": _GGUF})

    failed = await dmr(served, "pull", name, check=False)

    assert failed.returncode != 0
    assert words in failed.stderr.decode()
    assert failed.stdout == b""
    assert await listed(served) == []


async def test_pushing_there_is_refused_with_a_reason(served: Daemon, hub: EmulatedHub) -> None:
    hub.add("Org/M", {"m.gguf": _GGUF})
    await dmr(served, "pull", "hf.co/Org/M")
    failed = await dmr(served, "push", "hf.co/Org/M", check=False)
    assert failed.returncode != 0
    assert "cannot push to" in failed.stderr.decode()


async def test_a_killed_service_goes_on_where_it_was(served: Daemon, hub: EmulatedHub) -> None:
    hub.add("Org/M", {"m.gguf": _GGUF})
    half = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse | None:
        if request.url.port != hub.storage_port:
            return None
        response = web.StreamResponse()
        response.content_length = len(_GGUF)
        await response.prepare(request)
        await response.write(_GGUF[:1_200_000])
        half.set()
        await hub.released.wait()
        return response

    hub.script = script
    pulling = asyncio.create_task(dmr(served, "pull", "hf.co/Org/M", check=False))
    await half.wait()
    ingest = served.root / "models" / ".dmr" / "ingest"
    while not any(path.read_bytes().startswith(_GGUF[:1_100_000]) for path in ingest.rglob("*") if path.is_file()):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(served.stop, signal.SIGKILL)
    hub.released.set()
    hub.script = None
    hub.seen.clear()
    await asyncio.to_thread(served.start)
    # The client tries again by itself; so does this test, in case it has given up.
    await pulling
    await dmr(served, "pull", "hf.co/Org/M")

    first = next(request.headers.get("Range") for request in hub.seen if request.storage)
    assert first is not None
    assert 1_000_000 <= int(first.removeprefix("bytes=").rstrip("-")) <= 1_200_000
    assert [model["tags"] for model in await listed(served)] == [["huggingface.co/org/m:latest"]]


async def test_the_examples_of_the_documentation_are_as_they_are_written(served: Daemon, hub: EmulatedHub) -> None:
    weights = {"tiny-chat-Q4_K_M.gguf": _GGUF, "tiny-chat-Q8_0.gguf": _GGUF, "LICENSE": b"free"}
    repository = hub.add("example/Tiny-Chat-GGUF", weights)
    repository.revisions |= {"v1.0": {**weights, "LICENSE": b"first"}, "refs/pr/1": {"tiny-chat-Q4_K_M.gguf": _GGUF}}
    hub.add("example/Gated-GGUF", {"m-Q4_K_M.gguf": _GGUF, "LICENSE": b"ask"}, gated=True, readers={_TOKEN})
    environment = {
        **served.environment,
        "PATH": f"{Path(sys.executable).parent}:{served.environment['PATH']}",
        "MODEL_RUNNER_HOST": served.url,
    }
    commands = blocks((ROOT / "docs" / "hugging-face.md").read_text())
    assert len(commands) == 14
    for command, documented in commands:
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
        assert process.returncode == 0, output
        assert matches(documented, output), f"$ {command}\n{output}"
