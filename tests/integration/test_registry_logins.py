"""Every way to know a login, against every way to be asked for one: what goes over the wire, and to whom.

The registries and the token server have names of the world; they are reached through a proxy that is the stand-in itself.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import attrs
import pytest
from aiohttp import web

from dmr_adapters.clock import SystemClock
from dmr_adapters.oci_json import decode_config, decode_manifest
from dmr_adapters.registry.credentials import CredentialStore
from dmr_adapters.registry.endpoint import EndpointPolicy
from dmr_adapters.registry.oci import OciRegistry
from dmr_cli.server.settings import read_settings
from dmr_core.domain.reference import Reference
from dmr_core.errors import UnauthorizedError
from dmr_core.ports.registry import Credentials
from tests.stand_ins.faulty_registry import FaultyRegistry, faulty_registry, refuse

HUB, HUB_API, OWN, AUTH = "docker.io", "registry-1.docker.io", "registry.example", "auth.example"
BASIC: Final = 'Basic realm="Registry"'
BEARER: Final = f'Bearer realm="http://{AUTH}/token",service="s"'
BOTH: Final = f"{BASIC}, {BEARER}"


def basic(user: str, password: str = "pw") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def entry(user: str, password: str = "pw") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


ENVIRONMENT: Final = {"DOCKER_USERNAME": "env", "DOCKER_PASSWORD": "pw"}
SECOND: Final = {"DOCKER_HUB_USER": "hub", "DOCKER_HUB_PASSWORD": "pw"}
TOKEN: Final = f"{AUTH} refresh_token="


@attrs.frozen(kw_only=True)
class Case:
    """What the machine and the request know, how the registry asks, and what is then sent: host and credential."""

    id: str
    asked: str
    sent: list[str]
    registry: str = OWN
    config: Mapping[str, Any] = attrs.field(factory=dict)
    environment: Mapping[str, str] = attrs.field(factory=dict)
    helpers: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    request: str | None = None
    let_in: bool = True


CASES: Final = [
    Case(id="nobody knows anything, Basic", asked=BASIC, sent=[], let_in=False),
    Case(id="nobody knows anything, a token for anybody", asked=BEARER, sent=[f"{OWN} Bearer t1"]),
    Case(id="auths, Basic", asked=BASIC, config={"auths": {OWN: entry("me")}}, sent=[f"{OWN} {basic('me')}"]),
    Case(
        id="auths, token server",
        asked=BEARER,
        config={"auths": {OWN: entry("me")}},
        sent=[f"{AUTH} {basic('me')}", f"{OWN} Bearer t1"],
    ),
    Case(
        id="a token server is preferred to sending the password",
        asked=BOTH,
        config={"auths": {OWN: entry("me")}},
        sent=[f"{AUTH} {basic('me')}", f"{OWN} Bearer t1"],
    ),
    Case(
        id="auths with user name and password in clear",
        asked=BASIC,
        config={"auths": {f"https://{OWN}/v2/": {"username": "me", "password": "pw"}}},
        sent=[f"{OWN} {basic('me')}"],
    ),
    Case(
        id="identitytoken",
        asked=BEARER,
        config={"auths": {OWN: {**entry("me"), "identitytoken": "idem"}}},
        sent=[f"{TOKEN}idem", f"{OWN} Bearer t1"],
    ),
    Case(
        id="identitytoken is no password",
        asked=BASIC,
        config={"auths": {OWN: {"identitytoken": "idem"}}},
        sent=[],
        let_in=False,
    ),
    Case(id="another registry's login", asked=BASIC, config={"auths": {HUB: entry("me")}}, sent=[], let_in=False),
    Case(
        id="another registry's login, token server",
        asked=BEARER,
        config={"auths": {"other.example": entry("me")}},
        sent=[f"{OWN} Bearer t1"],
    ),
    Case(
        id="credHelpers before credsStore before auths",
        asked=BASIC,
        config={"credHelpers": {OWN: "one"}, "credsStore": "two", "auths": {OWN: entry("file")}},
        helpers={"one": {OWN: "helper"}, "two": {OWN: "store"}},
        sent=[f"{OWN} {basic('helper')}"],
    ),
    Case(
        id="credsStore before auths",
        asked=BASIC,
        config={"credHelpers": {"other.example": "one"}, "credsStore": "two", "auths": {OWN: entry("file")}},
        helpers={"one": {OWN: "helper"}, "two": {OWN: "store"}},
        sent=[f"{OWN} {basic('store')}"],
    ),
    Case(
        id="a helper that knows nothing leaves it to auths",
        asked=BASIC,
        config={"credsStore": "two", "auths": {OWN: entry("file")}},
        helpers={"two": {}},
        sent=[f"{OWN} {basic('file')}"],
    ),
    Case(
        id="a helper's <token>",
        asked=BEARER,
        config={"credHelpers": {OWN: "one"}},
        helpers={"one": {OWN: "<token>"}},
        sent=[f"{TOKEN}pw", f"{OWN} Bearer t1"],
    ),
    Case(
        id="the Hub's login under its old name",
        registry=HUB,
        asked=BEARER,
        config={"auths": {"https://index.docker.io/v1/": entry("me")}},
        sent=[f"{AUTH} {basic('me')}", f"{HUB_API} Bearer t1"],
    ),
    Case(
        id="the Hub's helper is asked by the old name",
        registry=HUB,
        asked=BEARER,
        config={"credsStore": "one"},
        helpers={"one": {"https://index.docker.io/v1/": "stored"}},
        sent=[f"{AUTH} {basic('stored')}", f"{HUB_API} Bearer t1"],
    ),
    Case(
        id="environment, the Hub",
        registry=HUB,
        asked=BEARER,
        environment=ENVIRONMENT,
        config={"auths": {"https://index.docker.io/v1/": entry("file")}},
        sent=[f"{AUTH} {basic('env')}", f"{HUB_API} Bearer t1"],
    ),
    Case(
        id="environment, second pair",
        registry=HUB,
        asked=BEARER,
        environment=SECOND,
        sent=[f"{AUTH} {basic('hub')}", f"{HUB_API} Bearer t1"],
    ),
    Case(
        id="environment, both pairs",
        registry=HUB,
        asked=BASIC,
        environment={**ENVIRONMENT, **SECOND},
        sent=[f"{HUB_API} {basic('env')}"],
    ),
    Case(
        id="environment, half a pair",
        registry=HUB,
        asked=BASIC,
        environment={"DOCKER_USERNAME": "env", **SECOND},
        sent=[f"{HUB_API} {basic('hub')}"],
    ),
    Case(id="environment, another registry", asked=BASIC, environment=ENVIRONMENT | SECOND, sent=[], let_in=False),
    Case(
        id="environment, another registry with a token server",
        asked=BEARER,
        environment=ENVIRONMENT | SECOND,
        sent=[f"{OWN} Bearer t1"],
    ),
    Case(
        id="environment, another registry with a login",
        asked=BASIC,
        environment=ENVIRONMENT | SECOND,
        config={"auths": {OWN: entry("me")}},
        sent=[f"{OWN} {basic('me')}"],
    ),
    Case(
        id="bearer-token that the registry takes",
        asked=BEARER,
        request="access",
        config={"auths": {OWN: entry("me")}},
        environment=ENVIRONMENT,
        sent=[f"{OWN} Bearer access"],
    ),
    Case(
        id="bearer-token that is an identity token",
        asked=BEARER,
        request="identity",
        config={"auths": {OWN: entry("me")}},
        sent=[f"{OWN} Bearer identity", f"{TOKEN}identity", f"{OWN} Bearer t1"],
    ),
    Case(
        id="bearer-token instead of the machine's login",
        asked=BASIC,
        request="identity",
        config={"auths": {OWN: entry("me")}},
        sent=[f"{OWN} Bearer identity"],
        let_in=False,
    ),
]


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultyRegistry]:
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    async with faulty_registry() as running:
        monkeypatch.setenv("http_proxy", f"http://{running.host}")
        yield running


def write_helpers(directory: Path, helpers: Mapping[str, Mapping[str, str]]) -> None:
    """Programs that answer for the servers they know; the password is always ``pw``."""
    for name, known in helpers.items():
        lines = [
            f"""if [ "$server" = "{server}" ]; then echo '{json.dumps({"Username": user, "Secret": "pw"})}'; exit 0; fi"""
            for server, user in known.items()
        ]
        program = directory / f"docker-credential-{name}"
        text = "\n".join(["#!/bin/sh", "read -r server || true", *lines, "echo not found", "exit 1"])
        program.write_text(text + "\n")
        program.chmod(0o755)


def script_for(case: Case) -> Any:
    """A registry that asks as ``case`` says, and its token server."""
    good = {"Bearer t1", "Bearer access"} if "Bearer" in case.asked else set()
    if case.asked == BASIC and case.let_in:
        good.add(case.sent[-1].partition(" ")[2])

    async def script(request: web.Request) -> web.StreamResponse | None:
        if request.host == AUTH:
            return web.json_response({"token": "t1", "expires_in": 300})
        if request.headers.get("Authorization") in good:
            return None
        return refuse(401, "UNAUTHORIZED", "who?", WWW_Authenticate=case.asked)

    return script


def sent(server: FaultyRegistry) -> list[str]:
    """Each request that brought a credential: to which host, and what."""
    found = []
    for seen in server.seen:
        host = seen.headers["Host"]
        if seen.method == "POST":
            found.append(f"{host} refresh_token={parse_qs(seen.body.decode())['refresh_token'][0]}")
        elif seen.authorization is not None:
            found.append(f"{host} {seen.authorization}")
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_a_login_goes_where_it_belongs(
    server: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    write_helpers(tmp_path, case.helpers)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "config.json").write_text(json.dumps(case.config))
    settings = read_settings({"DOCKER_CONFIG": str(tmp_path), "HOME": "/nowhere", **case.environment})
    server.script = script_for(case)

    async def outside(_host: str, _port: int) -> list[str]:
        return ["8.8.8.8"]

    registry = OciRegistry(
        clock=SystemClock(),
        decode_manifest=decode_manifest,
        decode_config=decode_config,
        endpoints=EndpointPolicy(everything_insecure=True),
        credentials=CredentialStore(environment=settings.environment, directory=settings.docker_config),
        resolver=outside,
    )
    credentials = Credentials(case.request) if case.request else None
    try:
        async with registry.session(Reference(case.registry, "ai/model"), credentials=credentials) as session:
            if case.let_in:
                await session.manifest()
            else:
                with pytest.raises(UnauthorizedError, match="docker login"):
                    await session.manifest()
    finally:
        await registry.aclose()
    assert sent(server) == case.sent
