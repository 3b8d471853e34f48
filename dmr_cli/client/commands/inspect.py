"""``dmr inspect``: everything about one model."""

from __future__ import annotations

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation, model_path
from dmr_cli.client.errors import NotFoundError
from dmr_cli.client.examples import examples
from dmr_cli.client.looking import look_up

__all__ = ["inspect"]


@click.command(
    epilog=examples(
        "dmr inspect smollm2",
        "dmr inspect smollm2 | jq -r .config.quantization",
        "dmr inspect --remote ai/gemma3",
    ),
)
@click.argument("model")
@click.option("-r", "--remote", is_flag=True, help="Ask the model's registry instead of the local store.")
@click.option("--openai", is_flag=True, help="Show the model as OpenAI clients see it.")
@click.option("--json", "_json", is_flag=True, help="Print JSON (it always does).")
@click.pass_obj
def inspect(invocation: Invocation, *, model: str, remote: bool, openai: bool, _json: bool) -> None:
    """Show everything about MODEL, as JSON.

    MODEL is a name or an ID (12 digits will do). With --remote nothing is downloaded but a description, which
    also says how much a pull would fetch.
    """
    if remote and openai:
        raise click.UsageError("--remote cannot be used with --openai")
    api = invocation.api()
    if not openai:
        render.echo_json(look_up(api, model, remote=remote))
        return
    try:
        answer = api.fetch_object("GET", model_path(model, prefix="/engines/v1/models/"))
    except NotFoundError as error:
        raise NotFoundError(f"no such model: {model}") from error
    render.echo_json(answer)
