"""``dmr export``: write a model to an archive."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click

from dmr_cli.client.api import Invocation, expect, model_path
from dmr_cli.client.errors import ClientError, InvalidInputError, NotFoundError
from dmr_cli.client.examples import examples
from dmr_cli.client.progress import reporter_for
from dmr_cli.client.reporters import Reporter
from dmr_cli.client.terminal import is_terminal
from dmr_cli.client.transport import Response

__all__ = ["export"]


@click.command(
    epilog=examples(
        "dmr export -o smollm2.tar smollm2",
        "dmr export smollm2 | ssh other-host dmr load --tag smollm2",
    ),
)
@click.argument("model")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Default: stdout."
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_obj
def export(invocation: Invocation, *, model: str, output: Path | None, quiet: bool) -> None:
    """Write MODEL to a tar archive, which 'load' reads on any machine.

    FILE is replaced only once the archive is complete.
    """
    if output is None and is_terminal(sys.stdout):
        raise InvalidInputError("an archive is not for a terminal: give -o FILE, or send the output somewhere")
    api = invocation.api()
    try:
        with (
            api.open("GET", model_path(model, "export"), headers={"Accept": "*/*"}) as response,
            reporter_for(quiet=quiet) as reporter,
        ):
            expect(response, (200,))
            if output is None:
                _copy(response, sys.stdout.buffer, model, reporter)
                sys.stdout.buffer.flush()
            else:
                _write(response, output, model, reporter)
    except NotFoundError as error:
        raise NotFoundError(f"no such model: {model}") from error


def _write(response: Response, output: Path, model: str, reporter: Reporter) -> None:
    """Replace ``output`` by the archive in one step. A device or a pipe is written as it is."""
    if output.exists() and not output.is_file():
        with output.open("wb") as file:
            _copy(response, file, model, reporter)
        return
    partial = output.with_name(f".{output.name[:200]}.{os.getpid()}.part")
    try:
        with partial.open("xb") as file:
            _copy(response, file, model, reporter)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
    except OSError as error:
        raise ClientError(f"cannot write {str(output)!r}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _copy(response: Response, file: BinaryIO, model: str, reporter: Reporter) -> None:
    size = response.headers.get("content-length", "")
    total, done = int(size) if size.isdigit() else 0, 0
    for piece in response.chunks():
        file.write(piece)
        done += len(piece)
        reporter.layer(model, done, total, total, "Downloading")
