"""Challenges, credentials, kept tokens, and when to try again."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmr_adapters.registry.auth import TokenCache, TokenKey
from dmr_adapters.registry.challenge import Challenge, parse_challenges
from dmr_adapters.registry.credentials import CredentialStore, IdentityToken, Login
from dmr_adapters.registry.retry import (
    BrokenConnectionError,
    RefusedConnectionError,
    RetryPolicy,
    TransientAnswerError,
    retrying,
    seconds_to_wait,
)
from dmr_core.errors import RegistryError
from dmr_core.ports.registry import Credentials
from dmr_core.testing.fakes.clock import FakeClock

# --- challenges -------------------------------------------------------------------------------------

_TOKEN_CHALLENGE = Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"', [_TOKEN_CHALLENGE]),
        ('bearer  REALM = "https://a/t" , service=s,, scope="repository:a/b:pull,push" ,', [_TOKEN_CHALLENGE]),
        ("Basic", [Challenge("basic", {})]),
        ('Basic realm="a \\"b\\" c", charset="UTF-8"', [Challenge("basic", {"realm": 'a "b" c', "charset": "UTF-8"})]),
        (
            'Negotiate, NTLM abc==, Basic realm="r", Bearer realm="x"',
            [
                Challenge("negotiate", {}),
                Challenge("ntlm", {}),
                Challenge("basic", {"realm": "r"}),
                Challenge("bearer", {"realm": "x"}),
            ],
        ),
        ('Bearer realm="first", realm="second"', [Challenge("bearer", {"realm": "first"})]),
        ('Bearer realm=""', [Challenge("bearer", {"realm": ""})]),
        ('Bearer realm="unclosed', [Challenge("bearer", {})]),
        ("", []),
        (',,"x"', []),
        ("=", []),
    ],
)
def test_challenges_are_read(header: str, expected: list[Challenge]) -> None:
    assert list(parse_challenges([header])) == expected


def test_challenges_may_come_in_several_headers() -> None:
    assert [found.scheme for found in parse_challenges(['Basic realm="a"', "Bearer realm=b"])] == ["basic", "bearer"]


@pytest.mark.parametrize("header", ['a="' + "\\" * 20_000, "a=" * 20_000, "a " * 20_000, ", " * 20_000, '"' * 20_000])
def test_a_hostile_challenge_is_read_in_no_time(header: str) -> None:
    started = time.perf_counter()
    parse_challenges([f"Bearer {header}"])
    assert time.perf_counter() - started < 1


# --- credentials ------------------------------------------------------------------------------------


def docker_config(directory: Path, **content: object) -> CredentialStore:
    (directory / "config.json").write_text(json.dumps(content))
    return CredentialStore(directory=directory, limit=5)


def helper(directory: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = directory / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)


@pytest.fixture(autouse=True)
def home_with_other_credentials(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose Docker configuration must not shine through where another directory is given."""
    home = tmp_path_factory.mktemp("home")
    (home / ".docker").mkdir()
    entry = {"username": "home", "password": "home"}
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {"home.example": entry}}))
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": "bWU6c2VjOnJldA=="}, Login("me", "sec:ret")),
        ({"auth": "bWU6c2VjcmV0AA=="}, Login("me", "secret")),
        ({"username": "me", "password": "p"}, Login("me", "p")),
        ({"auth": "bWU6eA==", "identitytoken": "idem"}, IdentityToken("idem")),
        ({"auth": "PHRva2VuPjppZGVt"}, IdentityToken("idem")),
        ({"auth": "%%%"}, None),
        ({"auth": "bm9jb2xvbg=="}, None),
        ({"auth": 5, "username": ["x"]}, None),
        ({}, None),
        ("text", None),
    ],
)
async def test_an_entry_of_auths_is_read(tmp_path: Path, entry: object, expected: object) -> None:
    store = docker_config(tmp_path, auths={"registry.example:5000": entry})
    assert await store.find("registry.example:5000") == expected
    assert await store.find("registry.example") is None
    assert await store.find("home.example") is None


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("docker.io", "registry-1.docker.io"),
        ("https://registry.example", "registry.example"),
        ("http://registry.example/v2/", "registry.example"),
        ("registry.example/v1", "registry.example"),
        ("Registry.Example/", "registry.example"),
    ],
)
async def test_a_host_may_be_written_in_several_ways(tmp_path: Path, key: str, registry: str) -> None:
    store = docker_config(tmp_path, auths={key: {"username": "me", "password": "p"}})
    assert await store.find(registry) == Login("me", "p")


