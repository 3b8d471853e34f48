"""What this machine knows to log in with: the environment, then Docker's configuration.

Order and fields are those of Docker's ``config.json``: a helper for the registry, the helper for
everything, then ``auths``. Whatever is found belongs to one registry and is asked for by its name.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs
import orjson

from dmr_adapters.registry.endpoint import DOCKER_HUB, HUB_HOSTS

__all__ = ["CredentialStore", "IdentityToken", "Login", "Secret"]

_LOG: Final = logging.getLogger(__name__)
_HUB_SERVER: Final = "https://index.docker.io/v1/"  # under this name `docker login` files the Hub
_ENV_PAIRS: Final = (("DOCKER_USERNAME", "DOCKER_PASSWORD"), ("DOCKER_HUB_USER", "DOCKER_HUB_PASSWORD"))
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REAP: Final = 5.0
"""Seconds that the end of a killed helper is waited for; a child of its own may hold its pipe for longer."""

_TOKEN_USER: Final = "<token>"  # noqa: S105 - how helpers mark an identity token
_HELPER_OUTPUT: Final = 64 * 1024
_CONFIG_SIZE: Final = 4 * 1024 * 1024


@attrs.frozen
class Login:
    """A user name and a password."""

    username: str
    password: str = attrs.field(repr=False)

    @property
    def header(self) -> str:
        """``Authorization: Basic`` (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @property
    def fingerprint(self) -> str:
        """Tells two logins apart without giving either away."""
        return _fingerprint("login", self.username, self.password)


@attrs.frozen
class IdentityToken:
    """A token to get other tokens with (OAuth 2 refresh token, RFC 6749 §6)."""

    token: str = attrs.field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Tells two tokens apart without giving either away."""
        return _fingerprint("identity", self.token)


Secret = Login | IdentityToken


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


@attrs.frozen(kw_only=True)
class CredentialStore:
    """Looks credentials up. ``directory`` is Docker's configuration directory, ``limit`` in seconds.

    Nothing is kept between look-ups, so a new ``docker login`` counts at once. A broken file or
    helper is logged and counts as having nothing: public models must not need it repaired.
    """

    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    directory: Path | None = None
    limit: float = 10.0

    async def find(self, registry: str) -> Secret | None:
        """What to log in to ``registry`` with, if anything. Never raises."""
        if registry in HUB_HOSTS:
            for user, password in _ENV_PAIRS:
                if self.environment.get(user) and self.environment.get(password):
                    return Login(self.environment[user], self.environment[password])
        config = await self._config()
        server = _HUB_SERVER if registry in HUB_HOSTS else registry
        helpers = _mapping(config.get("credHelpers"))
        named = next((helper for key, helper in helpers.items() if _normalised(key) == _normalised(registry)), None)
        for helper in (named, config.get("credsStore")):
            if helper and (secret := await self._ask(helper, server)):
                return secret
        for key, entry in _mapping(config.get("auths")).items():
            if _normalised(key) == _normalised(registry) and (secret := _from_entry(_mapping(entry))):
                return secret
        return None

    async def _config(self) -> Mapping[str, Any]:
        if self.directory is None:
            return {}
        try:
            async with asyncio.timeout(self.limit):
                return await asyncio.to_thread(_read_config, self.directory / "config.json")
        except Exception:  # whatever is wrong with somebody's file; its text may hold secrets, so no traceback
            _LOG.warning("Docker's configuration in %s cannot be read; going on without it", self.directory)
            return {}

    async def _ask(self, helper: object, server: str) -> Secret | None:
        """Run ``docker-credential-<helper> get`` (docker-credential-helpers protocol)."""
        if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
            _LOG.warning("credential helper %r has no usable name", helper)
            return None
        program = f"docker-credential-{helper}"
        try:
            output = await _run(program, server, self.limit)
            found = _mapping(orjson.loads(output)) if output is not None else {}
        except TimeoutError:
            _LOG.warning("%s did not answer within %g s", program, self.limit)
            return None
        except (OSError, ValueError):
            _LOG.warning("%s is missing or does not answer with JSON", program)
            return None
        return _secret(found.get("Username"), found.get("Secret"))


def _read_config(path: Path) -> Mapping[str, Any]:
    """Docker's ``config.json``, by oras where oras reads this file and no other.

    ``oras.auth.utils.load_configs`` always merges ``~/.docker/config.json`` in, in no set order; with
    another directory configured that would lend one account's credentials to the other.
    """
    if not path.exists():
        return {}
    if path.stat().st_size > _CONFIG_SIZE:
        raise ValueError("too large")
    from oras.auth.utils import load_configs  # noqa: PLC0415 - imports requests, 140 ms
    from oras.utils import find_docker_config, read_json  # noqa: PLC0415

    default = find_docker_config()
    alone = default is None or Path(default).resolve() == path.resolve()
    return _mapping(load_configs([str(path)]) if alone else read_json(str(path)))


async def _run(program: str, server: str, limit: float) -> bytes | None:
    """The helper's output, or ``None`` where it has nothing.

    Not oras' runner: that has no time limit, and a helper that waits for a pass phrase nobody can
    type would keep a thread, and with it the whole process at exit.
    """
    process = await _spawn(program)
    try:
        async with asyncio.timeout(limit):
            return await _converse(process, server)
    finally:
        await _end(process)


async def _spawn(program: str) -> Process:
    """Start a helper. asyncio itself, cancelled when the process runs and its pipes are not connected, waits for ever."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(program, "get", stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True)
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is None:
            await _end(starting.result())
        raise


async def _end(process: Process) -> None:
    """Kill a helper that runs still, with its children, and wait for its end.

    asyncio tells of it once the pipes are closed, and sees that only of a pipe that somebody reads: one that is full of
    what nobody wanted would be waited for for ever.
    """
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout is not None  # noqa: S101 - the pipe was asked for
    with suppress(TimeoutError):
        async with asyncio.timeout(_REAP):
            while await process.stdout.read(_HELPER_OUTPUT):
                pass
            await process.wait()


async def _converse(process: Process, server: str) -> bytes | None:
    assert process.stdin is not None  # noqa: S101 - both pipes were asked for
    assert process.stdout is not None  # noqa: S101
    with suppress(ConnectionError):  # it may answer without reading
        process.stdin.write(server.encode())
        process.stdin.close()
        await process.stdin.wait_closed()
    output = bytearray()
    while chunk := await process.stdout.read(_HELPER_OUTPUT):
        output += chunk
        if len(output) > _HELPER_OUTPUT:
            raise ValueError("too long")
    return bytes(output) if await process.wait() == 0 else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _normalised(server: str) -> str:
    """The host a key of ``auths`` means: without scheme, trailing slash and API version."""
    host = server.lower().rpartition("://")[2].rstrip("/")
    host = host.removesuffix("/v1").removesuffix("/v2")
    return DOCKER_HUB if host in HUB_HOSTS else host


def _from_entry(entry: Mapping[str, Any]) -> Secret | None:
    """An entry of ``auths``; an identity token stands above the user name it was obtained with."""
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return IdentityToken(token)
    if isinstance(auth := entry.get("auth"), str) and auth:
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return _secret(username, password.rstrip("\0")) if colon else None
    return _secret(entry.get("username"), entry.get("password"))


def _secret(username: object, password: object) -> Secret | None:
    if not isinstance(username, str) or not isinstance(password, str) or not password:
        return None
    if username == _TOKEN_USER:
        return IdentityToken(password)
    return Login(username, password) if username else None
