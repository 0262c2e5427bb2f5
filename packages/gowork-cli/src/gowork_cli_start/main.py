"""The console script `gowork`."""

from __future__ import annotations

from gowork_namespace import exit_if_foreign


def main() -> None:
    """Runs the command, where `gowork` is this project's."""
    exit_if_foreign("gowork")
    from gowork.cli.main import main as command

    command()
