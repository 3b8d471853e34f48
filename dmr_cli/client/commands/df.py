"""``dmr df``: the disk space the service takes."""

from __future__ import annotations

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation
from dmr_cli.client.examples import examples

__all__ = ["df"]


@click.command(
    epilog=examples(
        "dmr df",
        "dmr df --json | jq .models_disk_usage",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, sizes in bytes.")
@click.pass_obj
def df(invocation: Invocation, *, as_json: bool) -> None:
    """Show how much disk the models and the default engine take."""
    usage = invocation.api().fetch_object("GET", "/engines/df")
    if as_json:
        render.echo_json(usage)
        return
    rows = [("Models", render.size(usage.get("models_disk_usage") or 0))]
    if engine := usage.get("default_backend_disk_usage"):
        rows.append(("Inference engine", render.size(engine)))
    render.echo_table(("TYPE", "SIZE"), rows)
