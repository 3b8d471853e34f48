"""What an operator can set about NIM, and where the Docker Engine is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from dmr_backends_nim.docker_host import find_docker
from dmr_backends_nim.settings import NimSettings
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import InvalidConfigurationError


def test_nothing_set_is_nvidias_own_registry_and_the_usual_cache(tmp_path: Path) -> None:
    settings = NimSettings.read({"HOME": str(tmp_path)})

    assert (settings.prefix, settings.registry) == ("nvcr.io/nim/", "nvcr.io")
    assert (settings.cache, settings.keep, settings.key) == (tmp_path / ".cache" / "nim", True, None)
    assert settings.start_timeout == 3600.0


@pytest.mark.parametrize(
    ("name", "claimed"),
    [
        ("nvcr.io/nim/google/gemma-3-1b-it:latest", True),
        ("NVCR.IO/NIM/google/gemma-3-1b-it", True),
        ("nvcr.io/nim/model", True),
        ("nvcr.io/nvidia/model", False),
        ("nvcr.io/nimble/model", False),
        ("nvcr.io.example/nim/model", False),
        ("docker.io/nvcr.io/nim/model", False),
        ("evil.example/nvcr.io/nim/model", False),
        ("ai/nim", False),
    ],
)
def test_only_names_under_the_prefix_are_claimed(name: str, claimed: bool) -> None:
    assert NimSettings.read({}).claims(parse_reference(name, ReferencePolicy())) is claimed


def test_everything_can_be_set() -> None:
    settings = NimSettings.read(
        {
            "DMR_NIM_PREFIX": "127.0.0.1:5000/team/nim",
            "DMR_NIM_START_TIMEOUT": "60",
            "DMR_NIM_ON_EXIT": "stop",
            "LOCAL_NIM_CACHE": "/srv/nim",
            "NGC_API_KEY": " nvapi-key ",
        }
    )

    assert (settings.prefix, settings.start_timeout, settings.keep) == ("127.0.0.1:5000/team/nim/", 60.0, False)
    assert settings.cache == Path("/srv/nim")
    assert settings.key is not None
    assert settings.key.reveal() == "nvapi-key"
    assert "nvapi-key" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DMR_NIM_PREFIX", "nvcr.io/"),
        ("DMR_NIM_PREFIX", "nim/"),
        ("DMR_NIM_PREFIX", "nim/google/"),
        ("DMR_NIM_PREFIX", "nvcr.io/../"),
        ("DMR_NIM_PREFIX", "https://nvcr.io/nim/"),
        ("DMR_NIM_START_TIMEOUT", "soon"),
        ("DMR_NIM_START_TIMEOUT", "nan"),
        ("DMR_NIM_START_TIMEOUT", "0"),
        ("DMR_NIM_ON_EXIT", "explode"),
        ("LOCAL_NIM_CACHE", "relative/cache"),
    ],
)
def test_what_cannot_be_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidConfigurationError, match=name):
        NimSettings.read({name: value})


def test_docker_host_names_a_socket() -> None:
    assert find_docker({"DOCKER_HOST": "unix:///run/user/7/docker.sock"}).socket == Path("/run/user/7/docker.sock")


@pytest.mark.parametrize(
    "host", ["tcp://10.0.0.1:2375", "ssh://me@there", "npipe:////./pipe/docker", "unix://relative", "x"]
)
def test_an_engine_that_is_not_here_is_told_with_what_to_do(host: str) -> None:
    found = find_docker({"DOCKER_HOST": host})

    assert found.socket is None
    assert "DOCKER_HOST=unix:///PATH" in found.problem
    assert "me@there" not in found.problem


def test_the_current_context_of_docker_counts(tmp_path: Path) -> None:
    name = hashlib.sha256(b"mine").hexdigest()
    meta = tmp_path / "contexts" / "meta" / name / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": "mine", "Endpoints": {"docker": {"Host": "unix:///mine.sock"}}}))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    directory = {"DOCKER_CONFIG": str(tmp_path)}

    assert find_docker(directory).socket == Path("/mine.sock")
    assert find_docker({**directory, "DOCKER_HOST": "unix:///other.sock"}).socket == Path("/other.sock")
    assert find_docker({**directory, "DOCKER_CONTEXT": "default"}).socket == Path("/var/run/docker.sock")
    assert "no address" in find_docker({**directory, "DOCKER_CONTEXT": "nobodys"}).problem


@pytest.mark.parametrize("text", ["", "[]", "{", '{"currentContext": 7}', "null"])
def test_a_configuration_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)

    assert find_docker({"DOCKER_CONFIG": str(tmp_path)}).socket == Path("/var/run/docker.sock")


def test_a_rootless_engine_is_found_where_there_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmr_backends_nim import docker_host

    (tmp_path / "docker.sock").touch()
    monkeypatch.setattr(docker_host, "_SYSTEM", tmp_path / "nothing")

    assert find_docker({"XDG_RUNTIME_DIR": str(tmp_path)}).socket == tmp_path / "docker.sock"
