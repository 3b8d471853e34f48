"""The command line of the stock ``docker model`` CLI, as far as the stand-in speaks it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

__all__ = ["COMMANDS", "parser"]

COMMANDS: Final = (
    *("pull", "push", "ls", "inspect", "show", "rm", "tag", "package"),
    *("ps", "df", "unload", "purge", "status", "version", "run"),
    *("configure", "compose", "bench", "requests", "logs", "install-runner", "uninstall-runner"),
)


def parser() -> argparse.ArgumentParser:
    made_parser = argparse.ArgumentParser(prog="docker model", exit_on_error=True)
    commands = made_parser.add_subparsers(dest="command", required=True)

    def command(
        name: str, *positionals: tuple[str, str | None], aliases: Sequence[str] = ()
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, aliases=list(aliases))
        for positional, count in positionals:
            made.add_argument(positional, nargs=count) if count else made.add_argument(positional)
        return made

    for name in ("pull", "push"):
        command(name, ("model", None))
    listing = command("ls", aliases=("list",))
    listing.add_argument("-q", "--quiet", action="store_true")
    listing.add_argument("--json", action="store_true")
    listing.add_argument("--openai", action="store_true")
    for name in ("inspect", "show"):
        looking = command(name, ("model", None))
        looking.add_argument("-r", "--remote", action="store_true")
        if name == "inspect":
            looking.add_argument("--openai", action="store_true")
    command("rm", ("models", "+")).add_argument("-f", "--force", action="store_true")
    command("tag", ("source", None), ("target", None))
    package = command("package", ("model", None))
    package.add_argument("--gguf")
    package.add_argument("--from", dest="source")
    package.add_argument("--context-size", type=int)
    package.add_argument("--format", choices=("docker", "cncf"), default="docker")
    package.add_argument("-l", "--license", action="append", default=[])
    unload = command("unload", ("models", "*"), aliases=("stop",))
    unload.add_argument("--all", action="store_true")
    unload.add_argument("--backend", default="")
    command("purge").add_argument("-f", "--force", action="store_true")
    command("run", ("model", None), ("prompt", "*")).add_argument("-d", "--detach", action="store_true")
    configuring = command("configure", ("action", None), ("model", "?"))
    configuring.add_argument("--flags", default="")  # the original takes them behind a double dash
    compose = command("compose", ("action", None))
    compose.add_argument("--model", action="append", required=True)
    for made in (configuring, compose):
        made.add_argument("--context-size", type=int)
    configuring.add_argument("--mode", default="")
    configuring.add_argument("--keep-alive")
    configuring.add_argument("--backend", default="")
    command("bench", ("model", None))
    watching = command("requests")
    watching.add_argument("--model", default="")
    watching.add_argument("-f", "--follow", action="store_true")
    for name in ("install-runner", "uninstall-runner"):
        command(name).add_argument("--backend", required=True)
    for name in ("ps", "df", "status", "version", "logs"):
        command(name)
    return made_parser
