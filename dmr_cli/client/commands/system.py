"""``dmr system``: look after the store of models."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Api, Invocation, expect
from dmr_cli.client.confirmation import confirmed
from dmr_cli.client.errors import ClientError, NotFoundError, NotRunningError
from dmr_cli.client.examples import examples
from dmr_cli.client.names import display
from dmr_cli.client.terminal import is_terminal

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["system"]

_KINDS: Final = {
    "untagged-model": "Models without a tag",
    "unreferenced-blob": "Blobs of no model",
    "stale-partial": "Abandoned downloads",
    "orphan-manifest": "Manifests of no model",
    "orphan-bundle": "Bundles of no model",
    "temporary": "Temporary files",
    "quarantined": "Set aside by repairs",
}


@click.group(
    epilog=examples(
        "dmr system df",
        "dmr system prune",
        "dmr system check",
    ),
)
def system() -> None:
    """Look after the store of models: how full it is, what can go, whether it is whole."""


@system.command(
    epilog=examples(
        "dmr system df",
        "dmr system df -v",
        "dmr system df --json | jq .reclaimable",
    ),
)
@click.option("-v", "--verbose", is_flag=True, help="Show each model, and what it shares with others.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, sizes in bytes.")
@click.pass_obj
def df(invocation: Invocation, *, verbose: bool, as_json: bool) -> None:
    """Show where the disk space of the store went, and how much 'system prune --all' would give back.

    A file that several models use, or that a bundle links to, counts once.
    """
    usage = _known(lambda api: api.fetch_object("GET", "/dmr/v1/store/usage"), invocation)
    if as_json:
        render.echo_json(usage)
        return
    models = [entry for entry in usage.get("models") or [] if isinstance(entry, dict)]
    parts = ("bundles", "partials", "quarantine", "unreferenced")
    rest = sum(_number(usage, part) for part in parts)
    rows = [
        ("Models", len(models), max(0, _number(usage, "total") - rest)),
        ("Bundles, beyond their links", "", _number(usage, "bundles")),
        ("Downloads under way or interrupted", "", _number(usage, "partials")),
        ("Belonging to no model", "", _number(usage, "unreferenced")),
        ("Set aside by repairs", "", _number(usage, "quarantine")),
    ]
    render.echo_table(("TYPE", "COUNT", "SIZE"), [(name, count, render.size(size)) for name, count, size in rows])
    render.echo("")
    render.echo(
        f"Total {render.size(_number(usage, 'total'))}, reclaimable {render.size(_number(usage, 'reclaimable'))}"
    )
    if verbose:
        render.echo("")
        render.echo_table(("MODEL", "SIZE", "UNIQUE", "SHARED"), [_model_row(entry) for entry in models])


@system.command(
    epilog=examples(
        "dmr system prune --dry-run",
        "dmr system prune --all --force",
    ),
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option(
    "-a",
    "--all",
    "everything",
    is_flag=True,
    help="Also models without a tag, interrupted downloads of the last day, and what repairs set aside.",
)
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, sizes in bytes. Needs --force or --dry-run.")
@click.pass_obj
def prune(invocation: Invocation, *, dry_run: bool, everything: bool, force: bool, as_json: bool) -> None:
    """Remove what no model needs: blobs of failed pulls, abandoned downloads, leftovers.

    Models with a tag, and whatever is in use, are never touched; neither are files that are not the
    store's.
    """
    if as_json and not (force or dry_run):
        raise click.UsageError("--json needs --force or --dry-run: there is nobody to ask")

    def send(*, dry: bool) -> dict[str, Any]:
        body = {"dry_run": dry, "all": everything}
        return _known(lambda api: api.fetch_object("POST", "/dmr/v1/store/prune", json_body=body), invocation)

    if not (force or dry_run):
        planned = send(dry=True)
        if not planned.get("count"):
            _print_pruned(planned)
            return
        if not confirmed("WARNING! This will remove:\n" + "\n".join(_removed_lines(planned))):
            return
    result = send(dry=dry_run)
    if as_json:
        render.echo_json(result)
    else:
        _print_pruned(result)
    if result.get("failed"):
        raise ClientError("could not be removed:\n  " + "\n  ".join(map(str, result["failed"])))


@system.command(
    epilog=examples(
        "dmr system check",
        "dmr system check --repair",
        "dmr system check --quick --json | jq '.findings[] | select(.note | not)'",
    ),
)
@click.option("--repair", is_flag=True, help="Mend what can be mended; what is damaged is set aside, not deleted.")
@click.option("--quick", is_flag=True, help="Compare sizes only, do not read every byte.")
@click.option(
    "--path",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Check the store in this directory, without asking a service.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check(invocation: Invocation, *, repair: bool, quick: bool, path: str | None, as_json: bool) -> None:
    """Check that every model is whole: manifests, blobs and their digests, bundles, the index.

    Works while the service runs, and without one: then on the store at MODELS_PATH. The exit code is 1
    while something is wrong.

    With --repair a damaged blob is set aside, and its models leave the list until they are complete
    again: pull them, and only what is damaged is fetched.
    """
    with _Meter(shown=not as_json and is_terminal(sys.stderr)).running() as meter:
        report = _check(invocation, meter, path, repair=repair, quick=quick)
    if as_json:
        render.echo_json(report)
    else:
        _print_report(report)
    if not report.get("clean"):
        raise click.exceptions.Exit(1)


class _Meter:
    """How far a check is, on a line of its own."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._last = ""

    @contextmanager
    def running(self) -> Iterator[_Meter]:
        try:
            yield self
        finally:
            if self._last:
                click.echo("\r" + " " * len(self._last) + "\r", err=True, nl=False)

    def tell(self, done: int, total: int) -> None:
        if not self._shown or not total:
            return
        text = f"Checking: {render.size(done)} of {render.size(total)} ({done * 100 // total}%)"
        if text != self._last:
            click.echo("\r" + text.ljust(len(self._last)), err=True, nl=False)
            self._last = text


