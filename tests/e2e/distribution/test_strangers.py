"""Without the login or the authority a registry wants, a model stays out, and the message says what is missing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.e2e.conftest import Daemon
from tests.stand_ins.registry_kinds import KnownRegistry, known_registry
from tests.stand_ins.stock_package import from_gguf

pytestmark = pytest.mark.registry


def _seeded(registry: KnownRegistry, path: Path) -> str:
    (path / "m.gguf").write_bytes(b"GGUF")
    model = from_gguf(path / "m.gguf", licenses=[], context_size=None, schema="docker")
    registry.seed("ai/m", "latest", [*model.layers, model.config], model.manifest)
    return f"{registry.host}/ai/m"


def _log_in(daemon: Daemon, tmp_path: Path, host: str, password: str) -> None:
    (tmp_path / "docker").mkdir()
    entry = {"auth": base64.b64encode(f"me:{password}".encode()).decode()}
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: entry}}))
    daemon.environment["DOCKER_CONFIG"] = str(tmp_path / "docker")


@pytest.mark.parametrize("password", ["", "wr0ng-pass"])
@pytest.mark.parametrize("kind", ["htpasswd", "token"])
def test_without_the_right_login_nothing_comes_out(daemon: Daemon, tmp_path: Path, kind: str, password: str) -> None:
    with known_registry(kind, tmp_path / "registry") as registry:
        name = _seeded(registry, tmp_path)
        if password:
            _log_in(daemon, tmp_path, registry.host, password)
        daemon.start()
        for arguments in (["pull", name], ["inspect", "--remote", name]):
            refused = daemon.cli(*arguments, check=False)
            assert refused.returncode != 0
            assert b"docker login" in refused.stderr
            assert b"wr0ng-pass" not in refused.stderr + daemon.log.read_bytes()
        with pytest.raises(HTTPError) as caught:
            build_opener(ProxyHandler({})).open(f"{daemon.url}/models/{name}?remote=true", timeout=10)
        with caught.value as answer:
            text = answer.read().decode()
        assert answer.code == 401
        assert text.startswith(f'error while getting remote model: failed to pull model "{name}": UNAUTHORIZED - ')
        assert json.loads(daemon.cli("list", "--json").stdout) == []


def test_without_its_authority_a_registry_is_not_trusted(daemon: Daemon, tmp_path: Path) -> None:
    with known_registry("tls", tmp_path / "registry") as registry:
        name = _seeded(registry, tmp_path)
        daemon.start()
        refused = daemon.cli("pull", name, check=False)
        assert refused.returncode != 0
        assert b"certificate" in refused.stderr
        assert b"DMR_CA_CERT" in refused.stderr


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_a_file_without_authorities_is_told_at_the_start(daemon: Daemon, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_text(content)
    daemon.environment["DMR_CA_CERT"] = str(path)
    done = daemon.cli("serve", "--port", "0", check=False)
    assert done.returncode == 1
    assert f"Error: DMR_CA_CERT='{path}': ".encode() in done.stderr
