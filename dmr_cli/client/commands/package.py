"""``dmr package``: make a model of files on disk."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from dmr_cli.client import render, transfer
from dmr_cli.client.api import Api, Invocation
from dmr_cli.client.commands.tag import add_tag, check_target
from dmr_cli.client.errors import InvalidInputError
from dmr_cli.client.examples import examples
from dmr_cli.client.head_start import head_start
from dmr_cli.client.progress import reporter_for

__all__ = ["package"]

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY: Final = click.Path(exists=True, file_okay=False, path_type=Path)
_LARGEST_CONTEXT: Final = 2**31 - 1


@click.command(
    epilog=examples(
        "dmr package --gguf model.gguf my-model",
        "dmr package --gguf model.gguf --license LICENSE --context-size 8192 my-model:v1",
        "dmr package --safetensors-dir ./model --push registry.example.com/team/model:v1",
        "dmr package --from smollm2 --context-size 16384 --lora style.gguf smollm2:mine",
    ),
)
@click.argument("model")
@click.option("--gguf", metavar="FILE", type=_FILE, help="The weights; of a sharded file, any one shard.")
@click.option("--safetensors-dir", metavar="DIR", type=_DIRECTORY, help="A directory with weights and configuration.")
@click.option("--dduf", metavar="FILE", type=_FILE, help="A DDUF archive of a diffusion model.")
@click.option("--from", "source", metavar="MODEL", help="A model that is stored already; it stays as it is.")
@click.option("-l", "--license", "licenses", metavar="FILE", type=_FILE, multiple=True, help="May be given repeatedly.")
@click.option("--chat-template", metavar="FILE", type=_FILE, help="A Jinja chat template.")
@click.option("--mmproj", metavar="FILE", type=_FILE, help="A multimodal projector.")
@click.option("--lora", "loras", metavar="FILE", type=_FILE, multiple=True, help="A LoRA adapter; may be repeated.")
@click.option("--context-size", metavar="N", type=click.IntRange(1, _LARGEST_CONTEXT), help="Context size in tokens.")
@click.option(
    "--format",
    "schema",
    type=click.Choice(["docker", "cncf"]),
    help="Whose artifact it becomes. Default: docker; with --from, what that model is.",
)
@click.option("--link", is_flag=True, help="Link the files into the store instead of copying them.")
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
    source: str | None,
    licenses: tuple[Path, ...],
    chat_template: Path | None,
    mmproj: Path | None,
    loras: tuple[Path, ...],
    context_size: int | None,
    schema: str | None,
    link: bool,
    push: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a model of files on disk, or of another model, store it and call it MODEL.

    Exactly one of --gguf, --safetensors-dir, --dduf and --from says what to package. With SOURCE_DATE_EPOCH
    in the environment, the same files always make the same model.

    Files are copied into the store; where the file system can, the copy shares their blocks. With --link
    the store and you share the files themselves: they take no second room, but whoever changes one
    damages the model.
    """
    sources = [path for path in (gguf, safetensors_dir, dduf) if path is not None]
    if len(sources) + (source is not None) != 1:
        raise click.UsageError("give exactly one of --gguf, --safetensors-dir, --dduf and --from")
    check_target(model)
    epoch = _epoch()
    api = invocation.api()
    # A file that is linked is only hashed: that begins before what packages it is imported.
    with head_start(sources[0] if link and (gguf or dduf) else None) as ahead:
        api.open("GET", "/version").close()  # nobody should wait for hashing first to hear that no service runs

        from dmr_cli.client.packing import Packing  # noqa: PLC0415 - attrs and asyncio, which no other command needs
        from dmr_core.domain.artifact import Format  # noqa: PLC0415 - as above
        from dmr_core.domain.repackage import Changes, Schema  # noqa: PLC0415 - as above
        from dmr_core.services.packaging import (  # noqa: PLC0415 - as above
            ExtraFiles,
            ModelDirectory,
            PackageRequest,
            WeightsFile,
        )

        extra = ExtraFiles(
            licenses=tuple(path.absolute() for path in licenses),
            chat_template=chat_template.absolute() if chat_template else None,
            mmproj=mmproj.absolute() if mmproj else None,
            loras=tuple(path.absolute() for path in loras),
            epoch=epoch,
        )
        packing = Packing(api, quiet=quiet, link=link, ahead=ahead)
        wanted = Schema(schema) if schema else None
        if source is not None:
            model_id = packing.derive(source, Changes(context_size=context_size, schema=wanted), extra)
        else:
            path = sources[0].absolute()
            request = PackageRequest(
                source=ModelDirectory(path=path)
                if safetensors_dir is not None
                else WeightsFile(path=path, expected=Format.GGUF if gguf else Format.DDUF),
                created=datetime.now(UTC),
                licenses=extra.licenses,
                chat_template=extra.chat_template,
                mmproj=extra.mmproj,
                loras=extra.loras,
                context_size=context_size,
                schema=wanted or Schema.DOCKER,
                epoch=epoch,
            )
            model_id = packing.package(request)
    add_tag(api, model_id, model)
    message = _push(api, model, quiet=quiet) if push else ""
    if as_json:
        render.echo_json({"model": model, "id": model_id, "pushed": push})
        return
    render.echo(f'Model "{model}" packaged successfully as {model_id}')
    if message:
        render.echo(message)


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
