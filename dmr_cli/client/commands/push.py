"""``dmr push``: upload a model."""

from __future__ import annotations

import click

from dmr_cli.client import render, transfer
from dmr_cli.client.api import Invocation
from dmr_cli.client.examples import examples
from dmr_cli.client.progress import reporter_for

__all__ = ["push"]


@click.command(
    epilog=examples(
        "dmr push registry.example.com/team/smollm2:v1",
        "dmr push --quiet me/smollm2",
    ),
)
@click.argument("model")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, only the result.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and result as lines of JSON.")
@click.pass_obj
def push(invocation: Invocation, *, model: str, quiet: bool, as_json: bool) -> None:
    """Upload MODEL to the registry its name says.

    A model of another name is given one first, with the command `tag`. Pushing to Hugging Face
    (hf.co/ORG/REPO) is not supported.
    """
    api = invocation.api()
    with reporter_for(quiet=quiet, as_json=as_json) as reporter:
        message = transfer.push(api, model, reporter)
    if not as_json:
        render.echo(message)
