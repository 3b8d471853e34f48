"""``dmr requests``: what models were asked lately, and what they answered."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Api, Invocation, expect
from dmr_cli.client.errors import ClientError
from dmr_cli.client.examples import examples
from dmr_cli.client.terminal import is_terminal

__all__ = ["requests"]

_HEADINGS: Final = ("TIME", "MODEL", "STATUS", "TOOK", "ASKED", "ANSWERED")
_SHOWN: Final = 48
_PATH: Final = "/engines/requests"
_TOLD: Final = ("new_request", "existing_request")


@click.command(
    epilog=examples(
        "dmr requests",
        "dmr requests --model smollm2 --json | jq -r '.[].records[].request'",
        "dmr requests --follow --include-existing",
    ),
)
@click.option("-f", "--follow", is_flag=True, help="Go on, and show each request when it ends. Ctrl-C stops it.")
@click.option("--include-existing", is_flag=True, help="With --follow: show what is recorded already, too.")
@click.option("--model", metavar="MODEL", default="", help="Only requests to this model.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, as is done anyway where the output is not a terminal."
)
@click.pass_obj
def requests(invocation: Invocation, *, follow: bool, include_existing: bool, model: str, as_json: bool) -> None:
    """Show the latest requests to each model with their answers.

    The service keeps the last ten of every model, in its own memory. Media and what looks like a secret is left out,
    and streamed answers are put together. DMR_RECORD_REQUESTS=0 turns it off.
    """
    if include_existing and not follow:
        raise click.UsageError("--include-existing can only be used with --follow")
    query = {"model": model} if model else {}
    as_json = as_json or not is_terminal(sys.stdout)
    api = invocation.api()
    if follow:
        _follow(api, query | ({"include_existing": "true"} if include_existing else {}), as_json=as_json)
        return
    entries = api.fetch("GET", _PATH, query=query)
    if as_json:
        render.echo_json(entries)
        return
    render.echo_table(_HEADINGS, [row for _, row in sorted(_rows(entries))])


def _follow(api: Api, query: dict[str, str], *, as_json: bool) -> None:
    """Print events as they come; JSON is one array a line, as the service sends it."""
    with api.open("GET", _PATH, query=query, headers={"Accept": "text/event-stream"}) as response:
        expect(response)
        name = ""
        for line in response.lines():
            field, _, value = line.decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field != "data":
                continue
            elif name == "connected":
                print("Connected to request stream. Press Ctrl+C to stop.", file=sys.stderr)
            elif name == "error":
                raise ClientError(f"the stream of requests ended: {_reason(value)}")
            elif name in _TOLD:
                _show(value, as_json=as_json)
    print("Stream closed by server.", file=sys.stderr)


def _show(data: str, *, as_json: bool) -> None:
    if as_json:
        render.echo(data)
    else:
        for _, row in _rows(json.loads(data)):
            render.echo("  ".join(row))
    sys.stdout.flush()


def _reason(data: str) -> str:
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return data


def _rows(entries: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """ID and line of every record."""
    for entry in entries or []:
        for record in entry.get("records") or []:
            yield str(record.get("id")), _row(record)


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    at = time.strftime("%H:%M:%S", time.localtime(record.get("timestamp") or 0))
    status = str(record.get("status_code") or "…")
    took = f"{record['duration_ms'] / 1e3:.2f}s" if "duration_ms" in record else ""
    answered = _answer(str(record.get("response") or record.get("error") or ""))
    return at, str(record.get("model")), status, took, _brief(_question(str(record.get("request")))), _brief(answered)


def _question(text: str) -> str:
    """The last thing that was said, or the whole request where that is not to be found."""
    try:
        content = json.loads(text)["messages"][-1]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return text
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _answer(text: str) -> str:
    try:
        choice = json.loads(text)["choices"][0]
        content = choice["message"]["content"] if "message" in choice else choice["text"]
    except (ValueError, KeyError, IndexError, TypeError):
        return text
    return content if isinstance(content, str) and content else text


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
