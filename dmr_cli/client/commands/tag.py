"""``dmr tag``: give a model another name."""

from __future__ import annotations

import click

from dmr_cli.client import render
from dmr_cli.client.api import Api, Invocation, expect, model_path
from dmr_cli.client.errors import InvalidInputError, NotFoundError
from dmr_cli.client.examples import examples
from dmr_cli.client.names import split_tag

__all__ = ["add_tag", "check_target", "tag"]


@click.command(
    epilog=examples(
        "dmr tag smollm2 smollm2:mine",
        "dmr tag smollm2 registry.example.com/team/smollm2:v1",
    ),
)
@click.argument("source")
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def tag(invocation: Invocation, *, source: str, target: str, as_json: bool) -> None:
    """Give the model SOURCE the name TARGET as well.

    TARGET is [REGISTRY/]NAME[:TAG]; a model that had this name before loses it.
    """
    add_tag(invocation.api(), source, target)
    if as_json:
        render.echo_json({"source": source, "target": target})
    else:
        render.echo(f'Model "{source}" tagged successfully with "{target}"')


def check_target(target: str) -> tuple[str, str]:
    """Repository and tag (``""`` where it says none) of the name a model is to be given.

    Raises:
        InvalidInputError: no service could give a model this name.
    """
    repository, name = split_tag(target.strip())
    if not repository:
        raise InvalidInputError("invalid tag: it is empty")
    if "@" in target:
        raise InvalidInputError(f"invalid tag {target!r}: a digest cannot be given to a model")
    return repository, name


def add_tag(api: Api, source: str, target: str) -> None:
    """Ask for the tag; the service parses the name.

    Raises:
        InvalidInputError: ``target`` is empty or holds a digest.
        NotFoundError: there is no model ``source``.
    """
    repository, name = check_target(target)
    query = {"repo": repository, "tag": name or "latest"}
    try:
        with api.open("POST", model_path(source, "tag"), query=query) as response:
            expect(response)
    except NotFoundError as error:
        raise NotFoundError(f"no such model: {source}") from error
