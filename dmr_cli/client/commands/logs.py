"""``dmr logs``: what the service and its engines said lately."""

from __future__ import annotations

import sys

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation, expect
from dmr_cli.client.examples import examples

__all__ = ["logs"]


@click.command(
    epilog=examples(
        "dmr logs",
        "dmr logs --follow",
        "dmr logs --no-engines | grep level=WARN",
    ),
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--no-engines", is_flag=True, help="Leave out what the engines print.")
@click.pass_obj
def logs(invocation: Invocation, *, follow: bool, no_engines: bool) -> None:
    """Show the latest log lines of the service and of its engines, in the order of their times.

    They come from the running service, which keeps the last megabytes in memory. Nothing secret is in
    them: keys, tokens and passwords are hidden.
    """
    query = {"follow": str(follow).lower(), "no-engines": str(no_engines).lower()}
    with invocation.api().open("GET", "/logs", query=query, headers={"Accept": "text/plain"}) as response:
        expect(response)
        for line in response.lines():
            render.echo(line.decode("utf-8", "replace"))
            if follow:
                sys.stdout.flush()
