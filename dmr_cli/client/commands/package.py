"""``dmr package``: make a model of files on disk."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dmr_cli.client import render, transfer
from dmr_cli.client.api import Api, Invocation
from dmr_cli.client.commands.tag import add_tag, check_target
from dmr_cli.client.errors import InvalidInputError
from dmr_cli.client.examples import examples
from dmr_cli.client.progress import reporter_for
from dmr_cli.client.reporters import Reporter

if TYPE_CHECKING:
    from dmr_core.services.packaging import BuiltArtifact, PackageRequest

__all__ = ["package"]

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY: Final = click.Path(exists=True, file_okay=False, path_type=Path)
_LARGEST_CONTEXT: Final = 2**31 - 1


@click.command(
    epilog=examples(
        "dmr package --gguf model.gguf my-model",
        "dmr package --gguf model.gguf --license LICENSE --context-size 8192 my-model:v1",
        "dmr package --safetensors-dir ./model --push registry.example.com/team/model:v1",
    ),
)
@click.argument("model")
@click.option("--gguf", metavar="FILE", type=_FILE, help="The weights; of a sharded file, any one shard.")
@click.option("--safetensors-dir", metavar="DIR", type=_DIRECTORY, help="A directory with weights and configuration.")
@click.option("--dduf", metavar="FILE", type=_FILE, help="A DDUF archive of a diffusion model.")
@click.option("-l", "--license", "licenses", metavar="FILE", type=_FILE, multiple=True, help="May be given repeatedly.")
@click.option("--chat-template", metavar="FILE", type=_FILE, help="A Jinja chat template.")
@click.option("--mmproj", metavar="FILE", type=_FILE, help="A multimodal projector.")
@click.option("--context-size", metavar="N", type=click.IntRange(1, _LARGEST_CONTEXT), help="Context size in tokens.")
@click.option("--format", "schema", type=click.Choice(["docker", "cncf"]), default="docker", show_default=True)
@click.option("--push", is_flag=True, help="Push the model to its registry as well.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, only the result.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def package(
    invocation: Invocation,
    *,
    model: str,
    gguf: Path | None,
    safetensors_dir: Path | None,
    dduf: Path | None,
    licenses: tuple[Path, ...],
    chat_template: Path | None,
    mmproj: Path | None,
    context_size: int | None,
    schema: str,
    push: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a model of files on disk, store it and call it MODEL.

    Exactly one of --gguf, --safetensors-dir and --dduf says what to package. With SOURCE_DATE_EPOCH
    in the environment, the same files always make the same model.
    """
    sources = [path for path in (gguf, safetensors_dir, dduf) if path is not None]
    if len(sources) != 1:
        raise click.UsageError("give exactly one of --gguf, --safetensors-dir and --dduf")
    check_target(model)
    epoch = _epoch()
    api = invocation.api()
    api.open("GET", "/version").close()  # nobody should wait for hashing first to hear that no service runs

    from dmr_core.domain.artifact import Format  # noqa: PLC0415 - attrs and asyncio, which no other command needs
    from dmr_core.services.packaging import (  # noqa: PLC0415 - as above
        ModelDirectory,
        PackageRequest,
        Schema,
        WeightsFile,
    )

    path = sources[0].absolute()
    directory = safetensors_dir is not None
    expected = Format.GGUF if gguf else Format.DDUF
    request = PackageRequest(
        source=ModelDirectory(path=path) if directory else WeightsFile(path=path, expected=expected),
        created=datetime.now(UTC),
        licenses=tuple(license_path.absolute() for license_path in licenses),
        chat_template=chat_template.absolute() if chat_template else None,
        mmproj=mmproj.absolute() if mmproj else None,
        context_size=context_size,
        schema=Schema(schema),
        epoch=epoch,
    )
    built = _build(request, quiet=quiet)
    model_id = str(built.artifact.id)
    _store(api, built, model, quiet=quiet)
    message = _push(api, model, quiet=quiet) if push else ""
    if as_json:
        render.echo_json({"model": model, "id": model_id, "pushed": push})
        return
    render.echo(f'Model "{model}" packaged successfully as {model_id}')
    if message:
        render.echo(message)


def _build(request: PackageRequest, *, quiet: bool) -> BuiltArtifact:
    import asyncio  # noqa: PLC0415 - only packaging needs a loop

    from dmr_cli.server.management import build_packaging  # noqa: PLC0415 - adapters, which clients otherwise do without

    with reporter_for(quiet=quiet) as reporter:
        return asyncio.run(build_packaging().build(request, _Hashed(reporter)))


class _Hashed:
    """Passes the progress of hashing on; files are hashed in several threads."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._lock = threading.Lock()

    def __call__(self, path: Path, done: int, total: int | None) -> None:
        size = path.stat().st_size if total is None else total
        with self._lock:
            self._reporter.layer(path.name, done, size, 0, "Reading")


def _store(api: Api, built: BuiltArtifact, model: str, *, quiet: bool) -> None:
    from dmr_cli.client.upload import load  # noqa: PLC0415 - needs attrs

    with reporter_for(quiet=quiet) as reporter:
        load(api, built, reporter)
    add_tag(api, str(built.artifact.id), model)


def _push(api: Api, model: str, *, quiet: bool) -> str:
    with reporter_for(quiet=quiet) as reporter:
        return transfer.push(api, model, reporter)


def _epoch() -> datetime | None:
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInputError(f"SOURCE_DATE_EPOCH {text!r} is not a number of seconds since 1970") from error
