"""What ``docker`` asks a plugin, and how it calls one."""

from __future__ import annotations

import json

import pytest

from dmr_cli.docker_plugin import metadata, unwrap

CALLED = {"DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND": "docker"}


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (["model", "run", "a b", "--x"], CALLED, ["run", "a b", "--x"]),
        (["--context", "model", "model", "list"], CALLED, ["list"]),
        (["-c=x", "--debug", "model", "ps"], CALLED, ["ps"]),
        (["help", "model"], CALLED, ["--help"]),
        (["help", "model", "run"], CALLED, ["run", "--help"]),
        (["model"], CALLED, []),
        (["list"], CALLED, ["list"]),
        (["run", "model"], {}, ["run", "model"]),
        (["docker-cli-plugin-metadata"], {}, ["docker-cli-plugin-metadata"]),
    ],
)
def test_the_users_words_are_found(arguments: list[str], environ: dict[str, str], words: list[str]) -> None:
    assert words == unwrap(arguments, environ)


def test_metadata_is_what_docker_reads() -> None:
    about = json.loads(metadata("1.2.3"))

    assert ("0.1.0", "1.2.3") == (about["SchemaVersion"], about["Version"])
    assert about["Vendor"]
