"""``dmr backend``: the engines of the service, and how they come and go."""

from __future__ import annotations

from typing import Any, Final

import click

from dmr_cli.client import render
from dmr_cli.client.api import Invocation, expect
from dmr_cli.client.backends import fetch_backends
from dmr_cli.client.errors import ClientError
from dmr_cli.client.examples import examples
from dmr_cli.client.installation import follow, watcher_for

__all__ = ["backend"]

_HEADINGS: Final = ("NAME", "STATE", "DETAILS", "FORMATS", "SUMMARY")


@click.group(
    epilog=examples(
        "dmr backend list",
        "dmr backend install vllm",
        "dmr backend uninstall vllm",
    ),
)
def backend() -> None:
    """List the engines of the service, install them and remove them.

    Engines come with plugins. Some plugins can install the program they drive; the others say in
    'dmr status' what they need.
    """


@backend.command(
    "list",
    epilog=examples(
        "dmr backend list",
        "dmr backend list --json | jq -r '.[] | select(.state == \"installed\").name'",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_backends(invocation: Invocation, *, as_json: bool) -> None:
    """List the engines there are: which are installed, what they read, what is missing."""
    api = invocation.api()
    found = fetch_backends(api)
    if found is None:
        raise ClientError(f"the service at {api.endpoint.url} lists no backends; is it dmr?")
    if as_json:
        render.echo_json(found)
        return
    render.echo_table(_HEADINGS, [_row(entry) for entry in found])


@backend.command(
    epilog=examples(
        "dmr backend install vllm",
        "dmr backend install llama.cpp --version b9879",
        "dmr backend install vllm --json | jq .share",
    ),
)
@click.argument("name")
@click.option("--version", metavar="V", help="This version instead of the plugin's own choice.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, only the result.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and result as lines of JSON.")
@click.pass_obj
def install(invocation: Invocation, *, name: str, version: str | None, quiet: bool, as_json: bool) -> None:
    """Install the engine of backend NAME, and wait until it can be used.

    Interrupting this command does not interrupt the installation; 'dmr backend uninstall' does. One
    that is there already is left as it is, unless another --version is asked for.
    """
    api = invocation.api()
    body = {"backend": name} | ({"version": version} if version else {})
    headers = {"Accept": "application/x-ndjson"}
    with (
        watcher_for(quiet=quiet, as_json=as_json) as watcher,
        api.open("POST", "/engines/install-backend", json_body=body, headers=headers) as response,
    ):
        expect(response, (200,))
        if response.headers.get("content-type", "").startswith("application/x-ndjson"):
            message = follow(response.lines(), watcher)
        else:  # a service of the reference tells nothing but the end
            message = f"{name} backend installed successfully"
    if not as_json:
        render.echo(message)


@backend.command(
    epilog=examples(
        "dmr backend uninstall vllm",
    ),
)
@click.argument("name")
@click.pass_obj
def uninstall(invocation: Invocation, *, name: str) -> None:
    """Remove what was installed for backend NAME.

    Its idle models are unloaded first; while one is answering nothing is removed, and the exit code is
    5. An installation under way is cancelled. The plugin and the models stay.
    """
    with invocation.api().open("POST", "/engines/uninstall-backend", json_body={"backend": name}) as response:
        expect(response, (200,))
    render.echo(f"{name} backend uninstalled successfully")


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    state, share = str(entry.get("state", "")), entry.get("share")
    if state == "installing" and isinstance(share, (int, float)):
        state += f" {share:.0%}"
    formats = ", ".join(str(name) for name in entry.get("formats") or [])
    return (entry.get("name"), state, entry.get("detail"), formats, entry.get("summary"))
