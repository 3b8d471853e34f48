"""``dmr plugins``: the engines and detectors the service found, healthy or not."""

from __future__ import annotations

from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation
from dmr_cli.client.errors import ClientError, NotFoundError
from dmr_cli.client.examples import examples

__all__ = ["plugins"]

_PLUGINS: Final = ("NAME", "DISTRIBUTION", "VERSION", "STATE", "PROVIDES", "ERROR")
_DETECTIONS: Final = ("VARIANT", "DEVICE", "NAME", "MEMORY", "FREE", "DETAIL")


@click.command(
    epilog=examples(
        "dmr plugins",
        "dmr plugins --json | jq '.plugins[] | select(.state != \"ok\")'",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def plugins(invocation: Invocation, *, as_json: bool) -> None:
    """List the plugins of the service and the devices its detectors found.

    A plugin that could not be loaded is listed with the reason.
    """
    api = invocation.api()
    try:
        answer = api.fetch_object("GET", "/dmr/v1/plugins")
    except NotFoundError as error:
        raise ClientError(f"the service at {api.endpoint.url} lists no plugins; is it dmr?") from error
    if as_json:
        render.echo_json(answer)
        return
    render.echo_table(_PLUGINS, [_plugin(entry) for entry in answer.get("plugins") or []])
    if detections := answer.get("detections"):
        render.echo("")
        render.echo_table(_DETECTIONS, [row for entry in detections for row in _detection(entry)])


def _plugin(entry: dict[str, Any]) -> tuple[object, ...]:
    provides = ", ".join(str(name) for name in entry.get("provides") or [])
    return (
        entry.get("name"),
        entry.get("distribution"),
        entry.get("version"),
        entry.get("state"),
        provides,
        entry.get("error"),
    )


def _detection(entry: dict[str, Any]) -> list[tuple[object, ...]]:
    variant, detail = entry.get("variant"), entry.get("detail")
    devices = entry.get("devices") or []
    if not devices:
        return [(variant, "", "", "", "", detail)]
    return [
        (
            variant,
            device.get("index"),
            device.get("name"),
            _memory(device.get("memory_total")),
            _memory(device.get("memory_free")),
            "" if position else detail,
        )
        for position, device in enumerate(devices)
    ]


def _memory(count: object) -> str:
    return render.size(count) if isinstance(count, (int, float)) else ""
