"""What the service tells of a model's settings, for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from dmr_cli.client import render

__all__ = ["echo_explanation"]

_HEADINGS: Final = ("SETTING", "VALUE", "SOURCE", "INSTEAD OF")
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,+@%")


def echo_explanation(found: dict[str, Any]) -> None:
    """Print an answer of ``/dmr/v1/explain``."""
    render.echo(f"{found.get('model')} ({found.get('mode')}) on {found.get('backend')}, {found.get('model_id')}")
    render.echo("")
    render.echo_table(_HEADINGS, [_row(entry) for entry in _objects(found.get("settings"))])
    expected = found.get("argv")
    if isinstance(expected, list) and expected:
        _echo_command("The engine is started as:", expected)
    for runner in _objects(found.get("running")):
        pending = "; it is older than these settings" if runner.get("restart_pending") else ""
        title = f"In memory ({runner.get('phase')}, process {runner.get('pid') or '-'}){pending}:"
        _echo_command(title, runner.get("argv") or [])


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    lost = "\n".join(f"{one.get('value')} ({_source(one)})" for one in _objects(entry.get("overrode")))
    return str(entry.get("name")), str(entry.get("value")), _source(entry), lost


def _source(claim: dict[str, Any]) -> str:
    by = claim.get("by")
    return f"{claim.get('source')}: {by}" if by else str(claim.get("source"))


def _echo_command(title: str, words: Iterable[object]) -> None:
    render.echo("")
    render.echo(title)
    render.echo("  " + " ".join(_quoted(str(word)) for word in words))


def _quoted(word: str) -> str:
    """As a shell wants it (``shlex.quote``, whose import would cost more than it saves)."""
    return word if word and _PLAIN.issuperset(word) else "'" + word.replace("'", "'\"'\"'") + "'"


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
