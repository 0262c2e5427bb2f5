"""Asks questions before something is done that cannot be undone."""

from __future__ import annotations

import sys

import click

from gowork.cli.group import EXIT_FAILED, EXIT_INTERRUPTED


def confirm(question: str, otherwise: str) -> None:
    """Asks a question. Returns when the answer is yes, and exits when it is not.

    Args:
        question: what is about to be done, as a question.
        otherwise: what to do without a terminal to ask on, as in "give --yes".

    Raises:
        click.UsageError: when standard input is no terminal.
    """
    if not can_ask():
        raise click.UsageError(f"this command asks a question, and standard input is not a terminal; {otherwise}")
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        # Somebody pressed Ctrl-C, or the input ended.
        click.get_current_context().exit(EXIT_INTERRUPTED)
    if not agreed:
        click.echo("gowork: nothing was done", err=True)
        click.get_current_context().exit(EXIT_FAILED)


def can_ask() -> bool:
    """Whether there is a terminal on which somebody may answer."""
    return sys.stdin is not None and sys.stdin.isatty()
