"""What stands between the network and the routes, on the whole service in one process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from dmr_core.domain.api_key import key_document
from dmr_core.domain.settings import Listen
from dmr_core.errors import InvalidConfigurationError
from dmr_core.ports.transport import Endpoint, UpstreamRequest, UpstreamResponse
from dmr_core.testing.fakes.transport import InMemoryTransport
from tests.asgi_client import Answer, call
from tests.integration.test_in_process import World, make_world

KEY = "dmr_this-is-the-key"
STOCK = ("user-agent", "docker-model-cli/v1.0")
CHAT = {"model": "one", "messages": [{"role": "user", "content": "hi"}]}
ROUTES = [
    ("GET", "/"),
    ("GET", "/version"),
    ("GET", "/models"),
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("GET", "/logs"),
    ("GET", "/engines/status"),
    ("GET", "/dmr/v1/plugins"),
    ("POST", "/models/create"),
    ("POST", "/models/load"),
    ("POST", "/engines/_configure"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/engines/fake/v1/embeddings"),
    ("POST", "/anthropic/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/api/chat"),
    ("GET", "/api/tags"),
    ("POST", "/responses"),
    ("POST", "/v1/responses"),
    ("DELETE", "/models/purge"),
    ("GET", "/nothing/here"),
    ("OPTIONS", "/models"),
]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as made:
        yield made


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[World]:
    """A service with a key."""
    (tmp_path / "key").write_text(key_document(KEY))
    async with make_world(api_key_file=tmp_path / "key") as made:
        yield made


# --- the key ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("prefix", ["", "/exp/vDD4.40", "//", "/healthz/.."])
async def test_every_route_but_health_asks_for_the_key(closed: World, method: str, path: str, prefix: str) -> None:
    body = b"{}" if method == "POST" else b""
    refused = await closed.call(method, prefix + path, body)
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    for headers in ([("authorization", f"Bearer {KEY}")], [("x-api-key", KEY)]):
        assert (await closed.call(method, prefix + path, body, headers=headers)).status != 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/exp/vDD4.40/healthz", "//readyz"])
async def test_probes_need_no_key(closed: World, path: str) -> None:
    assert (await closed.call("GET", path)).status in (200, 503)


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {KEY}x")],
        [("authorization", f"Bearer {KEY[:-1]}")],
        [("authorization", f"Basic {KEY}")],
        [("authorization", KEY)],
        [("authorization", "Bearer ")],
        [("x-api-key", "")],
        [("x-api-key", "k" * 5000)],
        [("authorization", "Bearer a"), ("authorization", "Bearer b"), ("authorization", f"Bearer {KEY}")],
        [("cookie", f"authorization=Bearer {KEY}")],
    ],
)
async def test_anything_but_the_key_is_refused(closed: World, headers: list[tuple[str, str]]) -> None:
    answer = await closed.call("GET", "/models", headers=headers)

    assert answer.status == 401
    assert KEY not in answer.text


async def test_the_hash_is_not_the_key(closed: World) -> None:
    digest = key_document(KEY).splitlines()[-1]
    for text in (digest, digest.removeprefix("sha256:")):
        assert (await closed.call("GET", "/models", headers=[("authorization", f"Bearer {text}")])).status == 401


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", {"error": {"message": str, "type": str, "code": str, "param": type(None)}}),
        ("/v1/responses", {"error": {"message": str, "type": str, "code": str, "param": type(None)}}),
        ("/anthropic/v1/messages", {"type": str, "error": {"type": str, "message": str, "code": str}}),
        ("/v1/messages", {"type": str, "error": {"type": str, "message": str, "code": str}}),
        ("/api/chat", {"error": str}),
    ],
)
async def test_refusals_have_the_shape_of_their_dialect(closed: World, path: str, shape: dict[str, Any]) -> None:
    huge = [("authorization", f"Bearer {KEY}"), ("content-length", "99999999")]
    foreign = [("origin", "https://evil.example")]
    for status, headers in ((401, []), (413, huge), (403, foreign)):
        answer = await closed.call("POST", path, b"", headers=headers)
        assert answer.status == status
        assert shape == _shape(answer.json())


async def test_the_stock_cli_is_refused_in_text_where_it_prints_it(closed: World) -> None:
    answer = await closed.call("POST", "/engines/v1/chat/completions", b"{}", headers=[STOCK])

    assert (answer.status, answer.headers["content-type"]) == (401, "text/plain; charset=utf-8")


def _shape(value: Any) -> Any:
    return {name: _shape(item) for name, item in value.items()} if isinstance(value, dict) else type(value)


async def test_the_key_never_reaches_an_engine(closed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    original = InMemoryTransport.send

    async def noting(self: InMemoryTransport, endpoint: Endpoint, request: UpstreamRequest) -> UpstreamResponse:
        sent.append(request)
        return await original(self, endpoint, request)

    monkeypatch.setattr(InMemoryTransport, "send", noting)
    headers = [("authorization", f"Bearer {KEY}"), ("x-api-key", KEY)]
    await closed.call("POST", "/models/create", {"from": "one"}, headers=headers)
    assert (await closed.call("POST", "/v1/chat/completions", CHAT, headers=headers)).status == 200

    assert "/v1/chat/completions" in {request.path for request in sent}
    assert KEY not in repr([attrs.asdict(request) for request in sent])


async def test_over_the_unix_socket_no_key_is_asked_for(closed: World) -> None:
    assert (await _over_unix_socket(closed, "/models")).status == 200


async def _over_unix_socket(world: World, path: str, headers: list[tuple[str, str]] | None = None) -> Answer:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await world.service.app({**scope, "server": None}, receive, send)

    return await call(app, "GET", path, headers=headers or [])


@pytest.mark.parametrize("text", ["", "dmr_in-the-clear", None])
async def test_a_service_that_cannot_read_its_key_does_not_start(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "key").write_text(text)
    with pytest.raises(InvalidConfigurationError, match="DMR_API_KEY_FILE") as caught:
        async with make_world(api_key_file=tmp_path / "key"):
            pass

    assert "in-the-clear" not in caught.value.message


async def test_a_page_can_ask_first_and_read_that_its_key_was_wrong(closed: World) -> None:
    page = ("origin", "http://localhost:3000")
    preflight = await closed.call(
        "OPTIONS", "/v1/chat/completions", headers=[page, ("access-control-request-headers", "authorization")]
    )
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-headers"] == "authorization"

    refused = await closed.call("POST", "/v1/chat/completions", b"{}", headers=[page])
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "http://localhost:3000")


# --- origins and hosts ------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/healthz")])
async def test_no_page_of_another_origin_and_no_rebound_name_reaches_any_route(
    world: World, method: str, path: str
) -> None:
    body = b"{}" if method == "POST" else b""
    for headers in (
        [("origin", "https://evil.example")],
        [("origin", "null")],
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
        [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")],
        # Beside the right one: which of them counts is anybody's guess.
        [("host", "evil.example")],
        [("host", "evil.example"), ("host", "localhost")],
    ):
        assert (await world.call(method, path, body, headers=headers)).status == 403


async def test_an_allowed_page_gets_its_headers_on_errors_too(world: World) -> None:
    page = ("origin", "http://127.0.0.1:5173")
    for path, status in (("/models", 200), ("/models/none", 404), ("/nothing", 404)):
        answer = await world.call("GET", path, headers=[page])
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == page[1]
        assert answer.headers["vary"] == "Origin"
    streamed = await world.call("POST", "/v1/chat/completions", b"{", headers=[page])
    assert (streamed.status, streamed.headers["access-control-allow-origin"]) == (400, page[1])


async def test_what_a_cache_keeps_says_that_it_depends_on_the_origin(world: World) -> None:
    assert (await world.call("GET", "/models")).headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in (await world.call("GET", "/models")).headers


async def test_a_preflight_says_everything_a_browser_asks(world: World) -> None:
    asked = [
        ("origin", "http://localhost:3000"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
        ("access-control-request-private-network", "true"),
    ]
    answer = await world.call("OPTIONS", "/any/path", headers=asked)

    assert answer.status == 204
    assert answer.headers == {
        "access-control-allow-origin": "http://localhost:3000",
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, HEAD, POST, PATCH, DELETE",
        "access-control-allow-headers": "authorization,content-type",
        "access-control-max-age": "600",
        "access-control-allow-private-network": "true",
        "vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Private-Network",
    }


async def test_a_link_to_the_service_may_be_followed(world: World) -> None:
    headers = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]

    assert (await world.call("GET", "/", headers=headers)).status == 200
    assert (await world.call("POST", "/models/create", b"{}", headers=headers)).status == 403


async def test_a_page_of_the_services_own_origin_may_call(world: World) -> None:
    assert (await world.call("GET", "/models", headers=[("origin", "http://localhost")])).status == 200
    foreign = await _over_unix_socket(world, "/models", [("origin", "http://evil.example")])
    assert foreign.status == 403


async def test_beyond_loopback_names_must_be_known_unless_there_is_a_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(key_document(KEY))
    listen = Listen(host="0.0.0.0")
    rebound = [("origin", "http://evil.example"), ("host", "evil.example")]
    async with make_world(listen=listen, allow_unauthenticated=True) as world:
        assert (await world.call("GET", "/models", headers=rebound)).status == 403
    async with make_world(listen=listen, api_key_file=tmp_path / "key") as world:
        assert (await world.call("GET", "/models", headers=[("origin", "http://evil.example")])).status == 403


# --- paths and sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/exp/vDD4.40", "/", "/x/.."])
async def test_every_route_has_the_prefix_of_docker_desktop(world: World, prefix: str) -> None:
    await world.pull("one")

    assert (await world.call("GET", f"{prefix}/models/ai/one")).status == 200
    assert (await world.call("GET", f"{prefix}/v1/models/")).json()["data"][0]["id"].endswith("one:latest")
    assert (await world.call("POST", f"{prefix}/v1/chat/completions/", CHAT)).status == 200
    assert (await world.call("GET", f"{prefix}/engines/ps/")).json()[0]["backend_name"] == "fake"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/chat/completions", 413), ("/anthropic/v1/messages", 413), ("/engines/unload", 400), ("/models/create", 400)],
)
async def test_a_body_that_says_it_is_too_large_is_not_read(world: World, path: str, status: int) -> None:
    read, shell = False, cast("Any", world.service.app)
    inside = shell._app._app._app  # of what cleans the path and drains the rest

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def reading() -> Any:
            nonlocal read
            read = True
            return await receive()

        scope["headers"] = [(b"host", b"localhost"), (b"content-length", b"123456789012345678")]
        await inside(scope, reading, send)

    answer = await call(app, "POST", path, b"x")
    assert answer.status == status
    assert "request too large" in answer.text
    assert not read


async def test_remote_media_is_refused_unless_it_is_allowed(world: World) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    body = {"model": "one", "messages": [{"role": "user", "content": [part]}]}
    await world.pull("one")
    refused = await world.call("POST", "/v1/chat/completions", body)
    assert (refused.status, refused.json()["error"]["param"]) == (400, "messages")
    assert not world.engine.started

    async with make_world(allow_remote_media=True) as other:
        await other.pull("one")
        assert (await other.call("POST", "/v1/chat/completions", body)).status == 200


async def test_a_number_out_of_bounds_never_reaches_an_engine(world: World) -> None:
    await world.pull("one")
    refused = await world.call("POST", "/v1/chat/completions", {**CHAT, "n_discard": -1})
    error = json.loads(refused.text)["error"]

    assert (refused.status, error["param"], error["type"]) == (400, "n_discard", "invalid_request_error")
    assert not world.engine.started
