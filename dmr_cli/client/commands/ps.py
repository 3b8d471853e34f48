"""``dmr ps``: the models in memory."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation
from dmr_cli.client.examples import examples
from dmr_cli.client.names import display, short_id

__all__ = ["ps", "until"]

_HEADINGS: Final = ("MODEL NAME", "BACKEND", "MODE", "PROCESSOR", "MEMORY", "UNTIL")
_DEFAULT_KEEP_ALIVE: Final = 300.0
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@click.command(
    epilog=examples(
        "dmr ps",
        "dmr ps --json | jq -r '.[].model_name'",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def ps(invocation: Invocation, *, as_json: bool) -> None:
    """List the models in memory, where each computes, and until when it stays if nobody uses it.

    PROCESSOR is what the engine reported; a model that is on the CPU although there is a GPU is warned of, with the reason.
    ADDRESS is where an engine listens that listens on a port, such as a NIM's container.
    """
    runners = invocation.api().fetch_list("/engines/ps")
    if as_json:
        render.echo_json(runners)
        return
    now = time.time()
    rows = [_row(entry, now) for entry in runners]
    rows.sort(key=lambda row: (row[0].lower(), row))
    if any(row[-1] for row in rows):
        render.echo_table((*_HEADINGS, "ADDRESS"), rows)
    else:
        render.echo_table(_HEADINGS, [row[:-1] for row in rows])
    for entry in runners:
        if warning := entry.get("warning"):
            print(f"Warning: {_name(entry)}: {warning}", file=sys.stderr)


def _row(entry: dict[str, Any], now: float) -> tuple[str, ...]:
    memory = entry.get("memory")
    size = render.size(memory) if isinstance(memory, int) else ""
    processor = str(entry.get("processor") or "")
    return (
        _name(entry),
        str(entry.get("backend_name") or ""),
        str(entry.get("mode") or ""),
        processor,
        size,
        until(entry, now),
        str(entry.get("endpoint") or ""),
    )


def _name(entry: dict[str, Any]) -> str:
    name = str(entry.get("model_name") or "")
    return short_id(name) if name.startswith("sha256:") else display(name)


def until(entry: dict[str, Any], now: float) -> str:
    """What the column UNTIL says of one runner, at ``now`` (seconds since the epoch)."""
    if entry.get("loading"):
        return "Loading..."
    keep_alive = _seconds(str(entry.get("keep_alive") or ""))
    if keep_alive < 0:
        return "Forever"
    last_used = _timestamp(str(entry.get("last_used") or ""))
    if entry.get("in_use") or last_used is None:
        return f"{render.duration(keep_alive)} from now"
    remaining = last_used + keep_alive - now
    return f"{render.duration(remaining)} from now" if remaining > 0 else "Expiring"


def _seconds(text: str) -> float:
    """A duration as the service writes it (``5m0s``, ``0s``, ``-1``); what cannot be read is the default."""
    if text.startswith("-"):
        return -1.0
    if text == "0":
        return 0.0
    total = 0.0
    rest = text
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµμmsh"))]
        rest = rest[len(unit) :]
        try:
            total += float(number) * _UNITS[unit]
        except (ValueError, KeyError):
            return _DEFAULT_KEEP_ALIVE
    return total if text else _DEFAULT_KEEP_ALIVE


def _timestamp(text: str) -> float | None:
    from datetime import datetime  # noqa: PLC0415 - only when something runs

    if not text or text.startswith("0001-"):  # Go's zero time: never used
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