def _check(invocation: Invocation, meter: _Meter, path: str | None, *, repair: bool, quick: bool) -> dict[str, Any]:
    if path is None:
        try:
            return _known(lambda api: _ask(api, meter, repair=repair, quick=quick), invocation)
        except NotRunningError:
            if invocation.host or os.environ.get("MODEL_RUNNER_HOST"):
                raise  # somebody means a certain service
            click.echo("No service runs here; checking the store without one.", err=True)
    from pathlib import Path  # noqa: PLC0415 - only a check without a service needs any of it

    from dmr_cli.server.checking import check_here  # noqa: PLC0415

    place: Path | None = Path(path) if path is not None else None
    return check_here(place, repair=repair, quick=quick, progress=meter.tell)


def _ask(api: Api, meter: _Meter, *, repair: bool, quick: bool) -> dict[str, Any]:
    with api.open("POST", "/dmr/v1/store/check", json_body={"repair": repair, "quick": quick}) as response:
        expect(response, (200,))
        for raw in response.lines():
            try:
                event = json.loads(raw) if raw.strip() else {}
            except ValueError as error:
                raise ClientError(f"{api.endpoint.url} sent something that is not JSON") from error
            kind = event.get("type") if isinstance(event, dict) else None
            if kind == "progress":
                meter.tell(_number(event, "done"), _number(event, "total"))
            elif kind == "error":
                raise ClientError(str(event.get("message") or "the check failed"))
            elif kind == "report":
                return {name: value for name, value in event.items() if name != "type"}
    raise ClientError("the service ended the check without saying how it went")


def _known(ask: Any, invocation: Invocation) -> dict[str, Any]:
    api = invocation.api()
    try:
        answer: dict[str, Any] = ask(api)
    except NotFoundError as error:
        raise ClientError(f"the service at {api.endpoint.url} cannot do this; is it dmr?") from error
    return answer


def _model_row(entry: dict[str, Any]) -> tuple[object, ...]:
    tags = entry.get("tags") or []
    name = display(str(tags[0])) if tags else str(entry.get("id") or "").removeprefix("sha256:")[:12]
    more = f" (+{len(tags) - 1})" if len(tags) > 1 else ""
    return (name + more, *(render.size(_number(entry, column)) for column in ("size", "unique", "shared")))


def _removed_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"  {_KINDS.get(str(entry.get('kind')), entry.get('kind'))}: {entry.get('count')}"
        f" ({render.size(_number(entry, 'size'))})"
        for entry in result.get("removed") or []
        if isinstance(entry, dict)
    ]


def _print_pruned(result: dict[str, Any]) -> None:
    for line in _removed_lines(result):
        render.echo(line.strip())
    verb = "Would reclaim" if result.get("dry_run") and result.get("count") else "Total reclaimed space:"
    if not result.get("count"):
        render.echo("Nothing to remove.")
    else:
        render.echo(f"{verb} {render.size(_number(result, 'size'))}")
    if kept := result.get("kept"):
        click.echo(f"{kept} more are in use and stay.", err=True)


def _print_report(report: dict[str, Any]) -> None:
    findings = [entry for entry in report.get("findings") or [] if isinstance(entry, dict)]
    for entry in sorted(findings, key=lambda finding: bool(finding.get("note"))):
        head = "Note" if entry.get("note") else "Repaired" if entry.get("repaired") else "Problem"
        what = " ".join(str(part) for part in (entry.get("path"), entry.get("problem")) if part)
        render.echo(f"{head}: {what}")
        if names := entry.get("models"):
            render.echo(f"    models: {', '.join(display(str(name)) for name in names)}")
        if repaired := entry.get("repaired"):
            render.echo(f"    done: {repaired}")
        if advice := entry.get("advice"):
            render.echo(f"    next: {advice}")
    problems = [entry for entry in findings if not entry.get("note")]
    left = [entry for entry in problems if not entry.get("repaired")]
    read = f", {render.size(_number(report, 'hashed'))} read" if report.get("deep") else ", sizes only"
    told = "no problems" if not problems else f"{len(problems)} problem(s), {len(problems) - len(left)} repaired"
    render.echo(f"{report.get('models', 0)} model(s), {report.get('blobs', 0)} blob(s){read}: {told}.")


def _number(document: dict[str, Any], name: str) -> int:
    value = document.get(name)
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
