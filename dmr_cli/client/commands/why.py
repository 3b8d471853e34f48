"""``dmr why``: why a model is, or is not, in memory."""

from __future__ import annotations

from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation
from dmr_cli.client.errors import NotFoundError
from dmr_cli.client.examples import examples

__all__ = ["why"]

_MODES: Final = ("completion", "embedding", "reranking", "image-generation")


@click.command(
    epilog=examples(
        "dmr why smollm2",
        "dmr why smollm2 --mode embedding",
        "dmr why smollm2 --json | jq -r .state",
    ),
)
@click.argument("model", metavar="MODEL")
@click.option("--mode", type=click.Choice(_MODES, case_sensitive=False), help="Only what concerns this use of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def why(invocation: Invocation, model: str, mode: str | None, *, as_json: bool) -> None:
    """Tell why MODEL is, or is not, in memory.

    Since when and how much, or what a request for it waits for, what it had to make room for, what a
    refused load needed and what there was, how often it crashed and when it is tried again; then what
    was decided about it lately. The exit code is 3 when there is no such model.
    """
    query = {"model": model, **({"mode": mode} if mode else {})}
    found = invocation.api().fetch_object("GET", "/dmr/v1/why", query=query)
    if as_json:
        render.echo_json(found)
    else:
        _print(found)
    if found.get("state") == "absent":
        raise click.exceptions.Exit(NotFoundError.exit_code)


def _print(found: dict[str, Any]) -> None:
    for sentence in found.get("sentences") or ():
        render.echo(str(sentence))
    decisions = [entry for entry in found.get("decisions") or () if isinstance(entry, dict)]
    if decisions:
        render.echo("")
        render.echo_table(("WHEN", "WHAT", "WHY"), [_row(entry) for entry in decisions])


def _row(entry: dict[str, Any]) -> tuple[str, str, str]:
    age = entry.get("age_seconds")
    when = f"{render.duration(age)} ago" if isinstance(age, int | float) else ""
    return when, str(entry.get("what") or ""), str(entry.get("text") or "")
