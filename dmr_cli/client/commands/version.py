"""``dmr version``: what runs on either side."""

from __future__ import annotations

import os
import sys
from typing import Final

import click

from dmr_cli import __version__
from dmr_cli.client import render
from dmr_cli.client.api import Api, Invocation
from dmr_cli.client.commands.status import KIND
from dmr_cli.client.errors import ClientError
from dmr_cli.client.examples import examples

__all__ = ["version"]

_ARCHITECTURES: Final = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}


@click.command(
    epilog=examples(
        "dmr version",
        "dmr version --json | jq -r .server.version",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def version(invocation: Invocation, *, as_json: bool) -> None:
    """Show the versions of this program and of the service, where one answers."""
    machine = _machine()
    architecture = _ARCHITECTURES.get(machine, machine)
    server = _server_version(invocation.api())
    if as_json:
        client = {"version": __version__, "os": sys.platform, "arch": architecture}
        render.echo_json({"client": client, "server": {"version": server, "engine": KIND}})
        return
    render.echo("Client:")
    render.echo(f" Version:    {__version__}")
    render.echo(f" OS/Arch:    {sys.platform}/{architecture}")
    render.echo("\nServer:")
    render.echo(f" Version:    {server or '(not reachable)'}")
    render.echo(f" Engine:     {KIND}")


def _machine() -> str:
    return os.uname().machine


def _server_version(api: Api) -> str | None:
    try:
        answer = api.fetch_object("GET", "/version")
    except ClientError:
        return None
    text = answer.get("version")
    return text if isinstance(text, str) and text else None
