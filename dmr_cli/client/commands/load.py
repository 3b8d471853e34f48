"""``dmr load``: take in a model from an archive."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Api, Invocation, expect
from dmr_cli.client.commands.tag import add_tag, check_target
from dmr_cli.client.errors import ClientError, InvalidInputError
from dmr_cli.client.examples import examples
from dmr_cli.client.progress import follow, reporter_for
from dmr_cli.client.reporters import Reporter
from dmr_cli.client.terminal import is_terminal

__all__ = ["load"]

_PIECE: Final = 1024 * 1024


@click.command(
    epilog=examples(
        "dmr load -i smollm2.tar --tag smollm2",
        "ssh other-host dmr export smollm2 | dmr load --tag smollm2",
    ),
)
@click.option(
    "-i",
    "--input",
    "source",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Default: stdin.",
)
@click.option("-t", "--tag", metavar="NAME", help="What to call the model; without it, it is known by its ID alone.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, only the result.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def load(invocation: Invocation, *, source: Path | None, tag: str | None, quiet: bool, as_json: bool) -> None:
    """Take in a model from a tar archive that 'export' wrote."""
    if tag is not None:
        check_target(tag)
    if source is None and is_terminal(sys.stdin):
        raise InvalidInputError("give -i FILE, or send an archive to the standard input")
    api = invocation.api()
    with reporter_for(quiet=quiet) as reporter:
        if source is None:
            model_id = _send(api, sys.stdin.buffer, "archive", 0, reporter)
        else:
            with source.open("rb") as file:
                model_id = _send(api, file, source.name, source.stat().st_size, reporter)
    if tag is not None:
        if not model_id:
            raise ClientError("the model was loaded, but the service did not say its ID: tag it by hand")
        add_tag(api, model_id, tag)
    if as_json:
        render.echo_json({"id": model_id, "model": tag})
    else:
        render.echo(
            f'Model "{tag}" loaded successfully as {model_id}' if tag else f"Model loaded successfully: {model_id}"
        )


def _send(api: Api, file: BinaryIO, name: str, size: int, reporter: Reporter) -> str:
    """The ID of the model, empty where the service does not say."""
    headers = {"Content-Type": "application/x-tar"}
    with api.open("POST", "/models/load", body=_pieces(file, name, size, reporter), headers=headers) as response:
        expect(response)
        follow(response.lines(), reporter)
        return response.headers.get("x-model-id", "")


def _pieces(file: BinaryIO, name: str, size: int, reporter: Reporter) -> Iterator[bytes]:
    done = 0
    while piece := file.read(_PIECE):
        yield piece
        done += len(piece)
        reporter.layer(name, done, size, size, "Uploading")