@pytest.mark.parametrize("key", ["example", "registry.example.evil", "xregistry.example", "registry.example/path"])
async def test_another_host_gets_nothing(tmp_path: Path, key: str) -> None:
    store = docker_config(tmp_path, auths={key: {"username": "me", "password": "p"}})
    assert await store.find("registry.example") is None


async def test_the_home_directory_itself_is_read(home_with_other_credentials: Path) -> None:
    store = CredentialStore(directory=home_with_other_credentials / ".docker")
    assert await store.find("home.example") == Login("home", "home")


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"auths": 5, "credHelpers": [], "credsStore": 7}', "\xff"])
async def test_a_missing_or_broken_file_means_nobody(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="latin-1")
    assert await CredentialStore(directory=tmp_path).find("registry.example") is None


async def test_the_environment_is_for_docker_hub_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"docker.io": {"username": "file", "password": "p"}}}')
    pair = {"DOCKER_HUB_USER": "u", "DOCKER_HUB_PASSWORD": "p"}
    store = CredentialStore(environment=pair, directory=tmp_path)
    assert await store.find("docker.io") == Login("u", "p")
    assert await store.find("registry.example") is None
    store = CredentialStore(environment=pair | {"DOCKER_USERNAME": "first", "DOCKER_PASSWORD": "p"})
    assert await store.find("docker.io") == Login("first", "p")
    store = CredentialStore(environment={"DOCKER_USERNAME": "no password"}, directory=tmp_path)
    assert await store.find("docker.io") == Login("file", "p")


async def test_a_helper_is_asked_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '{"Username": "%s", "Secret": "s"}'
    helper(tmp_path, "one", f"read server; echo '{answer % 'one:$server'}' | sed \"s|.server|$server|\"", monkeypatch)
    helper(tmp_path, "all", f"test \"$1\" = get && echo '{answer % '<token>'}'", monkeypatch)
    entry = {"username": "file", "password": "p"}
    store = docker_config(
        tmp_path,
        credHelpers={"one.example": "one", "docker.io": "one"},
        credsStore="all",
        auths={"one.example": entry, "two.example": entry},
    )
    assert await store.find("one.example") == Login("one:one.example", "s")
    assert await store.find("docker.io") == Login("one:https://index.docker.io/v1/", "s")
    assert await store.find("two.example") == IdentityToken("s")


@pytest.mark.parametrize(
    "script", ["echo credentials not found; exit 1", "echo nonsense", "echo '[]'", "yes", 'echo \'{"Username": "x"}\'']
)
async def test_a_helper_without_an_answer_leaves_it_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    helper(tmp_path, "none", script, monkeypatch)
    store = docker_config(tmp_path, credsStore="none", auths={"a.example": {"username": "file", "password": "p"}})
    assert await store.find("a.example") == Login("file", "p")


@pytest.mark.parametrize("name", ["missing", "../evil", "a/b", "", " ", "-x"])
async def test_a_helper_that_is_not_there_or_misnamed_is_passed_over(tmp_path: Path, name: str) -> None:
    store = docker_config(tmp_path, credsStore=name, auths={"a.example": {"username": "file", "password": "p"}})
    assert await store.find("a.example") == Login("file", "p")


async def test_a_helper_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, "hang", "exec sleep 600", monkeypatch)
    (tmp_path / "config.json").write_text('{"credsStore": "hang"}')
    started = time.monotonic()
    assert await CredentialStore(directory=tmp_path, limit=0.3).find("a.example") is None
    assert time.monotonic() - started < 10


async def test_a_helper_nobody_waits_for_ends_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "child"
    helper(tmp_path, "hang", f"sleep 600 & echo $! > {note}.part; mv {note}.part {note}; wait", monkeypatch)
    (tmp_path / "config.json").write_text('{"credsStore": "hang"}')
    asking = asyncio.create_task(CredentialStore(directory=tmp_path, limit=50).find("a.example"))
    await until(note.exists)
    child = int(note.read_text())
    assert alive(child)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: not alive(child))


