"""``dmr list``: the models in the store."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation
from dmr_cli.client.examples import examples
from dmr_cli.client.names import display, matches, short_id, split_tag

__all__ = ["list_models"]

_HEADINGS: Final = (
    "MODEL NAME",
    "PARAMETERS",
    "QUANTIZATION",
    "ARCHITECTURE",
    "MODEL ID",
    "CREATED",
    "CONTEXT",
    "SIZE",
)
_UNTAGGED: Final = "<none>"


@click.command(
    "list",
    epilog=examples(
        "dmr list",
        "dmr list smollm2            every tag of smollm2",
        "dmr list hf.co/org/repo",
        "dmr list -q | xargs dmr rm",
    ),
)
@click.argument("model", required=False)
@click.option("-q", "--quiet", is_flag=True, help="Print model IDs only, one for each model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--openai", is_flag=True, help="Print the list as OpenAI clients see it (JSON).")
@click.pass_obj
def list_models(invocation: Invocation, *, model: str | None, quiet: bool, as_json: bool, openai: bool) -> None:
    """List the models in the store, or those called MODEL.

    MODEL is a name with or without its tag, in any form the other commands take, or an ID.
    """
    if quiet and (openai or as_json):
        raise click.UsageError("--quiet cannot be used with --json or --openai")
    api = invocation.api()
    if openai:
        answer = api.fetch_object("GET", "/engines/v1/models")
        if model is not None:
            answer["data"] = [entry for entry in answer.get("data") or [] if matches(model, "", entry.get("id", ""))]
        render.echo_json(answer)
        return
    models = api.fetch_list("/models")
    if model is not None:
        models = [kept for entry in models if (kept := _only(entry, model)) is not None]
    if as_json:
        render.echo_json(models)
    elif quiet:
        for entry in models:
            render.echo(short_id(entry.get("id")))
    else:
        now = time.time()
        rows = [row for entry in models for row in _rows(entry, now)]
        rows.sort(key=_order)
        render.echo_table(_HEADINGS, rows)


def _tags(entry: dict[str, Any]) -> list[str]:
    return [tag for tag in entry.get("tags") or [] if isinstance(tag, str)]


def _only(entry: dict[str, Any], typed: str) -> dict[str, Any] | None:
    """The model with the tags that were asked for, or nothing."""
    tags = _tags(entry)
    model_id = str(entry.get("id", ""))
    kept = [tag for tag in tags if matches(typed, model_id, tag)]
    if kept:
        return {**entry, "tags": kept}
    return entry if not tags and matches(typed, model_id, "") else None


def _rows(entry: dict[str, Any], now: float) -> list[tuple[str, ...]]:
    config = entry.get("config") or {}
    created = entry.get("created") or 0
    facts = (
        config.get("parameters") or "",
        _quantization(config.get("quantization") or ""),
        config.get("architecture") or "",
        short_id(entry.get("id")),
        f"{render.duration(now - created)} ago" if created > 0 else "",
        _context_size(config),
        config.get("size") or "",
    )
    return [(display(tag), *facts) for tag in _tags(entry)] or [(_UNTAGGED, *facts)]


def _quantization(text: str) -> str:
    """What is stored says ``MOSTLY_Q4_K_M``, and older artifacts ``IQ2_XXS/Q4_K_M``; people say ``Q4_K_M``."""
    return text.removeprefix("MOSTLY_").rpartition("/")[2]


def _context_size(config: dict[str, Any]) -> str:
    if config.get("context_size"):
        return str(config["context_size"])
    header = config.get("gguf") or {}
    architecture = header.get("general.architecture") or config.get("architecture") or "llama"
    return str(header.get(f"{architecture}.context_length") or header.get("llama.context_length") or "")


def _order(row: tuple[str, ...]) -> tuple[str, bool, str]:
    """By name, then by tag, the one without a tag first; case never counts."""
    name, tag = split_tag(row[0])
    return name.lower(), bool(tag), tag.lower()
