"""``dmr rm``: remove models and tags."""

from __future__ import annotations

import click

from dmr_cli.client import render
from dmr_cli.client.api import Api, Invocation, model_path
from dmr_cli.client.errors import ClientError, NotFoundError
from dmr_cli.client.examples import examples

__all__ = ["rm"]


@click.command(
    epilog=examples(
        "dmr rm smollm2",
        "dmr rm smollm2:v1 smollm2:v2",
        "dmr rm --force 0123456789ab",
    ),
)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Remove a model named by its ID with all its tags.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def rm(invocation: Invocation, *, models: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Remove models.

    A name takes away that tag alone; the model goes with its last tag. An ID stands for the model
    itself. Models are removed in order, up to the first that cannot be.
    """
    api = invocation.api()
    done: list[dict[str, str]] = []
    failure: ClientError | None = None
    for model in models:
        try:
            steps = _remove(api, model, force=force)
        except ClientError as error:
            failure = error
            break
        done += steps
        if not as_json:
            for step in steps:
                for verb, what in step.items():
                    render.echo(f"{verb.capitalize()}: {what}")
    if as_json:
        render.echo_json(done)
    if failure is not None:
        raise failure


def _remove(api: Api, model: str, *, force: bool) -> list[dict[str, str]]:
    try:
        answer = api.fetch("DELETE", model_path(model), query={"force": "true" if force else "false"})
    except NotFoundError as error:
        raise NotFoundError(f"no such model: {model}") from error
    steps = answer if isinstance(answer, list) else []
    return [{str(verb).lower(): str(what) for verb, what in step.items()} for step in steps if isinstance(step, dict)]
