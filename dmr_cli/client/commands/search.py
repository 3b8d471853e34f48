"""``dmr search``: models that could be pulled."""

from __future__ import annotations

from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation
from dmr_cli.client.errors import NotFoundError, NotRunningError
from dmr_cli.client.examples import examples
from dmr_cli.client.terminal import clean

__all__ = ["search"]

_HEADINGS: Final = ("NAME", "DESCRIPTION", "BACKEND", "SIZE", "DOWNLOADS", "STARS", "SOURCE")
_SOURCES: Final = ("all", "dockerhub", "docker", "hub", "huggingface", "hf")
# The reference's keys; they begin with capitals because its JSON has them so.
_KEYS: Final = {
    "Name": "name",
    "Description": "description",
    "Downloads": "downloads",
    "Stars": "stars",
    "Source": "source",
    "Official": "official",
    "UpdatedAt": "updated_at",
    "Backend": "backend",
    "Size": "size",
    "Reference": "reference",
}
_LARGEST_LIMIT: Final = 1000


@click.command(
    epilog=examples(
        "dmr search                        the most pulled models",
        "dmr search llama",
        "dmr search --source hf -n 5 qwen",
        "dmr search --json gemma | jq -r '.[].Reference'",
    ),
)
@click.argument("term", required=False, default="")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, _LARGEST_LIMIT),
    default=32,
    show_default=True,
    help="Show this many at most.",
)
@click.option("--source", default="all", show_default=True, metavar="NAME", help="all, dockerhub or huggingface.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def search(invocation: Invocation, *, term: str, limit: int, source: str, as_json: bool) -> None:
    """Search Docker Hub and Hugging Face for models that TERM matches, or list the most pulled ones.

    NAME is what to pull. BACKEND is the engine for it, as far as its files tell; SIZE that of all its weights, of which
    a pull from Hugging Face may choose some. Asks through the service where it runs, and without it where it does not.
    """
    if source.strip().lower() not in _SOURCES:
        raise click.UsageError(
            f'unknown source "{source}": valid options are all, dockerhub (docker, hub), huggingface (hf)'
        )
    found = _found(invocation, term, limit, source)
    for warning in found.get("warnings") or ():
        click.echo(f"Warning: {clean(str(warning))}", err=True)
    hits = [hit for hit in found.get("hits") or () if isinstance(hit, dict)]
    if as_json:
        render.echo_json([{key: hit.get(name) for key, name in _KEYS.items()} for hit in hits])
    elif hits:
        render.echo_table(_HEADINGS, [_row(hit) for hit in hits])
    else:
        render.echo(f'No models found matching "{term}"' if term else "No models found")


def _found(invocation: Invocation, term: str, limit: int, source: str) -> dict[str, Any]:
    query = {"term": term, "limit": str(limit), "source": source}
    try:
        return invocation.api().fetch_object("GET", "/dmr/v1/search", query=query)
    except (NotRunningError, NotFoundError):  # none runs, or it is another model runner
        from dmr_cli.server.search import search as search_here  # noqa: PLC0415 - the HTTP client and more

        return search_here(term, limit, source)


def _row(hit: dict[str, Any]) -> tuple[str, ...]:
    size = hit.get("size")
    return (
        str(hit.get("reference") or ""),
        str(hit.get("description") or ""),
        str(hit.get("backend") or "unknown"),
        render.size(size) if isinstance(size, int) and size > 0 else "n/a",
        _count(hit.get("downloads")),
        _count(hit.get("stars")),
        str(hit.get("source") or ""),
    )


def _count(number: object) -> str:
    """``45600`` is ``45.6K``."""
    value = number if isinstance(number, int) else 0
    for unit, name in ((10**6, "M"), (10**3, "K")):
        if value >= unit:
            return f"{value / unit:.1f}{name}"
    return str(value)
