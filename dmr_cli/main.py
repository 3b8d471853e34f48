"""The ``dmr`` program: finds the command, imports it alone, and turns failures into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Final

import click

from dmr_cli import __version__
from dmr_cli.client.errors import EXIT_INTERRUPTED, ClientError, abridged
from dmr_cli.docker_plugin import COMPLETE, METADATA, metadata, unwrap

__all__ = ["ALIASES", "COMMANDS", "cli", "main", "program_name"]

# name -> (where the command is, its line in the list of commands); in the order of that list.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("dmr_cli.client.commands.run:run", "Ask a model, or talk to it"),
    "search": ("dmr_cli.client.commands.search:search", "Search Docker Hub and Hugging Face for models"),
    "pull": ("dmr_cli.client.commands.pull:pull", "Download a model"),
    "push": ("dmr_cli.client.commands.push:push", "Upload a model to its registry"),
    "list": ("dmr_cli.client.commands.list:list_models", "List the models in the store (alias: ls)"),
    "inspect": ("dmr_cli.client.commands.inspect:inspect", "Show everything about a model, as JSON"),
    "show": ("dmr_cli.client.commands.show:show", "Show what a model is"),
    "tag": ("dmr_cli.client.commands.tag:tag", "Give a model another name"),
    "rm": ("dmr_cli.client.commands.rm:rm", "Remove models"),
    "package": ("dmr_cli.client.commands.package:package", "Make a model of files on disk"),
    "export": ("dmr_cli.client.commands.export:export", "Write a model to an archive"),
    "load": ("dmr_cli.client.commands.load:load", "Take in a model from an archive"),
    "ps": ("dmr_cli.client.commands.ps:ps", "List the models in memory"),
    "unload": ("dmr_cli.client.commands.unload:unload", "Take models out of memory (alias: stop)"),
    "configure": ("dmr_cli.client.commands.configure:configure", "Change how a model is loaded (alias: config)"),
    "df": ("dmr_cli.client.commands.df:df", "Show how much disk the models take"),
    "purge": ("dmr_cli.client.commands.purge:purge", "Remove every model"),
    "system": ("dmr_cli.client.commands.system:system", "Look after the store: disk usage, cleaning up, checking"),
    "why": ("dmr_cli.client.commands.why:why", "Tell why a model is, or is not, in memory"),
    "logs": ("dmr_cli.client.commands.logs:logs", "Show what the service and its engines said lately"),
    "requests": ("dmr_cli.client.commands.requests:requests", "Show what models were asked lately, and answered"),
    "status": ("dmr_cli.client.commands.status:status", "Show whether the service runs, and its engines"),
    "backend": ("dmr_cli.client.commands.backend:backend", "List, install and remove the engines"),
    "plugins": ("dmr_cli.client.commands.plugins:plugins", "List the plugins of the service"),
    "version": ("dmr_cli.client.commands.version:version", "Show the versions of client and service"),
    "key": ("dmr_cli.client.commands.key:key", "Make the key that opens the service"),
    "serve": ("dmr_cli.server.serve:serve", "Run the service"),
}
ALIASES: Final = {"ls": "list", "stop": "unload", "config": "configure"}
_PROGRAMS: Final = ("dmr", "model-cli", "docker-model")


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        module, _, attribute = entry[0].partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry[0]} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if ALIASES.get(name, name) not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(f"unknown command {name!r}{_suggestion(name)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table above, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _suggestion(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake pays for it

    close = get_close_matches(name, [*COMMANDS, *ALIASES], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value:
        click.echo(f"{ctx.find_root().info_name} version {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pull, serve and use AI models.",
    epilog="'COMMAND --help' tells more about a command. The service is started with the command 'serve'.",
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.option(
    "--host",
    metavar="URL",
    help="Where the service is: http://…, https://…, unix:///path or HOST:PORT. "
    "Default: $MODEL_RUNNER_HOST, else http://127.0.0.1:12434.",
)
@click.option("--debug", is_flag=True, help="Show where in the program a failure came from.")
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version of this program.",
)
@click.pass_context
def cli(ctx: click.Context, host: str | None, debug: bool) -> None:  # noqa: FBT001 - click's signature
    from dmr_cli.client.api import Invocation  # noqa: PLC0415 - `--help` needs no HTTP client

    ctx.obj = Invocation(host=host, debug=debug)


def program_name(argv0: str) -> str:
    """What to call ourselves in messages: the name we were started by, where it is one of ours."""
    name = argv0.replace("\\", "/").rpartition("/")[2].removesuffix(".exe")
    return name if name in _PROGRAMS else _PROGRAMS[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code.

    0 success, 1 failure, 2 the command line is wrong, 3 not found, 4 the service does not run,
    5 conflict, 130 interrupted.
    """
    program = program_name(sys.argv[0])
    arguments = unwrap(sys.argv[1:] if argv is None else argv, os.environ) or ["--help"]
    if arguments[0] == METADATA:
        print(metadata(__version__))
        return 0
    if arguments[0] == COMPLETE:
        print(":4")  # Docker's word for: nothing to offer, and no file names either
        return 0
    debug = _wants_debug(arguments)
    try:
        if f"_{program.replace('-', '_')}_COMPLETE".upper() in os.environ:
            cli.main(arguments, prog_name=program)  # a shell asks for completions
        code = _invoke(arguments, program)
        sys.stdout.flush()
    except BaseException as error:
        code = _failure(error, program, debug=debug)
        if debug and not isinstance(error, (SystemExit, click.exceptions.Exit)):
            _print_traceback()
    return code


def _invoke(arguments: list[str], program: str) -> int:
    with cli.make_context(program, arguments) as context:
        cli.invoke(context)
    return 0


def _wants_debug(arguments: list[str]) -> bool:
    """Whether ``--debug`` stands before the command; asked before anything can fail."""
    value_follows = False
    for argument in arguments:
        if value_follows:
            value_follows = False
        elif argument == "--debug":
            return True
        elif argument == "--host":
            value_follows = True
        elif not argument.startswith("-"):
            break
    return False


def _failure(error: BaseException, program: str, *, debug: bool) -> int:
    """Say what went wrong, once; the exit code for it."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has seen enough. The stream must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return EXIT_INTERRUPTED
    message, code = _describe(error)
    if not debug:
        message = abridged(message)
    click.echo(f"Error: {_printable(message)}", err=True)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        path = error.ctx.command_path.replace(error.ctx.find_root().info_name or program, program, 1)
        click.echo(f"Try '{path} --help'.", err=True)
    return code


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, ClientError):
        return error.message, error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    conditions = sys.modules.get("dmr_core.errors")  # raised only by who imported it
    if conditions is not None and isinstance(error, conditions.DmrError):
        return error.message, _core_exit_code(error, conditions)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 1
    return f"unexpected {type(error).__name__}: {error}. Run it again with --debug to see where", 1


def _core_exit_code(error: BaseException, conditions: ModuleType) -> int:
    typed = (conditions.InvalidReferenceError, conditions.InvalidConfigurationError)
    for kinds, code in ((typed, 2), (conditions.NotFoundError, 3), (conditions.ConflictError, 5)):
        if isinstance(error, kinds):
            return code
    return 1


def _printable(message: str) -> str:
    from dmr_cli.client.terminal import clean, is_terminal  # noqa: PLC0415 - only failures need it

    return clean(message) if is_terminal(sys.stderr) else message


def _print_traceback() -> None:
    import traceback  # noqa: PLC0415 - only --debug needs it

    traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
