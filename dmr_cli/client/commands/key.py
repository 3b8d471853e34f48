"""``dmr key``: the key that opens the service."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from dmr_cli.client.examples import examples

__all__ = ["key"]


@click.group(epilog=examples("dmr key create ~/.docker/model-runner/api-key"))
def key() -> None:
    """Make the key that the service asks for when DMR_API_KEY_FILE is set."""


@key.command(
    epilog=examples(
        "dmr key create ~/.docker/model-runner/api-key",
        "DMR_API_KEY=$(dmr key create /etc/dmr/api-key --force)",
        "dmr key create api-key --json",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--force", is_flag=True, help="Replace the key in FILE; the old one opens nothing once dmr serve restarts."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(file: Path, *, force: bool, as_json: bool) -> None:
    """Make a key, write its hash to FILE, and print the key.

    FILE is for the service (DMR_API_KEY_FILE=FILE dmr serve) and holds nothing but a hash. The key is printed now and
    never again: give it to clients as DMR_API_KEY, or as the API key of their SDK.
    """
    import secrets  # noqa: PLC0415 - keeps --help quick

    from dmr_core.domain.api_key import KEY_BYTES, KEY_PREFIX, key_document  # noqa: PLC0415

    made = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    _write(file, key_document(made), force=force)
    if as_json:
        import json  # noqa: PLC0415

        click.echo(json.dumps({"key": made, "file": str(file.absolute())}))
        return
    print(f"Its hash is in {file}: start the service with DMR_API_KEY_FILE={file.absolute()}", file=sys.stderr)
    print("Keep the key, it is shown only now:", file=sys.stderr)
    click.echo(made)


def _write(file: Path, text: str, *, force: bool) -> None:
    """Write for this user's eyes alone; an existing file is replaced in one step, or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        if force:
            aside.replace(file)
        else:
            os.link(aside, file)  # unlike a rename, this fails where there is one
    except FileExistsError as exc:
        raise click.ClickException(f"{file} exists: its key would stop working. Use --force to replace it") from exc
    finally:
        aside.unlink(missing_ok=True)
