"""The worlds of the acceptance tests, one at a time, each kept for as long as tests follow that want it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Daemon, daemon_environment
from tests.e2e.distribution.world import CLIENTS, Client, DmrClient, StockClient, World
from tests.stand_ins.registry_kinds import KINDS, known_registry

_PARAMS = [
    pytest.param((kind, client), id=f"{kind}-{client}", marks=[] if kind == "plain" else [pytest.mark.slow])
    for kind in KINDS
    for client in CLIENTS
]


@pytest.fixture(scope="session", params=_PARAMS)
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a service that runs."""
    kind, client_kind = request.param
    root = tmp_path_factory.mktemp(f"{kind}-{client_kind}")
    with known_registry(kind, root / "registry") as registry, known_registry(kind, root / "other") as other:
        environment = daemon_environment(root) | {"DEFAULT_REGISTRY": registry.host}
        logins = {**registry.docker_config().get("auths", {}), **other.docker_config().get("auths", {})}
        if logins:
            (root / "docker").mkdir()
            (root / "docker" / "config.json").write_text(json.dumps({"auths": logins}))
            environment["DOCKER_CONFIG"] = str(root / "docker")
        if registry.authority is not None and other.authority is not None:
            trusted = root / "authorities.pem"
            trusted.write_text(registry.authority.read_text() + other.authority.read_text())
            environment["DMR_CA_CERT"] = str(trusted)
        daemon = Daemon(root, environment)
        try:
            daemon.start()
            stock = {"MODEL_RUNNER_HOST": daemon.url, "DEFAULT_REGISTRY": registry.host, "STOCK_CLI_RETRY_SCALE": "0"}
            client: Client = DmrClient(daemon) if client_kind == "dmr" else StockClient(stock)
            yield World(registry, other, daemon, client, root)
        finally:
            daemon.stop()


@pytest.fixture
def world(started: World) -> Iterator[World]:
    """A world without models."""
    yield started
    started.empty()
