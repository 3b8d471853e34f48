"""What the commands ask of the service: paths, queries, JSON, and errors in words."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dmr_cli.client import endpoint as endpoints
from dmr_cli.client.errors import BadGatewayError, ClientError, ConflictError, InvalidInputError, NotFoundError
from dmr_cli.client.transport import Body, Response, Transport, quote

__all__ = ["Api", "Invocation", "expect", "model_path", "reason_of"]

_ERROR_LIMIT: Final = 1024 * 1024
_GATEWAY: Final = (502, 503, 504)


class Invocation:
    """What the global flags said; click hands it to every command as ``ctx.obj``."""

    def __init__(self, *, host: str | None, debug: bool) -> None:
        self.host = host
        self.debug = debug

    def api(self) -> Api:
        """A client of the service these flags, or the environment, point to."""
        return Api(Transport(endpoints.resolve(self.host, os.environ)))


class Api:
    """One service. Every method raises :class:`ClientError` for what is not the expected answer."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.endpoint = transport.endpoint

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json_body: object = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request and hand over the answer unread, whatever its status."""
        if json_body is not None:
            body = json.dumps(json_body, ensure_ascii=False).encode()
        if query:
            path += "?" + "&".join(f"{quote(name)}={quote(value)}" for name, value in query.items())
        return self._transport.request(method, path, body=body, headers=headers)

    def fetch(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json_body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request, insist on success, and decode the JSON answer (``None`` where it is empty)."""
        with self.open(method, path, query=query, json_body=json_body, headers=headers) as response:
            expect(response)
            return self.decode(response, f"{method} {path}")

    def decode(self, response: Response, request: str) -> Any:
        """The body of an answer as JSON, ``None`` where it is empty; ``request`` is for the message."""
        text = response.read()
        if not text.strip():
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise ClientError(f"{self.endpoint.url} answered {request} with something that is not JSON") from error

    def fetch_list(self, path: str) -> list[dict[str, Any]]:
        """GET an array of objects."""
        answer = self.fetch("GET", path)
        if answer is None:
            return []
        if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
            raise ClientError(f"{self.endpoint.url} answered GET {path} with something that is not a list of objects")
        return answer

    def fetch_object(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, json_body: object = None
    ) -> dict[str, Any]:
        """Send a request whose answer is one object."""
        answer = self.fetch(method, path, query=query, json_body=json_body)
        if not isinstance(answer, dict):
            raise ClientError(f"{self.endpoint.url} answered {method} {path} with something that is not an object")
        return answer


def model_path(model: str, *parts: str, prefix: str = "/models/") -> str:
    """The path of a model, escaped; ``parts`` are what follows its name.

    Two names would hit another route of the service: ``purge``, where DELETE empties the whole store,
    and ``…/export``. They are sent in a longer form that means the same model.

    Raises:
        InvalidInputError: no service could take this for the name of a model.
    """
    name = model.strip()
    if not name:
        raise InvalidInputError("the name of the model is empty")
    if not name.isprintable() or any(segment in ("", ".", "..") for segment in name.split("/")):
        raise InvalidInputError(f"invalid model name {model!r}")
    if name == "purge":
        name = "ai/purge"
    elif not parts and name.rpartition("/")[2] == "export":
        name += ":latest"
    return prefix + "/".join([quote(name, "/:@"), *parts])


def expect(response: Response, statuses: Sequence[int] = (200, 201)) -> None:
    """Turn any other status into the error it stands for, with the service's own words."""
    if response.status in statuses:
        return
    message = reason_of(response)
    kinds: dict[int, type[ClientError]] = {404: NotFoundError, 409: ConflictError}
    kinds |= dict.fromkeys(_GATEWAY, BadGatewayError)
    raise kinds.get(response.status, ClientError)(message)


def reason_of(response: Response) -> str:
    """Why a request failed: the message inside the body, be it plain text or JSON, else the status."""
    status = f"the service answered {response.status} {response.reason}".rstrip()
    try:
        text = b"".join(_beginning(response)).decode("utf-8", "replace").strip()
    except ClientError:
        return status
    kind = response.headers.get("content-type", "").lower()
    if not text or "html" in kind or text.startswith("<"):
        return status
    return _message_in(text)


def _beginning(response: Response) -> list[bytes]:
    pieces: list[bytes] = []
    for piece in response.chunks():
        pieces.append(piece)
        if sum(map(len, pieces)) > _ERROR_LIMIT:
            break
    return pieces


def _message_in(text: str) -> str:
    if not text.startswith("{"):
        return text
    try:
        document = json.loads(text)
    except ValueError:
        return text
    error = document.get("error", document)
    if isinstance(error, dict):
        error = error.get("message", "")
    return error if isinstance(error, str) and error else text