async def test_a_helper_that_runs_before_anybody_looks_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "child"
    helper(tmp_path, "hang", f"sleep 600 & echo $! > {note}.part; mv {note}.part {note}; wait", monkeypatch)
    (tmp_path / "config.json").write_text('{"credsStore": "hang"}')
    started = asyncio.create_subprocess_exec

    async def slowly(*arguments: Any, **options: Any) -> Any:
        process = asyncio.ensure_future(started(*arguments, **options))
        await asyncio.sleep(0)  # it is forked, and nobody has connected its pipes
        while not note.exists():
            time.sleep(0.005)  # noqa: ASYNC251 - the loop must not run meanwhile
        asking.cancel()
        return await process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)
    asking = asyncio.create_task(CredentialStore(directory=tmp_path, limit=50).find("a.example"))
    with pytest.raises(asyncio.CancelledError):
        await asking
    child = int(note.read_text())
    await until(lambda: not alive(child))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_secrets_are_not_shown() -> None:
    for value in (Login("me", "hidden"), IdentityToken("hidden"), Credentials("hidden")):
        assert "hidden" not in repr(value)
    assert "hidden" not in repr(CredentialStore(environment={"DOCKER_PASSWORD": "hidden"}))
    assert "hidden" not in Login("me", "hidden").fingerprint


# --- kept tokens ------------------------------------------------------------------------------------


def key(**changes: object) -> TokenKey:
    fields = {"realm": "r", "service": "s", "scopes": ("x",), "credentials": ("host", "print")} | changes
    return TokenKey(**fields)  # type: ignore[arg-type]


async def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    clock = FakeClock()
    cache = TokenCache(clock)
    cache.put(key(), "token", 60)
    await clock.advance(49)
    found = cache.get(key())
    assert found is not None
    assert found[0] == "token"
    await clock.advance(1)
    assert cache.get(key()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"realm": "other"},
        {"service": "other"},
        {"scopes": ("other",)},
        {"credentials": ("other", "print")},
        {"credentials": ("host", "other")},
    ],
)
def test_a_token_is_for_nothing_else(changes: dict[str, object]) -> None:
    cache = TokenCache(FakeClock())
    cache.put(key(), "token", 60)
    assert cache.get(key(**changes)) is None


def test_tokens_do_not_pile_up() -> None:
    cache = TokenCache(FakeClock())
    for number in range(1000):
        cache.put(key(service=str(number)), "token", 60)
    assert cache.get(key(service="0")) is None
    assert cache.get(key(service="999")) is not None
    cache.drop(key(service="999"))
    assert cache.get(key(service="999")) is None


# --- trying again -----------------------------------------------------------------------------------


class Waits(FakeClock):
    """Notes waits instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.mark.parametrize(
    ("failure", "waits"),
    [
        (BrokenConnectionError("x"), [0.25, 0.5, 1.0, 2.0]),
        (RefusedConnectionError("x"), [0.25, 0.5]),
        (TransientAnswerError("x"), [0.25, 0.5, 1.0, 2.0]),
        (TransientAnswerError("x", retry_after=9), [9, 9, 9]),
        (TransientAnswerError("x", retry_after=31), []),
        (RegistryError("x"), []),
    ],
)
async def test_only_what_passes_is_tried_again_and_not_for_long(failure: RegistryError, waits: list[float]) -> None:
    async def fail() -> None:
        raise failure

    clock = Waits()
    with pytest.raises(RegistryError) as raised:
        await retrying(clock, RetryPolicy(jitter=lambda: 1.0), fail)
    assert raised.value is failure
    assert clock.seconds == waits


def test_half_of_a_wait_is_random() -> None:
    assert RetryPolicy(jitter=lambda: 0.0).back_off(1) == 0.125
    assert RetryPolicy(jitter=lambda: 1.0).back_off(99) == 8.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("9" * 40, 999_999_999.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert seconds_to_wait(header, 10.0) == seconds
