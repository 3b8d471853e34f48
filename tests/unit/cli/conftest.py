"""A canned service, and the program run against it in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from dmr_cli.main import main
from tests.stand_ins.canned_server import CannedServer

__all__ = ["Dmr", "Outcome"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Dmr = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL_RUNNER_HOST", "MODEL_RUNNER_TLS", "MODEL_RUNNER_TLS_CA_CERT", "DEFAULT_REGISTRY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with CannedServer() as canned:
        yield canned


@pytest.fixture
def dmr(server: CannedServer, capsys: pytest.CaptureFixture[str]) -> Dmr:
    """Run ``dmr ARGS`` against the canned service."""

    def run(*arguments: str) -> Outcome:
        code = main(["--host", server.url, *arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
