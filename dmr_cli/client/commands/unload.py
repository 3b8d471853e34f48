"""``dmr unload``: take models out of memory."""

from __future__ import annotations

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation
from dmr_cli.client.errors import NotFoundError
from dmr_cli.client.examples import examples
from dmr_cli.client.names import display

__all__ = ["unload"]


@click.command(
    epilog=examples(
        "dmr unload smollm2",
        "dmr unload --all",
    ),
)
@click.argument("models", metavar="[MODEL...]", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Unload every model.")
@click.option("--backend", metavar="NAME", default="", help="Only where this engine runs them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def unload(invocation: Invocation, *, models: tuple[str, ...], everything: bool, backend: str, as_json: bool) -> None:
    """Take models out of memory. They stay in the store.

    A model that is answering a request stays until it is done with it.
    """
    if everything and models:
        raise click.UsageError("--all takes no MODEL")
    if not everything and not models:
        raise click.UsageError("name a MODEL, or use --all")
    request = {"all": everything, "backend": backend, "models": list(models)}
    answer = invocation.api().fetch_object("POST", "/engines/unload", json_body=request)
    count = answer.get("unloaded_runners") or 0
    runners = [entry for entry in answer.get("runners") or [] if isinstance(entry, dict)]
    if as_json:
        render.echo_json({"unloaded_runners": count, "runners": runners})
    if not count and models:
        raise NotFoundError(f"not in memory: {', '.join(models)}")
    if not as_json:
        render.echo(f"Unloaded {count} model(s)." if count else "No models are running.")
        for entry in runners:
            if not entry.get("stopped"):
                name = display(str(entry.get("model") or ""))
                click.echo(f"{name} is answering; it goes when it is done.", err=True)
