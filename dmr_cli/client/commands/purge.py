"""``dmr purge``: remove every model."""

from __future__ import annotations

import click

from dmr_cli.client.api import Invocation, expect
from dmr_cli.client.confirmation import confirmed
from dmr_cli.client.examples import examples

__all__ = ["purge"]


@click.command(epilog=examples("dmr purge", "dmr purge --force"))
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_obj
def purge(invocation: Invocation, *, force: bool) -> None:
    """Remove every model of the store.

    Models are taken out of memory first. Nothing is removed while one is answering, or being pulled or
    pushed; the exit code is 5 then. 'dmr system prune' removes only what no model needs.
    """
    if not force and not confirmed("WARNING! This will remove ALL models from the local store."):
        return
    api = invocation.api()
    api.fetch_object("POST", "/engines/unload", json_body={"all": True, "backend": "", "models": []})
    with api.open("DELETE", "/models/purge") as response:
        expect(response, (200,))
