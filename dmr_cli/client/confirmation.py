"""Asking before something is removed for good."""

from __future__ import annotations

import sys

import click

from dmr_cli.client.errors import ClientError

__all__ = ["confirmed"]


def confirmed(warning: str) -> bool:
    """Say what is about to happen, and whether the answer was yes: ``y`` or ``Y``, nothing else.

    Raises:
        ClientError: there is nobody to answer.
    """
    click.echo(warning, err=True)
    click.echo("Are you sure you want to continue? [y/N] ", err=True, nl=False)
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer:
        click.echo("", err=True)
        raise ClientError("no answer; use --force where nobody can give one")
    if answer.strip() in ("y", "Y"):
        return True
    click.echo("Operation cancelled.", err=True)
    return False
