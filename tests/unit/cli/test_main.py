"""The program itself: finding commands, naming itself, and failing politely."""

from __future__ import annotations

import sys
from importlib import import_module

import click
import pytest

from dmr_cli import __version__
from dmr_cli.main import ALIASES, COMMANDS, cli, main, program_name
from tests.unit.cli.conftest import Dmr


@pytest.mark.parametrize(
    ("argv0", "name"),
    [
        ("/usr/bin/dmr", "dmr"),
        ("model-cli", "model-cli"),
        ("C:\\bin\\dmr.exe", "dmr"),
        ("/x/__main__.py", "dmr"),
        ("", "dmr"),
    ],
)
def test_the_program_goes_by_the_name_it_was_started_with(argv0: str, name: str) -> None:
    assert program_name(argv0) == name


@pytest.mark.parametrize("name", [*COMMANDS, *ALIASES])
def test_every_command_has_help_worth_reading(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0

    text = capsys.readouterr().out
    assert text.startswith(f"Usage: dmr {name} ")
    assert "Examples:" in text


def test_the_table_names_real_commands_and_their_aliases() -> None:
    for target, _ in COMMANDS.values():
        module, _, attribute = target.partition(":")
        assert isinstance(getattr(import_module(module), attribute), click.Command)
    assert set(ALIASES.values()) <= set(COMMANDS)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr().out == text
    width = max(map(len, COMMANDS))
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name:<{width}}  {summary}" in text


def test_version_flag(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/model-cli", "--version"])

    assert main() == 0
    assert capsys.readouterr().out == f"model-cli version {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "suggestion"), [("lst", "; did you mean 'list'?"), ("stpo", "; did you mean 'stop'?"), ("qqqq", "")]
)
def test_an_unknown_command_is_an_error(dmr: Dmr, typed: str, suggestion: str) -> None:
    assert dmr(typed) == (2, "", f"Error: unknown command '{typed}'{suggestion}\nTry 'dmr --help'.\n")


def test_usage_errors_name_the_command(dmr: Dmr) -> None:
    assert dmr("rm") == (2, "", "Error: Missing argument 'MODEL...'.\nTry 'dmr rm --help'.\n")
    assert dmr("df", "extra").code == 2


def test_an_address_that_is_none_is_a_usage_error(dmr: Dmr) -> None:
    outcome = dmr("--host", "ftp://x", "list")

    assert outcome.code == 2
    assert outcome.err.startswith("Error: --host 'ftp://x' has an unknown scheme")


def test_nobody_listening_is_4(dmr: Dmr) -> None:
    text = "Error: cannot reach dmr at http://127.0.0.1:1: connection refused. Start it with: dmr serve\n"
    assert dmr("--host", "127.0.0.1:1", "list") == (4, "", text)


def test_a_traceback_only_with_debug(dmr: Dmr) -> None:
    quiet = dmr("--host", "127.0.0.1:1", "list")
    loud = dmr("--debug", "--host", "127.0.0.1:1", "list")

    assert "Traceback" not in quiet.err
    assert loud.err.startswith(quiet.err)
    assert "Traceback" in loud.err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (FileNotFoundError(2, "No such file or directory", "x"), 1, "Error: x: No such file or directory\n"),
        (ZeroDivisionError("0"), 1, "Error: unexpected ZeroDivisionError: 0. Run it again with --debug to see where\n"),
        (SystemExit(7), 7, ""),
        (click.ClickException("words"), 1, "Error: words\n"),
    ],
)
def test_other_failures(dmr: Dmr, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str) -> None:
    def fail(_: click.Context) -> None:
        raise error

    monkeypatch.setattr(cli, "invoke", fail)

    assert dmr("list") == (code, "", text)


def test_conditions_of_the_core_have_their_exit_codes(dmr: Dmr, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmr_core import errors

    for error, code in (
        (errors.InvalidReferenceError("x"), 2),
        (errors.ModelNotFoundError("x"), 3),
        (errors.ModelInUseError("x"), 5),
        (errors.MalformedArtifactError("x"), 1),
    ):

        def fail(_: click.Context, error: errors.DmrError = error) -> None:
            raise error

        monkeypatch.setattr(cli, "invoke", fail)
        assert dmr("list") == (code, "", f"Error: {error.message}\n")
