"""Being a Docker CLI plugin: what ``docker`` asks a ``docker-model`` program, and how it calls one.

The protocol is Docker's (cli-plugins/manager): the metadata is asked for as a sub-command and must be
answered on stdout without touching any service; a call comes as global flags, the word ``model``, and
then what the user typed. Standard library only, and nothing slow: ``docker --help`` asks every plugin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["COMPLETE", "METADATA", "metadata", "unwrap"]

METADATA: Final = "docker-cli-plugin-metadata"
COMPLETE: Final = "__complete"
_CALLER: Final = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"
_VALUED: Final = frozenset(
    {"--config", "--context", "-c", "--host", "-H", "--log-level", "-l", "--tlscacert", "--tlscert", "--tlskey"}
)


def metadata(version: str) -> str:
    """What ``docker`` wants to know about the plugin."""
    import json  # noqa: PLC0415 - only this answer needs it

    about = {
        "SchemaVersion": "0.1.0",
        "Vendor": "dmr",
        "Version": version,
        "ShortDescription": "dmr, a model runner",
    }
    return json.dumps(about, indent=4)


def unwrap(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The user's own words of a call by ``docker``; any other call as it is.

    Docker's global flags select a Docker engine, which we do not talk to, so they are left out.
    """
    if not environ.get(_CALLER):
        return list(arguments)
    asks_help = arguments[:1] == ["help"]
    rest = list(arguments[1:] if asks_help else arguments)
    while rest:
        word = rest.pop(0)
        if word == "model":
            return [*rest, "--help"] if asks_help else rest
        if not word.startswith("-"):
            break
        if word in _VALUED and rest:
            rest.pop(0)
    return list(arguments)
