"""The console script `gowork`."""

from __future__ import annotations

from gowork_namespace import exit_if_foreign
from gowork_namespace.interrupts import ending_on_interrupt


def main() -> None:
    """Checks that the module `gowork` is this project's, and runs the command."""
    with ending_on_interrupt():
        exit_if_foreign("gowork")
        from gowork.cli.main import main as command

    command()
