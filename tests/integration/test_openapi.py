"""``/openapi.json`` is true to the routes, in both directions."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
from starlette.applications import Starlette
from starlette.routing import Match, Route

from dmr_adapters.http.anthropic.paths import _COUNT, _MESSAGES, match_anthropic
from dmr_adapters.http.inference.routes import _ROUTES, match_inference
from dmr_adapters.http.openapi.document import document, operations
from dmr_adapters.http.openapi.operation import Operation
from dmr_adapters.http.openapi.schemas import SCHEMAS
from dmr_core.domain.api_key import key_document
from tests.integration.test_in_process import World, make_world

TABLE = tuple(operations())
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as made:
        yield made


def routes_of(world: World) -> list[Route]:
    router = cast("Starlette", cast("Any", world.service.app)._router)
    return [route for route in router.routes if isinstance(route, Route)]


def example(path: str) -> str:
    """A path of a template; a model's name has a slash."""
    return (
        path.replace("{name}", "ai/x")
        .replace("{backend}", "fake")
        .replace("{id}", "resp_x")
        .replace("{digest}", "sha256:" + "0" * 64)
    )


def serves(route: Route, operation: Operation) -> bool:
    scope = {"type": "http", "method": operation.method, "path": example(operation.path), "root_path": ""}
    return route.matches(scope)[0] is Match.FULL


def is_inference(operation: Operation) -> bool:
    path = example(operation.path)
    if path.startswith("/api"):
        return True  # looked at below
    anthropic = match_anthropic(path)
    if anthropic is not None:
        return operation.method == "GET" or anthropic.inference is not None
    return operation.method == "POST" and match_inference(path) is not None


async def test_every_documented_operation_has_a_route(world: World) -> None:
    routes = routes_of(world)
    missing = [
        f"{operation.method} {operation.path}"
        for operation in TABLE
        if not is_inference(operation) and not any(serves(route, operation) for route in routes)
    ]

    assert not missing


async def test_ollamas_operations_are_those_of_the_document(world: World) -> None:
    served = cast("Any", world.service.app)._seldom.ollama.operations()

    assert {(one.method, one.path) for one in TABLE if one.path.startswith("/api")} == set(served)


async def test_every_route_is_documented(world: World) -> None:
    missing = [
        f"{method} {route.path}"
        for route in routes_of(world)
        for method in sorted(route.methods or ())
        if method != "HEAD" and not any(serves(route, operation) for operation in TABLE if operation.method == method)
    ]
    missing += [
        prefix + path
        for prefix in ("", "/engines", "/engines/{backend}")
        for path in (*_ROUTES, _MESSAGES, _COUNT)
        if prefix + path not in {operation.path for operation in TABLE if operation.method == "POST"}
    ]

    assert not missing


async def test_no_documented_operation_is_unknown_to_the_service(world: World) -> None:
    """What a route that takes a path apart does not know is a 404 of its own kind."""
    unknown = re.compile(r"404 page not found|^not found|unknown action|there is nothing at")
    for operation in TABLE:
        if operation.path == "/engines/requests":
            continue
        answer = await world.call(operation.method, example(operation.path), b"{}")
        assert not unknown.search(answer.text), operation
        assert answer.status != 405, operation
        assert answer.status in {good.status for good in operation.answers} | set(operation.errors), operation


async def test_the_document_is_one(world: World) -> None:
    made = (await world.call("GET", "/openapi.json")).json()

    assert made["openapi"].startswith("3.1")
    assert "security" not in made
    identifiers = [operation["operationId"] for path in made["paths"].values() for operation in path.values()]
    assert len(identifiers) == len(set(identifiers)) == len(TABLE)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', str(made).replace("'", '"')))
    assert references <= SCHEMAS.keys()
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


async def test_what_is_switched_off_is_not_in_it_and_the_key_is(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(key_document("k"))
    async with make_world(metrics=False, api_key_file=tmp_path / "key") as world:
        made = (await world.call("GET", "/openapi.json", headers=[("x-api-key", "k")])).json()

    assert "/metrics" not in made["paths"]
    assert made["security"] == [{"bearer": []}, {"apiKey": []}]


def test_every_schema_is_used() -> None:
    used = set(re.findall(r"schemas/(\w+)", str(document("1", TABLE, keyed=False)["paths"]) + str(SCHEMAS)))

    assert SCHEMAS.keys() - used <= {"OllamaError", "Progress"}
