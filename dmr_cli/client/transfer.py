"""Pulling and pushing: one request, its progress, and another try where the line was to blame."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final

from dmr_cli.client.api import Api, expect, model_path
from dmr_cli.client.endpoint import Endpoint
from dmr_cli.client.errors import BadGatewayError, ClientError, ConnectionLostError, InvalidInputError, TransferError
from dmr_cli.client.nim import pull_headers
from dmr_cli.client.progress import follow
from dmr_cli.client.reporters import Reporter

__all__ = ["pull", "push"]

_PAUSES: Final = (1, 2, 4, 8)
# What a registry's or a network's passing trouble looks like in the words of the service.
_PASSING: Final = (
    "connection reset",
    "broken pipe",
    "timeout",
    "timed out",
    "temporary failure",
    "no route to host",
    "network is unreachable",
    "unexpected eof",
)
_HUGGING_FACE: Final = ("hf.co/", "huggingface.co/")


def pull(api: Api, model: str, reporter: Reporter) -> str:
    """Have the service download ``model``; its closing message."""
    if not model.strip():
        raise InvalidInputError("the name of the model is empty")
    headers = pull_headers(api.endpoint, model)
    body = {"from": model} | _credential(api.endpoint, model, reporter)
    return _transfer(api, "/models/create", body, reporter, "download", headers)


def push(api: Api, model: str, reporter: Reporter) -> str:
    """Have the service upload ``model``; its closing message."""
    return _transfer(api, model_path(model, "push"), {}, reporter, "push")


def _credential(endpoint: Endpoint, model: str, reporter: Reporter) -> dict[str, str]:
    """A Hugging Face token for Hugging Face, and for nobody else, on the way there neither."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token or not model.strip().lower().startswith(_HUGGING_FACE):
        return {}
    if not endpoint.is_private:
        reporter.note(
            f"HF_TOKEN is not sent to {endpoint.url}: anybody in between could read it. If the model needs it, use"
            " https://, a unix socket or a service on this machine, or set it where the service runs"
        )
        return {}
    return {"bearer-token": token}


def _transfer(
    api: Api, path: str, body: dict[str, str], reporter: Reporter, verb: str, headers: Mapping[str, str] | None = None
) -> str:
    for attempt, pause in enumerate(_PAUSES, start=1):
        try:
            return _once(api, path, body, reporter, headers)
        except ClientError as error:
            if not _is_passing(error):
                raise
            reporter.note(f"{error.message}\nRetrying {verb} (attempt {attempt}/{len(_PAUSES)}) in {pause}s...")
        time.sleep(pause)
    try:
        return _once(api, path, body, reporter, headers)
    except ClientError as error:
        if not _is_passing(error):
            raise
        raise type(error)(f"{verb} failed after {len(_PAUSES)} retries: {error.message}") from error


def _once(api: Api, path: str, body: dict[str, str], reporter: Reporter, headers: Mapping[str, str] | None) -> str:
    with api.open("POST", path, json_body=body or None, headers=headers) as response:
        expect(response, (200,))
        return follow(response.lines(), reporter)


def _is_passing(error: ClientError) -> bool:
    if isinstance(error, ConnectionLostError):
        return True
    if isinstance(error, BadGatewayError):
        # The service has tried again itself before it says this; a proxy in between has not.
        return not error.message.startswith("error while ")
    return isinstance(error, TransferError) and any(words in error.message.lower() for words in _PASSING)
