"""``dmr show``: one model, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation
from dmr_cli.client.examples import examples
from dmr_cli.client.looking import look_up

__all__ = ["show"]

_HEAD: Final = 13
_FACTS: Final = (
    ("Format:", "format"),
    ("Architecture:", "architecture"),
    ("Parameters:", "parameters"),
    ("Size:", "size"),
    ("Quantization:", "quantization"),
    ("Context Size:", "context_size"),
)
_SECTIONS: Final = (
    ("GGUF Metadata:", "gguf"),
    ("Safetensors Metadata:", "safetensors"),
    ("Diffusers Metadata:", "diffusers"),
)


@click.command(
    epilog=examples(
        "dmr show smollm2",
        "dmr show --remote ai/gemma3             what it would be, before it is pulled",
        "dmr show --json --remote ai/gemma3 | jq '.layers[].size'",
    ),
)
@click.argument("model")
@click.option("-r", "--remote", is_flag=True, help="Ask the model's registry instead of the local store.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as the command inspect does.")
@click.pass_obj
def show(invocation: Invocation, *, model: str, remote: bool, as_json: bool) -> None:
    """Show what MODEL is: its names, format, size and metadata.

    MODEL is a name or an ID (12 digits will do). With --remote nothing is downloaded but a description.
    """
    document = look_up(invocation.api(), model, remote=remote)
    if as_json:
        render.echo_json(document)
        return
    for line in _lines(document):
        render.echo(line)


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    # A model of Hugging Face gets its ID while it is pulled; until then what it is pulled by stands for it.
    yield f"{'Model:':<{_HEAD}}{document.get('id') or document.get('source', '')}"
    if tags := document.get("tags"):
        yield f"{'Tags:':<{_HEAD}}{', '.join(map(str, tags))}"
    if created := _moment(document.get("created")):
        yield f"{'Created:':<{_HEAD}}{created}"
    if isinstance(size := document.get("download_size"), int):
        yield f"{'Download:':<{_HEAD}}{render.size(size)}"
    config = document.get("config") or {}
    facts = [f"{label:<{_HEAD + 1}}{config[name]}" for label, name in _FACTS if config.get(name)]
    if facts:
        yield ""
        yield from facts
    for heading, name in _SECTIONS:
        metadata = config.get(name)
        if isinstance(metadata, Mapping) and metadata:
            yield ""
            yield heading
            yield from (f"  {key}: {value}" for key, value in metadata.items())


def _moment(created: object) -> str:
    """Seconds since 1970 as RFC 3339 in local time; nothing where nobody knows."""
    if not isinstance(created, int) or created <= 0:
        return ""
    try:
        return datetime.fromtimestamp(created).astimezone().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""
