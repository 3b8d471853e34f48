"""``dmr status``: whether the service runs."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Api, Invocation, reason_of
from dmr_cli.client.backends import fetch_overview
from dmr_cli.client.errors import ClientError, NotRunningError
from dmr_cli.client.examples import examples

__all__ = ["KIND", "engine_rows", "status"]

# What clients of the reference know a service by that they were pointed to, as we always are.
KIND: Final = "Docker Engine (Manual Install)"
_STATES: Final = ("Running", "Error", "Not Installed", "Installing")


@click.command(
    epilog=examples(
        "dmr status",
        "dmr status --json | jq .backends",
        "dmr --host unix:///run/dmr.sock status",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(invocation: Invocation, *, as_json: bool) -> None:
    """Show whether the service runs, and what its engines are up to.

    For an engine that cannot be used it says what to do about it; --json has all of it in "details", and the hardware
    in "accelerator". Models that are on the CPU although there is a GPU are warned of.

    The exit code is 0 when it runs and 4 when it does not, with --json too.
    """
    api = invocation.api()
    try:
        backends = _backends(api)
    except NotRunningError as error:
        if as_json:
            render.echo_json(_document(api, {}, running=False))
        else:
            render.echo("Docker Model Runner is not running")
            print(error.message, file=sys.stderr)
        raise click.exceptions.Exit(NotRunningError.exit_code) from error
    overview = fetch_overview(api)
    details: list[dict[str, Any]] | None = overview["backends"] if overview is not None else None
    hardware = {name: overview[name] for name in ("accelerator", "warnings") if overview[name]} if overview else {}
    if as_json:
        document = _document(api, backends, running=True)
        render.echo_json(document if details is None else {**document, "details": details, **hardware})
        return
    render.echo("Docker Model Runner is running\n")
    render.echo_table(("BACKEND", "STATUS", "DETAILS"), engine_rows(backends))
    if programs := [row for entry in details or [] if (row := _program(entry))]:
        render.echo("")
        render.echo_table(("BACKEND", "PROGRAM", "BUILT FOR", "WHY"), programs)
    if accelerator := hardware.get("accelerator"):
        render.echo("")
        render.echo_table(("ACCELERATOR", "DEVICES", "MEMORY", "WHY"), [_accelerator(accelerator)])
        if note := (accelerator.get("notes") or {}).get(accelerator.get("variant")):
            print(f"Warning: {accelerator.get('variant')}: {note}", file=sys.stderr)
    for warning in hardware.get("warnings", []):
        print(f"Warning: {warning.get('model')}: {warning.get('text')}", file=sys.stderr)
    if steps := [(entry.get("name"), _step(entry)) for entry in details or [] if entry.get("next")]:
        render.echo("\nWhat's next:")
        render.echo_table(("BACKEND", "TO DO"), steps)


def _backends(api: Api) -> dict[str, Any]:
    with api.open("GET", "/engines/status") as response:
        if response.status == 503:
            raise NotRunningError(f"{api.endpoint.url} is not in service: {reason_of(response)}")
        if response.status != 200:
            raise ClientError(f"cannot tell the status of {api.endpoint.url}: {reason_of(response)}")
        answer = api.decode(response, "GET /engines/status")
    return answer if isinstance(answer, dict) else {}


def _document(api: Api, backends: dict[str, Any], *, running: bool) -> dict[str, object]:
    url = api.endpoint.url if api.endpoint.socket_path else f"{api.endpoint.url}/v1/"
    return {"running": running, "backends": backends, "kind": KIND, "endpoint": url, "endpointHost": url}


def _program(entry: dict[str, Any]) -> tuple[object, ...] | None:
    program = entry.get("program")
    if not isinstance(program, dict):
        return None
    return entry.get("name"), program.get("path"), program.get("variant") or "unknown", program.get("reason")


def _accelerator(found: dict[str, Any]) -> tuple[object, ...]:
    devices = [device for device in found.get("devices") or [] if isinstance(device, dict)]
    totals = [total for device in devices if isinstance(total := device.get("memory_total"), int)]
    names = ", ".join(dict.fromkeys(str(device.get("name")) for device in devices))
    shown = f"{len(devices)} x {names}" if len(devices) > 1 else names
    return found.get("variant"), shown, render.size(sum(totals)) if totals else "", found.get("reason")


def _step(entry: dict[str, Any]) -> str:
    step, wait = str(entry["next"]), entry.get("retry_in")
    if isinstance(wait, (int, float)) and wait > 0:
        step += f" (the next request tries again in {wait:.0f} s)"
    return step


def engine_rows(backends: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, state and details of every engine; those that work come first."""
    rows: list[tuple[str, str, str]] = []
    for name, value in backends.items():
        text = str(value or "") or "Not Installed"
        state, _, details = text.partition(": ")
        if state not in _STATES:
            state, details = "Error", text
        rows.append((name, state, details))
    return sorted(rows, key=lambda row: (_STATES.index(row[1]), row[0]))
